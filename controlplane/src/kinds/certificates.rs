//! certificates.k8s.io/v1: CertificateSigningRequest. Its spec never changes; what becomes of it is said in two ways:
//! `approval` by who decides, `status` by who signs.

use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
};
use serde_json::{Value, json};

use super::field::{Errors, Path};
use super::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::auth::request;
use crate::object::Object;
use crate::status::Cause;

pub(super) const KIND: Kind = Kind {
    group: "certificates.k8s.io",
    version: "v1",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    resource: "certificatesigningrequests.certificates.k8s.io",
    short_names: &["csr"],
    categories: &[],
    namespaced: false,
    subresources: &["approval", "status"],
    strategy: &Requests,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::AGE,
    table::text("SignerName", "signerName indicates the requested signer."),
    table::text("Requestor", "username contains the name of the user that created the request."),
    table::text("RequestedDuration", "expirationSeconds is the requested duration of validity."),
    table::text("Condition", "conditions applied to the request."),
];

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// Seconds.
const SHORTEST: i32 = 600;
/// Conditions that are never taken back.
const LASTING: [&str; 3] = ["Approved", "Denied", "Failed"];
/// Those that only `approval` writes.
const DECIDED: [&str; 2] = ["Approved", "Denied"];

struct Requests;

impl Strategy for Requests {
    typed!(CertificateSigningRequest);

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::no_generation(value);
        let Some(object) = value.as_object_mut() else { return };
        let (old, subresource) = match op {
            Operation::Create => {
                object.insert("status".into(), json!({}));
                return;
            }
            Operation::Update { old, subresource } => (old, subresource),
        };
        edit::keep(object, old, "spec");
        let new = object.get("status").cloned().unwrap_or_default();
        edit::keep(object, old, "status");
        let conditions = match subresource {
            "approval" => new["conditions"].clone(),
            "status" => undecided(&new["conditions"], &old["status"]["conditions"]),
            _ => return,
        };
        let status = edit::make(object, "status");
        if subresource == "status" && !new["certificate"].is_null() {
            status.insert("certificate".into(), new["certificate"].clone());
        }
        match conditions {
            Value::Null => status.remove("conditions"),
            some => status.insert("conditions".into(), some),
        };
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let mut errors = Errors::default();
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        let Some(csr) = metadata::check::<CertificateSigningRequest>(&mut errors, named, value, op)
        else {
            return errors.into_causes();
        };
        if let Operation::Create = op {
            check_spec(&mut errors, &csr.spec);
        }
        let status = csr.status.unwrap_or_default();
        check_status(&mut errors, &status);
        if let Operation::Update { old, .. } = op {
            check_change(&mut errors, &status, &old["status"]);
        }
        errors.into_causes()
    }

    fn field(&self, value: &Value, label: &str) -> Option<String> {
        (label == "spec.signerName").then(|| edit::text(value, "/spec/signerName").into())
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["spec.signerName"]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let csr = object.view::<CertificateSigningRequest>().unwrap_or_default();
        let spec = &csr.spec;
        let duration = spec.expiration_seconds.map(|s| table::human_duration(s.into()));
        vec![
            table::name(object),
            table::age(object, now),
            spec.signer_name.as_str().into(),
            spec.username.clone().unwrap_or_default().into(),
            table::or_none(&duration.unwrap_or_default()),
            state(csr.status.as_ref()).into(),
        ]
    }
}

/// The new conditions, but what was decided as it was.
fn undecided(new: &Value, old: &Value) -> Value {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let decided = |c: &Value| c["type"].as_str().is_some_and(|name| DECIDED.contains(&name));
    let mut all: Vec<Value> = list(old).into_iter().filter(|c| decided(c)).collect();
    all.extend(list(new).into_iter().filter(|c| !decided(c)));
    if all.is_empty() { Value::Null } else { all.into() }
}

fn state(status: Option<&CertificateSigningRequestStatus>) -> String {
    let Some(status) = status else { return "Pending".into() };
    let has = |name: &str| status.conditions.iter().flatten().any(|c| c.type_ == name);
    let mut text = String::from(match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    });
    if has("Failed") {
        text.push_str(",Failed");
    }
    if status.certificate.as_ref().is_some_and(|pem| !pem.0.is_empty()) {
        text.push_str(",Issued");
    }
    text
}

fn check_spec(errors: &mut Errors, spec: &CertificateSigningRequestSpec) {
    let path = Path::new("spec");
    if let Err(why) = request::Request::parse(&spec.request.0) {
        errors.invalid(&path.child("request"), "<the request>", &why);
    }
    let usages = path.child("usages");
    let listed = spec.usages.as_deref().unwrap_or_default();
    if listed.is_empty() {
        errors.required(&usages, "");
    }
    for (index, usage) in listed.iter().enumerate() {
        if !USAGES.contains(&usage.as_str()) {
            errors.not_supported(&usages.index(index), usage, USAGES);
        }
        if listed[..index].contains(usage) {
            errors.duplicate(&usages.index(index), usage);
        }
    }
    check_signer(errors, &path.child("signerName"), &spec.signer_name);
    if let Some(seconds) = spec.expiration_seconds
        && seconds < SHORTEST
    {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&path.child("expirationSeconds"), seconds, why);
    }
}

