//! coordination.k8s.io/v1: Lease.

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

use super::field::{Errors, Path};
use super::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(super) const KIND: Kind = Kind {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    resource: "leases.coordination.k8s.io",
    short_names: &[],
    categories: &[],
    namespaced: true,
    subresources: &[],
    strategy: &Leases,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Holder", "holderIdentity contains the identity of the holder"),
    table::AGE,
];

struct Leases;

impl Strategy for Leases {
    typed!(Lease);

    fn prepare(&self, value: &mut Value, _: Operation<'_>) {
        edit::no_generation(value);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let mut errors = Errors::default();
        let Some(lease) =
            metadata::check::<Lease>(&mut errors, (&KIND, names::dns_subdomain), value, op)
        else {
            return errors.into_causes();
        };
        let Some(spec) = &lease.spec else { return errors.into_causes() };
        let path = Path::new("spec");
        if let Some(seconds) = spec.lease_duration_seconds
            && seconds <= 0
        {
            errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        if let Some(count) = spec.lease_transitions {
            errors.not_negative(&path.child("leaseTransitions"), Some(count.into()));
        }
        if spec.holder_identity.as_deref() == Some("") {
            errors.invalid(&path.child("holderIdentity"), "", "must not be empty");
        }
        errors.into_causes()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let holder = object.view::<Lease>().ok().and_then(|l| l.spec.clone()?.holder_identity);
        vec![table::name(object), holder.unwrap_or_default().into(), table::age(object, now)]
    }
}
