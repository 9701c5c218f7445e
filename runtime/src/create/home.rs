//! The environment as the program gets it: with a HOME, as other runtimes give one. Whoever's it is stands in the
//! container's own /etc/passwd, so the container is entered already.

use std::borrow::Cow;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use crate::plan::ProcessPlan;

/// Where users are.
const USERS: &str = "/etc/passwd";

/// What of it is looked at, in bytes: the container may have made it as large as it likes.
const MOST: u64 = 1 << 20;

/// The home of a user who has none.
const NOWHERE: &str = "/";

/// The planned environment; a missing or empty HOME is that of the process' user.
pub(super) fn environment(plan: &ProcessPlan) -> Cow<'_, [CString]> {
    let home = |entry: &&CString| entry.to_bytes().starts_with(b"HOME=");
    let given = plan.env.iter().rfind(home);
    if given.is_some_and(|entry| entry.to_bytes() != b"HOME=") {
        return Cow::Borrowed(&plan.env);
    }
    let entry = users().and_then(|text| home_of(&text, plan.uid));
    let entry = entry.unwrap_or_else(|| NOWHERE.to_owned());
    let mut env: Vec<_> = plan.env.iter().filter(|entry| !home(entry)).cloned().collect();
    env.extend(CString::new(format!("HOME={entry}")));
    Cow::Owned(env)
}

/// Only from a regular file: reading another kind may never end.
fn users() -> Option<String> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(USERS).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(MOST).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// `name:password:uid:gid:comment:home:shell`, the first of that uid.
fn home_of(users: &str, uid: u32) -> Option<String> {
    let mut lines = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find(|fields| fields.get(2).and_then(|text| text.parse().ok()) == Some(uid));
    let home = *found?.get(5)?;
    (!home.is_empty()).then(|| home.to_owned())
}

#[cfg(test)]
mod tests {
    use super::home_of;

    #[test]
    fn the_home_is_that_of_the_first_line_with_the_uid() {
        let users = "broken\nroot:x:0:0::/root:/bin/sh\ntoor:x:0:0::/other:/bin/sh\nnobody:x:65534:65534:::\nx:y:7";
        assert_eq!(home_of(users, 0).as_deref(), Some("/root"));
        for uid in [7, 65534, 1] {
            assert_eq!(home_of(users, uid), None, "{uid}");
        }
    }
}
