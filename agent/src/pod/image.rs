//! The image of a container: already on the node, or pulled as its policy wants it.
//!
//! ```text
//! policy        on the node                 not on the node
//! Never         used                        ErrImageNeverPull
//! IfNotPresent  used                        pulled, unless in back-off
//! Always        pulled, unless in back-off  pulled, unless in back-off
//! ```
//! A pull of what is here already asks the registry what the name means, and no more. The reasons and messages are
//! upstream's. A Pod that is stopped waits for no pull.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Secret};
use kube::api::Api;

use super::decide::{ERR_IMAGE_PULL, IMAGE_PULL_BACK_OFF, INVALID_IMAGE_NAME};
use super::start::{Order, blocking};
use super::state::Event;
use super::worker::{Msg, reference};
use crate::container::ConfigError;
use crate::events::Note;
use crate::image::{Image, Keyring, Pulled, Reference, Waiting};

/// How often people are told how far a long pull is.
const TELL: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

/// What a policy means for an image.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Use,
    Pull,
    /// Not now: the last one failed.
    BackOff,
    NeverPull,
}

fn plan(policy: Policy, present: bool, may_pull: bool) -> Plan {
    match (policy, present) {
        (Policy::Never | Policy::IfNotPresent, true) => Plan::Use,
        (Policy::Never, false) => Plan::NeverPull,
        _ if may_pull => Plan::Pull,
        _ => Plan::BackOff,
    }
}

/// As written; without that, by the tag (as the API defaults it).
fn policy(written: Option<&str>, image: &Reference) -> Policy {
    match written {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some("IfNotPresent") => Policy::IfNotPresent,
        _ if image.digest.is_none() && image.tag.as_deref() == Some("latest") => Policy::Always,
        _ => Policy::IfNotPresent,
    }
}

pub(super) async fn find(order: &Order, container: &Container) -> Result<Image, ConfigError> {
    let name = container.image.clone().unwrap_or_default();
    let image = Reference::parse(&name).map_err(|error| invalid(order, &name, &error))?;
    let here = on_the_node(order, &name).await?;
    let policy = policy(container.image_pull_policy.as_deref(), &image);
    let image_of = match plan(policy, here.is_some(), order.may_pull) {
        Plan::Use => {
            let message = format!("Container image \"{name}\" already present on machine");
            tell(order, false, "Pulled", message);
            here
        }
        Plan::Pull => Some(pull(order, &name, &image).await?),
        Plan::BackOff => {
            let message = format!("Back-off pulling image \"{name}\"");
            return Err(ConfigError::Image { reason: IMAGE_PULL_BACK_OFF, message });
        }
        Plan::NeverPull => {
            let message =
                format!("Container image \"{name}\" is not present with pull policy of Never");
            tell(order, true, "ErrImageNeverPull", message.clone());
            return Err(ConfigError::Image { reason: "ErrImageNeverPull", message });
        }
    };
    // Used means that it is there.
    let found = image_of.ok_or_else(|| ConfigError::Create(format!("no image {name:?}")))?;
    let event = Event::ImageResolved {
        index: order.index,
        image: shown(&found, &image, &name),
        image_id: found.status_id(&image).to_owned(),
    };
    let _ = order.outbox.send(Msg::Event(event));
    Ok(found)
}

/// The name that a container's status has: the one asked for in its full form, if the image has it.
fn shown(found: &Image, image: &Reference, name: &str) -> String {
    let key = image.key();
    let tags = || found.references.iter().filter(|one| !one.contains('@'));
    let best = tags().find(|one| **one == key).or_else(|| tags().next());
    best.cloned().unwrap_or_else(|| name.to_owned())
}

fn invalid(order: &Order, name: &str, error: &crate::image::ReferenceError) -> ConfigError {
    let message = format!(
        "Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": invalid reference format: {}",
        error.reason
    );
    tell(order, true, "InspectFailed", message.clone());
    ConfigError::Image { reason: INVALID_IMAGE_NAME, message }
}

