//! `metadata.managedFields`: who owns which fields, as a list that clients read and may rewrite.

use serde_json::{Map, Value};

use super::set::Set;

/// More managers that update than this are folded into one.
const MAX_UPDATERS: usize = 10;
const OLD_UPDATES: &str = "ancient-changes";

/// One manager's fields.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: String,
    /// By server-side apply: what is left out next time goes. Otherwise by any other write.
    pub(super) applied: bool,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: Option<String>,
    pub(super) fields: Set,
}

impl Entry {
    /// Whether both tell of the same manager. Who applies is the same at every API version.
    pub(super) fn is_of(&self, other: &Entry) -> bool {
        (&self.manager, self.applied, &self.subresource)
            == (&other.manager, other.applied, &other.subresource)
            && (self.applied || self.api_version == other.api_version)
    }

    /// For messages about conflicts.
    pub(super) fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text = format!("{text} with subresource {:?}", self.subresource);
        }
        match self.applied {
            true => text,
            false => format!("{text} using {}", self.api_version),
        }
    }

    fn decode(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let applied = match value["operation"].as_str()? {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        if value["fieldsType"] != "FieldsV1" || text("apiVersion").is_empty() {
            return None;
        }
        let fields = match &value["fieldsV1"] {
            Value::Null => Set::default(),
            fields => Set::decode(fields)?,
        };
        Some(Self {
            manager: text("manager"),
            applied,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: value["time"].as_str().map(str::to_owned),
            fields,
        })
    }

    fn encode(&self) -> Value {
        let mut map = Map::new();
        let mut put = |key: &str, text: &str| drop(map.insert(key.into(), text.into()));
        put("apiVersion", &self.api_version);
        put("fieldsType", "FieldsV1");
        put("manager", &self.manager);
        put("operation", if self.applied { "Apply" } else { "Update" });
        if !self.subresource.is_empty() {
            put("subresource", &self.subresource);
        }
        if let Some(time) = &self.time {
            put("time", time);
        }
        map.insert("fieldsV1".into(), self.fields.encode());
        Value::Object(map)
    }
}

/// All managers of one object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Managers(pub(super) Vec<Entry>);

impl Managers {
    /// From the list in an object; None when it is none.
    pub(super) fn decode(list: &Value) -> Option<Self> {
        let mut managers = Self::default();
        for value in list.as_array()? {
            let entry = Entry::decode(value)?;
            managers.0.retain(|other| !other.is_of(&entry));
            managers.0.push(entry);
        }
        Some(managers)
    }

    /// Those of a stored object. What cannot be read is nobody's.
    pub(super) fn of(object: &Value) -> Self {
        Self::decode(&object["metadata"]["managedFields"]).unwrap_or_default()
    }

    /// Into the object; an empty list is left out.
    pub(super) fn store(mut self, object: &mut Value) {
        self.0.retain(|entry| !entry.fields.is_empty());
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
            return;
        };
        if self.0.is_empty() {
            metadata.remove("managedFields");
            return;
        }
        self.cap();
        self.0.sort_by(|a, b| key(a).cmp(&key(b)));
        metadata.insert("managedFields".into(), self.0.iter().map(Entry::encode).collect());
    }

    pub(super) fn take(&mut self, like: &Entry) -> Option<Entry> {
        let index = self.0.iter().position(|entry| entry.is_of(like))?;
        Some(self.0.remove(index))
    }

    /// The oldest updates become one entry until few enough are left.
    fn cap(&mut self) {
        loop {
            let mut updates: Vec<usize> =
                (0..self.0.len()).filter(|index| !self.0[*index].applied).collect();
            if updates.len() <= MAX_UPDATERS {
                return;
            }
            updates.sort_by(|a, b| key(&self.0[*a]).cmp(&key(&self.0[*b])));
            let oldest = updates[0];
            let version = &self.0[oldest].api_version;
            // Fields of different versions are not comparable, so they are not folded.
            let next = updates[1..].iter().find(|index| self.0[**index].api_version == *version);
            let Some(next) = next.copied() else { return };
            let folded = self.0[oldest].fields.clone();
            let entry = &mut self.0[next];
            entry.fields.unite(&folded);
            entry.manager = OLD_UPDATES.into();
            entry.subresource = String::new();
            self.0.remove(oldest);
        }
    }
}

/// Appliers first, then by time. Seconds in UTC sort as text.
fn key(entry: &Entry) -> (bool, &str, &str, &str, &str) {
    let time = entry.time.as_deref().unwrap_or_default();
    (!entry.applied, time, &entry.manager, &entry.api_version, &entry.subresource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(manager: &str, time: &str, fields: Value) -> Entry {
        Entry {
            manager: manager.into(),
            applied: false,
            api_version: "v1".into(),
            subresource: String::new(),
            time: Some(time.into()),
            fields: Set::decode(&fields).expect("fields"),
        }
    }

    #[test]
    fn lists_are_read_and_written_alike() {
        let list = json!([
            {"manager": "a", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
             "time": "2026-01-02T00:00:00Z", "fieldsV1": {"f:data": {"f:a": {}}}},
            {"manager": "b", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
             "subresource": "status", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:data": {"f:b": {}}}},
        ]);
        let mut object = json!({"metadata": {}});
        Managers::decode(&list).expect("managers").store(&mut object);
        assert_eq!(object["metadata"]["managedFields"], list);
        for (field, bad) in [("operation", "Other"), ("fieldsType", "FieldsV2"), ("apiVersion", "")]
        {
            let mut list = list.clone();
            list[0][field] = bad.into();
            assert_eq!(Managers::decode(&list), None, "{field}");
        }
    }

    #[test]
    fn the_oldest_updates_are_folded() {
        let entries = (10..22).map(|n| {
            entry(
                &format!("m{n}"),
                &format!("2026-01-{n}T00:00:00Z"),
                json!({format!("f:{n}"): {}}),
            )
        });
        let mut managers = Managers(entries.collect());
        managers.cap();
        assert_eq!(managers.0.len(), MAX_UPDATERS);
        let old = managers.0.iter().find(|e| e.manager == OLD_UPDATES).expect("folded");
        assert_eq!(old.fields.encode(), json!({"f:10": {}, "f:11": {}, "f:12": {}}));
    }

    #[test]
    fn managers_are_told_for_people() {
        let mut entry = entry("kubectl-scale", "", json!({}));
        entry.subresource = "scale".into();
        assert_eq!(entry.shown(), r#""kubectl-scale" with subresource "scale" using v1"#);
        entry.applied = true;
        assert_eq!(entry.shown(), r#""kubectl-scale" with subresource "scale""#);
    }
}
