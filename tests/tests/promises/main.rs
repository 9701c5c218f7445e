//! The promises of the README, each held up against the real program: one file per promise, named as in
//! the table there. Every test has its own private host; nothing is shared but the machine.
//!
//! Needs root, kubectl and the release build: `cargo xtask test`.

mod claims;
mod dns;
mod inspect;
mod joined;
mod p01_one_program;
mod p02_kubectl;
mod p03_namespaces;
mod p04_healing;
mod p05_rollout;
mod p06_kill;
mod p08_nothing_left;
mod p09_mistakes;
mod pods;
mod services;
mod streams;
mod without_kubectl;
