//! Which licences the dependencies may have: permissive ones. Works on the expressions that crates
//! declare (SPDX); the old `MIT/Apache-2.0` form means OR.

use serde_json::Value;

use super::Offences;

/// Licences that ask for no more than to keep their text.
const PERMISSIVE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Every package of the resolved graph whose licence is missing or not permissive.
pub fn offences(metadata: &Value) -> Offences {
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    packages
        .iter()
        .filter_map(|package| {
            let name = package["name"].as_str().unwrap_or("?");
            match package["license"].as_str() {
                None => Some(format!("{name} declares no licence")),
                Some(licence) if permissive(licence) => None,
                Some(licence) => Some(format!("{name}: licence \"{licence}\" is not permissive")),
            }
        })
        .collect()
}

/// Whether one may choose only permissive licences from the expression. OR binds weaker than AND.
fn permissive(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let tokens = expression.replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = tokens.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    either(&mut rest).unwrap_or(false) && rest.is_empty()
}

fn either(rest: &mut &[&str]) -> Option<bool> {
    let mut result = both(rest)?;
    while take(rest, "OR") {
        result |= both(rest)?;
    }
    Some(result)
}

fn both(rest: &mut &[&str]) -> Option<bool> {
    let mut result = one(rest)?;
    while take(rest, "AND") {
        result &= one(rest)?;
    }
    Some(result)
}

fn one(rest: &mut &[&str]) -> Option<bool> {
    if take(rest, "(") {
        let result = either(rest)?;
        return take(rest, ")").then_some(result);
    }
    let (name, tail) = rest.split_first()?;
    *rest = tail;
    if take(rest, "WITH") {
        let (exception, tail) = rest.split_first()?;
        *rest = tail;
        return Some(PERMISSIVE.contains(&format!("{name} WITH {exception}").as_str()));
    }
    Some(PERMISSIVE.contains(name))
}

fn take(rest: &mut &[&str], word: &str) -> bool {
    match rest.split_first() {
        Some((first, tail)) if *first == word => {
            *rest = tail;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::permissive;

    #[test]
    fn a_choice_needs_one_permissive_branch() {
        assert!(permissive("MIT OR Apache-2.0"));
        assert!(permissive("MIT/Apache-2.0"));
        assert!(permissive("LGPL-2.1-or-later OR MIT"));
        assert!(permissive("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(permissive("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT"));
    }

    #[test]
    fn what_must_be_taken_whole_must_be_permissive_whole() {
        assert!(!permissive("GPL-3.0-only"));
        assert!(!permissive("MIT AND GPL-2.0"));
        assert!(!permissive("(MIT OR ISC) AND LGPL-3.0"));
        assert!(!permissive("Apache-2.0 WITH Unheard-exception"));
    }

    #[test]
    fn nonsense_is_not_permissive() {
        for expression in ["", "MIT OR", "(MIT", "MIT ISC", "AND MIT"] {
            assert!(!permissive(expression), "{expression}");
        }
    }
}
