//! Targets R1 to R3: starting containers beside crun, runc and the floor. `cargo xtask bench runtime` runs this on the host
//! and its twin `vm_bench_runtime` in the virtual machine.

use kobune_tests::bench::{self, Effort, hot};

#[test]
#[ignore = "measures: cargo xtask bench runtime"]
fn the_runtime_beside_its_peers() {
    bench::run(Effort { runs: 200, execs: 200, everybody: true });
}

#[test]
#[ignore = "writes .cargo/hot-functions: cargo xtask hot"]
fn hot_functions_are_listed() {
    hot::write();
}
