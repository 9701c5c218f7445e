//! Whether the program is there at all, asked before the container counts as created: engines take this error of
//! `create` for what it is. Whether it can be executed, only execve tells, for its user, at `start`.

use std::io;
use std::path::Path;

use super::message::Failure;
use super::program::{DEFAULT_PATH, not_found, program_failure};
use crate::plan::ProcessPlan;

/// Called inside the new root.
pub(super) fn look_for(plan: &ProcessPlan) -> Result<(), Failure> {
    let name = plan.args[0].to_string_lossy();
    if name.contains('/') {
        return match missing(&plan.cwd.join(&*name)) {
            Some(errno) => Err(program_failure(&name, errno, None)),
            None => Ok(()),
        };
    }
    let mut directories = plan.search.as_deref().unwrap_or(DEFAULT_PATH).split(':');
    let has = |directory: &str| missing(&plan.cwd.join(directory).join(&*name)).is_none();
    if directories.any(has) { Ok(()) } else { Err(not_found(&name)) }
}

/// Anything but plain absence may be otherwise for the user (a network filesystem that trusts no root).
fn missing(path: &Path) -> Option<nix::errno::Errno> {
    let error = std::fs::metadata(path).err()?;
    match error.kind() {
        io::ErrorKind::NotFound => Some(nix::errno::Errno::ENOENT),
        io::ErrorKind::NotADirectory => Some(nix::errno::Errno::ENOTDIR),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn look(arg: &str, env: &str, cwd: &str) -> Result<(), String> {
        let process =
            json!({"user": {"uid": 0, "gid": 0}, "cwd": cwd, "args": [arg], "env": [env]});
        let plan = ProcessPlan::of(&serde_json::from_value(process).unwrap(), "process").unwrap();
        look_for(&plan).map_err(|failure| {
            assert_eq!(failure.exit_code, 127);
            failure.message
        })
    }

    #[test]
    fn only_what_is_missing_is_missed() {
        look("/bin/sh", "PATH=/", "/").unwrap();
        look("./sh", "PATH=/", "/bin").unwrap();
        look("sh", "PATH=/no/such:/bin", "/").unwrap();
        look("sh", "PATH=", "/bin").unwrap();
        // Not executable, which is another question.
        look("/etc/passwd", "PATH=/", "/").unwrap();
        assert!(look("/no/such", "PATH=/", "/").unwrap_err().contains("no such file"));
        assert!(look("/etc/passwd/x", "PATH=/", "/").unwrap_err().contains("not a directory"));
        assert!(look("nosuch", "PATH=/bin", "/").unwrap_err().contains("not found in $PATH"));
    }
}
