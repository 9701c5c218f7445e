#!/bin/sh
# usage: runtime/fuzz/run.sh [libFuzzer options]
#
# Fuzzes everything of the runtime that reads what others wrote: config.json, state.json, requests to a supervisor. The
# coverage pass is in every stable compiler, so neither cargo-fuzz nor a nightly one is needed; a C++ compiler is.
# An hour: runtime/fuzz/run.sh -max_total_time=3600
#
# It ends with an error at a panic, at more than one second or 64 MiB for one input, and at an error without a field.
set -eu
cd "$(dirname "$0")"
level="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
kinds="-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
traces="-Cllvm-args=-sanitizer-coverage-trace-compares"
export RUSTFLAGS="$level $kinds $traces -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks"
# The target makes cargo keep these flags away from build scripts.
target=$(rustc -vV | sed -n 's/^host: //p')
# The workspace's wrapper links programs for users statically.
export RUSTC_WORKSPACE_WRAPPER=
cargo build --release --target "$target"
mkdir -p "${CORPUS:=target/corpus}"
exec "target/$target/release/readers" "$CORPUS" seeds -timeout=1 -rss_limit_mb=1024 \
    -malloc_limit_mb=64 -max_len=65536 -artifact_prefix=target/ "$@"
