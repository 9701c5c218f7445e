//! `linux.cgroupsPath` as systemd's names: `slice:prefix:name` (runc's `docs/systemd.md`). Pure.

use std::path::PathBuf;

/// A container's place in systemd's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) slice: String,
    pub(crate) unit: String,
}

/// Where containers go that do not say.
const SLICE: &str = "system.slice";

/// The longest name of a unit, in bytes (`UNIT_NAME_MAX`).
const LONGEST: usize = 255;

impl Name {
    /// `wanted` is config.json's, empty if it has none; `default` is the prefix then.
    pub(crate) fn parse(wanted: &str, default: &str, id: &str) -> Result<Name, String> {
        let parts: Vec<&str> = match wanted {
            "" => vec!["", default, id],
            _ => wanted.split(':').collect(),
        };
        let [slice, prefix, name] = parts[..] else {
            return Err("is not slice:prefix:name, as --cgroup-manager systemd needs it".into());
        };
        let slice = if slice.is_empty() { SLICE } else { slice };
        check_slice(slice)?;
        if name.ends_with(".slice") {
            return Err(format!("{name:?} is a slice, which has no processes itself"));
        }
        let dash = if prefix.is_empty() { "" } else { "-" };
        let unit = format!("{prefix}{dash}{name}.scope");
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\".contains(&byte);
        if name.is_empty() || unit.len() > LONGEST || !unit.bytes().all(fine) {
            return Err(format!("{unit:?} is no name of a unit"));
        }
        Ok(Name { slice: slice.to_owned(), unit })
    }

    /// The cgroup, from the top of systemd's tree: each dash of a slice's name is a level.
    pub(crate) fn path(&self) -> PathBuf {
        let mut path = PathBuf::new();
        let stem = self.slice.strip_suffix(".slice").unwrap_or(&self.slice);
        if stem != "-" {
            let dashes = stem.match_indices('-').map(|(at, _)| at);
            for end in dashes.chain([stem.len()]) {
                path.push(format!("{}.slice", &stem[..end]));
            }
        }
        path.join(&self.unit)
    }
}

fn check_slice(slice: &str) -> Result<(), String> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\".contains(&byte);
    let stem = slice.strip_suffix(".slice").unwrap_or_default();
    let empty_level = stem.starts_with('-') || stem.ends_with('-') || stem.contains("--");
    if stem != "-" && (stem.is_empty() || empty_level) || !slice.bytes().all(fine) {
        return Err(format!("{slice:?} is no name of a slice"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths() {
        let path = |wanted: &str| {
            Name::parse(wanted, "kobune", "box").map(|name| name.path().display().to_string())
        };
        for (wanted, got) in [
            ("", "system.slice/kobune-box.scope"),
            (":libpod:abc", "system.slice/libpod-abc.scope"),
            ("machine.slice:libpod:abc", "machine.slice/libpod-abc.scope"),
            ("machine.slice::abc", "machine.slice/abc.scope"),
            ("-.slice:p:n", "p-n.scope"),
            ("a-b-c.slice:p:n", "a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
        ] {
            assert_eq!(path(wanted).as_deref(), Ok(got), "{wanted:?}");
        }
        for bad in [
            "/a/b",
            "a:b",
            "a:b:c",
            "a.slice:b:c:d",
            "a.slice:b:",
            "a--b.slice:b:c",
            "-a.slice:b:c",
            "../x.slice:b:c",
            "a.slice:../b:c",
            "a.slice:b:c d",
            "a.slice:b:c.slice",
            ".slice:b:c",
        ] {
            assert!(path(bad).is_err(), "{bad:?}");
        }
        assert!(path(&format!("a.slice:b:{}", "x".repeat(250))).is_err());
    }
}
