//! Deletion: at once, after a grace period, or when the last finalizer is gone.
//!
//! ```text
//!            ┌─ finalizers or grace left ─► marked (deletionTimestamp) ─► last one removed ─► gone
//! DELETE ────┤
//!            └─ neither ─────────────────────────────────────────────────────────────────► gone
//! ```
//! Only Pods that are bound to a node and still run get a grace period: the node's agent stops them and then
//! deletes with grace 0.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::write::{Place, store_error, uid_conflict};
use super::{Api, admit, errors, meta, twin};
use crate::kinds::Kind;
use crate::object::{Key, Object};
use crate::status::ApiError;
use crate::store::{StoreError, Write};

const ATTEMPTS: usize = 16;
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// `meta/v1 DeleteOptions`, from the body or the query.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) preconditions: Option<Preconditions>,
    pub(crate) propagation_policy: Option<String>,
    /// The older spelling of the policy `Orphan`.
    pub(crate) orphan_dependents: Option<bool>,
    pub(crate) dry_run: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Preconditions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

impl DeleteOptions {
    fn check(&self) -> Result<(), ApiError> {
        match self.propagation_policy.as_deref() {
            None | Some("Background" | "Foreground" | "Orphan") => {}
            Some(other) => {
                return Err(errors::bad_request(format!(
                    "propagationPolicy: Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
                )));
            }
        }
        match self.dry_run.as_deref() {
            None | Some([]) => Ok(()),
            Some([all]) if all == "All" => Ok(()),
            Some(_) => {
                Err(errors::bad_request("dryRun: Unsupported value: supported values: \"All\""))
            }
        }
    }

    fn dry(&self) -> bool {
        self.dry_run.as_ref().is_some_and(|d| !d.is_empty())
    }

