//! The house's walls: which package may name which, what lies at the top level, who must do without
//! `unsafe`. Never looks into functions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::Offences;

/// Package → the workspace packages that it may depend on. Nothing else is allowed, and every package
/// of the workspace is listed.
const ARROWS: &[(&str, &[&str])] = &[
    ("kobune-runtime", &[]),
    ("kobune-netplugin", &[]),
    ("kobune-controlplane", &[]),
    ("kobune-agent", &["kobune-runtime", "kobune-netplugin", "kobune-controlplane"]),
    (
        "kobune-tests",
        &["kobune-runtime", "kobune-netplugin", "kobune-controlplane", "kobune-agent"],
    ),
];

/// External crates that would mean a leaf knows what it must not know. Its tests may: the control plane is
/// proven with a real client.
const STRANGERS: &[(&str, &[&str])] = &[
    ("kobune-runtime", &["tokio", "kube", "k8s-openapi", "rtnetlink"]),
    ("kobune-netplugin", &["kube", "k8s-openapi", "oci-spec"]),
    ("kobune-controlplane", &["nix", "libc", "rustix", "oci-spec", "kube"]),
    ("kobune-agent", &["redb", "etcd-client"]),
];

/// What `ls` shows at the top, and nothing more. `target` is cargo's and not in the repository.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "LICENSE",
    "Vagrantfile",
    "runtime",
    "agent",
    "controlplane",
    "netplugin",
    "tests",
    "examples",
];

/// Packages whose manifest forbids `unsafe` altogether.
const SAFE_PACKAGES: &[&str] = &["controlplane", "agent"];

/// Dependencies of every kind against [`ARROWS`], those of the programs against [`STRANGERS`].
pub fn arrows(metadata: &Value) -> Offences {
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let strangers: BTreeMap<_, _> = STRANGERS.iter().copied().collect();
    let mut offences = Offences::new();
    for (package, dependencies) in workspace_packages(metadata) {
        let Some(allowed) = arrows.get(package.as_str()) else {
            offences.push(format!("package {package} is not on the map (DESIGN, the house)"));
            continue;
        };
        let unknown = strangers.get(package.as_str()).copied().unwrap_or_default();
        for (name, for_tests) in &dependencies {
            let name = name.as_str();
            let own = name.starts_with("kobune-");
            if (own && !allowed.contains(&name)) || (!for_tests && unknown.contains(&name)) {
                offences.push(format!("{package} must not depend on {name}"));
            }
        }
    }
    offences
}

/// Name → declared dependencies of each package of the workspace, and whether they are for tests only.
fn workspace_packages(metadata: &Value) -> Vec<(String, BTreeSet<(String, bool)>)> {
    let members: BTreeSet<&str> =
        array(&metadata["workspace_members"]).iter().filter_map(Value::as_str).collect();
    array(&metadata["packages"])
        .iter()
        .filter(|package| package["id"].as_str().is_some_and(|id| members.contains(id)))
        .map(|package| {
            let names = array(&package["dependencies"])
                .iter()
                .filter_map(|dependency| {
                    Some((dependency["name"].as_str()?.to_owned(), dependency["kind"] == "dev"))
                })
                .collect();
            (package["name"].as_str().unwrap_or_default().to_owned(), names)
        })
        .collect()
}

/// Entries of the top level that people see, `target` left out.
pub fn visible_entries(root: &Path) -> BTreeSet<String> {
    fs::read_dir(root)
        .map(|entries| {
            entries
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| !name.starts_with('.') && name != "target")
                .collect()
        })
        .unwrap_or_default()
}

/// `ls` is the architecture: nothing missing, nothing more.
pub fn top_level(entries: &BTreeSet<String>) -> Offences {
    let expected: BTreeSet<String> = TOP_LEVEL.iter().map(|name| (*name).to_owned()).collect();
    let missing = expected.difference(entries).map(|name| format!("{name} is missing at the top"));
    let extra = entries.difference(&expected).map(|name| format!("{name} is too much at the top"));
    missing.chain(extra).collect()
}

/// The manifests of [`SAFE_PACKAGES`] say so.
pub fn unsafe_forbidden(root: &Path) -> Offences {
    SAFE_PACKAGES
        .iter()
        .filter(|package| {
            let manifest = fs::read_to_string(root.join(package).join("Cargo.toml"));
            !manifest.unwrap_or_default().contains("unsafe_code = \"forbid\"")
        })
        .map(|package| format!("{package}/Cargo.toml does not forbid unsafe_code"))
        .collect()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workspace(package: &str, dependencies: &[&str]) -> Value {
        let dependencies: Vec<_> =
            dependencies.iter().map(|name| json!({ "name": name })).collect();
        json!({
            "workspace_members": ["one"],
            "packages": [{ "id": "one", "name": package, "dependencies": dependencies }],
        })
    }

    #[test]
    fn an_arrow_between_leaves_is_refused() {
        let offences = arrows(&workspace("kobune-runtime", &["nix", "kobune-netplugin"]));
        assert_eq!(offences, ["kobune-runtime must not depend on kobune-netplugin"]);
    }

    #[test]
    fn an_arrow_of_the_map_is_fine() {
        assert!(arrows(&workspace("kobune-agent", &["kobune-runtime", "kube"])).is_empty());
    }

    #[test]
    fn a_leaf_that_learns_a_foreign_trade_is_refused() {
        assert_eq!(arrows(&workspace("kobune-runtime", &["tokio"])).len(), 1);
        assert_eq!(arrows(&workspace("kobune-controlplane", &["libc"])).len(), 1);
    }

    #[test]
    fn tests_may_use_strangers_but_no_other_leaf() {
        let mut metadata = workspace("kobune-controlplane", &["kube", "kobune-runtime"]);
        for dependency in metadata["packages"][0]["dependencies"].as_array_mut().expect("list") {
            dependency["kind"] = json!("dev");
        }
        assert_eq!(arrows(&metadata), ["kobune-controlplane must not depend on kobune-runtime"]);
    }

    #[test]
    fn a_package_off_the_map_is_refused() {
        assert_eq!(arrows(&workspace("kobune-cellar", &[])).len(), 1);
    }

    #[test]
    fn the_top_level_is_exact() {
        let mut entries: BTreeSet<String> = TOP_LEVEL.iter().map(|n| (*n).to_owned()).collect();
        assert!(top_level(&entries).is_empty());
        entries.remove("LICENSE");
        entries.insert("notes.txt".to_owned());
        assert_eq!(
            top_level(&entries),
            ["LICENSE is missing at the top", "notes.txt is too much at the top"]
        );
    }
}
