//! ServiceAccount: every Pod runs as an account of its namespace, and finds a token of it in its containers. Pure.

use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::{Value, json};

use super::World;

pub(crate) const ACCOUNTS: &str = "serviceaccounts";
/// The one that every namespace has.
pub(crate) const DEFAULT: &str = "default";
/// Where client libraries look.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
/// Seconds: an hour, and enough that clients see whose default it was.
const LIFETIME: i64 = 3607;

/// Marks the Pod of a file on a node.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// The Pod of a file on a node: the API only shows it, it has no account.
pub(crate) fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"][MIRROR].is_string()
}

pub(crate) fn name(pod: &Value) -> &str {
    pod["spec"]["serviceAccountName"].as_str().unwrap_or(DEFAULT)
}

/// Gives the Pod what its account has. `volume` names the volume with the token, should it need one.
pub(crate) fn complete(
    world: World<'_>,
    namespace: &str,
    pod: &mut Value,
    volume: &dyn Fn(&str) -> String,
) -> Result<(), String> {
    let name = name(pod).to_owned();
    let account = world.typed::<ServiceAccount>(ACCOUNTS, namespace, &name).ok_or_else(|| {
        format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        )
    })?;
    let spec = &mut pod["spec"];
    let wish = spec["automountServiceAccountToken"].as_bool();
    if wish.or(account.automount_service_account_token).unwrap_or(true) {
        mount_token(spec, volume);
    }
    let secrets = account.image_pull_secrets.iter().flatten();
    let secrets: Vec<Value> = secrets.map(|secret| json!({"name": secret.name})).collect();
    if !secrets.is_empty() && list(spec, "imagePullSecrets").is_some_and(|own| own.is_empty()) {
        spec["imagePullSecrets"] = secrets.into();
    }
    Ok(())
}

fn mount_token(spec: &mut Value, volume: &dyn Fn(&str) -> String) {
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let known = volumes.filter_map(|v| v["name"].as_str()).find(|name| name.starts_with(VOLUME));
    let (is_new, name) = match known {
        Some(name) => (false, name.to_owned()),
        None => (true, volume(VOLUME)),
    };
    let mut wanted = false;
    for containers in ["initContainers", "containers"] {
        let all = spec.get_mut(containers).and_then(Value::as_array_mut);
        for container in all.into_iter().flatten() {
            let Some(mounts) = list(container, "volumeMounts") else { continue };
            // A container with something of its own there keeps it.
            if mounts.iter().all(|mount| mount["mountPath"] != MOUNT_PATH) {
                mounts.push(json!({"name": name, "mountPath": MOUNT_PATH, "readOnly": true}));
                wanted = true;
            }
        }
    }
    if wanted
        && is_new
        && let Some(volumes) = list(spec, "volumes")
    {
        volumes.push(token_volume(&name));
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": LIFETIME, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{
            "path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
        }]}},
    ]}})
}

/// The list, made if there is none; None where something else is.
fn list<'a>(of: &'a mut Value, field: &str) -> Option<&'a mut Vec<Value>> {
    let value = of.as_object_mut()?.entry(field).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing;

    fn world(account: Value) -> testing::World {
        let mut account = account;
        account["metadata"] = json!({"name": "build", "namespace": "team"});
        testing::World::of([(ACCOUNTS, account)])
    }

    fn completed(account: Value, spec: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
        pod["spec"]["serviceAccountName"] = "build".into();
        let name = |prefix: &str| format!("{prefix}xxxxx");
        complete(&world(account), "team", &mut pod, &name).unwrap();
        pod["spec"].take()
    }

    #[test]
    fn every_container_finds_the_token() {
        let own = json!([{"name": "mine", "mountPath": MOUNT_PATH}]);
        let spec = completed(
            json!({}),
            json!({
                "initContainers": [{"name": "i"}],
                "containers": [{"name": "a", "volumeMounts": null}, {"name": "b", "volumeMounts": own}],
            }),
        );
        let mount =
            json!([{"name": "kube-api-access-xxxxx", "mountPath": MOUNT_PATH, "readOnly": true}]);
        assert_eq!(spec["initContainers"][0]["volumeMounts"], mount);
        assert_eq!(spec["containers"][0]["volumeMounts"], mount);
        assert_eq!(spec["containers"][1]["volumeMounts"], own);
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
        let sources = &spec["volumes"][0]["projected"]["sources"];
        assert_eq!(sources[0]["serviceAccountToken"]["expirationSeconds"], 3607);
        let all_own = json!({"containers": [{"name": "b", "volumeMounts": own}]});
        assert!(completed(json!({}), all_own)["volumes"].as_array().is_none_or(Vec::is_empty));
    }

    #[test]
    fn a_volume_that_is_there_is_used() {
        let volumes = json!([token_volume("kube-api-access-12345")]);
        let spec = completed(json!({}), json!({"volumes": volumes, "containers": [{"name": "a"}]}));
        assert_eq!(spec["volumes"], volumes);
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], "kube-api-access-12345");
    }

    #[test]
    fn the_pod_has_the_last_word_about_its_token() {
        let table = [
            (json!({}), json!({"automountServiceAccountToken": false}), false),
            (json!({"automountServiceAccountToken": false}), json!({}), false),
            (
                json!({"automountServiceAccountToken": false}),
                json!({"automountServiceAccountToken": true}),
                true,
            ),
        ];
        for (account, mut spec, mounted) in table {
            spec["containers"] = json!([{"name": "a"}]);
            let spec = completed(account, spec);
            assert_eq!(spec["volumes"].is_array(), mounted, "{spec}");
        }
    }

    #[test]
    fn pull_secrets_come_from_the_account() {
        let account = json!({"imagePullSecrets": [{"name": "registry"}]});
        let spec = completed(account.clone(), json!({"containers": []}));
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "registry"}]));
        let own = json!([{"name": "own"}]);
        let spec = completed(account, json!({"containers": [], "imagePullSecrets": own}));
        assert_eq!(spec["imagePullSecrets"], own);
    }

    #[test]
    fn an_account_that_is_missing_is_named() {
        let mut pod = json!({"spec": {"serviceAccountName": "ghost"}});
        let why = complete(&world(json!({})), "team", &mut pod, &str::to_owned).unwrap_err();
        assert_eq!(
            why,
            r#"error looking up service account team/ghost: serviceaccount "ghost" not found"#
        );
    }
}
