//! The figures of `bench_runtime` in the virtual machine, where cgroup version 2 is whole and devices are restricted.
//! Emulated processors: ratios only.

use kobune_tests::bench::{self, Effort};

#[test]
#[ignore = "measures: cargo xtask bench runtime"]
fn the_runtime_beside_its_peers() {
    bench::run(Effort { runs: 8, execs: 8, everybody: false });
}
