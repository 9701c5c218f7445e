//! ControllerRevision: a template as it was, kept by DaemonSets and StatefulSets.

use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::Value;

use crate::kinds::field::{Errors, Path};
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    resource: "controllerrevisions.apps",
    short_names: &[],
    categories: &[],
    namespaced: true,
    subresources: &[],
    strategy: &ControllerRevisions,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Controller", "Controller of the object"),
    table::text("Revision", "Revision indicates the revision of the state represented by Data."),
    table::AGE,
];

struct ControllerRevisions;

impl Strategy for ControllerRevisions {
    typed!(ControllerRevision);

    fn prepare(&self, value: &mut Value, _: Operation<'_>) {
        edit::no_generation(value);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let mut errors = Errors::default();
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        if metadata::check::<ControllerRevision>(&mut errors, named, value, op).is_none() {
            return errors.into_causes();
        }
        if !value["data"].is_object() {
            errors.required(&Path::new("data"), "data is mandatory");
        }
        errors.not_negative(&Path::new("revision"), value["revision"].as_i64());
        if let Operation::Update { old, .. } = op
            && value["data"] != old["data"]
        {
            errors.invalid(&Path::new("data"), "", "field is immutable");
        }
        errors.into_causes()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let owner = object.meta.owner_references.iter().find(|owner| owner.controller);
        let value = object.value();
        let controller = owner.map_or_else(
            || table::NONE.to_owned(),
            |owner| match value["metadata"]["ownerReferences"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|r| r["controller"] == true)
                .and_then(|r| r["apiVersion"].as_str()?.split_once('/'))
            {
                Some((group, _)) => {
                    format!("{}.{group}/{}", owner.kind.to_lowercase(), owner.name)
                }
                None => format!("{}/{}", owner.kind.to_lowercase(), owner.name),
            },
        );
        let revision = value["revision"].as_i64().unwrap_or(0);
        vec![table::name(object), controller.into(), revision.into(), table::age(object, now)]
    }
}
