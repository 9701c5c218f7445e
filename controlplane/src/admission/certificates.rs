//! Requests for certificates: whose they are, and who may answer them. Pure.

use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::UserInfo;
use crate::auth::node;
use crate::auth::request::Request;
use crate::kinds::{Kind, Operation};

pub(crate) const REQUESTS: &str = "certificatesigningrequests.certificates.k8s.io";
pub(crate) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(crate) const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
const MASTERS: &str = "system:masters";

pub(crate) fn concerns(kind: &Kind) -> bool {
    kind.resource == REQUESTS
}

/// Who asks is what authentication found out, whatever the request says; conditions tell when they came.
pub(crate) fn complete(user: Option<&UserInfo>, value: &mut Value, op: Operation<'_>, now: &str) {
    match op {
        Operation::Create => {
            let nobody = UserInfo::new("", &[]);
            let user = user.unwrap_or(&nobody);
            let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) else { return };
            for (field, known) in [
                ("username", json!(user.name)),
                ("uid", json!(user.uid)),
                ("groups", json!(user.groups)),
                ("extra", json!(user.extra)),
            ] {
                let empty =
                    known.as_str() == Some("") || known.as_object().is_some_and(|o| o.is_empty());
                match empty {
                    true => spec.remove(field),
                    false => spec.insert(field.into(), known),
                };
            }
        }
        Operation::Update { old, .. } => stamp(value, old, now),
    }
}

fn stamp(value: &mut Value, old: &Value, now: &str) {
    let before = old["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let list = value.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in list.into_iter().flatten() {
        let known = before.iter().find(|c| c["type"] == condition["type"]);
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.into();
        }
        if condition["lastTransitionTime"].is_null() {
            let same = known.filter(|c| c["status"] == condition["status"]);
            let since = same.map(|c| c["lastTransitionTime"].clone()).filter(|t| !t.is_null());
            condition["lastTransitionTime"] = since.unwrap_or_else(|| now.into());
        }
    }
}

/// What nobody, or not this user, may ask for.
pub(crate) fn refusal(user: Option<&UserInfo>, value: &Value) -> Option<String> {
    let signer = value["spec"]["signerName"].as_str().unwrap_or_default();
    let request = ByteString::deserialize(&value["spec"]["request"]).ok()?;
    // One that cannot be read is refused by validation.
    let request = Request::parse(&request.0).ok()?;
    if signer == CLIENT && request.organizations.iter().any(|o| o == MASTERS) {
        return Some(format!("use of {CLIENT} signer with {MASTERS} group is not allowed"));
    }
    let user = user.filter(|user| node::identity(user).is_some())?;
    let of_node = request.common_name.starts_with("system:node:");
    let other =
        matches!(signer, NODE_CLIENT | NODE_SERVING) && of_node && request.common_name != user.name;
    other.then(|| format!("can only create a node CSR with CN={}", user.name))
}

/// Which right over the signer a change needs: `approve` or `sign`.
pub(crate) fn demanded(subresource: &str, value: &Value, old: &Value) -> Option<&'static str> {
    let changed = |pointer: &str| value.pointer(pointer) != old.pointer(pointer);
    let failed = |value: &Value| {
        let mut all = value["status"]["conditions"].as_array().into_iter().flatten();
        all.any(|condition| condition["type"] == "Failed")
    };
    match subresource {
        "approval" => Some("approve"),
        "status" if changed("/status/certificate") || failed(value) != failed(old) => Some("sign"),
        _ => None,
    }
}

/// A signer's own name, and all of its domain: either may have been granted.
pub(crate) fn granted_by(signer: &str) -> [String; 2] {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    [signer.to_owned(), format!("{domain}/*")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_not_theirs_to_say() {
        let mut value = json!({"spec": {"username": "admin", "groups": ["system:masters"], "uid": "1", "extra": {"a": ["b"]}}});
        let jane = UserInfo::new("jane", &["people"]);
        complete(Some(&jane), &mut value, Operation::Create, "now");
        assert_eq!(value["spec"], json!({"username": "jane", "groups": ["people"]}));
    }

    #[test]
    fn conditions_know_their_time() {
        let old = json!({"status": {"conditions": [
            {"type": "Failed", "status": "True", "lastUpdateTime": "a", "lastTransitionTime": "b"}]}});
        let mut new = json!({"status": {"conditions": [
            {"type": "Failed", "status": "True"}, {"type": "Denied", "status": "True"}]}});
        let op = Operation::Update { old: &old, subresource: "approval" };
        complete(None, &mut new, op, "now");
        let times = |n: usize| {
            let c = &new["status"]["conditions"][n];
            (c["lastUpdateTime"].as_str().unwrap(), c["lastTransitionTime"].as_str().unwrap())
        };
        assert_eq!((times(0), times(1)), (("now", "b"), ("now", "now")));
    }

    #[test]
    fn answers_need_a_right_over_the_signer() {
        let old = json!({"status": {}});
        let issued = json!({"status": {"certificate": "x"}});
        let failed = json!({"status": {"conditions": [{"type": "Failed"}]}});
        assert_eq!(demanded("approval", &old, &old), Some("approve"));
        assert_eq!(demanded("status", &issued, &old), Some("sign"));
        assert_eq!(demanded("status", &failed, &old), Some("sign"));
        assert_eq!(demanded("status", &old, &old), None);
        assert_eq!(demanded("", &issued, &old), None);
        assert_eq!(granted_by("a.b/c"), ["a.b/c", "a.b/*"]);
    }
}
