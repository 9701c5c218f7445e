//! `pids`, `hugepageLimits`, `rdma`, and `unified`: file names and values as the kernel has them.

use oci_spec::runtime::{LinuxHugepageLimit, LinuxResources};

use super::{Missing, ResourceError, Setting, Settings};

/// Files that act instead of limiting, or that the runtime itself needs as it set them.
const CONTROLS: [&str; 5] =
    ["cgroup.freeze", "cgroup.kill", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];

/// 0 is "not given", as crun has it (and runc had it until the field became optional).
pub(super) fn pids(limit: i64, out: &mut Settings) -> Result<(), ResourceError> {
    let value = match limit {
        0 => return Ok(()),
        ..0 => "max".to_owned(),
        _ => limit.to_string(),
    };
    out.push(Setting::new("pids.limit", "pids.max", value).fine_without_if(limit < 0));
    Ok(())
}

/// Limits use, and reservation where the kernel counts that.
pub(super) fn hugetlb(
    limits: &[LinuxHugepageLimit],
    out: &mut Settings,
) -> Result<(), ResourceError> {
    for (index, limit) in limits.iter().enumerate() {
        let at = format!("hugepageLimits[{index}]");
        let size = limit.page_size();
        let digits =
            size.strip_suffix("KB").or(size.strip_suffix("MB")).or(size.strip_suffix("GB"));
        let fine = digits.is_some_and(|digits| {
            !digits.starts_with('0') && digits.parse::<u32>().is_ok_and(|number| number > 0)
        });
        if !fine {
            let why = format!("{size:?} is not a size such as 2MB");
            return Err(ResourceError::new(format!("{at}.pageSize"), why));
        }
        let value = match limit.limit() {
            -1 => "max".to_owned(),
            ..0 => return Err(ResourceError::new(format!("{at}.limit"), "negative")),
            bytes => bytes.to_string(),
        };
        out.push(Setting::new(&at, format!("hugetlb.{size}.max"), &value));
        let mut reserved = Setting::new(&at, format!("hugetlb.{size}.rsvd.max"), &value);
        reserved.missing = Missing::IsFine;
        out.push(reserved);
    }
    Ok(())
}

pub(super) fn rdma(resources: &LinuxResources, out: &mut Settings) -> Result<(), ResourceError> {
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| *name);
    for (name, limits) in devices {
        let field = format!("rdma[{name:?}]");
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(ResourceError::new(field, "not the name of a device"));
        }
        let mut value = name.clone();
        for (key, limit) in
            [("hca_handle", limits.hca_handles()), ("hca_object", limits.hca_objects())]
        {
            if let Some(limit) = limit {
                value.push_str(&format!(" {key}={limit}"));
            }
        }
        if value != *name {
            out.push(Setting::new(field, "rdma.max", value));
        }
    }
    Ok(())
}

/// Any file of the cgroup by its name; one write per line of the value.
pub(super) fn unified(resources: &LinuxResources, out: &mut Settings) -> Result<(), ResourceError> {
    let mut entries: Vec<_> = resources.unified().iter().flatten().collect();
    entries.sort();
    for (file, value) in entries {
        let field = format!("unified[{file:?}]");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        // A path would leave the cgroup.
        if !file.bytes().all(plain) || file.starts_with('.') || !file.contains('.') {
            return Err(ResourceError::new(
                field,
                "must be a file name such as CONTROLLER.PARAMETER",
            ));
        }
        if CONTROLS.contains(&file.as_str()) {
            return Err(ResourceError::new(field, "is not a limit"));
        }
        let lines: Vec<&str> = value.lines().filter(|line| !line.is_empty()).collect();
        match lines.as_slice() {
            // What an empty value means is the file's business; writing nothing would not even ask.
            [] => out.push(Setting::new(&field, file, "\n")),
            lines => lines.iter().for_each(|line| out.push(Setting::new(&field, file, line))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{error, of};
    use serde_json::json;

    #[test]
    fn processes_are_limited_unless_zero_or_less() {
        let of = |limit: i64| of(json!({"pids": {"limit": limit}}));
        assert_eq!(
            (of(5), of(-1)),
            (vec!["pids.max=5".to_owned()], vec!["pids.max=max".to_owned()])
        );
        assert!(of(0).is_empty());
    }

    #[test]
    fn huge_pages_are_limited_twice() {
        let got = of(json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}]}));
        assert_eq!(got, ["hugetlb.2MB.max=4096", "hugetlb.2MB.rsvd.max=4096"]);
        for size in ["", "2", "02MB", "2mb", "../2MB", "0GB"] {
            let error = error(json!({"hugepageLimits": [{"pageSize": size, "limit": 1}]}));
            assert!(error.starts_with("linux.resources.hugepageLimits[0].pageSize: "), "{error}");
        }
    }

    #[test]
    fn rdma_devices_have_one_line() {
        let got = of(json!({"rdma": {
            "mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "mlx4_0": {"hcaObjects": 1}, "rxe3": {},
        }}));
        assert_eq!(
            got,
            ["rdma.max=mlx4_0 hca_object=1", "rdma.max=mlx5_1 hca_handle=3 hca_object=10000"]
        );
        assert!(error(json!({"rdma": {"a b": {"hcaHandles": 3}}})).contains("rdma[\"a b\"]: "));
    }

    #[test]
    fn unified_values_are_written_line_by_line() {
        let got =
            of(json!({"unified": {"io.max": "8:0 rbps=1\n8:16 rbps=2\n", "misc.max": "x 1"}}));
        assert_eq!(got, ["io.max=8:0 rbps=1", "io.max=8:16 rbps=2", "misc.max=x 1"]);
        assert_eq!(of(json!({"unified": {"cgroup.max.depth": "3"}})), ["cgroup.max.depth=3"]);
    }

    #[test]
    fn unified_keys_cannot_leave_the_cgroup_or_control_it() {
        for key in [
            "../memory.max",
            "cgroup.procs",
            "/etc/x.y",
            "memory",
            ".x",
            "",
            "a/b.c",
            "cgroup.kill",
        ] {
            let error = error(json!({"unified": {key: "1"}}));
            assert!(error.starts_with("linux.resources.unified["), "{key}: {error}");
        }
    }
}
