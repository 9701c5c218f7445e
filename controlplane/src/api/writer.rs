//! The API as controllers and the scheduler call it: the same path as a request's, without HTTP.

use std::sync::Arc;

use serde_json::json;

use super::delete::{DeleteOptions, Preconditions};
use super::write::{Options, Place};
use super::{Api, errors};
use crate::kinds::Kind;
use crate::object::{Object, Resource};
use crate::status::ApiError;
use crate::writer::{Applied, Change, Writer};

impl Writer for Api {
    fn apply<'a>(&'a self, who: &'a str, change: Change) -> Applied<'a> {
        Box::pin(async move {
            tracing::trace!(who, ?change, "component writes");
            self.change(&Options::internal(manager(who)), change).await
        })
    }
}

impl Api {
    async fn change(
        &self,
        options: &Options,
        change: Change,
    ) -> Result<Option<Arc<Object>>, ApiError> {
        match change {
            Change::Create { resource, object } => {
                let kind = self.kind(resource)?;
                let namespace = namespace_of(&object);
                let place = Place { kind, namespace: &namespace, name: "", subresource: "" };
                Ok(Some(self.create(place, object, options).await?.object))
            }
            Change::Update { resource, subresource, object } => {
                let kind = self.kind(resource)?;
                let namespace = namespace_of(&object);
                let name = super::meta::text(&object, "name").to_owned();
                let subresource = subresource.unwrap_or_default();
                let place = Place { kind, namespace: &namespace, name: &name, subresource };
                let written = self.update(place, options, |_| Ok(object.clone())).await?;
                Ok(Some(written.object))
            }
            Change::Delete {
                resource,
                namespace,
                name,
                uid,
                resource_version,
                propagation,
                grace_period_seconds,
            } => {
                let kind = self.kind(resource)?;
                let place = Place { kind, namespace: &namespace, name: &name, subresource: "" };
                let options = DeleteOptions {
                    grace_period_seconds,
                    preconditions: Some(Preconditions {
                        uid,
                        resource_version: resource_version.map(|v| v.to_string()),
                    }),
                    propagation_policy: Some(propagation.unwrap_or("Background").into()),
                    ..DeleteOptions::default()
                };
                Ok(Some(self.delete(place, &options).await?.object().clone()))
            }
            Change::Bind { namespace, name, uid, node } => {
                let kind = self.kind("pods")?;
                let place =
                    Place { kind, namespace: &namespace, name: &name, subresource: "binding" };
                let binding = json!({
                    "metadata": {"name": name, "uid": uid},
                    "target": {"kind": "Node", "name": node},
                });
                Ok(Some(self.bind(place, &binding).await?))
            }
        }
    }

    fn kind(&self, resource: Resource) -> Result<&'static Kind, ApiError> {
        self.registry.resource(resource).ok_or_else(errors::no_such_path)
    }
}

/// The field manager that a component goes by: what upstream calls the program that it is a part of there, since that
/// is what people name to tools that leave its fields alone.
fn manager(who: &str) -> &'static str {
    match who {
        "system:kube-scheduler" => "kube-scheduler",
        "system:apiserver" => "kube-apiserver",
        _ => "kube-controller-manager",
    }
}

fn namespace_of(object: &serde_json::Value) -> String {
    super::meta::text(object, "namespace").to_owned()
}
