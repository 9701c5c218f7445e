//! Who somebody is: certificates of our own authority, tokens of service accounts, and those that nodes join with.
//!
//! What they may do is decided in `rbac`, with the roles of `policy` to begin with.

mod accounts;
pub(crate) mod bootstrap;
pub(crate) mod node;
mod pki;
pub(crate) mod policy;
pub(crate) mod rbac;
pub(crate) mod request;
pub(crate) mod shared;
pub(crate) mod signer;

use std::sync::Arc;

use http::{HeaderMap, header};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::api::UserInfo;
use crate::reader::Reader;

pub use accounts::{Accounts, Bound, Claim, TokenError};
pub use pki::{Pair, Pki, PkiError};
pub use shared::SharedError;
pub use signer::Signer;

/// Headers carry credentials, but wrong ones.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("the bearer token is not known")]
pub struct Unauthenticated;

/// Finds out who sent a request: the connection's verified certificate, or a bearer token.
pub struct Authenticator {
    accounts: Arc<Accounts>,
    world: Arc<dyn Reader>,
}

impl Authenticator {
    pub fn new(accounts: Arc<Accounts>, world: Arc<dyn Reader>) -> Self {
        Self { accounts, world }
    }

    /// `certificate` is the user of the connection, if it showed a certificate.
    pub fn user(
        &self,
        certificate: Option<&UserInfo>,
        headers: &HeaderMap,
    ) -> Result<UserInfo, Unauthenticated> {
        if let Some(user) = certificate {
            return Ok(user.clone());
        }
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Ok(UserInfo::anonymous());
        };
        let text = value.to_str().map_err(|_| Unauthenticated)?;
        let (scheme, token) = text.split_once(' ').ok_or(Unauthenticated)?;
        let token = token.trim();
        match scheme.eq_ignore_ascii_case("bearer") {
            true => self.bearer(token).map_err(|error| {
                tracing::debug!(error, "bearer token refused");
                Unauthenticated
            }),
            false => Err(Unauthenticated),
        }
    }

    fn bearer(&self, token: &str) -> Result<UserInfo, String> {
        match bootstrap::parse(token) {
            Some(parts) => {
                bootstrap::user(&*self.world, parts, Timestamp::now()).map_err(str::to_owned)
            }
            None => self.accounts.user(token, &[]).map(|(user, _)| user).map_err(|e| e.to_string()),
        }
    }
}

/// Compares without telling by its duration where the difference is.
fn same(a: &str, b: &str) -> bool {
    let differences = a.bytes().zip(b.bytes()).fold(0, |acc, (a, b)| acc | (a ^ b));
    a.len() == b.len() && differences == 0
}

/// The user of a client certificate that TLS has verified: common name and organizations.
pub fn certificate_user(certificate: &CertificateDer<'_>) -> Option<UserInfo> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let mut groups: Vec<&str> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    groups.push("system:authenticated");
    Some(UserInfo::new(name, &groups))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;
    use crate::admission::testing::World;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn only_tokens_that_are_known_say_who_somebody_is() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pki")).unwrap();
        let data = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
        ];
        let data: BTreeMap<_, _> =
            data.map(|(key, text)| (key, ByteString(text.as_bytes().to_vec()))).into();
        let world = Arc::new(World::of([(
            "secrets",
            json!({
                "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
                "type": "bootstrap.kubernetes.io/token", "data": data,
            }),
        )]));
        let accounts = Arc::new(Accounts::open(dir.path(), world.clone()).unwrap());
        let auth = Authenticator::new(accounts, world);
        let user = auth.user(None, &headers("Bearer abcdef.0123456789abcdef")).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        for wrong in [
            "Bearer abcdef.0123456789abcdeg",
            "Bearer abcdeg.0123456789abcdef",
            "Bearer abcdef.",
            "Bearer ",
            "Basic abcdef.0123456789abcdef",
            "abcdef.0123456789abcdef",
        ] {
            assert_eq!(auth.user(None, &headers(wrong)), Err(Unauthenticated), "{wrong}");
        }
        assert!(auth.user(None, &HeaderMap::new()).unwrap().is_anonymous());
    }

    #[test]
    fn certificates_name_their_user() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        let admin = pki.client("kubernetes-admin", &["system:masters"]).unwrap();
        let user = certificate_user(&admin.certificate_der().unwrap()).unwrap();
        assert_eq!(user.name, "kubernetes-admin");
        assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
    }
}
