//! The server's certificate, and who a client is by its own.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::cli::Failure;

/// Who holds this group may ask everything; nobody else may ask anything. The API server's client
/// certificate for nodes has it.
const MASTERS: &str = "system:masters";

/// TLS with the server certificate given and optional client certificates of the cluster's CA.
pub(super) fn config(
    cert: &str,
    key: &str,
    client_ca: &str,
) -> Result<rustls::ServerConfig, Failure> {
    let provider = Arc::new(default_provider());
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(client_ca.as_bytes()) {
        roots.add(ca.map_err(|e| format!("read cluster CA: {e}"))?)?;
    }
    // Without a certificate there is still /healthz.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            chain.map_err(|e| format!("read node certificate: {e}"))?,
            key.map_err(|e| format!("read node key: {e}"))?,
        )?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// May the holder of this (verified) certificate use the server?
pub(super) fn is_master(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let mut groups = parsed.subject().iter_organization();
    groups.any(|group| group.as_str().is_ok_and(|group| group == MASTERS))
}

/// A certificate and key (PEM) for a node whose control plane gives it none.
pub(crate) fn self_signed(node: &str, address: IpAddr) -> Result<(String, String), rcgen::Error> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(vec![node.to_owned(), address.to_string()])?;
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(groups: &[&str]) -> rcgen::Certificate {
        let mut params = rcgen::CertificateParams::default();
        for group in groups {
            params.distinguished_name.push(rcgen::DnType::OrganizationName, *group);
        }
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn only_masters_may() {
        assert!(is_master(certificate(&[MASTERS]).der()));
        assert!(!is_master(certificate(&["system:nodes"]).der()));
        assert!(!is_master(certificate(&[]).der()));
        assert!(!is_master(&CertificateDer::from(vec![1, 2, 3])));
    }

    #[test]
    fn a_self_signed_certificate_serves() {
        let (cert, key) = self_signed("n1", [127, 0, 0, 1].into()).unwrap();
        config(&cert, &key, &cert).unwrap();
        assert!(config(&cert, "no key", &cert).is_err());
    }
}
