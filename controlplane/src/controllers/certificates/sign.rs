//! Signs what was approved, or says why not.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::{Value, json};

use super::{has, is_issued, usages};
use crate::admission::certificates::REQUESTS;
use crate::auth::Signer;
use crate::auth::request::Request;
use crate::controllers::outcome::Outcome;
use crate::controllers::runner::{Controller, Seen};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::writer::Change;

pub struct Signing {
    signer: Arc<Signer>,
}

impl Signing {
    pub fn new(signer: Arc<Signer>) -> Self {
        Self { signer }
    }

    fn answer(&self, object: &Object, now: Timestamp) -> Option<Change> {
        let csr: Arc<CertificateSigningRequest> = object.view().ok()?;
        let decided = has(&csr, "Approved") && !has(&csr, "Denied") && !has(&csr, "Failed");
        if !decided || is_issued(&csr) {
            return None;
        }
        let request = Request::parse(&csr.spec.request.0);
        let signed = match request {
            Err(why) => Err(why),
            Ok(request) => match usages(&csr, &request)? {
                Err(why) => Err(why),
                Ok(usages) => {
                    let seconds = csr.spec.expiration_seconds.and_then(|s| u64::try_from(s).ok());
                    let wish = seconds.map(Duration::from_secs);
                    let serial = serial(&object.meta.uid);
                    let issued = self.signer.issue(&request, usages, wish, serial, now);
                    issued.map_err(|error| error.to_string())
                }
            },
        };
        let mut value = object.value();
        match signed {
            Ok(pem) => value["status"]["certificate"] = json!(ByteString(pem.into_bytes())),
            Err(why) => fail(&mut value, &why),
        }
        Some(Change::Update { resource: REQUESTS, subresource: Some("status"), object: value })
    }
}

fn fail(value: &mut Value, why: &str) {
    let failed = json!({
        "type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": why,
    });
    if let Some(list) = value["status"]["conditions"].as_array_mut() {
        list.push(failed);
    }
}

/// Another for every request.
fn serial(uid: &str) -> [u8; 16] {
    let digest = <sha2::Sha256 as sha2::Digest>::digest(uid);
    let mut serial = [0; 16];
    serial.copy_from_slice(&digest[..16]);
    serial
}

impl Controller for Signing {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:certificate-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec![REQUESTS]
    }

    fn keys(&self, _: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        seen.new.map(Object::key).into_iter().collect()
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        let object = world.get(REQUESTS, "", &key.name);
        let change = object.and_then(|object| self.answer(&object, now));
        change.map_or_else(Outcome::idle, |change| Outcome::idle().then(change))
    }
}
