//! Approves what needs no person: a node's client certificate, asked for by somebody with the right to bring nodes or by the
//! node itself.

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::{Value, json};

use super::{has, is_issued, usages};
use crate::admission::certificates::{NODE_CLIENT, REQUESTS};
use crate::api::UserInfo;
use crate::auth::rbac::{self, Action, Attributes};
use crate::auth::request::Request;
use crate::controllers::outcome::Outcome;
use crate::controllers::runner::{Controller, Seen};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::writer::Change;

pub struct Approving;

impl Controller for Approving {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:certificate-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec![
            REQUESTS,
            "clusterroles.rbac.authorization.k8s.io",
            "clusterrolebindings.rbac.authorization.k8s.io",
        ]
    }

    /// Who was not allowed may be later.
    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        match seen.resource {
            REQUESTS => seen.new.map(Object::key).into_iter().collect(),
            _ => world.list(REQUESTS, None).iter().map(|csr| csr.key()).collect(),
        }
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, _: Timestamp) -> Outcome {
        let approved = || {
            let object = world.get(REQUESTS, "", &key.name)?;
            let message = decide(world, &*object.view().ok()?)?;
            let mut value = object.value();
            let condition = json!({
                "type": "Approved", "status": "True", "reason": "AutoApproved", "message": message,
            });
            match value["status"]["conditions"].as_array_mut() {
                Some(list) => list.push(condition),
                None => value["status"]["conditions"] = Value::Array(vec![condition]),
            }
            let subresource = Some("approval");
            Some(Change::Update { resource: REQUESTS, subresource, object: value })
        };
        approved().map_or_else(Outcome::idle, |change| Outcome::idle().then(change))
    }
}

/// Why it is approved; None when that is not for us to say.
fn decide(world: &dyn Reader, csr: &CertificateSigningRequest) -> Option<&'static str> {
    let spec = &csr.spec;
    if spec.signer_name != NODE_CLIENT
        || has(csr, "Approved")
        || has(csr, "Denied")
        || is_issued(csr)
    {
        return None;
    }
    let request = Request::parse(&spec.request.0).ok()?;
    usages(csr, &request)?.ok()?;
    let groups: Vec<&str> = spec.groups.iter().flatten().map(String::as_str).collect();
    let user = UserInfo::new(spec.username.as_deref().unwrap_or_default(), &groups);
    let may = |subresource: &str| {
        let (group, resource) = ("certificates.k8s.io", "certificatesigningrequests");
        let wanted =
            Attributes { verb: "create", group, resource, subresource, ..Attributes::default() };
        rbac::allows(world, &user, Action::Resource(wanted)).is_some()
    };
    if request.common_name == user.name && may("selfnodeclient") {
        return Some("Auto approving self kubelet client certificate after SubjectAccessReview.");
    }
    may("nodeclient")
        .then_some("Auto approving kubelet client certificate after SubjectAccessReview.")
}
