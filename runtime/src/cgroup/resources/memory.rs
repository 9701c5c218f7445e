//! `memory`.

use oci_spec::runtime::LinuxMemory;

use super::{ResourceError, Setting, Settings};

/// Bytes that must be more than what is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    pub limit: Option<u64>,
    /// Memory and swap together.
    pub swap: Option<u64>,
}

pub(super) fn settings(memory: &LinuxMemory, out: &mut Settings) -> Result<(), ResourceError> {
    #[allow(deprecated)]
    let kernel = memory.kernel();
    out.ignore(kernel.is_some(), "memory.kernel");
    out.ignore(memory.kernel_tcp().is_some(), "memory.kernelTCP");
    out.ignore(memory.swappiness().is_some(), "memory.swappiness");
    out.ignore(memory.disable_oom_killer() == Some(true), "memory.disableOOMKiller");
    let set = |value: Option<i64>| value.filter(|value| *value != 0);
    let (limit, swap) = (set(memory.limit()), set(memory.swap()));
    let bytes = |field: &str, value: i64| match value {
        -1 => Ok("max".to_owned()),
        1.. => Ok(value.to_string()),
        _ => Err(ResourceError::new(field, "negative")),
    };
    if let Some(alone) = swap_alone(limit, swap)? {
        // Where swap is not counted there is none to forbid, or nothing that limits it.
        let fine = matches!(alone.as_str(), "0" | "max");
        out.push(Setting::new("memory.swap", "memory.swap.max", alone).fine_without_if(fine));
    }
    if let Some(limit) = limit {
        let setting = Setting::new("memory.limit", "memory.max", bytes("memory.limit", limit)?);
        out.push(setting.fine_without_if(limit == -1));
    }
    if let Some(low) = set(memory.reservation()) {
        let value = bytes("memory.reservation", low)?;
        out.push(Setting::new("memory.reservation", "memory.low", value));
    }
    if memory.check_before_update() == Some(true) {
        let positive = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        out.check_memory = Some(Check { limit: positive(limit), swap: positive(swap) });
    }
    Ok(())
}

/// config.json counts memory and swap together; the kernel counts swap alone.
fn swap_alone(limit: Option<i64>, swap: Option<i64>) -> Result<Option<String>, ResourceError> {
    let invalid = |why| Err(ResourceError::new("memory.swap", why));
    let max = || Ok(Some("max".to_owned()));
    match (limit, swap) {
        // Who lifts the limit of both together lifts both.
        (Some(-1), None) | (_, Some(-1)) => max(),
        (_, None) => Ok(None),
        (_, Some(..-1)) => invalid("negative"),
        (Some(-1), Some(swap)) => Ok(Some(swap.to_string())),
        (None, _) => invalid("needs memory.limit, which it includes"),
        (Some(limit), Some(swap)) if limit > swap => invalid("less than memory.limit"),
        (Some(limit), Some(swap)) => Ok(Some((swap - limit).to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{all, error, of};
    use super::*;
    use serde_json::json;

    #[test]
    fn swap_is_counted_alone() {
        let of = |limit: i64, swap: i64| of(json!({"memory": {"limit": limit, "swap": swap}}));
        assert_eq!(of(10, 30), ["memory.swap.max=20", "memory.max=10"]);
        assert_eq!(of(10, 10), ["memory.swap.max=0", "memory.max=10"]);
        assert_eq!(of(10, 0), ["memory.max=10"]);
        assert_eq!(of(10, -1), ["memory.swap.max=max", "memory.max=10"]);
        assert_eq!(of(-1, 0), ["memory.swap.max=max", "memory.max=max"]);
        assert_eq!(of(-1, 7), ["memory.swap.max=7", "memory.max=max"]);
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (memory, field) in [
            (json!({"limit": 10, "swap": 5}), "swap"),
            (json!({"swap": 5}), "swap"),
            (json!({"limit": -2}), "limit"),
            (json!({"limit": 10, "swap": -3}), "swap"),
            (json!({"reservation": -2}), "reservation"),
        ] {
            let error = error(json!({"memory": memory}));
            assert!(error.starts_with(&format!("linux.resources.memory.{field}: ")), "{error}");
        }
    }

    #[test]
    fn a_check_is_asked_for() {
        let memory = json!({"limit": 10, "swap": -1, "checkBeforeUpdate": true});
        let check = all(json!({"memory": memory})).unwrap().check_memory;
        assert_eq!(check, Some(Check { limit: Some(10), swap: None }));
    }
}
