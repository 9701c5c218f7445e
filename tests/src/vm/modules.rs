//! Which kernel modules the guest loads, and in which order. Pure over `modules.dep`, whose lines
//! are `path: path…`: a module and everything that it needs, directly or not.

use std::collections::BTreeMap;

/// What Kobune and the guest's own start need of a distribution kernel.
pub const WANTED: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "overlay",
    "veth",
    "bridge",
    "dummy",
    "vxlan",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_hash",
    "nft_limit",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_objref",
    "nft_redir",
    "nft_reject_inet",
    "nft_reject_ipv4",
];

/// Paths of the wanted modules and their dependencies, each once and after all that it needs. A name
/// that the kernel has built in, or does not have, is left out.
pub fn load_order(modules_dep: &str, wanted: &[&str]) -> Vec<String> {
    let table: BTreeMap<&str, Vec<&str>> = modules_dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| (path, needs.split_whitespace().collect()))
        .collect();
    let by_name: BTreeMap<String, &str> = table.keys().map(|path| (name(path), *path)).collect();
    let mut order = Vec::new();
    for path in wanted.iter().filter_map(|name| by_name.get(*name)) {
        visit(path, &table, &mut order);
    }
    order
}

fn visit(path: &str, table: &BTreeMap<&str, Vec<&str>>, order: &mut Vec<String>) {
    if order.iter().any(|done| done == path) {
        return;
    }
    for needed in table.get(path).into_iter().flatten() {
        visit(needed, table, order);
    }
    order.push(path.to_owned());
}

/// `kernel/net/foo-bar.ko` is `foo_bar`.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::load_order;

    const DEP: &str = "\
kernel/a/lib-x.ko:
kernel/a/mid.ko: kernel/a/lib-x.ko
kernel/b/top.ko: kernel/a/mid.ko kernel/a/lib-x.ko
kernel/b/other.ko: kernel/a/lib-x.ko
";

    #[test]
    fn what_is_needed_comes_first_and_once() {
        assert_eq!(
            load_order(DEP, &["top", "other"]),
            ["kernel/a/lib-x.ko", "kernel/a/mid.ko", "kernel/b/top.ko", "kernel/b/other.ko"]
        );
    }

    #[test]
    fn built_in_modules_and_dashes_are_no_trouble() {
        assert_eq!(load_order(DEP, &["ext4", "lib_x"]), ["kernel/a/lib-x.ko"]);
    }
}
