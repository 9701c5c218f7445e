//! Server-side apply and the ownership of fields (KEP 555): who wrote which field, what happens when two want the
//! same one, and what goes when nobody wants it any more. Pure: objects in, objects out; the time is an argument.
//!
//! ```text
//! create, update, patch ─► track: what changed belongs to the writer, and to nobody else any more
//! apply ─► merge(live, config) ─► prune what this manager applied before and nobody owns ─► compare with live
//!       ─► somebody else owns what changed? ─ no, or forced ─► the config's fields belong to its manager
//!                                           └ yes ─► conflict
//! ```

mod compare;
mod config;
mod managers;
mod merge;
mod set;
mod shape;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use crate::kinds::Kind;
use compare::Changes;
use managers::{Entry, Managers};
use shape::Shape;

pub use set::Set;

/// Owns what was there before anybody applied.
const BEFORE: &str = "before-first-apply";
/// The manager that `kubectl apply --server-side` is; it inherits what its client-side form has set.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Of all annotations together, in bytes.
const MAX_ANNOTATIONS: usize = 256 << 10;

/// Who writes, and how.
#[derive(Debug, Clone, Copy)]
pub struct Writing<'a> {
    pub manager: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Seconds in UTC, as `metav1.Time` is written.
    pub now: &'a str,
}

/// Why a configuration was not applied.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApplyError {
    #[error("{}", conflict_text(.0))]
    Conflicts(Vec<Conflict>),
    /// Lists in it are no lists of their type.
    #[error("{0}")]
    Config(String),
}

/// A field that another manager owns with another value.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflict {
    /// `"name" using apps/v1`
    pub manager: String,
    /// `.spec.replicas`
    pub path: String,
}

