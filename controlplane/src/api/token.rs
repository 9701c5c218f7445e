//! `serviceaccounts/token`: a token for a service account, for as long and for whom the caller says, at most as long as
//! the object lives that it is bound to.

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::TokenRequest;
use serde_json::{Value, json};

use super::write::Place;
use super::{Api, errors, meta};
use crate::auth::{Bound, Claim};
use crate::kinds::{FieldValidation, decode_as, invalid};
use crate::reader::Reader;
use crate::status::ApiError;

/// Seconds: upstream's default and bounds.
const DEFAULT: i64 = 3600;
const LEAST: i64 = 600;
const MOST: i64 = 1 << 32;

impl Api {
    pub(super) fn request_token(
        &self,
        place: Place<'_>,
        mut request: Value,
        validation: FieldValidation,
    ) -> Result<Value, ApiError> {
        decode_as::<TokenRequest>(&mut request, validation)?;
        let Some(accounts) = &self.accounts else {
            return Err(errors::internal("this server gives out no tokens"));
        };
        let account = self.find(place)?;
        let refuse = |field: &str, message: String| {
            let cause = errors::cause("FieldValueInvalid", field, message);
            invalid(place.kind, place.name, vec![cause])
        };
        let spec = &request["spec"];
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT);
        if seconds < LEAST {
            let text = format!(
                "Invalid value: {seconds}: may not specify a duration less than 10 minutes"
            );
            return Err(refuse("spec.expirationSeconds", text));
        }
        if seconds > MOST {
            let text = format!(
                "Invalid value: {seconds}: may not specify a duration larger than 2^32 seconds"
            );
            return Err(refuse("spec.expirationSeconds", text));
        }
        let named: Vec<String> = spec["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|audience| audience.as_str().map(str::to_owned))
            .collect();
        let audiences = if named.is_empty() { accounts.audiences() } else { named };
        let bound = self.bound_object(place, &spec["boundObjectRef"])?;
        let now = Timestamp::now().as_second();
        let claim = Claim {
            namespace: place.namespace.into(),
            account: place.name.into(),
            uid: account.meta.uid.clone(),
            bound,
            audiences: audiences.clone(),
            from: now,
            until: now + seconds,
        };
        let token = accounts.sign(&claim).map_err(errors::internal)?;
        let until = Timestamp::from_second(claim.until).map_err(errors::internal)?;
        request["kind"] = "TokenRequest".into();
        request["apiVersion"] = "authentication.k8s.io/v1".into();
        request["metadata"] = json!({
            "name": place.name, "namespace": place.namespace,
            "creationTimestamp": meta::time(Timestamp::now()),
        });
        request["spec"]["audiences"] = json!(audiences);
        request["spec"]["expirationSeconds"] = seconds.into();
        request["status"] = json!({"token": token, "expirationTimestamp": meta::time(until)});
        Ok(request)
    }

    fn bound_object(&self, place: Place<'_>, reference: &Value) -> Result<Option<Bound>, ApiError> {
        if reference.is_null() {
            return Ok(None);
        }
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let (resource, namespace) = match (text("apiVersion"), text("kind")) {
            ("v1", "Pod") => ("pods", place.namespace),
            ("v1", "Secret") => ("secrets", place.namespace),
            ("v1", "Node") => ("nodes", ""),
            (version, kind) => {
                return Err(errors::bad_request(format!(
                    "cannot bind token to object of type {version}, Kind={kind}"
                )));
            }
        };
        let (kind, name) = (text("kind"), text("name"));
        let served = self.registry.resource(resource).ok_or_else(errors::no_such_path)?;
        let object = self.store.get(resource, namespace, name);
        let object = object.ok_or_else(|| errors::not_found(served, name))?;
        let uid = text("uid");
        if !uid.is_empty() && uid != object.meta.uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                object.meta.uid
            );
            return Err(errors::conflict(served, name, &why));
        }
        if kind == "Pod" {
            let account = object.value()["spec"]["serviceAccountName"].clone();
            if account.as_str().unwrap_or("default") != place.name {
                return Err(errors::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    place.name
                )));
            }
        }
        let (name, uid) = (name.to_owned(), object.meta.uid.clone());
        Ok(Some(Bound { kind: kind.to_owned(), name, uid }))
    }
}
