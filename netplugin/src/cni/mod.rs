//! The Container Network Interface 1.1: a command in the environment, JSON in, JSON out, the specification's error
//! codes. Reads what is asked; `attach` does it, `main` prints.

mod attach;
mod config;
mod leases;

use serde::Serialize;
use serde_json::Value;

use crate::Error;
use config::{Attachment, Config};

/// The version that answers are in if the caller names none.
const NEWEST: &str = "1.1.0";
const SUPPORTED: [&str; 3] = ["0.4.0", "1.0.0", NEWEST];

const INCOMPATIBLE_VERSION: u32 = 1;
const UNSUPPORTED_FIELD: u32 = 2;
const UNKNOWN_CONTAINER: u32 = 3;
const INVALID_ENVIRONMENT: u32 = 4;
const IO: u32 = 5;
const DECODE: u32 = 6;
const INVALID_CONFIG: u32 = 7;
const UNAVAILABLE: u32 = 50;
/// From here on codes are the plugin's own: something is not as it should be (CHECK), or in the way (ADD).
const NOT_AS_IT_SHOULD_BE: u32 = 100;
const NO_ADDRESS: u32 = 101;

/// What to print, and whether that is a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    #[serde(rename_all = "camelCase")]
    Versions { cni_version: String, supported_versions: Vec<String> },
    /// What ADD made.
    Result(Value),
    /// Success without words.
    Nothing,
    #[serde(rename_all = "camelCase")]
    Error { cni_version: String, code: u32, msg: String, details: String },
}

/// A refusal, as the specification wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u32,
    pub(crate) msg: String,
    pub(crate) details: String,
}

impl Failure {
    fn new(code: u32, msg: &str, details: String) -> Failure {
        Failure { code, msg: msg.into(), details }
    }

    fn decode(details: String) -> Failure {
        Failure::new(DECODE, "cannot decode the network configuration", details)
    }

    fn config(field: &str, value: &str, why: &str) -> Failure {
        Failure::new(
            INVALID_CONFIG,
            "invalid network configuration",
            format!("{field}: {value:?} {why}"),
        )
    }

    fn unsupported(field: &str) -> Failure {
        Failure::new(UNSUPPORTED_FIELD, "unsupported field in network configuration", field.into())
    }

    fn environment(details: String) -> Failure {
        Failure::new(INVALID_ENVIRONMENT, "invalid environment variable", details)
    }

    /// What CHECK finds, or what is in the way of ADD.
    fn wrong(details: String) -> Failure {
        Failure::new(NOT_AS_IT_SHOULD_BE, "network is not as it should be", details)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::new(IO, "input/output failure", error.to_string())
    }
}

/// The variables of the environment that count.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    pub command: Option<String>,
    pub container: Option<String>,
    pub netns: Option<String>,
    pub ifname: Option<String>,
    pub args: Option<String>,
}

impl Environment {
    /// Of this process. An empty variable is none.
    pub fn read() -> Environment {
        let get = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        Environment {
            command: get("CNI_COMMAND"),
            container: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS"),
            ifname: get("CNI_IFNAME"),
            args: get("CNI_ARGS"),
        }
    }

    /// Whom ADD, DEL and CHECK are about.
    fn attachment(&self, netns_needed: bool) -> Result<Attachment, Failure> {
        let mut missing = Vec::new();
        let mut take = |name: &'static str, value: &Option<String>, needed: bool| {
            if value.is_none() && needed {
                missing.push(name);
            }
            value.clone().unwrap_or_default()
        };
        let container = take("CNI_CONTAINERID", &self.container, true);
        let ifname = take("CNI_IFNAME", &self.ifname, true);
        take("CNI_NETNS", &self.netns, netns_needed);
        if !missing.is_empty() {
            return Err(Failure::environment(format!("not set: {}", missing.join(", "))));
        }
        if !config::is_name(&container) {
            let details = format!("CNI_CONTAINERID: {container:?} is not a container's name");
            return Err(Failure::environment(details));
        }
        if !config::is_interface(&ifname) {
            let details = format!("CNI_IFNAME: {ifname:?} is not an interface's name");
            return Err(Failure::environment(details));
        }
        Ok(Attachment { container, ifname })
    }

    /// The hardware address of `MAC=…` in CNI_ARGS.
    fn mac(&self) -> Option<String> {
        let args = self.args.as_deref().unwrap_or_default();
        args.split(';').find_map(|pair| pair.strip_prefix("MAC=")).map(str::to_owned)
    }
}

