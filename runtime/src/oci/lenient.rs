//! What the specification wants passed over, with a warning, where it makes no sense to a host. Pure.

use std::path::PathBuf;

use oci_spec::runtime::{Capability, Spec};
use serde_json::Value;

use super::{ConfigError, parse};

/// [`parse`], but names that no capability has are left out, each with a warning (config.md#linux-process).
pub(crate) fn parse_leniently(
    text: &[u8],
    path: PathBuf,
) -> Result<(Spec, Vec<String>), ConfigError> {
    let field = match parse(text, path.clone()) {
        Ok(spec) => {
            let warnings = warn_of_name(&spec);
            return Ok((spec, warnings));
        }
        Err(ConfigError::Parse { field, .. })
            if ["process.capabilities.", "process.scheduler.flags"]
                .iter()
                .any(|begin| field.starts_with(begin)) =>
        {
            field
        }
        Err(error) => return Err(error),
    };
    let mut value: Value = match serde_json::from_slice(text) {
        Ok(value) => value,
        Err(error) => return Err(ConfigError::Parse { path, field, error }),
    };
    let mut process = value.get_mut("process");
    if let Some(flags) =
        process.as_mut().and_then(|process| process.pointer_mut("/scheduler/flags"))
    {
        use_one_name(flags);
    }
    let mut warnings = process.map_or_else(Vec::new, drop_unknown_capabilities);
    let spec = parse(value.to_string().as_bytes(), path)?;
    warnings.extend(warn_of_name(&spec));
    Ok((spec, warnings))
}

/// Takes the names that no capability has out of a process.
pub(crate) fn drop_unknown_capabilities(process: &mut Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let sets = process.get_mut("capabilities").and_then(|sets| sets.as_object_mut());
    for (set, names) in sets.into_iter().flatten() {
        let Some(names) = names.as_array_mut() else { continue };
        names.retain(|name| {
            let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
            // What is no name at all stays an error.
            if !known && name.is_string() {
                warnings.push(format!("process.capabilities.{set}: {name}: unknown, left out"));
            }
            known || !name.is_string()
        });
    }
    warnings
}

/// The specification's Go types write one flag otherwise than its text: both are meant.
fn use_one_name(flags: &mut Value) {
    for flag in flags.as_array_mut().into_iter().flatten() {
        if flag == "SCHED_FLAG_RESET_ON_FORK" {
            *flag = "SCHED_RESET_ON_FORK".into();
        }
    }
}

/// The specification has user names on Windows only.
fn warn_of_name(spec: &Spec) -> Vec<String> {
    let process = spec.process().as_ref();
    let name = process.and_then(|process| process.user().username().as_ref());
    let name = name.filter(|name| !name.is_empty());
    name.map(|name| format!("process.user.username: {name:?}: of no meaning on Linux, left out"))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn warnings(change: impl FnOnce(&mut Value)) -> Result<Vec<String>, String> {
        let mut config = json!({
            "ociVersion": "1.2.0", "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["x"],
                "capabilities": {"bounding": ["CAP_KILL"]}},
        });
        change(&mut config);
        let parsed = parse_leniently(config.to_string().as_bytes(), "config.json".into());
        parsed.map(|(_, warnings)| warnings).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_passed_over_is_told() {
        assert_eq!(warnings(|_| {}).unwrap(), Vec::<String>::new());
        let told = warnings(|config| {
            config["process"]["capabilities"]["ambient"] = json!(["CAP_NEW", "CAP_KILL"]);
            config["process"]["user"]["username"] = "bob".into();
        });
        let expected = [
            "process.capabilities.ambient: \"CAP_NEW\": unknown, left out",
            "process.user.username: \"bob\": of no meaning on Linux, left out",
        ];
        assert_eq!(told.unwrap(), expected);
        let scheduler = json!({"policy": "SCHED_FIFO", "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
        let two_names = warnings(|config| config["process"]["scheduler"] = scheduler);
        assert_eq!(two_names.unwrap(), Vec::<String>::new());
        let no_name = warnings(|config| config["process"]["capabilities"]["ambient"] = json!([7]));
        assert!(no_name.unwrap_err().contains("process.capabilities.ambient"));
    }
}
