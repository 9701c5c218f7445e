//! Secret.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::config_map::{MAX_SIZE, frozen};
use crate::kinds::field::{Errors, Path};
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    resource: "secrets",
    short_names: &[],
    categories: &[],
    namespaced: true,
    subresources: &[],
    strategy: &Secrets,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Type", "Used to facilitate programmatic handling of secret data."),
    table::text("Data", "Data contains the secret data."),
    table::AGE,
];

/// Keys that a type must have.
const REQUIRED: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

struct Secrets;

impl Strategy for Secrets {
    typed!(Secret);

    fn default(&self, value: &mut Value) {
        let Some(secret) = value.as_object_mut() else { return };
        edit::default_to(secret, "type", "Opaque");
        // Write-only convenience: merged into `data`, never stored.
        let Some(Value::Object(plain)) = secret.remove("stringData") else { return };
        if plain.is_empty() {
            return;
        }
        let data = edit::make(secret, "data");
        for (key, text) in plain {
            let bytes = ByteString(text.as_str().unwrap_or_default().into());
            data.insert(key, serde_json::to_value(bytes).unwrap_or_default());
        }
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::no_generation(value);
        if let (Operation::Update { old, .. }, Some(secret)) = (op, value.as_object_mut()) {
            edit::default_to(secret, "type", old["type"].clone());
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let mut errors = Errors::default();
        let Some(secret) =
            metadata::check::<Secret>(&mut errors, (&KIND, names::dns_subdomain), value, op)
        else {
            return errors.into_causes();
        };
        check(&mut errors, &secret);
        if let Operation::Update { old, .. } = op {
            let (new, before) = (edit::text(value, "/type"), edit::text(old, "/type"));
            metadata::same(&mut errors, &Path::new("type"), new, before);
            frozen(&mut errors, value, old, &["data"]);
        }
        errors.into_causes()
    }

    fn field(&self, value: &Value, label: &str) -> Option<String> {
        (label == "type").then(|| edit::text(value, "/type").into())
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["type"]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let (kind, count) = object.view::<Secret>().map_or_else(
            |_| Default::default(),
            |s| (s.type_.clone().unwrap_or_default(), s.data.as_ref().map_or(0, |d| d.len())),
        );
        vec![table::name(object), kind.into(), count.into(), table::age(object, now)]
    }
}

fn check(errors: &mut Errors, secret: &Secret) {
    let data = Path::new("data");
    let mut size = 0;
    for (key, bytes) in secret.data.iter().flatten() {
        errors.all_invalid(&data.key(key), key, names::config_key(key));
        size += bytes.0.len();
    }
    if size > MAX_SIZE {
        errors.too_long(&data, MAX_SIZE);
    }
    let kind = secret.type_.as_deref().unwrap_or_default();
    let get = |key: &str| secret.data.as_ref().and_then(|d| d.get(key));
    let required =
        REQUIRED.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, keys)| keys);
    for key in required {
        match get(key) {
            None => errors.required(&data.key(key), ""),
            Some(bytes) if kind.starts_with("kubernetes.io/docker") => {
                if let Err(why) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes.0) {
                    errors.invalid(&data.key(key), "<secret contents redacted>", &why.to_string());
                }
            }
            Some(_) => {}
        }
    }
    if kind == "kubernetes.io/basic-auth" && get("username").is_none() && get("password").is_none()
    {
        errors.required(&data.key("username"), "");
        errors.required(&data.key("password"), "");
    }
    let account = "kubernetes.io/service-account.name";
    let annotations = secret.metadata.annotations.as_ref();
    if kind == "kubernetes.io/service-account-token"
        && annotations.and_then(|a| a.get(account)).is_none_or(|name| name.is_empty())
    {
        errors.required(&Path::new("metadata").child("annotations").key(account), "");
    }
}
