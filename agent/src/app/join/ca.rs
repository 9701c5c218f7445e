//! How a node recognises its cluster: the server shows its certificate with the CA's behind it, and the CA must have the
//! digest that the token says and must have signed the certificate.

use std::sync::{Arc, Mutex};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring::default_provider};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;

use crate::cli::Failure;

/// The CA's certificate, shown by the server and recognised.
pub(super) async fn fetch(host: &str, port: u16, pin: [u8; 32]) -> Result<Vec<u8>, Failure> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned())?;
    let provider = Arc::new(default_provider());
    let verifier = Arc::new(Pinned { pin, provider: provider.clone(), found: Mutex::new(None) });
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    let stream = TcpStream::connect((host, port)).await?;
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let found = verifier.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    found.ok_or_else(|| "the server showed no CA".into())
}

/// The digest that pins a CA (PEM).
pub(super) fn digest(pem: &str) -> Option<[u8; 32]> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    Some(Sha256::digest(&der).into())
}

pub(super) fn pem(der: &[u8]) -> String {
    use std::fmt::Write;
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----");
    for (i, group) in der.chunks(3).enumerate() {
        if i % 16 == 0 {
            text.push('\n');
        }
        let bits = group
            .iter()
            .enumerate()
            .fold(0u32, |bits, (n, b)| bits | u32::from(*b) << (16 - 8 * n));
        for n in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * n)) as usize & 63];
            text.push(if n <= group.len() { char::from(digit) } else { '=' });
        }
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n-----END CERTIFICATE-----");
    text
}

/// Accepts a server whose certificate is signed by the CA with this digest.
#[derive(Debug)]
struct Pinned {
    pin: [u8; 32],
    provider: Arc<CryptoProvider>,
    found: Mutex<Option<Vec<u8>>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_pinned = |ca: &&CertificateDer<'_>| Sha256::digest(ca)[..] == self.pin[..];
        let ca = intermediates.iter().find(is_pinned).ok_or_else(|| {
            rustls::Error::General("the server is not the one that the token was made by".into())
        })?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|e| rustls::Error::General(e.to_string()))?;
        let verified =
            verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)?;
        *self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(ca.to_vec());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    struct Ca {
        der: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    fn ca() -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).unwrap().der().clone();
        Ca { der, issuer: Issuer::new(params, key) }
    }

    fn verify(pinned: &Ca, signer: &Ca, shown: &Ca, name: &str) -> bool {
        let params = CertificateParams::new(vec!["server".to_owned()]).unwrap();
        let cert = params.signed_by(&KeyPair::generate().unwrap(), &signer.issuer).unwrap();
        let mut pin = [0; 32];
        pin.copy_from_slice(&Sha256::digest(&pinned.der));
        let provider = Arc::new(default_provider());
        let verifier = Pinned { pin, provider, found: Mutex::new(None) };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier
            .verify_server_cert(
                cert.der(),
                std::slice::from_ref(&shown.der),
                &name,
                &[],
                UnixTime::now(),
            )
            .is_ok()
    }

    #[test]
    fn only_the_server_of_the_token_is_trusted() {
        let (ours, other) = (ca(), ca());
        assert!(verify(&ours, &ours, &ours, "server"));
        assert!(!verify(&ours, &other, &other, "server"), "another CA");
        assert!(!verify(&ours, &other, &ours, "server"), "our CA shown, another signed");
        assert!(!verify(&ours, &ours, &ours, "elsewhere"), "another name");
    }

    #[test]
    fn pem_is_read_back() {
        for len in [1, 2, 3, 47, 48, 49, 500] {
            let der: Vec<u8> = (0..len).map(|i| (i * 7 % 256) as u8).collect();
            let read = CertificateDer::from_pem_slice(pem(&der).as_bytes()).unwrap();
            assert_eq!(read.as_ref(), der);
        }
    }
}
