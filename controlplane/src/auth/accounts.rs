//! Tokens of service accounts: signed here, known again here. A token is good while its account, and the object that it
//! is bound to, are the same as when it was given out; so deleting a Pod ends its tokens.

use std::path::Path;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData};
use serde::{Deserialize, Serialize};

use super::pki::{self, PkiError};
use crate::api::UserInfo;
use crate::reader::Reader;

/// Who signs, and at the same time the audience that this API is.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What a token says.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    pub namespace: String,
    pub account: String,
    pub uid: String,
    pub bound: Option<Bound>,
    pub audiences: Vec<String>,
    /// Unix seconds.
    pub from: i64,
    pub until: i64,
}

/// The object that a token ends with.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// `Pod`, `Secret` or `Node`.
    pub kind: String,
    pub name: String,
    pub uid: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("token: {0}")]
    Invalid(#[from] jsonwebtoken::errors::Error),
    #[error("token audiences {found:?} are invalid for the target audiences {wanted:?}")]
    Audience { found: Vec<String>, wanted: Vec<String> },
    #[error("{kind} {name:?} of the token is gone")]
    Gone { kind: &'static str, name: String },
}

/// The wire form, as upstream has it.
#[derive(Serialize, Deserialize)]
struct Body {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    about: About,
    nbf: i64,
    sub: String,
}

#[derive(Serialize, Deserialize)]
struct About {
    namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Named>,
    serviceaccount: Named,
}

#[derive(Serialize, Deserialize, Clone)]
struct Named {
    name: String,
    uid: String,
}

pub struct Accounts {
    signing: EncodingKey,
    verifying: DecodingKey,
    world: Arc<dyn Reader>,
}

impl Accounts {
    /// The key is `pki/sa.key` under `data_dir`, made when absent: tokens survive a restart.
    pub fn open(data_dir: &Path, world: Arc<dyn Reader>) -> Result<Self, PkiError> {
        let path = data_dir.join("pki").join("sa.key");
        if !path.exists() {
            pki::write(&path, &pki::new_key()?)?;
        }
        let broken = |cause| PkiError::Authority { path: path.clone(), cause };
        let key = KeyPair::from_pem(&pki::read(&path)?).map_err(broken)?;
        Ok(Self {
            signing: EncodingKey::from_ec_der(key.serialized_der()),
            verifying: DecodingKey::from_ec_der(key.der_bytes()),
            world,
        })
    }

    /// The audience of tokens for this API.
    pub fn audiences(&self) -> Vec<String> {
        vec![ISSUER.into()]
    }

    pub fn sign(&self, claim: &Claim) -> Result<String, TokenError> {
        let named = |kind: &str| {
            let bound = claim.bound.as_ref().filter(|bound| bound.kind == kind)?;
            Some(Named { name: bound.name.clone(), uid: bound.uid.clone() })
        };
        let body = Body {
            aud: claim.audiences.clone(),
            exp: claim.until,
            iat: claim.from,
            iss: ISSUER.into(),
            jti: uuid::Uuid::new_v4().to_string(),
            about: About {
                namespace: claim.namespace.clone(),
                node: named("Node"),
                pod: named("Pod"),
                secret: named("Secret"),
                serviceaccount: Named { name: claim.account.clone(), uid: claim.uid.clone() },
            },
            nbf: claim.from,
            sub: format!("system:serviceaccount:{}:{}", claim.namespace, claim.account),
        };
        Ok(jsonwebtoken::encode(&Header::new(Algorithm::ES256), &body, &self.signing)?)
    }

    /// Whose token it is, and for which of `wanted` (empty: this API) it is good.
    pub fn user(
        &self,
        token: &str,
        wanted: &[&str],
    ) -> Result<(UserInfo, Vec<String>), TokenError> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        validation.validate_nbf = true;
        // Which audience it must be is told below, in words.
        validation.validate_aud = false;
        // Clocks: there is only ours.
        validation.leeway = 0;
        let body: Body = jsonwebtoken::decode(token, &self.verifying, &validation)?.claims;
        let wanted = if wanted.is_empty() { &[ISSUER][..] } else { wanted };
        let good: Vec<String> =
            body.aud.iter().filter(|a| wanted.contains(&a.as_str())).cloned().collect();
        if good.is_empty() {
            let wanted = wanted.iter().map(|w| (*w).to_owned()).collect();
            return Err(TokenError::Audience { found: body.aud, wanted });
        }
        self.alive(&body.about)?;
        Ok((user(&body), good))
    }

    fn alive(&self, about: &About) -> Result<(), TokenError> {
        let here = about.namespace.as_str();
        let objects = [
            ("ServiceAccount", "serviceaccounts", here, Some(&about.serviceaccount)),
            ("Pod", "pods", here, about.pod.as_ref()),
            ("Secret", "secrets", here, about.secret.as_ref()),
            ("Node", "nodes", "", about.node.as_ref()),
        ];
        for (kind, resource, namespace, named) in objects {
            let Some(named) = named else { continue };
            let found = self.world.get(resource, namespace, &named.name);
            if found.is_none_or(|object| object.meta.uid != named.uid) {
                return Err(TokenError::Gone { kind, name: named.name.clone() });
            }
        }
        Ok(())
    }
}