fn conflict_text(conflicts: &[Conflict]) -> String {
    if let [Conflict { manager, path }] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {manager}: {path}");
    }
    let mut lines = Vec::new();
    for (index, Conflict { manager, path }) in conflicts.iter().enumerate() {
        if index == 0 || conflicts[index - 1].manager != *manager {
            lines.push(format!("conflicts with {manager}:"));
        }
        lines.push(format!("- {path}"));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Gives `new`, which replaces `old`, its managers: what changed belongs to the writer. A client may have rewritten
/// the list (not through a subresource); an empty list forgets all.
pub fn track(kind: &Kind, writing: Writing<'_>, old: Option<&Value>, new: &mut Value) {
    let empty = json!({});
    let old = old.unwrap_or(&empty);
    let sent = take_managers(new);
    let stored = &old["metadata"]["managedFields"];
    let sent = sent.filter(|sent| writing.subresource.is_empty() && sent != stored);
    let rewritten = sent.and_then(rewrite);
    let changes = changes(kind, writing.subresource, old, new);
    if rewritten.is_none() && changes.is_empty() {
        // Nothing happened: what is stored stays as it is.
        if let (false, Some(metadata)) = (stored.is_null(), new["metadata"].as_object_mut()) {
            metadata.insert("managedFields".into(), stored.clone());
        }
        return;
    }
    let mut managers = rewritten.unwrap_or_else(|| Managers::of(old));
    take_over(kind, writing, &mut managers, changes);
    managers.store(new);
}

fn take_managers(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

/// What a client sent as the list; None when it says nothing.
fn rewrite(sent: Value) -> Option<Managers> {
    let items = sent.as_array()?;
    let reset = items.is_empty() || matches!(&items[..], [item] if *item == json!({}));
    if reset {
        return Some(Managers::default());
    }
    Managers::decode(&sent).filter(|managers| !managers.0.is_empty())
}

/// The writer owns what it has changed, the others do not.
fn take_over(kind: &Kind, writing: Writing<'_>, managers: &mut Managers, changes: Changes) {
    let Changes { added, modified, removed } = changes;
    for entry in &mut managers.0 {
        for gone in [&added, &modified, &removed] {
            entry.fields.subtract(gone);
        }
    }
    let mut own = added;
    own.unite(&modified);
    if own.is_empty() {
        return;
    }
    let mut entry = entry(kind, writing, false);
    entry.time = Some(writing.now.into());
    entry.fields = own;
    if let Some(before) = managers.take(&entry) {
        entry.fields.unite(&before.fields);
    }
    managers.0.push(entry);
}

fn entry(kind: &Kind, writing: Writing<'_>, applied: bool) -> Entry {
    Entry {
        manager: if writing.manager.is_empty() { "unknown" } else { writing.manager }.into(),
        applied,
        api_version: kind.api_version(),
        subresource: writing.subresource.into(),
        time: None,
        fields: Set::default(),
    }
}

/// From one object to the other, without what has no owner.
fn changes(kind: &Kind, subresource: &str, old: &Value, new: &Value) -> Changes {
    let mut changes = compare::changes(old, new, Shape::root(kind.strategy.root()));
    changes.each(|set| {
        reset(kind, subresource, set);
        strip(set);
    });
    changes
}

/// Fields that the server writes, or that say which object it is, are nobody's.
fn strip(set: &mut Set) {
    const OF_METADATA: [&str; 8] = [
        "f:name",
        "f:namespace",
        "f:creationTimestamp",
        "f:selfLink",
        "f:uid",
        "f:generation",
        "f:managedFields",
        "f:resourceVersion",
    ];
    for field in ["f:apiVersion", "f:kind", "f:metadata"] {
        set.unmark(&[field]);
    }
    for field in OF_METADATA {
        set.unmark(&["f:metadata", field]);
    }
}

/// What cannot be written this way is not owned this way.
fn reset(kind: &Kind, subresource: &str, set: &mut Set) {
    if subresource == "status" {
        set.cut(&["f:spec"]);
        for field in ["f:labels", "f:ownerReferences", "f:finalizers", "f:deletionTimestamp"] {
            set.cut(&["f:metadata", field]);
        }
    } else if kind.subresources.contains(&"status") {
        set.cut(&["f:status"]);
    }
}

/// What becomes of `live` (None: there is none yet) when `config` is applied. `config` is decoded and names its object.
pub fn apply(
    kind: &Kind,
    writing: Writing<'_>,
    live: Option<&Value>,
    config: &Value,
    force: bool,
) -> Result<Value, ApplyError> {
    let shape = Shape::root(kind.strategy.root());
    config::check(config, shape, "").map_err(ApplyError::Config)?;
    let mut managers = live.map(Managers::of).unwrap_or_default();
    let empty = json!({});
    if let Some(live) = live
        && managers.0.is_empty()
    {
        let before = Writing { manager: BEFORE, subresource: "", ..writing };
        take_over(kind, before, &mut managers, changes(kind, "", &empty, live));
    }
    let live = live.unwrap_or(&empty);
    let attempt = Attempt { kind, writing, live, config, shape };
    let mut applied = match attempt.run(managers.clone(), force) {
        Err(conflicts) => {
            let left = attempt.not_inherited(conflicts);
            match left.is_empty() {
                true => attempt.run(managers, true).map_err(told)?,
                false => return Err(told(left)),
            }
        }
        Ok(applied) => applied,
    };
    if writing.manager == KUBECTL {
        renew_last_applied(&mut applied, config);
    }
    Ok(applied)
}

/// What stands in the way, by manager.
type Conflicts = Vec<(Entry, Set)>;

fn told(conflicts: Conflicts) -> ApplyError {
    let mut told: Vec<Conflict> = Vec::new();
    for (entry, set) in conflicts {
        let conflict = |path| Conflict { manager: entry.shown(), path };
        told.extend(set.paths().into_iter().map(conflict));
    }
    told.sort_by(|a, b| a.manager.cmp(&b.manager));
    ApplyError::Conflicts(told)
}

struct Attempt<'a> {
    kind: &'a Kind,
    writing: Writing<'a>,
    live: &'a Value,
    config: &'a Value,
    shape: Shape,
}

impl Attempt<'_> {
    fn run(&self, mut managers: Managers, force: bool) -> Result<Value, Conflicts> {
        let (kind, writing) = (self.kind, self.writing);
        let mut own = entry(kind, writing, true);
        own.fields = compare::fields(self.config, self.shape);
        own.fields.member = false;
        reset(kind, writing.subresource, &mut own.fields);
        let last = managers.take(&own);
        let mut result = merge::merge(self.live, self.config, self.shape);
        if let Some(last) = &last {
            let mut managed = own.fields.clone();
            managers.0.iter().for_each(|entry| managed.unite(&entry.fields));
            merge::prune(&mut result, &last.fields, Some(&managed), self.shape);
        }
        let Changes { mut added, modified, removed } =
            changes(kind, writing.subresource, self.live, &result);
        added.unite(&modified);
        self.clear(&mut managers, &added, &removed, force)?;
        strip(&mut own.fields);
        own.time = match last {
            Some(last) if last.fields == own.fields && added.is_empty() && removed.is_empty() => {
                last.time
            }
            _ => Some(writing.now.into()),
        };
        managers.0.push(own);
        managers.store(&mut result);
        Ok(result)
    }

    /// Takes from the others what the configuration changes, if it may.
    fn clear(
        &self,
        managers: &mut Managers,
        changed: &Set,
        removed: &Set,
        force: bool,
    ) -> Result<(), Conflicts> {
        let mut conflicts = Conflicts::new();
        for entry in &mut managers.0 {
            let common = entry.fields.common(changed);
            if !common.is_empty() && !force {
                conflicts.push((entry.clone(), common));
                continue;
            }
            entry.fields.subtract(&common);
            entry.fields.subtract(removed);
        }
        if conflicts.is_empty() { Ok(()) } else { Err(conflicts) }
    }

    /// Without the fields that client-side apply has set to what they still are: those were this manager's all along.
    fn not_inherited(&self, mut conflicts: Conflicts) -> Conflicts {
        if self.writing.manager != KUBECTL {
            return conflicts;
        }
        let text = self.live["metadata"]["annotations"][LAST_APPLIED].as_str();
        let Some(mut last) = text.and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
            return conflicts;
        };
        if last["apiVersion"] != self.kind.api_version()
            || self.kind.strategy.decode(&mut last, crate::kinds::FieldValidation::Ignore).is_err()
        {
            return conflicts;
        }
        let mut inherited = compare::fields(&last, self.shape);
        let differing = compare::changes(&last, self.live, self.shape);
        for set in [&differing.added, &differing.modified, &differing.removed] {
            inherited.subtract(set);
        }
        conflicts.iter_mut().for_each(|(_, set)| set.subtract(&inherited));
        conflicts.retain(|(_, set)| !set.is_empty());
        conflicts
    }
}

/// The annotation of client-side apply, where it is still there, says what was applied last.
fn renew_last_applied(object: &mut Value, config: &Value) {
    let annotations = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    let Some(annotations) = annotations else { return };
    if annotations.get(LAST_APPLIED).and_then(Value::as_str).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    let own = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    own.and_then(|annotations| annotations.remove(LAST_APPLIED));
    annotations.insert(LAST_APPLIED.into(), format!("{config}\n").into());
    if size(annotations) > MAX_ANNOTATIONS {
        annotations.remove(LAST_APPLIED);
    }
}

fn size(annotations: &Map<String, Value>) -> usize {
    annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum()
}
