//! `list`.

use std::fmt::Write;
use std::fs;

use serde_json::{Value, json};

use super::flags::{Command, Flag};
use super::manage::{Description, describe};
use super::{CliError, Context, message, say};

pub(super) static COMMAND: Command = Command {
    name: "list",
    about: "list the containers below --root",
    operands: "",
    count: (0, 0),
    verbatim: false,
    flags: &[
        Flag::value("format", "FORMAT", "table (default) or json").or('f'),
        Flag::switch("quiet", "only ids").or('q'),
    ],
    run: |context, mut given| {
        list(context, given.text("format")?.as_deref(), given.has("quiet")).map(|()| 0)
    },
    failure: 1,
};

const COLUMNS: [(&str, &str); 6] = [
    ("ID", "id"),
    ("PID", "pid"),
    ("STATUS", "status"),
    ("BUNDLE", "bundle"),
    ("CREATED", "created"),
    ("OWNER", "owner"),
];

fn list(context: &Context, format: Option<&str>, quiet: bool) -> Result<(), CliError> {
    let states = states(context)?;
    if format == Some("json") && !quiet {
        let text = serde_json::to_string(&states);
        let text = text.or_else(|error| message(format!("write the list as JSON: {error}")))?;
        return say(&(text + "\n"));
    }
    let states: Vec<_> = states.iter().map(|state| json!(state)).collect();
    let text = |state: &Value, key: &str| match &state[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if quiet {
        return say(&states.iter().map(|state| text(state, "id") + "\n").collect::<String>());
    }
    match format {
        None | Some("table") => {
            let mut rows = vec![COLUMNS.map(|(title, _)| title.to_owned())];
            rows.extend(states.iter().map(|state| COLUMNS.map(|(_, key)| text(state, key))));
            say(&table(&rows))
        }
        Some(_) => message("invalid format option"),
    }
}

/// One that cannot be read hides no other.
fn states(context: &Context) -> Result<Vec<Description>, CliError> {
    let mut states = Vec::new();
    for id in context.store.ids()? {
        match context.store.load(&id) {
            Ok(saved) => states.push(describe(&context.store, saved)),
            // Being made or deleted just now.
            Err(error) if error.is_absence() => {}
            Err(error) => context.log.warning(&error.to_string()),
        }
    }
    Ok(states)
}

/// Columns of at least twelve characters, three apart, as runc has them.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let longest = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(|column| (longest(column) + 3).max(12));
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// From /etc/passwd; the number where it has none.
pub(super) fn user_name(uid: u32) -> String {
    if uid == 0 {
        return "root".into();
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_in(&passwd, uid).unwrap_or_else(|| uid.to_string())
}

fn name_in(passwd: &str, uid: u32) -> Option<String> {
    let mut lines = passwd.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must() {
        let rows = [["ID", "PID"], ["a-rather-long-id", "1"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "ID                 PID\na-rather-long-id   1\n");
        let rows = [["ID", "PID"], ["a", "1"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "ID          PID\na           1\n");
    }

    #[test]
    fn users_have_names() {
        let passwd = "root:x:0:0::/:/bin/sh\n\nbad\nme:x:1000:5::/:\n";
        assert_eq!(name_in(passwd, 1000).as_deref(), Some("me"));
        assert_eq!(name_in(passwd, 5), None);
    }
}
