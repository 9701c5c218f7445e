//! Which image of an index is for this machine. Pure.
//!
//! Variants are steps of an architecture: a machine runs its own and all below, and takes the highest it can.

use super::super::manifest::Platform;

/// What this machine runs: architecture and variants, best first. A platform without a variant means the `base`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Machine {
    architecture: &'static str,
    variants: Vec<&'static str>,
    base: &'static str,
}

impl Machine {
    /// The machine we are on.
    pub(crate) fn here() -> Self {
        let architecture = super::super::manifest::architecture();
        let (variants, base) = match architecture {
            "amd64" => (levels(), "v1"),
            "arm64" => (vec!["v8"], "v8"),
            "arm" => (vec!["v7", "v6", "v5"], "v7"),
            _ => (vec![""], ""),
        };
        Self { architecture, variants, base }
    }

    /// How well a platform suits; None if it does not run here. Smaller is better.
    pub(crate) fn rank(&self, platform: &Platform) -> Option<usize> {
        if platform.os != "linux" || platform.architecture != self.architecture {
            return None;
        }
        let variant = match platform.variant.as_str() {
            "" => self.base,
            variant => variant,
        };
        self.variants.iter().position(|own| *own == variant)
    }

    /// `linux/amd64`.
    pub(crate) fn name(&self) -> String {
        format!("linux/{}", self.architecture)
    }
}

/// The x86-64 micro-architecture levels that this processor has (psABI), highest first.
#[cfg(target_arch = "x86_64")]
fn levels() -> Vec<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("cmpxchg16b") && has!("popcnt") && has!("sse4.2") && has!("ssse3");
    let v3 = v2
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let v4 = v3
        && has!("avx512f")
        && has!("avx512bw")
        && has!("avx512cd")
        && has!("avx512dq")
        && has!("avx512vl");
    let all = [(v4, "v4"), (v3, "v3"), (v2, "v2"), (true, "v1")];
    all.into_iter().filter(|(has, _)| *has).map(|(_, level)| level).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn levels() -> Vec<&'static str> {
    vec!["v1"]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(machine: &Machine, os: &str, architecture: &str, variant: &str) -> Option<usize> {
        let platform =
            Platform { os: os.into(), architecture: architecture.into(), variant: variant.into() };
        machine.rank(&platform)
    }

    #[test]
    fn the_highest_variant_that_runs_wins() {
        let machine =
            Machine { architecture: "amd64", variants: vec!["v3", "v2", "v1"], base: "v1" };
        assert_eq!(rank(&machine, "linux", "amd64", "v3"), Some(0));
        assert_eq!(rank(&machine, "linux", "amd64", ""), Some(2));
        assert_eq!(rank(&machine, "linux", "amd64", "v4"), None);
        assert_eq!(rank(&machine, "windows", "amd64", ""), None);
        assert_eq!(rank(&machine, "unknown", "unknown", ""), None);
    }

    #[test]
    fn arm_is_read_as_the_field_means_it() {
        let machine = Machine { architecture: "arm", variants: vec!["v7", "v6", "v5"], base: "v7" };
        assert_eq!(rank(&machine, "linux", "arm", ""), rank(&machine, "linux", "arm", "v7"));
        assert!(rank(&machine, "linux", "arm", "v6") > rank(&machine, "linux", "arm", "v7"));
    }

    #[test]
    fn this_machine_runs_the_plain_images_of_its_architecture() {
        let machine = Machine::here();
        assert!(
            rank(&machine, "linux", super::super::super::manifest::architecture(), "").is_some()
        );
    }
}