fn check_signer(errors: &mut Errors, path: &Path, name: &str) {
    let Some((domain, rest)) = name.split_once('/').filter(|_| !name.is_empty()) else {
        return match name {
            "" => errors.required(path, ""),
            name => errors.invalid(
                path,
                name,
                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
            ),
        };
    };
    errors.all_invalid(path, name, names::dns_subdomain(domain));
    if !domain.contains('.') {
        errors.invalid(
            path,
            name,
            "should be a domain with at least two segments separated by dots",
        );
    }
    if rest.is_empty() || rest.len() + domain.len() + 1 > 571 {
        errors.invalid(path, name, "the name of the signer is empty or too long");
    }
    for part in rest.split('.') {
        errors.all_invalid(path, name, names::dns_subdomain(part));
    }
}

fn check_status(errors: &mut Errors, status: &CertificateSigningRequestStatus) {
    let path = Path::new("status");
    let conditions = path.child("conditions");
    let listed: &[CertificateSigningRequestCondition] =
        status.conditions.as_deref().unwrap_or_default();
    for (index, condition) in listed.iter().enumerate() {
        let at = conditions.index(index);
        let name = condition.type_.as_str();
        if name.is_empty() {
            errors.required(&at.child("type"), "");
        }
        let allowed: &[&str] =
            if LASTING.contains(&name) { &["True"] } else { &["False", "True", "Unknown"] };
        errors.one_of(&at.child("status"), Some(&condition.status), allowed);
        if listed[..index].iter().any(|other| other.type_ == name) {
            errors.duplicate(&at.child("type"), name);
        }
        let other = if name == "Approved" { "Denied" } else { "Approved" };
        if DECIDED.contains(&name) && listed[..index].iter().any(|c| c.type_ == other) {
            let why = format!("{name} and {other} conditions are mutually exclusive");
            errors.invalid(&at.child("type"), name, &why);
        }
    }
    if let Some(pem) = status.certificate.as_ref().filter(|pem| !pem.0.is_empty())
        && let Err(why) = request::check_chain(&pem.0)
    {
        errors.invalid(&path.child("certificate"), "<certificate data>", &why);
    }
}

fn check_change(errors: &mut Errors, new: &CertificateSigningRequestStatus, old: &Value) {
    let path = Path::new("status");
    let before = old["conditions"].as_array().into_iter().flatten();
    for name in before.filter_map(|c| c["type"].as_str()).filter(|name| LASTING.contains(name)) {
        if !new.conditions.iter().flatten().any(|c| c.type_ == name) {
            let why = format!("updates may not remove a condition of type {name:?}");
            errors.forbidden(&path.child("conditions"), &why);
        }
    }
    let issued = old["certificate"].as_str().unwrap_or_default();
    if !issued.is_empty() && json!(new.certificate) != *issued {
        let why = "updates may not set certificate content to a different value once issued";
        errors.forbidden(&path.child("certificate"), why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csr(status: Value) -> Value {
        json!({"metadata": {"name": "c"}, "spec": {"request": "", "signerName": "a.b/c"}, "status": status})
    }

    fn written(new: Value, old: Value, subresource: &str) -> Value {
        let (mut value, old) = (csr(new), csr(old));
        value["spec"]["signerName"] = "other.io/x".into();
        let op = Operation::Update { old: &old, subresource };
        Requests.prepare(&mut value, op);
        assert_eq!(value["spec"], old["spec"]);
        value["status"].clone()
    }

    #[test]
    fn each_way_writes_its_own_part() {
        let approved = json!({"type": "Approved", "status": "True"});
        let failed = json!({"type": "Failed", "status": "True"});
        let wish = json!({"conditions": [approved, failed], "certificate": "eA=="});
        assert_eq!(written(wish.clone(), json!({}), ""), json!({}));
        assert_eq!(
            written(wish.clone(), json!({}), "approval"),
            json!({"conditions": [approved, failed]})
        );
        assert_eq!(
            written(wish, json!({}), "status"),
            json!({"conditions": [failed], "certificate": "eA=="})
        );
        let kept = written(json!({}), json!({"conditions": [approved]}), "status");
        assert_eq!(kept, json!({"conditions": [approved]}));
        let mut created = csr(json!({"conditions": [approved]}));
        Requests.prepare(&mut created, Operation::Create);
        assert_eq!(created["status"], json!({}));
    }

    #[test]
    fn what_was_decided_stays() {
        let causes = |new: Value, old: Value| {
            let (new, old) = (csr(new), csr(old));
            let op = Operation::Update { old: &old, subresource: "approval" };
            let causes = Requests.validate(&new, op);
            causes
                .into_iter()
                .map(|c| c.field)
                .filter(|f| f.starts_with("status"))
                .collect::<Vec<_>>()
        };
        let condition = |name: &str, status: &str| json!({"type": name, "status": status});
        let list = |conditions: &[Value]| json!({"conditions": conditions});
        let (approved, denied) = (condition("Approved", "True"), condition("Denied", "True"));
        assert!(causes(list(std::slice::from_ref(&approved)), json!({})).is_empty());
        assert_eq!(causes(json!({}), list(std::slice::from_ref(&approved))), ["status.conditions"]);
        assert_eq!(
            causes(list(&[approved.clone(), denied]), json!({})),
            ["status.conditions[1].type"]
        );
        assert_eq!(
            causes(list(&[condition("Denied", "False")]), json!({})),
            ["status.conditions[0].status"]
        );
        assert_eq!(
            causes(list(&[approved.clone(), approved]), json!({})),
            ["status.conditions[1].type"]
        );
    }
}
