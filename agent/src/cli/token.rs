//! `kobune token`: what nodes join with. A token is a Secret of `kube-system`; the cluster forgets it when it expires.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use sha2::{Digest, Sha256};

use super::Failure;
use super::client::{Access, explain};
use crate::table;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const PREFIX: &str = "bootstrap-token-";
/// Whose requests for certificates of nodes are approved by themselves.
const GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";

#[derive(Debug, Args)]
pub(super) struct Command {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token that nodes can join with, and print it
    Create {
        /// How long it is good: 30m, 24h, 7d; 0 for ever
        #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = lifetime)]
        ttl: Duration,
        /// What it is for, for whoever lists tokens
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Print the command that a node joins with, instead of the token alone
        #[arg(long)]
        print_join_command: bool,
    },
    /// List tokens
    #[command(alias = "ls")]
    List,
    /// Delete tokens: nodes that have joined stay
    #[command(alias = "rm")]
    Delete {
        /// Ids, or whole tokens
        #[arg(required = true, value_name = "TOKEN")]
        tokens: Vec<String>,
    },
}

impl Command {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let config = self.access.config().await?;
        let (server, ca) = (config.cluster_url.to_string(), ca_hash(&config));
        let client = kube::Client::try_from(config).map_err(explain)?;
        let secrets = Api::<Secret>::namespaced(client, NAMESPACE);
        match self.verb {
            Verb::Create { ttl, description, print_join_command } => {
                let ca = ca.ok_or("make a token: the kubeconfig does not name the cluster's CA")?;
                let (id, secret) = (random(6), random(16));
                let made = wanted(&id, &secret, ttl, description.as_deref(), Timestamp::now());
                secrets.create(&PostParams::default(), &made).await.map_err(explain)?;
                let token = format!("{ca}.{id}.{secret}");
                match print_join_command {
                    true => super::say(format_args!(
                        "kobune agent --server {} --token {token}",
                        server.trim_end_matches('/')
                    )),
                    false => super::say(token),
                }
            }
            Verb::List => {
                let all = ListParams::default().fields(&format!("type={TYPE}"));
                let all = secrets.list(&all).await.map_err(explain)?;
                super::show(&listed(&all.items, Timestamp::now()));
            }
            Verb::Delete { tokens } => {
                for token in tokens {
                    let id = id(&token);
                    let name = format!("{PREFIX}{id}");
                    secrets.delete(&name, &DeleteParams::default()).await.map_err(explain)?;
                    super::say(format_args!("token {id:?} deleted"));
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `<id>`, `<id>.<secret>` or `<hash>.<id>.<secret>`.
fn id(token: &str) -> &str {
    let parts: Vec<&str> = token.split('.').collect();
    match parts.as_slice() {
        [_, id, _] | [id, ..] => id,
        [] => token,
    }
}

/// SHA-256 of the CA that the kubeconfig trusts.
fn ca_hash(config: &kube::Config) -> Option<String> {
    let ca = config.root_cert.as_ref()?.first()?;
    Some(Sha256::digest(ca).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn wanted(
    id: &str,
    secret: &str,
    ttl: Duration,
    description: Option<&str>,
    now: Timestamp,
) -> Secret {
    let expires = (!ttl.is_zero()).then(|| whole_seconds(now + ttl).to_string());
    let fields = [
        ("token-id", Some(id.to_owned())),
        ("token-secret", Some(secret.to_owned())),
        ("expiration", expires),
        ("description", description.map(str::to_owned)),
        ("usage-bootstrap-authentication", Some("true".into())),
        ("auth-extra-groups", Some(GROUP.into())),
    ];
    let data: BTreeMap<String, String> =
        fields.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?))).collect();
    Secret {
        metadata: ObjectMeta { name: Some(format!("{PREFIX}{id}")), ..ObjectMeta::default() },
        type_: Some(TYPE.into()),
        string_data: Some(data),
        ..Secret::default()
    }
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn listed(secrets: &[Secret], now: Timestamp) -> String {
    let mut rows = vec![["TOKEN", "TTL", "EXPIRES", "GROUPS", "DESCRIPTION"].map(str::to_owned)];
    for secret in secrets {
        let field = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
        };
        let expires = field("expiration");
        let left = match expires.parse::<Timestamp>() {
            Err(_) if expires.is_empty() => "<forever>".into(),
            Err(_) => "<invalid>".into(),
            Ok(at) if at <= now => "<expired>".into(),
            Ok(at) => short(at.as_second() - now.as_second()),
        };
        let or_never = if expires.is_empty() { "<never>".into() } else { expires };
        rows.push([
            field("token-id"),
            left,
            or_never,
            field("auth-extra-groups"),
            field("description"),
        ]);
    }
    table::render(&rows)
}

fn short(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// `90s`, `30m`, `24h`, `7d`, `1h30m`, `0`.
fn lifetime(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let wrong = || format!("{text:?} is not a duration like 30m, 24h or 7d");
    let (mut seconds, mut number) = (0u64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            _ => return Err(wrong()),
        };
        let amount: u64 = number.parse().map_err(|_| wrong())?;
        seconds =
            amount.checked_mul(unit).and_then(|s| s.checked_add(seconds)).ok_or_else(wrong)?;
        number.clear();
    }
    // A century is for ever, and an expiration that no calendar has is none.
    match number.is_empty() && seconds > 0 && seconds < 100 * 365 * 86400 {
        true => Ok(Duration::from_secs(seconds)),
        false => Err(wrong()),
    }
}

/// Small letters and digits; every one as likely as another.
fn random(length: usize) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::new();
    while text.len() < length {
        // Bytes 6 and 8 of a UUID are not all random; above 252 some would come more often.
        let bytes = uuid::Uuid::new_v4().into_bytes();
        let good = bytes[..6].iter().chain(&bytes[9..]).filter(|byte| **byte < 252);
        text.extend(good.map(|byte| char::from(ALPHABET[usize::from(*byte) % 36])));
    }
    text.truncate(length);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        for (text, seconds) in
            [("0", 0), ("90s", 90), ("30m", 1800), ("24h", 86400), ("7d", 604_800), ("1h30m", 5400)]
        {
            assert_eq!(lifetime(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "h", "5", "-1h", "1y", "1.5h", "99999999999999999999h", "100000d"] {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_a_secret_of_the_documented_form() {
        let now = Timestamp::UNIX_EPOCH;
        let made = wanted("abcdef", "0123456789abcdef", Duration::from_secs(60), Some("x"), now);
        assert_eq!(made.metadata.name.as_deref(), Some("bootstrap-token-abcdef"));
        let data = made.string_data.unwrap();
        assert_eq!(data["expiration"], "1970-01-01T00:01:00Z");
        assert_eq!(data["usage-bootstrap-authentication"], "true");
        let forever = wanted("abcdef", "s", Duration::ZERO, None, now).string_data.unwrap();
        assert!(!forever.contains_key("expiration") && !forever.contains_key("description"));
        for token in ["abcdef", "abcdef.0123", "ffff.abcdef.0123"] {
            assert_eq!(id(token), "abcdef");
        }
        let (one, other) = (random(16), random(16));
        assert_eq!(one.len(), 16);
        assert_ne!(one, other);
    }

    #[test]
    fn a_list_shows_no_secret() {
        let mut made = wanted(
            "abcdef",
            "0123456789abcdef",
            Duration::from_secs(7200),
            None,
            Timestamp::UNIX_EPOCH,
        );
        let data = made.string_data.take().unwrap();
        made.data = Some(
            data.into_iter().map(|(k, v)| (k, k8s_openapi::ByteString(v.into_bytes()))).collect(),
        );
        let text = listed(&[made], Timestamp::UNIX_EPOCH);
        assert!(
            text.contains("abcdef   2h    1970-01-01T02:00:00Z   system:bootstrappers:"),
            "{text}"
        );
        assert!(!text.contains("0123456789abcdef"));
    }
}