async fn on_the_node(order: &Order, name: &str) -> Result<Option<Image>, ConfigError> {
    let (images, copy) = (Arc::clone(&order.context.images), name.to_owned());
    let found =
        blocking(move || images.resolve(&copy).map_err(|e| ConfigError::Create(e.to_string())));
    found.await.map_err(|error| {
        let message = format!("Failed to inspect image \"{name}\": {error}");
        tell(order, true, "InspectFailed", message.clone());
        ConfigError::Image { reason: "ImageInspectError", message }
    })
}

async fn pull(order: &Order, name: &str, image: &Reference) -> Result<Image, ConfigError> {
    tell(order, false, "Pulling", format!("Pulling image \"{name}\""));
    let begin = Instant::now();
    let keyring = keyring(order).await;
    let waiting = order.context.puller.pull(image, &keyring);
    let error = tokio::select! {
        biased;
        () = order.stopped.cancelled() => "the Pod is being stopped".to_owned(),
        done = outcome(order, name, &waiting) => match done {
            Ok(pulled) => {
                tell(order, false, "Pulled", success(name, &pulled, begin.elapsed()));
                return Ok(pulled.image);
            }
            Err(error) => error,
        },
    };
    let message = format!("failed to pull image \"{name}\": {error}");
    if !order.stopped.is_cancelled() {
        tell(order, true, "Failed", format!("Failed to pull image \"{name}\": {error}"));
    }
    Err(ConfigError::Image { reason: ERR_IMAGE_PULL, message })
}

/// The end of a pull; while it lasts, people hear how far it is.
async fn outcome(order: &Order, name: &str, waiting: &Waiting) -> Result<Pulled, String> {
    let mut done = waiting.done();
    loop {
        match tokio::time::timeout(TELL, &mut done).await {
            Ok(result) => return result.map_err(|error| error.to_string()),
            Err(_elapsed) => {
                let (got, total) = waiting.progress.bytes();
                let message = format!("Pulling image \"{name}\": {got} of {total} bytes are here");
                tell(order, false, "Pulling", message);
            }
        }
    }
}

fn success(name: &str, pulled: &Pulled, waited: Duration) -> String {
    let (took, waited) = (short(pulled.took), short(waited));
    let size = pulled.image.size;
    format!(
        "Successfully pulled image \"{name}\" in {took} ({waited} including waiting). Image size: {size} bytes."
    )
}

/// A duration to the millisecond, as Go writes it.
fn short(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let seconds = |millis: u64| format!("{}", millis as f64 / 1000.0);
    match (millis / 60_000, millis % 60_000) {
        (0, 0) => "0s".into(),
        (0, rest) if rest < 1000 => format!("{rest}ms"),
        (0, rest) => format!("{}s", seconds(rest)),
        (minutes, rest) if minutes < 60 => format!("{minutes}m{}s", seconds(rest)),
        (minutes, rest) => format!("{}h{}m{}s", minutes / 60, minutes % 60, seconds(rest)),
    }
}

/// The credentials of the Pod's imagePullSecrets (the API has put the ServiceAccount's there).
async fn keyring(order: &Order) -> Keyring {
    let namespace = order.pod.metadata.namespace.clone().unwrap_or_default();
    let secrets = Api::<Secret>::namespaced(order.context.client.clone(), &namespace);
    let (mut keyring, mut missing) = (Keyring::default(), Vec::new());
    for name in secret_names(&order.pod) {
        let found = secrets.get_opt(&name).await;
        match found.map(|secret| secret.map(|secret| credentials(&secret))) {
            Ok(Some(Ok(own))) => keyring = keyring.and(&own),
            Ok(Some(Err(error))) => {
                tracing::debug!(error, name, namespace, "read an image pull secret");
                missing.push(name);
            }
            Ok(None) => missing.push(name),
            Err(error) => {
                tracing::warn!(%error, name, namespace, "fetch an image pull secret");
                missing.push(name);
            }
        }
    }
    if !missing.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        tell(order, true, "FailedToRetrieveImagePullSecret", message);
    }
    keyring
}

