//! What the generic path needs to know of each kind: one small file per group with defaults, validation and
//! strategy, all pure.
//!
//! A request passes the functions of [`Strategy`] in this order: `decode` (types, unknown fields) → `default` →
//! `prepare` (what the server owns: status, generation, dropped fields) → `validate` → storage.

mod apps;
mod batch;
mod certificates;
mod coordination;
mod core;
mod decode;
mod discovery;
mod edit;
mod events;
mod field;
mod metadata;
mod names;
mod networking;
mod ownership;
mod policy;
mod quantity;
mod rbac;
mod review;
mod scheduling;
mod schema;
mod selector;
mod storage;
mod subresource;
mod table;
mod template;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use decode::check as decode_as;
pub use field::invalid;
pub use ownership::{ListKey, Topology};
pub use quantity::Quantity;
pub use schema::{Field, Struct, Type, Types, types};
pub use selector::{Operator, ParseError as SelectorError, Requirement, Selector};
pub use subresource::{Subresource, subresource};
pub use table::human_duration;

use crate::object::{Object, Resource};
use crate::status::{ApiError, Cause};

/// What `fieldValidation=` asks for; unknown and duplicate fields are refused, warned about, or dropped silently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    Strict,
    Warn,
    Ignore,
}

/// A served kind.
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    /// Plural, as in URLs: `pods`.
    pub plural: &'static str,
    pub singular: &'static str,
    /// Plural and group: `deployments.apps`; equals `plural` in the core group.
    pub resource: Resource,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// `status`, `scale`, `binding`, `log`, `exec`, `eviction` …
    pub subresources: &'static [&'static str],
    pub strategy: &'static dyn Strategy,
}

impl Kind {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.into()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// What can be done with stored kinds.
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Kind {
    /// Reviews are answered and forgotten.
    pub fn is_stored(&self) -> bool {
        !matches!(self.group, review::AUTHENTICATION | review::AUTHORIZATION)
    }

    /// What can be done with it, in discovery's order.
    pub fn verbs(&self) -> &'static [&'static str] {
        if self.is_stored() { VERBS } else { &["create"] }
    }
}

/// Which change is being made.
#[derive(Debug, Clone, Copy)]
pub enum Operation<'a> {
    Create,
    /// `subresource` is empty for the main resource, otherwise e.g. `status`.
    Update {
        old: &'a Value,
        subresource: &'a str,
    },
}

/// One Table column, as upstream's printers name it.
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `date` …
    pub kind: &'static str,
    /// `name` for the first column.
    pub format: &'static str,
    /// 0 always shown, 1 only with `-o wide`.
    pub priority: i32,
    pub description: &'static str,
}

/// Every served kind, ordered by group and then by name.
pub fn all() -> &'static [Kind] {
    static ALL: &[Kind] = &[
        core::config_map::KIND,
        core::endpoints::KIND,
        core::event::KIND,
        core::limit_range::KIND,
        core::namespace::KIND,
        core::node::KIND,
        core::persistent_volume::KIND,
        core::persistent_volume_claim::KIND,
        core::pod::KIND,
        core::pod_template::KIND,
        core::replication_controller::KIND,
        core::resource_quota::KIND,
        core::secret::KIND,
        core::service_account::KIND,
        core::service::KIND,
        apps::controller_revision::KIND,
        apps::daemon_set::KIND,
        apps::deployment::KIND,
        apps::replica_set::KIND,
        apps::stateful_set::KIND,
        batch::cron_job::KIND,
        batch::job::KIND,
        certificates::KIND,
        coordination::KIND,
        discovery::KIND,
        events::KIND,
        review::LOCAL_ACCESS,
        review::SELF,
        review::SELF_ACCESS,
        review::SELF_RULES,
        review::ACCESS,
        review::TOKEN,
        rbac::CLUSTER_ROLE,
        rbac::CLUSTER_ROLE_BINDING,
        rbac::ROLE,
        rbac::ROLE_BINDING,
        networking::ingress::KIND,
        networking::ingress_class::KIND,
        networking::network_policy::KIND,
        policy::KIND,
        scheduling::KIND,
        storage::csi::DRIVER,
        storage::csi::NODE,
        storage::class::KIND,
        storage::csi::ATTACHMENT,
    ];
    ALL
}

/// By its place in URLs: `find("apps", "v1", "deployments")`.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().iter().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// By what objects say: `find_kind("apps/v1", "Deployment")`.
pub fn find_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    all().iter().find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// By [`Resource`]: `find_resource("deployments.apps")`.
pub fn find_resource(resource: &str) -> Option<&'static Kind> {
    all().iter().find(|k| k.resource == resource)
}

/// The parts of [`Strategy`] that follow from the API type alone.
macro_rules! typed {
    ($ty:ty) => {
        fn decode(
            &self,
            value: &mut serde_json::Value,
            level: crate::kinds::FieldValidation,
        ) -> Result<Vec<String>, crate::status::ApiError> {
            crate::kinds::decode::check::<$ty>(value, level)
        }

        fn learn(&self, types: &mut crate::kinds::schema::Types) {
            types.learn::<$ty>();
        }

        fn root(&self) -> Option<usize> {
            crate::kinds::schema::types().find::<$ty>()
        }
    };
}
use typed;

/// Another kind that the objects are stored as: the same thing under other names.
pub struct Twin {
    pub resource: Resource,
    pub shown: fn(&mut Value),
    pub stored: fn(&mut Value),
}

/// What differs between kinds.
pub trait Strategy: Send + Sync {
    /// Make the API type known to `types`.
    fn learn(&self, types: &mut Types);

    /// The place of the API type in [`types()`].
    fn root(&self) -> Option<usize>;

    /// Check types and field names against the API type and drop what is unknown; the strings are
    /// warnings. Errors are `BadRequest` with the field path, worded as upstream words them.
    fn decode(&self, value: &mut Value, level: FieldValidation) -> Result<Vec<String>, ApiError>;

    /// None for all that are stored as what they are.
    fn twin(&self) -> Option<&'static Twin> {
        None
    }

    fn default(&self, _value: &mut Value) {}

    /// Reset what the caller may not set, count `metadata.generation`.
    fn prepare(&self, _value: &mut Value, _op: Operation<'_>) {}

    /// Everything wrong with it; empty is good.
    fn validate(&self, _value: &Value, _op: Operation<'_>) -> Vec<Cause> {
        Vec::new()
    }

    /// What the writer of a good object should know all the same: fields that nobody here acts on.
    fn warn(&self, _value: &Value, _op: Operation<'_>) -> Vec<String> {
        Vec::new()
    }

    /// The value of a field-selector label beyond metadata.name and metadata.namespace; None when the kind has no such label.
    fn field(&self, _value: &Value, _label: &str) -> Option<String> {
        None
    }

    /// Field labels that selectors may name.
    fn field_labels(&self) -> &'static [&'static str] {
        &[]
    }

    fn columns(&self) -> &'static [Column];

    /// One Table row: as many cells as columns. `now` is Unix seconds (for ages).
    fn row(&self, object: &Object, now: i64) -> Vec<Value>;
}
