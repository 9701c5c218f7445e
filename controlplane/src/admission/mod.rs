//! Admission: rules between kinds that no single kind can decide. Pure: the object, and one view of the others.
//!
//! [`complete`] fills in what the Namespace's or the cluster's rules give to a new object, before it is validated;
//! [`check`] refuses what they forbid, after. Quotas are counted by [`quota`], which also says when nobody else may
//! write meanwhile.

pub(crate) mod account;
pub(crate) mod certificates;
mod claims;
pub(crate) mod limits;
pub(crate) mod node;
mod pod_security;
mod priority;
pub(crate) mod quota;

use serde_json::Value;

use crate::api::errors;
use crate::controllers::volumes;
use crate::kinds::{Kind, Operation};
use crate::reader::Reader;
use crate::status::ApiError;

pub(crate) type World<'a> = &'a dyn Reader;

/// What admission adds to a new object.
pub(crate) fn complete(
    world: World<'_>,
    kind: &Kind,
    namespace: &str,
    value: &mut Value,
) -> Result<(), ApiError> {
    if kind.resource == "pods" {
        let refuse = |why: String| errors::forbidden(kind, name(value), &why);
        let found = priority::resolve(world, value).map_err(refuse)?;
        priority::set(value, found);
        limits::complete(world, namespace, value);
    }
    if kind.resource == volumes::CLAIMS {
        claims::complete(world, value);
    }
    Ok(())
}

/// What the rules forbid; the strings are warnings.
pub(crate) fn check(
    world: World<'_>,
    kind: &Kind,
    namespace: &str,
    value: &Value,
    op: Operation<'_>,
) -> Result<Vec<String>, ApiError> {
    let refuse = |why: String| errors::forbidden(kind, name(value), &why);
    if let Operation::Update { old, .. } = op
        && kind.resource == volumes::CLAIMS
    {
        claims::check(world, value, old).map_err(refuse)?;
    }
    if let Operation::Create = op {
        let wrong = limits::check(world, kind, namespace, value);
        if !wrong.is_empty() {
            return Err(refuse(match wrong.as_slice() {
                [one] => one.clone(),
                many => format!("[{}]", many.join(", ")),
            }));
        }
    }
    pod_security::check(world, kind, namespace, value, op).map_err(refuse)
}

fn name(value: &Value) -> &str {
    value["metadata"]["name"].as_str().unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Arc;

    use serde_json::Value;

    use crate::object::{Object, Resource};
    use crate::reader::Reader;

    /// Objects in a list.
    pub(crate) struct World(pub(crate) Vec<Arc<Object>>);

    impl World {
        pub(crate) fn of<const N: usize>(objects: [(Resource, Value); N]) -> Self {
            let object = |(resource, value)| Object::from_value(resource, &value).unwrap();
            Self(objects.into_iter().map(|o| Arc::new(object(o))).collect())
        }
    }

    impl Reader for World {
        fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
            let mut all = self.list(resource, Some(namespace)).into_iter();
            all.find(|object| object.meta.name == name)
        }

        fn list(&self, resource: Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
            let here = |o: &&Arc<Object>| {
                o.resource == resource && namespace.is_none_or(|n| o.meta.namespace == n)
            };
            self.0.iter().filter(here).cloned().collect()
        }
    }
}
