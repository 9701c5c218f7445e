//! What may stand on the command line, as tables: one entry per flag, one [`Command`] per command, each in the file of
//! the command. Parses by them, and makes help of them. Pure.
//!
//! Flags may stand before or behind operands, and global ones anywhere, but what follows the container of an
//! `exec` is the command to execute.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

use lexopt::{Arg, Parser};

use super::{CliError, Context, message};

/// One flag.
#[derive(Debug)]
pub(super) struct Flag {
    name: &'static str,
    short: Option<char>,
    /// What its value is called; `None` for a switch.
    value: Option<&'static str>,
    help: &'static str,
}

impl Flag {
    pub(super) const fn switch(name: &'static str, help: &'static str) -> Flag {
        Flag { name, short: None, value: None, help }
    }

    pub(super) const fn value(name: &'static str, value: &'static str, help: &'static str) -> Flag {
        Flag { name, short: None, value: Some(value), help }
    }

    pub(super) const fn or(self, short: char) -> Flag {
        Flag { name: self.name, short: Some(short), value: self.value, help: self.help }
    }
}

/// One command.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// As the usage line shows them.
    pub(super) operands: &'static str,
    /// How few and how many of them there may be.
    pub(super) count: (usize, usize),
    /// Nothing behind the first operand is a flag of ours.
    pub(super) verbatim: bool,
    pub(super) flags: &'static [Flag],
    pub(super) run: fn(&Context, Given) -> Result<u8, CliError>,
    /// When our side of it fails.
    pub(super) failure: u8,
}

/// Many operands.
pub(super) const ANY: usize = usize::MAX;

/// The one operand of most commands.
pub(super) const ID: &str = "<container-id>";

