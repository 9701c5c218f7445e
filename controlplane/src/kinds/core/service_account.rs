//! ServiceAccount.

use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::Value;

use crate::kinds::field::Errors;
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    resource: "serviceaccounts",
    short_names: &["sa"],
    categories: &[],
    namespaced: true,
    subresources: &["token"],
    strategy: &ServiceAccounts,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Secrets", "Secrets that Pods of this account are allowed to use."),
    table::AGE,
];

struct ServiceAccounts;

impl Strategy for ServiceAccounts {
    typed!(ServiceAccount);

    fn prepare(&self, value: &mut Value, _: Operation<'_>) {
        edit::no_generation(value);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let mut errors = Errors::default();
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::check::<ServiceAccount>(&mut errors, named, value, op);
        errors.into_causes()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let count = object
            .view::<ServiceAccount>()
            .map_or(0, |a| a.secrets.as_ref().map_or(0, |s| s.len()));
        vec![table::name(object), count.into(), table::age(object, now)]
    }
}
