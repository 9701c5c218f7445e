//! `ps`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command as Program;

use super::flags::{ANY, Command, Flag};
use super::{CliError, Context, message, say};
use crate::cgroup;

pub(super) static COMMAND: Command = Command {
    name: "ps",
    about: "list the processes of a container",
    operands: "<container-id> [ps options]",
    count: (1, ANY),
    verbatim: true,
    flags: &[Flag::value("format", "FORMAT", "table (default, by ps of the host) or json").or('f')],
    run: |context, mut given| {
        let format = given.text("format")?;
        let (id, options) = (given.operand()?, given.rest()?);
        ps(context, &id, format.as_deref(), &options).map(|()| 0)
    },
    failure: 1,
};

fn ps(
    context: &Context,
    id: &str,
    format: Option<&str>,
    options: &[String],
) -> Result<(), CliError> {
    let saved = context.store.load(id)?;
    let mut pids = BTreeSet::new();
    collect(&saved.cgroup, &mut pids)?;
    match format {
        Some("json") => say(&format!("{}\n", serde_json::json!(pids))),
        None | Some("table") => say(&filter(&host_ps(options)?, &pids)?),
        Some(_) => message("invalid format option"),
    }
}

/// In the cgroup and below it. One that is gone has none.
fn collect(cgroup: &Path, pids: &mut BTreeSet<i32>) -> Result<(), CliError> {
    let Ok(entries) = fs::read_dir(cgroup) else { return Ok(()) };
    pids.extend(cgroup::processes(cgroup)?);
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids)?;
        }
    }
    Ok(())
}

fn host_ps(options: &[String]) -> Result<String, CliError> {
    let default = ["-ef".to_owned()];
    let options = if options.is_empty() { &default } else { options };
    let output = Program::new("ps")
        .args(options)
        .output()
        .map_err(CliError::io("run ps of the host (--format json needs none)"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return message(format!("ps {}: {}", options.join(" "), why.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The title and the lines of the wanted processes.
fn filter(listing: &str, pids: &BTreeSet<i32>) -> Result<String, CliError> {
    let mut lines = listing.lines();
    let title = lines.next().unwrap_or_default();
    let Some(column) = title.split_whitespace().position(|word| word == "PID") else {
        return message("couldn't find PID field in ps output");
    };
    let wanted = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    let kept = std::iter::once(title).chain(lines.filter(wanted));
    Ok(kept.map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_lines_stay() {
        let listing = "UID   PID CMD\nroot  12 a\nroot 112 b\nroot   7 c 12\n";
        assert_eq!(filter(listing, &BTreeSet::from([12])).unwrap(), "UID   PID CMD\nroot  12 a\n");
        assert!(filter("UID CMD\n", &BTreeSet::new()).is_err());
    }
}
