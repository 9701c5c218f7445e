//! Asks the cluster for the node's certificate: a key is made here and never leaves, the API signs its public half.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};
use kube::runtime::wait::await_condition;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::Keypair;
use crate::cli::Failure;

const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// For the approval; without one there is a person to ask.
const PATIENCE: Duration = Duration::from_secs(300);

/// A certificate of a new key for `system:node:<node>`.
pub(super) async fn certificate(client: &Client, node: &str) -> Result<Keypair, Failure> {
    let key = KeyPair::generate()?;
    let requests = Api::<CertificateSigningRequest>::all(client.clone());
    let made = requests.create(&PostParams::default(), &wanted(node, &key)?).await;
    let name = made.map_err(explain)?.metadata.name.unwrap_or_default();
    let answered = await_condition(requests, &name, |csr: Option<&CertificateSigningRequest>| {
        csr.is_none_or(|csr| answer(csr).is_some())
    });
    let answered = tokio::time::timeout(PATIENCE, answered).await.map_err(|_| {
        format!("nobody has approved the request {name:?} (`kubectl certificate approve {name}`)")
    })?;
    let csr = answered?.ok_or_else(|| format!("the request {name:?} was deleted"))?;
    match answer(&csr) {
        Some(Ok(certificate)) => Ok(Keypair { certificate, key: key.serialize_pem() }),
        Some(Err(why)) => Err(format!("the request {name:?} was refused: {why}").into()),
        None => Err(format!("the request {name:?} was not answered").into()),
    }
}

fn wanted(node: &str, key: &KeyPair) -> Result<CertificateSigningRequest, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    let pem = params.serialize_request(key)?.pem()?;
    Ok(CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("node-csr-".into()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: SIGNER.into(),
            usages: Some(vec!["digital signature".into(), "client auth".into()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    })
}

/// The certificate, or why there is none; None while it is open.
fn answer(csr: &CertificateSigningRequest) -> Option<Result<String, String>> {
    let status = csr.status.as_ref()?;
    let no = status.conditions.iter().flatten().find(|c| matches!(&*c.type_, "Denied" | "Failed"));
    if let Some(no) = no {
        return Some(Err(no.message.clone().unwrap_or_else(|| no.type_.clone())));
    }
    let pem = status.certificate.as_ref().filter(|pem| !pem.0.is_empty())?;
    Some(String::from_utf8(pem.0.clone()).map_err(|e| e.to_string()))
}

fn explain(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if status.code == 401 => {
            "the server does not know it: the token has expired, or was deleted".into()
        }
        kube::Error::Api(status) => status.message.into(),
        other => crate::cli::chain(&other).into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_a_certificate_or_a_refusal() {
        let csr = |status: serde_json::Value| -> CertificateSigningRequest {
            let spec = json!({"request": "", "signerName": ""});
            serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": status})).unwrap()
        };
        assert_eq!(answer(&csr(json!(null))), None);
        assert_eq!(
            answer(&csr(json!({"conditions": [{"type": "Approved", "status": "True"}]}))),
            None
        );
        let denied = json!({"conditions": [{"type": "Denied", "status": "True", "message": "no"}]});
        assert_eq!(answer(&csr(denied)), Some(Err("no".into())));
        assert_eq!(answer(&csr(json!({"certificate": "UEVN"}))), Some(Ok("PEM".into())));
    }

    #[test]
    fn the_request_is_what_the_signer_takes() {
        let key = KeyPair::generate().unwrap();
        let csr = wanted("n1", &key).unwrap();
        let pem = String::from_utf8(csr.spec.request.0).unwrap();
        assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
        let read = rcgen::CertificateSigningRequestParams::from_pem(&pem).unwrap();
        let name = read.params.distinguished_name;
        assert_eq!(
            name.get(&DnType::CommonName).map(|n| format!("{n:?}")).unwrap(),
            r#"Utf8String("system:node:n1")"#
        );
    }
}
