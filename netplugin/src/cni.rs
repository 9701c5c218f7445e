//! The Container Network Interface: a command in the environment, JSON in, JSON out, the
//! specification's error codes. Decides only what to answer; `main` reads and prints.
//!
//! So far the plugin tells its versions. Connecting containers of foreign runtimes is refused
//! clearly, so that nobody takes a container for connected that is not.

use serde::Serialize;

/// The version that answers are in if the caller names none.
const NEWEST: &str = "1.1.0";
const SUPPORTED: [&str; 2] = ["1.0.0", NEWEST];

const INVALID_ENVIRONMENT: u32 = 4;
/// The first code that plugins may define themselves.
const NOT_IMPLEMENTED: u32 = 100;

/// What to print, and whether that is a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    #[serde(rename_all = "camelCase")]
    Versions { cni_version: String, supported_versions: Vec<String> },
    #[serde(rename_all = "camelCase")]
    Error { cni_version: String, code: u32, msg: String, details: String },
}

impl Answer {
    fn error(code: u32, msg: &str, details: String) -> Answer {
        Answer::Error { cni_version: NEWEST.into(), code, msg: msg.into(), details }
    }
}

/// Answers `command` (CNI_COMMAND) with the configuration `input`.
pub fn answer(command: Option<&str>, input: &[u8]) -> Answer {
    match command {
        Some("VERSION") => versions(input),
        Some(known @ ("ADD" | "DEL" | "CHECK" | "STATUS" | "GC")) => Answer::error(
            NOT_IMPLEMENTED,
            "command not implemented",
            format!("CNI_COMMAND={known}: this plugin serves kobune's own pods only"),
        ),
        other => Answer::error(
            INVALID_ENVIRONMENT,
            "invalid environment variable",
            match other {
                Some(unknown) => format!("CNI_COMMAND={unknown}: no such command"),
                None => "CNI_COMMAND is not set".into(),
            },
        ),
    }
}

/// The answer is in the version that the caller speaks, whatever that is.
fn versions(input: &[u8]) -> Answer {
    let asked = serde_json::from_slice::<serde_json::Value>(input).ok();
    let asked = asked.as_ref().and_then(|value| value.get("cniVersion")?.as_str());
    Answer::Versions {
        cni_version: asked.unwrap_or(NEWEST).into(),
        supported_versions: SUPPORTED.map(Into::into).into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn json(command: Option<&str>, input: &str) -> Value {
        serde_json::to_value(answer(command, input.as_bytes())).unwrap()
    }

    #[test]
    fn versions_are_told_in_the_callers_version() {
        let expected =
            |version| json!({"cniVersion": version, "supportedVersions": ["1.0.0", "1.1.0"]});
        assert_eq!(json(Some("VERSION"), r#"{"cniVersion": "0.4.0"}"#), expected("0.4.0"));
        assert_eq!(json(Some("VERSION"), "garbage"), expected("1.1.0"));
    }

    #[test]
    fn everything_else_is_an_error_that_says_what_is_wrong() {
        for command in ["ADD", "DEL", "CHECK", "STATUS", "GC"] {
            let answer = json(Some(command), "{}");
            assert_eq!(answer["code"], 100, "{answer}");
            assert!(answer["details"].as_str().unwrap().contains(command));
        }
        for command in [Some("add"), None] {
            let answer = json(command, "{}");
            assert_eq!(answer["code"], 4);
            assert!(answer["details"].as_str().unwrap().contains("CNI_COMMAND"));
        }
    }
}
