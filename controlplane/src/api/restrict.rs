//! Admission that depends on who writes: what a node may do to objects that it may write at all, and who may answer
//! requests for certificates. Here the rules of `admission` meet requests.

use jiff::Timestamp;
use serde_json::Value;

use super::delete::{DeleteOptions, Preconditions};
use super::write::{Options, Place};
use super::{Api, UserInfo, errors, meta};
use crate::admission::certificates;
use crate::admission::node::Writer;
use crate::auth::node;
use crate::auth::rbac::{Action, Attributes};
use crate::kinds::Operation;
use crate::status::ApiError;

impl Api {
    /// Looks at what would be stored, and at what is.
    pub(super) fn admit_writer(
        &self,
        place: Place<'_>,
        options: &Options,
        value: &mut Value,
        op: Operation<'_>,
    ) -> Result<(), ApiError> {
        let (kind, user) = (place.kind, options.user.as_ref());
        if certificates::concerns(kind) {
            certificates::complete(user, value, op, &meta::time(Timestamp::now()));
            self.admit_certificate(place, user, value, op)?;
        }
        let Some(writer) = user.and_then(|user| self.node_writer(user)) else { return Ok(()) };
        let checked = writer.write(kind, place.subresource, value, op);
        checked.map_err(|why| errors::forbidden(kind, meta::text(value, "name"), &why))
    }

    pub(super) fn admit_deletion(
        &self,
        user: &UserInfo,
        place: Place<'_>,
        options: &mut DeleteOptions,
    ) -> Result<(), ApiError> {
        let Some(writer) = self.node_writer(user).filter(|_| !place.name.is_empty()) else {
            return Ok(());
        };
        let object = self.find(place)?;
        let refuse = |why: String| errors::forbidden(place.kind, place.name, &why);
        writer.delete(place.kind, &object.value()).map_err(refuse)?;
        // It must be the one that was looked at.
        let wanted = options.preconditions.get_or_insert_with(Preconditions::default);
        wanted.uid.get_or_insert_with(|| object.meta.uid.clone());
        Ok(())
    }

    pub(super) fn admit_eviction(&self, user: &UserInfo, place: Place<'_>) -> Result<(), ApiError> {
        let Some(writer) = self.node_writer(user) else { return Ok(()) };
        let pod = self.find(Place { subresource: "", ..place })?;
        let refuse = |why: String| errors::forbidden(place.kind, place.name, &why);
        writer.evict(&pod.value()).map_err(refuse)
    }

    pub(super) fn admit_token(
        &self,
        user: &UserInfo,
        place: Place<'_>,
        request: &Value,
    ) -> Result<(), ApiError> {
        let Some(writer) = self.node_writer(user) else { return Ok(()) };
        let refuse = |why: String| errors::forbidden(place.kind, place.name, &why);
        writer.token(place.namespace, request).map_err(refuse)
    }

    fn node_writer<'a>(&'a self, user: &'a UserInfo) -> Option<Writer<'a>> {
        node::identity(user).map(|node| Writer { world: &*self.store, node })
    }

    fn admit_certificate(
        &self,
        place: Place<'_>,
        user: Option<&UserInfo>,
        value: &Value,
        op: Operation<'_>,
    ) -> Result<(), ApiError> {
        let refuse = |why: &str| errors::forbidden(place.kind, meta::text(value, "name"), why);
        let (old, subresource) = match op {
            Operation::Create => {
                let refusal = certificates::refusal(user, value);
                return refusal.map_or(Ok(()), |why| Err(refuse(&why)));
            }
            Operation::Update { old, subresource } => (old, subresource),
        };
        let (Some(user), Some(verb)) = (user, certificates::demanded(subresource, value, old))
        else {
            return Ok(());
        };
        let signer = value["spec"]["signerName"].as_str().unwrap_or_default();
        let may = certificates::granted_by(signer).iter().any(|name| {
            let group = "certificates.k8s.io";
            let wanted =
                Attributes { verb, group, resource: "signers", name, ..Attributes::default() };
            self.allowance(user, Action::Resource(wanted)).is_some()
        });
        match may {
            true => Ok(()),
            false => Err(refuse(&format!(
                "user not permitted to {verb} requests with signerName {signer:?}"
            ))),
        }
    }
}
