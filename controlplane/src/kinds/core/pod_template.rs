//! PodTemplate: a template that somebody keeps for later.

use k8s_openapi::api::core::v1::PodTemplate;
use serde_json::Value;

use crate::kinds::field::Path;
use crate::kinds::{
    Column, Kind, Operation, Strategy, edit, metadata, names, table, template, typed,
};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    resource: "podtemplates",
    short_names: &[],
    categories: &[],
    namespaced: true,
    subresources: &[],
    strategy: &Templates,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Containers", "Names of each container in the template."),
    table::text("Images", "Images referenced by each container in the template."),
    table::text("Pod Labels", "The labels for the pod template."),
];

struct Templates;

impl Strategy for Templates {
    typed!(PodTemplate);

    fn default(&self, value: &mut Value) {
        if let Some(object) = value.as_object_mut() {
            template::default(object);
        }
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::count_generation(value, op);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<PodTemplate>(named, value, op, |errors, object| {
            template::pod_template(
                errors,
                &Path::new("template"),
                &object.template.clone().unwrap_or_default(),
            );
        })
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, _: i64) -> Vec<Value> {
        let view = object.view::<PodTemplate>().unwrap_or_default();
        let [containers, images] = table::containers(view.template.as_ref());
        let meta = view.template.as_ref().and_then(|template| template.metadata.as_ref());
        let labels = meta.and_then(|meta| meta.labels.clone()).unwrap_or_default();
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        vec![table::name(object), containers, images, table::or_none(&labels.join(","))]
    }
}