    /// What holds the object until its dependents are dealt with.
    fn holds(&self) -> Holds {
        match (self.propagation_policy.as_deref(), self.orphan_dependents) {
            (Some("Foreground"), _) => Holds::Foreground,
            (Some("Orphan"), _) | (None, Some(true)) => Holds::Orphan,
            (Some(_), _) | (None, Some(false)) => Holds::Nothing,
            (None, None) => Holds::AsBefore,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Holds {
    Foreground,
    Orphan,
    Nothing,
    AsBefore,
}

/// What became of it.
pub(crate) enum Deleted {
    Gone(Arc<Object>),
    /// Marked; finalizers or grace are left.
    Going(Arc<Object>),
}

impl Deleted {
    pub(crate) fn object(&self) -> &Arc<Object> {
        match self {
            Deleted::Gone(object) | Deleted::Going(object) => object,
        }
    }
}

/// One decision about the stored object. Pure.
#[derive(Debug, PartialEq)]
enum Step {
    Remove,
    Mark(Value),
    /// It is already being deleted, and no sooner for this request.
    Nothing,
}

impl Api {
    pub(crate) async fn delete(
        &self,
        place: Place<'_>,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        options.check()?;
        let (kind, name) = (place.kind, place.name);
        if kind.resource == "namespaces" && admit::IMMORTAL.contains(&name) {
            return Err(errors::forbidden(kind, name, "this namespace may not be deleted"));
        }
        for _ in 0..ATTEMPTS {
            let current = self.find(place)?;
            check_preconditions(kind, &current, options)?;
            let step = plan(kind, &current, options, Timestamp::now())?;
            if options.dry() {
                return Ok(Deleted::Going(current));
            }
            let key = Key::new(twin::resource(kind), place.namespace, name);
            let version = current.meta.resource_version;
            let removes = step == Step::Remove;
            let write = match step {
                Step::Remove => Write::Delete { key, version },
                Step::Mark(value) => {
                    Write::Update { key, version, value: twin::stored(kind, value) }
                }
                Step::Nothing => return Ok(Deleted::Going(current)),
            };
            match self.store.commit(write).await {
                Ok(object) if removes => return Ok(Deleted::Gone(twin::shown(kind, object))),
                Ok(object) => return Ok(Deleted::Going(twin::shown(kind, object))),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(store_error(kind, name, error)),
            }
        }
        Err(errors::modified(kind, name))
    }
}

fn check_preconditions(
    kind: &Kind,
    current: &Object,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let Some(wanted) = &options.preconditions else { return Ok(()) };
    let name = &current.meta.name;
    match wanted.uid.as_deref() {
        Some(uid) if uid != current.meta.uid => {
            return Err(uid_conflict(kind, name, uid, &current.meta.uid));
        }
        _ => {}
    }
    let found = current.meta.resource_version.to_string();
    match wanted.resource_version.as_deref() {
        Some(version) if version != found => {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {found}"
            );
            Err(errors::conflict(kind, name, &why))
        }
        _ => Ok(()),
    }
}

fn plan(
    kind: &Kind,
    current: &Object,
    options: &DeleteOptions,
    now: Timestamp,
) -> Result<Step, ApiError> {
    let meta = &current.meta;
    let mut value = current.value();
    let mut grace = grace(kind, &value, options);
    let finalizers = held_by(&meta.finalizers, options.holds());
    let marked = meta.deletion_timestamp.is_some();
    if marked {
        // A second request can shorten the grace, not lengthen it.
        let running = meta.deletion_grace_period_seconds.unwrap_or(0);
        let asked = options.grace_period_seconds.map_or(running, |_| grace);
        grace = asked.min(running);
        if grace == running && finalizers == meta.finalizers && grace > 0 {
            return Ok(Step::Nothing);
        }
    }
    if grace == 0 && finalizers.is_empty() && admit::emptied(kind, &value) {
        return Ok(Step::Remove);
    }
    let shorter = grace < meta.deletion_grace_period_seconds.unwrap_or(0);
    if marked && !shorter && finalizers == meta.finalizers {
        return Ok(Step::Nothing);
    }
    if !marked || shorter {
        meta::doom(&mut value, now, grace)?;
    }
    meta::set_finalizers(&mut value, &finalizers)?;
    if kind.resource == "namespaces" {
        value["status"]["phase"] = "Terminating".into();
    }
    Ok(Step::Mark(value))
}

/// Seconds that the node gets to stop it; 0 for everything that no node runs.
fn grace(kind: &Kind, value: &Value, options: &DeleteOptions) -> i64 {
    if kind.resource != "pods" {
        return 0;
    }
    let bound = value["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
    let over = matches!(value["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !bound || over {
        return 0;
    }
    let own = value["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    match options.grace_period_seconds.unwrap_or(own) {
        // Negative means "as short as can be, but stop it first".
        seconds if seconds < 0 => 1,
        seconds => seconds,
    }
}

fn held_by(finalizers: &[String], holds: Holds) -> Vec<String> {
    if holds == Holds::AsBefore {
        return finalizers.to_vec();
    }
    let ours = |f: &&String| f.as_str() == FOREGROUND || f.as_str() == ORPHAN;
    let mut held: Vec<String> = finalizers.iter().filter(|f| !ours(f)).cloned().collect();
    match holds {
        Holds::Foreground => held.push(FOREGROUND.into()),
        Holds::Orphan => held.push(ORPHAN.into()),
        Holds::Nothing | Holds::AsBefore => {}
    }
    held
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::testing;

    fn step(object: Value, options: &DeleteOptions) -> Step {
        let kind = testing::kind("pods");
        let object = Object::from_value("pods", &object).unwrap();
        plan(kind, &object, options, Timestamp::UNIX_EPOCH).unwrap()
    }

    fn with_grace(seconds: i64) -> DeleteOptions {
        DeleteOptions { grace_period_seconds: Some(seconds), ..DeleteOptions::default() }
    }

    #[test]
    fn only_bound_running_pods_get_grace() {
        let unbound = json!({"metadata": {"name": "a"}, "spec": {}});
        assert_eq!(step(unbound, &DeleteOptions::default()), Step::Remove);
        let done =
            json!({"metadata": {}, "spec": {"nodeName": "n"}, "status": {"phase": "Failed"}});
        assert_eq!(step(done, &DeleteOptions::default()), Step::Remove);
        let bound = json!({"metadata": {"generation": 1},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 7}});
        let Step::Mark(marked) = step(bound.clone(), &DeleteOptions::default()) else { panic!() };
        assert_eq!(marked["metadata"]["deletionTimestamp"], "1970-01-01T00:00:07Z");
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
        assert_eq!(marked["metadata"]["generation"], 2);
        assert_eq!(step(marked.clone(), &DeleteOptions::default()), Step::Nothing);
        assert_eq!(step(marked.clone(), &with_grace(9)), Step::Nothing);
        let Step::Mark(sooner) = step(marked.clone(), &with_grace(2)) else { panic!() };
        assert_eq!(sooner["metadata"]["deletionTimestamp"], "1970-01-01T00:00:02Z");
        assert_eq!(step(marked, &with_grace(0)), Step::Remove);
        assert_eq!(step(bound, &with_grace(0)), Step::Remove);
    }

    #[test]
    fn finalizers_hold() {
        let held = json!({"metadata": {"finalizers": ["a.b/c"]}, "spec": {}});
        let Step::Mark(marked) = step(held, &DeleteOptions::default()) else { panic!() };
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
        assert_eq!(step(marked, &DeleteOptions::default()), Step::Nothing);
        let policy = |name: &str| DeleteOptions {
            propagation_policy: Some(name.into()),
            ..DeleteOptions::default()
        };
        let free = json!({"metadata": {"finalizers": ["orphan"]}, "spec": {}});
        let Step::Mark(marked) = step(free.clone(), &policy("Foreground")) else { panic!() };
        assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
        assert_eq!(step(free, &policy("Background")), Step::Remove);
    }
}