fn user(body: &Body) -> UserInfo {
    let about = &body.about;
    let home = format!("system:serviceaccounts:{}", about.namespace);
    let name = format!("system:serviceaccount:{}:{}", about.namespace, about.serviceaccount.name);
    let groups = ["system:serviceaccounts", &home, "system:authenticated"];
    let mut user = UserInfo::new(&name, &groups);
    user.uid.clone_from(&about.serviceaccount.uid);
    let mut tell = |key: &str, value: &str| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
    };
    tell("credential-id", &format!("JTI={}", body.jti));
    for (kind, named) in [("pod", &about.pod), ("node", &about.node)] {
        if let Some(named) = named {
            tell(&format!("{kind}-name"), &named.name);
            tell(&format!("{kind}-uid"), &named.uid);
        }
    }
    user
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::admission::testing::World;

    fn accounts(dir: &Path, pod_uid: &str) -> Accounts {
        let about = |name: &str, uid: &str| json!({"metadata": {"name": name, "namespace": "a", "uid": uid}});
        let account = ("serviceaccounts", about("build", "u1"));
        let world = World::of([account, ("pods", about("p", pod_uid))]);
        std::fs::create_dir_all(dir.join("pki")).unwrap();
        Accounts::open(dir, Arc::new(world)).unwrap()
    }

    fn claim() -> Claim {
        let now = Timestamp::now().as_second();
        Claim {
            namespace: "a".into(),
            account: "build".into(),
            uid: "u1".into(),
            bound: Some(Bound { kind: "Pod".into(), name: "p".into(), uid: "u2".into() }),
            audiences: vec![ISSUER.into()],
            from: now,
            until: now + 600,
        }
    }

    #[test]
    fn a_token_names_its_account_until_its_pod_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let known = accounts(dir.path(), "u2");
        let token = known.sign(&claim()).unwrap();
        let (user, audiences) = known.user(&token, &[]).unwrap();
        assert_eq!(user.name, "system:serviceaccount:a:build");
        assert_eq!(user.uid, "u1");
        assert!(user.groups.contains(&"system:serviceaccounts:a".to_owned()));
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert_eq!(audiences, [ISSUER]);
        let later = accounts(dir.path(), "u3");
        let gone = later.user(&token, &[]).unwrap_err();
        assert!(gone.to_string().contains("Pod \"p\""), "{gone}");
    }

    #[test]
    fn old_foreign_and_forged_tokens_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let known = accounts(dir.path(), "u2");
        let refused = |claim: Claim, wanted: &[&str]| {
            known.user(&known.sign(&claim).unwrap(), wanted).unwrap_err().to_string()
        };
        let old = Claim { from: 1, until: 2, ..claim() };
        assert!(refused(old, &[]).contains("ExpiredSignature"));
        let early = Claim { from: claim().from + 3600, until: claim().until + 3600, ..claim() };
        assert!(refused(early, &[]).contains("ImmatureSignature"));
        let vault = Claim { audiences: vec!["vault".into()], ..claim() };
        assert!(refused(vault.clone(), &[]).contains("vault"));
        let (_, audiences) = known.user(&known.sign(&vault).unwrap(), &["vault", "x"]).unwrap();
        assert_eq!(audiences, ["vault"]);
        let other = tempfile::tempdir().unwrap();
        let stranger = accounts(other.path(), "u2").sign(&claim()).unwrap();
        assert!(known.user(&stranger, &[]).is_err());
        assert!(known.user("a.b.c", &[]).is_err());
    }
}