/// Does what `environment` asks for with the configuration `input`.
pub fn answer(environment: &Environment, input: &[u8]) -> Answer {
    let asked = version(input);
    if environment.command.as_deref() == Some("VERSION") {
        return Answer::Versions {
            cni_version: asked.unwrap_or_else(|| NEWEST.into()),
            supported_versions: SUPPORTED.map(Into::into).into(),
        };
    }
    let version = asked.unwrap_or_else(|| NEWEST.into());
    perform(environment, input, &version).unwrap_or_else(|failure| Answer::Error {
        cni_version: version.clone(),
        code: failure.code,
        msg: failure.msg,
        details: failure.details,
    })
}

fn version(input: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(input).ok()?;
    value.get("cniVersion")?.as_str().map(str::to_owned)
}

fn perform(environment: &Environment, input: &[u8], version: &str) -> Result<Answer, Failure> {
    let Some(command) = environment.command.as_deref() else {
        return Err(Failure::environment("not set: CNI_COMMAND".into()));
    };
    if !["ADD", "DEL", "CHECK", "STATUS", "GC"].contains(&command) {
        return Err(Failure::environment(format!("CNI_COMMAND: {command:?} is no command")));
    }
    if !SUPPORTED.contains(&version) {
        let details = format!("{version:?}; supported: {}", SUPPORTED.join(", "));
        return Err(Failure::new(INCOMPATIBLE_VERSION, "incompatible CNI version", details));
    }
    let who = match command {
        "ADD" | "CHECK" => Some(environment.attachment(true)?),
        "DEL" => Some(environment.attachment(false)?),
        _ => None,
    };
    let config: Config = config::parse(input, environment.mac())?;
    let netns = environment.netns.as_deref().unwrap_or_default();
    match (command, who) {
        ("ADD", Some(who)) => attach::add(&config, &who, netns, version).map(Answer::Result),
        ("CHECK", Some(who)) => attach::check(&config, &who, netns).map(|()| Answer::Nothing),
        ("DEL", Some(who)) => attach::del(&config, &who).map(|()| Answer::Nothing),
        ("GC", _) => attach::collect(&config).map(|()| Answer::Nothing),
        _ => attach::status(&config).map(|()| Answer::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask(command: Option<&str>, input: &str) -> Value {
        let command = command.map(Into::into);
        let environment = Environment { command, ..Environment::default() };
        serde_json::to_value(answer(&environment, input.as_bytes())).unwrap()
    }

    #[test]
    fn versions_are_told_in_the_callers_version() {
        let expected = |version| json!({"cniVersion": version, "supportedVersions": SUPPORTED});
        assert_eq!(ask(Some("VERSION"), r#"{"cniVersion": "0.3.1"}"#), expected("0.3.1"));
        assert_eq!(ask(Some("VERSION"), "garbage"), expected("1.1.0"));
    }

    #[test]
    fn what_is_wrong_with_the_call_is_said() {
        for command in [Some("add"), None] {
            let answer = ask(command, "{}");
            assert_eq!(answer["code"], 4);
            assert!(answer["details"].as_str().unwrap().contains("CNI_COMMAND"));
        }
        let answer = ask(Some("ADD"), "{}");
        assert_eq!(answer["code"], 4);
        assert_eq!(answer["details"], "not set: CNI_CONTAINERID, CNI_IFNAME, CNI_NETNS");
        assert_eq!(ask(Some("DEL"), "{}")["details"], "not set: CNI_CONTAINERID, CNI_IFNAME");
        assert_eq!(ask(Some("STATUS"), r#"{"cniVersion": "0.2.0"}"#)["code"], 1);
        assert_eq!(ask(Some("STATUS"), "{")["code"], 6);
        for (container, ifname) in [("a/b", "eth0"), ("a", "a:b"), ("a", "seventeen-letters")] {
            let environment = Environment {
                command: Some("DEL".into()),
                container: Some(container.into()),
                ifname: Some(ifname.into()),
                ..Environment::default()
            };
            let Answer::Error { code, .. } = answer_of(&environment) else { panic!("an error") };
            assert_eq!(code, 4);
        }
    }

    fn answer_of(environment: &Environment) -> Answer {
        answer(environment, b"{}")
    }
}
