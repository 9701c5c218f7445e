//! Deletes requests that nobody looks at any more, by upstream's periods.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use crate::admission::certificates::REQUESTS;
use crate::auth::request;
use crate::controllers::look;
use crate::controllers::outcome::Outcome;
use crate::controllers::runner::{Controller, Seen};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;

/// After it was approved, denied or has failed.
const ANSWERED: Duration = Duration::from_secs(3600);
const PENDING: Duration = Duration::from_secs(24 * 3600);

pub struct Cleaning;

impl Controller for Cleaning {
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
        let mut outcome = Outcome::idle();
        let Some(object) = world.get(REQUESTS, "", &key.name) else { return outcome };
        let Ok(csr) = object.view::<CertificateSigningRequest>() else { return outcome };
        let created = look::parse_time(object.meta.creation_timestamp.as_deref()).unwrap_or(now);
        match left(&csr, created, now) {
            Some(left) => outcome.again_after(left),
            None => outcome.push(look::deletion(&object)),
        }
        outcome
    }
}

/// None: it is time.
fn left(csr: &CertificateSigningRequest, created: Timestamp, now: Timestamp) -> Option<Duration> {
    let conditions = csr.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let answered =
        conditions.filter(|c| matches!(c.type_.as_str(), "Approved" | "Denied" | "Failed"));
    let answered = answered.map(|c| c.last_update_time.as_ref().map_or(created, |time| time.0));
    let certificate = csr.status.as_ref().and_then(|status| status.certificate.as_ref());
    let expired = certificate.and_then(|pem| request::expiry(&pem.0)).is_some_and(|at| at <= now);
    match answered.min() {
        _ if expired => None,
        Some(at) => look::remaining(at, ANSWERED, now),
        None => look::remaining(created, PENDING, now),
    }
}
