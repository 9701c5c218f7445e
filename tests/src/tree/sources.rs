//! The look of source files: a head that says what the file owns, a size that one can read, and
//! `unsafe` only in the rooms for it (`*/src/sys/`). Never judges style that rustfmt or clippy judge.

use std::fs;
use std::path::{Path, PathBuf};

use super::Offences;

/// More lines than this in one file are two files.
const MOST_LINES: usize = 600;

const PACKAGES: &[&str] = &["runtime", "netplugin", "controlplane", "agent", "tests"];

/// All checks over every `.rs` file of the packages.
pub fn offences(root: &Path) -> Offences {
    let mut files = Vec::new();
    for package in PACKAGES {
        rust_files(&root.join(package), &mut files);
    }
    files.sort();
    files
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
            match fs::read_to_string(path) {
                Ok(text) => check(&name, &text),
                Err(error) => vec![format!("{name}: {error}")],
            }
        })
        .collect()
}

/// The checks of one file; `name` is its path from the root.
fn check(name: &str, text: &str) -> Offences {
    let mut offences = Offences::new();
    if !text.starts_with("//!") {
        offences.push(format!("{name}: the file does not open with //!"));
    }
    let lines = text.lines().count();
    if lines > MOST_LINES {
        offences.push(format!("{name}: {lines} lines, more than {MOST_LINES}"));
    }
    if !name.contains("/src/sys/") && !name.ends_with("/src/sys.rs") {
        let found = text.lines().enumerate().filter(|(_, line)| uses_unsafe(line));
        offences.extend(found.map(|(at, _)| format!("{name}:{}: unsafe outside src/sys", at + 1)));
    }
    offences
}

/// Whether the line opens an unsafe block, function or impl. Comments do not count; neither do names
/// such as `unsafe_code` or words in strings, which no brace or keyword follows.
fn uses_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices("unsafe").any(|(at, word)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].trim_start();
        let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '"');
        let follows = ["{", "fn ", "impl", "extern", "trait"];
        starts && (after.is_empty() || follows.iter().any(|word| after.starts_with(word)))
    })
}

fn rust_files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In pieces, so that this file does not offend.
    const WORD: &str = "unsafe";

    #[test]
    fn unsafe_is_found_only_where_it_is_code() {
        assert!(uses_unsafe(&format!("    let x = {WORD} {{ read() }};")));
        assert!(uses_unsafe(&format!("pub(crate) {WORD} fn f() {{")));
        assert!(uses_unsafe(&format!("{WORD} impl Send for X {{}}")));
        assert!(!uses_unsafe("#![forbid(unsafe_code)]"));
        assert!(!uses_unsafe(&format!("// {WORD} {{ would be wrong }}")));
        assert!(!uses_unsafe(&format!("    \"{WORD}\", \"fn\"")));
    }

    #[test]
    fn a_file_needs_a_head_a_bound_and_no_unsafe() {
        assert!(check("a/src/x.rs", "//! Owns x.\n").is_empty());
        assert_eq!(check("a/src/x.rs", "fn x() {}\n").len(), 1);
        assert_eq!(check("a/src/x.rs", &"//! x\n".repeat(601)).len(), 1);
        let body = format!("//! x\nfn f() {{ {WORD} {{ g() }} }}\n");
        assert_eq!(check("a/src/x.rs", &body), ["a/src/x.rs:2: unsafe outside src/sys"]);
        assert!(check("a/src/sys/x.rs", &body).is_empty());
    }
}
