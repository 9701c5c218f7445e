//! Which ReplicaSet belongs to a template, and what a new one is called. Pure.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use super::Set;

pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// Letters and digits that cannot spell a word or be taken for one another.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Whether the set was made from `template`; the hash label that the set carries does not count.
pub(super) fn same_template(set: &Set, template: &PodTemplateSpec) -> bool {
    let Some(made_from) = set.set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else {
        return false;
    };
    without_hash(made_from) == without_hash(template)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        meta.creation_timestamp = None;
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
        meta.annotations = meta.annotations.take().filter(|annotations| !annotations.is_empty());
    }
    template.metadata = template.metadata.filter(|meta| *meta != Default::default());
    template
}

/// Equal templates have equal hashes, whatever the order of their keys and over restarts. `collisions`
/// makes another one when the first is taken.
pub(in crate::controllers) fn template_hash(
    template: &PodTemplateSpec,
    collisions: Option<i32>,
) -> String {
    let mut hash = Fnv32::default();
    let value = serde_json::to_value(without_hash(template)).unwrap_or(Value::Null);
    hash_value(&value, &mut hash);
    if let Some(collisions) = collisions {
        hash.eat(&collisions.to_le_bytes());
    }
    let digits = hash.0.to_string();
    digits.bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

fn hash_value(value: &Value, hash: &mut Fnv32) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort();
            hash.eat(b"{");
            for key in keys {
                hash.eat(key.as_bytes());
                hash.eat(b":");
                hash_value(&map[key], hash);
            }
            hash.eat(b"}");
        }
        Value::Array(items) => {
            hash.eat(b"[");
            items.iter().for_each(|item| hash_value(item, hash));
            hash.eat(b"]");
        }
        plain => {
            hash.eat(plain.to_string().as_bytes());
            hash.eat(b",");
        }
    }
}

/// FNV-1a: names must not depend on a library's version.
struct Fnv32(u32);

impl Default for Fnv32 {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl Fnv32 {
    fn eat(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(image: &str) -> PodTemplateSpec {
        let value = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": image}]}});
        serde_json::from_value(value).expect("template")
    }

    #[test]
    fn the_hash_is_stable_and_depends_on_the_template_only() {
        let plain = template("a:1");
        let mut labelled = plain.clone();
        let labels = labelled.metadata.as_mut().and_then(|m| m.labels.as_mut()).expect("labels");
        labels.insert(HASH_LABEL.into(), "xyz".into());
        assert_eq!(template_hash(&plain, None), template_hash(&labelled, None));
        assert_ne!(template_hash(&plain, None), template_hash(&template("a:2"), None));
        assert_ne!(template_hash(&plain, None), template_hash(&plain, Some(1)));
        // Renaming every set of a cluster would roll every Deployment: this value may never change.
        assert_eq!(template_hash(&plain, None), "5f788f466f");
    }
}