fn secret_names(pod: &Pod) -> Vec<String> {
    let secrets = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    secrets.map(|secret| secret.name.clone()).filter(|name| !name.is_empty()).collect()
}

fn credentials(secret: &Secret) -> Result<Keyring, String> {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let read = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => {
            data(".dockerconfigjson").map(|text| Keyring::docker_config_json(&text.0))
        }
        Some("kubernetes.io/dockercfg") => {
            data(".dockercfg").map(|text| Keyring::docker_cfg(&text.0))
        }
        _ => return Err("its type is not kubernetes.io/dockerconfigjson or dockercfg".into()),
    };
    let read = read.ok_or("it has no key of its type")?;
    read.map_err(|error| error.to_string())
}

fn tell(order: &Order, warning: bool, reason: &str, message: String) {
    let is_init = order
        .pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .any(|one| one.name == order.name);
    let list = if is_init { "initContainers" } else { "containers" };
    let field_path = Some(format!("spec.{list}{{{}}}", order.name));
    let about = ObjectReference { field_path, ..reference(&order.pod) };
    order.context.recorder.record(Note { about, warning, reason: reason.into(), message });
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn the_table_of_policies() {
        for may_pull in [true, false] {
            let pull = if may_pull { Plan::Pull } else { Plan::BackOff };
            assert_eq!(plan(Policy::Never, true, may_pull), Plan::Use);
            assert_eq!(plan(Policy::Never, false, may_pull), Plan::NeverPull);
            assert_eq!(plan(Policy::IfNotPresent, true, may_pull), Plan::Use);
            assert_eq!(plan(Policy::IfNotPresent, false, may_pull), pull);
            assert_eq!(plan(Policy::Always, true, may_pull), pull);
            assert_eq!(plan(Policy::Always, false, may_pull), pull);
        }
    }

    #[test]
    fn without_a_policy_the_tag_decides() {
        let of = |written, name: &str| policy(written, &Reference::parse(name).unwrap());
        let digest = format!("a@sha256:{}", "0".repeat(64));
        assert_eq!(of(None, "a"), Policy::Always);
        assert_eq!(of(None, "a:latest"), Policy::Always);
        assert_eq!(of(None, "a:1"), Policy::IfNotPresent);
        assert_eq!(of(None, &digest), Policy::IfNotPresent);
        assert_eq!(of(Some("Never"), "a"), Policy::Never);
    }

    #[test]
    fn durations_as_go_writes_them() {
        let text = |millis| short(Duration::from_millis(millis));
        let table = [
            (0, "0s"),
            (7, "7ms"),
            (1000, "1s"),
            (1234, "1.234s"),
            (60_000, "1m0s"),
            (62_500, "1m2.5s"),
            (3_661_000, "1h1m1s"),
        ];
        for (millis, expected) in table {
            assert_eq!(text(millis), expected);
        }
    }

    #[test]
    fn both_types_of_secrets() {
        let secret = |kind: &str, key: &str, text: &str| Secret {
            type_: Some(kind.into()),
            data: Some([(key.to_owned(), ByteString(text.into()))].into()),
            ..Secret::default()
        };
        let inner = r#"{"r.test":{"username":"me","password":"x"}}"#;
        let new = format!(r#"{{"auths":{inner}}}"#);
        let new = secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", &new);
        let old = secret("kubernetes.io/dockercfg", ".dockercfg", inner);
        assert_eq!(credentials(&new).unwrap(), credentials(&old).unwrap());
        assert_eq!(credentials(&new).unwrap().lookup("r.test", "a").len(), 1);
        assert!(credentials(&secret("Opaque", ".dockercfg", inner)).is_err());
        assert!(credentials(&secret("kubernetes.io/dockercfg", "other", inner)).is_err());
    }
}
