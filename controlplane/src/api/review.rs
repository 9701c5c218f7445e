//! Reviews: who am I, may I, may he, whose token is this. Answered from the same rules that requests pass.

use serde_json::{Map, Value, json};

use super::request::Target;
use super::{Api, UserInfo, errors};
use crate::auth::node;
use crate::auth::rbac::{self, Action, Attributes};
use crate::kinds::FieldValidation;
use crate::status::ApiError;

impl Api {
    /// The posted review with its answer in `status`, and warnings.
    pub(super) fn review(
        &self,
        user: &UserInfo,
        target: &Target,
        mut review: Value,
        validation: FieldValidation,
    ) -> Result<(Value, Vec<String>), ApiError> {
        let kind = target.kind;
        super::meta::check_type(kind, &mut review)?;
        let warnings = kind.strategy.decode(&mut review, validation)?;
        let spec = &review["spec"];
        let status = match kind.kind {
            "SelfSubjectReview" => json!({"userInfo": described(user)}),
            "SelfSubjectAccessReview" => self.access(user, spec)?,
            "SubjectAccessReview" => self.access(&subject(spec)?, spec)?,
            "LocalSubjectAccessReview" => {
                let namespace = spec["resourceAttributes"]["namespace"].as_str();
                if namespace != Some(&target.namespace) {
                    return Err(errors::bad_request(
                        "spec.resourceAttributes.namespace must match metadata.namespace",
                    ));
                }
                self.access(&subject(spec)?, spec)?
            }
            "SelfSubjectRulesReview" => self.rules(user, text(spec, "namespace"))?,
            _ => self.token_status(spec),
        };
        review["status"] = status;
        review["metadata"] = match review["metadata"].take() {
            Value::Object(mut metadata) => {
                metadata.insert("creationTimestamp".into(), Value::Null);
                metadata.into()
            }
            _ => json!({"creationTimestamp": null}),
        };
        Ok((review, warnings))
    }

    fn access(&self, user: &UserInfo, spec: &Value) -> Result<Value, ApiError> {
        let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
        let on_node = narrowed_to_node(resource);
        let action = match (resource.is_null(), path.is_null()) {
            (false, true) => Action::Resource(Attributes {
                verb: text(resource, "verb"),
                group: text(resource, "group"),
                resource: text(resource, "resource"),
                subresource: text(resource, "subresource"),
                namespace: text(resource, "namespace"),
                name: text(resource, "name"),
                on_node: &on_node,
            }),
            (true, false) => Action::Path { verb: text(path, "verb"), path: text(path, "path") },
            _ => {
                return Err(errors::bad_request(
                    "spec: exactly one of nonResourceAttributes or resourceAttributes must be specified",
                ));
            }
        };
        Ok(match self.allowance(user, action) {
            Some(reason) => json!({"allowed": true, "reason": reason}),
            None => json!({"allowed": false}),
        })
    }

    fn rules(&self, user: &UserInfo, namespace: &str) -> Result<Value, ApiError> {
        if namespace.is_empty() {
            return Err(errors::bad_request("no namespace on request"));
        }
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        for rule in rbac::grants(&*self.store, user, namespace).flat_map(|grant| grant.rules) {
            match rule.non_resource_urls.as_deref().unwrap_or_default() {
                [] => resources.push(json!(rule)),
                urls => paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": urls})),
            }
        }
        // What a node may do depends on its Pods, too: its rules are more than it has.
        let node = node::identity(user).is_some();
        if node {
            resources.extend(node::rules().iter().map(|rule| json!(rule)));
        }
        Ok(json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": node}))
    }

    fn token_status(&self, spec: &Value) -> Value {
        let audiences: Vec<&str> =
            spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let known = self.accounts.as_ref().map(|a| a.user(text(spec, "token"), &audiences));
        match known {
            Some(Ok((user, audiences))) => {
                json!({"authenticated": true, "user": described(&user), "audiences": audiences})
            }
            Some(Err(error)) => json!({"user": {}, "error": error.to_string()}),
            None => json!({"user": {}, "error": "this server knows no tokens"}),
        }
    }
}

/// The node that a field selector of resourceAttributes narrows Pods to.
fn narrowed_to_node(resource: &Value) -> String {
    let selector = &resource["fieldSelector"];
    let raw = text(selector, "rawSelector");
    let fields = super::selector::parse_fields(raw).unwrap_or_default();
    let raw = fields.into_iter().find(|f| f.equal && f.label == "spec.nodeName").map(|f| f.value);
    let mut listed = selector["requirements"].as_array().into_iter().flatten();
    let listed = listed.find(|r| r["key"] == "spec.nodeName" && r["operator"] == "In");
    let listed = listed.and_then(|r| match r["values"].as_array()?.as_slice() {
        [one] => one.as_str().map(str::to_owned),
        _ => None,
    });
    raw.or(listed).unwrap_or_default()
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

fn described(user: &UserInfo) -> Value {
    let mut about = Map::new();
    about.insert("username".into(), user.name.as_str().into());
    if !user.uid.is_empty() {
        about.insert("uid".into(), user.uid.as_str().into());
    }
    about.insert("groups".into(), json!(user.groups));
    if !user.extra.is_empty() {
        about.insert("extra".into(), json!(user.extra));
    }
    about.into()
}

/// Whom a SubjectAccessReview is about.
fn subject(spec: &Value) -> Result<UserInfo, ApiError> {
    let groups: Vec<&str> =
        spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let name = text(spec, "user");
    if name.is_empty() && groups.is_empty() {
        return Err(errors::bad_request("spec: at least one of user or group must be specified"));
    }
    Ok(UserInfo { uid: text(spec, "uid").into(), ..UserInfo::new(name, &groups) })
}