/// A flag and what was given with it (nothing for a switch).
type Pair = (&'static str, OsString);

/// What was given to a command.
#[derive(Debug, Default)]
pub(super) struct Given {
    flags: Vec<Pair>,
    operands: std::collections::VecDeque<OsString>,
}

impl Given {
    pub(super) fn has(&self, name: &str) -> bool {
        self.flags.iter().any(|(flag, _)| *flag == name)
    }

    /// The last one counts.
    fn value(&mut self, name: &str) -> Option<OsString> {
        let found = self.flags.iter_mut().rfind(|(flag, _)| *flag == name);
        found.map(|(_, value)| std::mem::take(value))
    }

    pub(super) fn path(&mut self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, CliError> {
        self.value(name).map(|value| text(value, name)).transpose()
    }

    pub(super) fn texts(&mut self, name: &str) -> Result<Vec<String>, CliError> {
        let given = self.flags.iter_mut().filter(|(flag, _)| *flag == name);
        given.map(|(_, value)| text(std::mem::take(value), name)).collect()
    }

    pub(super) fn number<T: std::str::FromStr>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, CliError> {
        let Some(value) = self.text(name)? else { return Ok(None) };
        match value.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => message(format!("--{name} {value:?}: not a number, or out of range")),
        }
    }

    /// The next operand, empty when there is none: how many there must be is in the table.
    pub(super) fn operand(&mut self) -> Result<String, CliError> {
        text(self.operands.pop_front().unwrap_or_default(), "operand")
    }

    /// All operands that are left.
    pub(super) fn rest(&mut self) -> Result<Vec<String>, CliError> {
        let rest = std::mem::take(&mut self.operands);
        rest.into_iter().map(|word| text(word, "operand")).collect()
    }
}

fn text(value: OsString, name: &str) -> Result<String, CliError> {
    value.into_string().map_err(|value| CliError::Message(format!("{name} {value:?}: not UTF-8")))
}

/// A command line that makes sense.
#[derive(Debug)]
pub(super) enum Parsed {
    Run {
        command: &'static Command,
        global: Given,
        given: Given,
    },
    /// To be printed, instead of running anything.
    Help(String),
    Version,
}

/// A command line that does not: what for, the exit code, and (in any case) what was said of logging until then.
#[derive(Debug)]
pub(super) struct Misuse {
    pub(super) message: String,
    pub(super) exit_code: u8,
    pub(super) global: Given,
}

/// Sorts the words of the command line (without the program's name).
pub(super) fn parse(
    words: impl Iterator<Item = OsString>,
    commands: &[&'static Command],
    flags: &'static [Flag],
) -> Result<Parsed, Misuse> {
    let mut global = Given::default();
    match sort(Parser::from_args(words), commands, flags, &mut global) {
        Ok(Sorted::Run(command, given)) => Ok(Parsed::Run { command, global, given }),
        Ok(Sorted::Help(text)) => Ok(Parsed::Help(text)),
        Ok(Sorted::Version) => Ok(Parsed::Version),
        Err((message, exit_code)) => Err(Misuse { message, exit_code, global }),
    }
}

enum Sorted {
    Run(&'static Command, Given),
    Help(String),
    Version,
}

fn sort(
    mut parser: Parser,
    commands: &[&'static Command],
    flags: &'static [Flag],
    global: &mut Given,
) -> Result<Sorted, (String, u8)> {
    let wrong = |error: lexopt::Error| (error.to_string(), 1);
    let mut command: Option<&'static Command> = None;
    let mut given = Given::default();
    while let Some(argument) = parser.next().map_err(wrong)? {
        let own = command.map_or(&[] as &[Flag], |command| command.flags);
        let found = |argument: &Arg<'_>, flags: &'static [Flag]| {
            flags.iter().find(|flag| match argument {
                Arg::Long(name) => flag.name == *name,
                Arg::Short(letter) => flag.short == Some(*letter),
                Arg::Value(_) => false,
            })
        };
        let long = matches!(argument, Arg::Long(_));
        let fails = command.map_or(1, |command| command.failure);
        if let Some(flag) = found(&argument, own) {
            given.flags.extend(take(&mut parser, flag, long).map_err(|why| (why, fails))?);
        } else if let Some(flag) = found(&argument, flags) {
            global.flags.extend(take(&mut parser, flag, long).map_err(|why| (why, fails))?);
        } else {
            match (argument, command) {
                (Arg::Long("help") | Arg::Short('h'), _) => {
                    let overview = || overview(commands, flags);
                    return Ok(Sorted::Help(command.map_or_else(overview, usage)));
                }
                (Arg::Long("version") | Arg::Short('v'), None) => return Ok(Sorted::Version),
                (Arg::Value(name), None) => match commands.iter().find(|c| name == c.name) {
                    Some(found) => command = Some(found),
                    None if name == "help" => {
                        return Ok(Sorted::Help(overview(commands, flags)));
                    }
                    None => return Err((format!("no such command: {}", name.display()), 3)),
                },
                (Arg::Value(operand), Some(command)) => {
                    given.operands.push_back(operand);
                    if command.verbatim {
                        given.operands.extend(parser.raw_args().map_err(wrong)?);
                    }
                }
                (other, _) => return Err((other.unexpected().to_string(), fails)),
            }
        }
    }
    let Some(command) = command else { return Ok(Sorted::Help(overview(commands, flags))) };
    check_count(command, given.operands.len())?;
    Ok(Sorted::Run(command, given))
}

/// A switch may be `--name=false`, as Go's flags may; behind a single letter there are more letters.
fn take(parser: &mut Parser, flag: &'static Flag, long: bool) -> Result<Option<Pair>, String> {
    if flag.value.is_some() {
        let value = parser.value().map_err(|error| error.to_string())?;
        return Ok(Some((flag.name, value)));
    }
    let value = if long { parser.optional_value() } else { None };
    match value {
        None => Ok(Some((flag.name, OsString::new()))),
        Some(value) if value == "true" => Ok(Some((flag.name, OsString::new()))),
        Some(value) if value == "false" => Ok(None),
        Some(value) => Err(format!("--{}={}: must be true or false", flag.name, value.display())),
    }
}

fn check_count(command: &Command, count: usize) -> Result<(), (String, u8)> {
    let (least, most) = command.count;
    if (least..=most).contains(&count) {
        return Ok(());
    }
    let wanted = match (least, most) {
        (0, 0) => "no argument".to_owned(),
        (least, ANY) => format!("at least {least} argument(s)"),
        (least, most) if least == most => format!("exactly {least} argument(s)"),
        (least, most) => format!("{least} to {most} arguments"),
    };
    let name = command.name;
    Err((format!("{name:?} takes {wanted}: {name} {}", command.operands), command.failure))
}

fn usage(command: &Command) -> String {
    let mut text = format!(
        "{}\n\nusage: kobune-runtime {} [flags] {}\n",
        command.about, command.name, command.operands
    );
    list(&mut text, command.flags);
    text
}

fn overview(commands: &[&Command], flags: &[Flag]) -> String {
    let mut text =
        "Runs containers from OCI bundles.\n\nusage: kobune-runtime [flags] <command> …\n\n"
            .to_owned();
    for command in commands {
        let _ = writeln!(text, "  {:<12} {}", command.name, command.about);
    }
    list(&mut text, flags);
    text
}

fn list(text: &mut String, flags: &[Flag]) {
    text.push('\n');
    for flag in flags {
        let short = flag.short.map_or("   ".to_owned(), |letter| format!("-{letter},"));
        let value = flag.value.map_or(String::new(), |value| format!(" {value}"));
        let _ = writeln!(text, "  {short} {:<28} {}", format!("--{}{value}", flag.name), flag.help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static COMMAND: Command = Command {
        name: "do",
        about: "Does it",
        operands: "<container-id> <word>…",
        count: (1, ANY),
        verbatim: true,
        flags: &[
            Flag::switch("all", "everything").or('a'),
            Flag::value("env", "NAME=value", "more").or('e'),
        ],
        run: |_, _| Ok(0),
        failure: 255,
    };
    static GLOBAL: &[Flag] = &[Flag::value("root", "DIR", "where"), Flag::switch("debug", "more")];

    fn words(line: &str) -> Result<Parsed, Misuse> {
        parse(line.split_whitespace().map(OsString::from), &[&COMMAND], GLOBAL)
    }

    fn run(line: &str) -> (Given, Given) {
        match words(line) {
            Ok(Parsed::Run { global, given, .. }) => (global, given),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn flags_find_their_command() {
        let (mut global, mut given) = run("--root /r do -ae A=1 --env=B=2 --debug id -x --all");
        assert_eq!(global.path("root"), Some("/r".into()));
        assert!(global.has("debug") && given.has("all"));
        assert_eq!(given.texts("env").unwrap(), ["A=1", "B=2"]);
        assert_eq!(given.operand().unwrap(), "id");
        assert_eq!(given.rest().unwrap(), ["-x", "--all"]);
    }

    #[test]
    fn switches_take_go_booleans() {
        assert!(run("do --all=true id").1.has("all"));
        assert!(!run("do --all=false id").1.has("all"));
    }

    #[test]
    fn misuse_has_the_commands_exit_code() {
        for (line, code) in [
            ("undo", 3),
            ("--nope", 1),
            ("do", 255),
            ("do --nope id", 255),
            ("do --all=x id", 255),
            ("do id --env", 0),
            ("do --env", 255),
        ] {
            let got = words(line).map_or_else(|misuse| misuse.exit_code, |_| 0);
            assert_eq!(got, code, "{line}");
        }
    }

    #[test]
    fn help_names_every_flag() {
        let Ok(Parsed::Help(text)) = words("do --help") else { panic!() };
        assert!(text.contains("-e, --env NAME=value") && text.contains("--all"), "{text}");
        let Ok(Parsed::Help(text)) = words("") else { panic!() };
        assert!(text.contains("do           Does it") && text.contains("--root DIR"), "{text}");
    }
}
