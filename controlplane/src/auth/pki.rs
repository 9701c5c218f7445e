//! The cluster's own certificate authority. Its key and certificate are the only ones kept; everything it signs
//! is signed anew at each start.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;

use super::signer::Signer;

/// Years that the authority and what it signs are valid.
const YEARS: i32 = 10;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{doing} {path:?}: {cause}")]
    File { doing: &'static str, path: PathBuf, cause: std::io::Error },
    #[error("sign certificate of {subject:?}: {cause}")]
    Sign { subject: String, cause: rcgen::Error },
    #[error("read certificate authority {path:?}: {cause}")]
    Authority { path: PathBuf, cause: rcgen::Error },
    #[error("decode certificate: {0}")]
    Pem(rustls::pki_types::pem::Error),
    #[error("configure TLS: {0}")]
    Tls(String),
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Pair {
    pub fn certificate_der(&self) -> Result<CertificateDer<'static>, PkiError> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(PkiError::Pem)
    }

    fn key_der(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(PkiError::Pem)
    }
}

pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Pki {
    /// Reads `pki/` under `data_dir`, making it when absent.
    pub fn open(data_dir: &Path) -> Result<Self, PkiError> {
        let dir = data_dir.join("pki");
        make_directory(&dir)?;
        let (key_path, path) = (dir.join("ca.key"), dir.join("ca.crt"));
        // The certificate is written last: a key without one is of a start that was cut short.
        if !path.exists() {
            let (certificate, key) = authority()?;
            write(&key_path, &key)?;
            write(&path, &certificate)?;
        }
        let broken = |cause| PkiError::Authority { path: path.clone(), cause };
        let certificate = read(&path)?;
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(broken)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(broken)?;
        Ok(Self { issuer, certificate })
    }

    pub fn ca_pem(&self) -> &str {
        &self.certificate
    }

    /// The authority as signers hold it.
    pub fn signer(&self) -> Result<Signer, PkiError> {
        let failed = |why| PkiError::Tls(format!("the certificate authority cannot sign: {why}"));
        Signer::new(&self.certificate, &self.issuer.key().serialize_pem()).map_err(failed)
    }

    /// For a component or person: CN is the user, O the groups.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Pair, PkiError> {
        let mut params = leaf(user, ExtendedKeyUsagePurpose::ClientAuth);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        self.sign(user, &params)
    }

    pub fn server(&self, name: &str, ips: &[IpAddr], names: &[String]) -> Result<Pair, PkiError> {
        let mut params = leaf(name, ExtendedKeyUsagePurpose::ServerAuth);
        let mut ips = ips.to_vec();
        ips.sort_unstable();
        ips.dedup();
        params.subject_alt_names = ips.into_iter().map(SanType::IpAddress).collect();
        for name in names {
            let name = name.as_str().try_into();
            let name = name.map_err(|cause| PkiError::Sign { subject: name_of(&params), cause })?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        self.sign(name, &params)
    }

    fn sign(&self, subject: &str, params: &CertificateParams) -> Result<Pair, PkiError> {
        let failed = |cause| PkiError::Sign { subject: subject.into(), cause };
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// TLS as the API server speaks it: client certificates are welcome, not required.
    pub fn server_config(&self, pair: &Pair) -> Result<rustls::ServerConfig, PkiError> {
        let authority = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        let authority = authority.map_err(PkiError::Pem)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).map_err(tls)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider())
            .allow_unauthenticated()
            .build()
            .map_err(tls)?;
        // The authority goes along, so that a joining node can compare it with what its token says.
        let chain = vec![pair.certificate_der()?, authority];
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, pair.key_der()?)
            .map_err(tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// TLS as the API server speaks it to nodes: it shows its certificate and takes theirs unseen, since other
    /// agents sign their own.
    pub fn node_client_config(&self) -> Result<rustls::ClientConfig, PkiError> {
        let pair = self.client("kube-apiserver-kubelet-client", &["system:masters"])?;
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(provider())))
            .with_client_auth_cert(vec![pair.certificate_der()?], pair.key_der()?)
            .map_err(tls)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn name_of(params: &CertificateParams) -> String {
    format!("{:?}", params.distinguished_name.get(&DnType::CommonName))
}

fn tls(error: impl std::fmt::Display) -> PkiError {
    PkiError::Tls(error.to_string())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn dated(params: &mut CertificateParams) {
    let today: Date = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let day = |date: Date| {
        let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
        rcgen::date_time_ymd(i32::from(date.year()), month, day)
    };
    // Clocks of nodes may be behind.
    params.not_before = day(today.saturating_sub(1.day()));
    params.not_after = day(today.saturating_add(YEARS.years()));
}

fn leaf(name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    dated(&mut params);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params
}

fn authority() -> Result<(String, String), PkiError> {
    let failed = |cause| PkiError::Sign { subject: "kobune-ca".into(), cause };
    let mut params = CertificateParams::default();
    dated(&mut params);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "kobune-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// A private key, PEM.
pub(super) fn new_key() -> Result<String, PkiError> {
    let failed = |cause| PkiError::Sign { subject: "service accounts".into(), cause };
    Ok(KeyPair::generate().map_err(failed)?.serialize_pem())
}

pub(super) fn make_directory(dir: &Path) -> Result<(), PkiError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|cause| PkiError::File { doing: "create directory", path: dir.into(), cause })
}

pub(super) fn read(path: &Path) -> Result<String, PkiError> {
    std::fs::read_to_string(path).map_err(|cause| PkiError::File {
        doing: "read",
        path: path.into(),
        cause,
    })
}

/// All of it or nothing, readable by root only, there after a power cut.
pub(super) fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    let failed = |doing| move |cause| PkiError::File { doing, path: path.to_path_buf(), cause };
    let new = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&new).map_err(failed("create"))?;
    file.write_all(text.as_bytes()).map_err(failed("write"))?;
    file.sync_all().map_err(failed("sync"))?;
    std::fs::rename(&new, path).map_err(failed("rename"))
}

/// Takes any certificate, but not a handshake by somebody without its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_authority_stays() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::open(dir.path()).unwrap();
        let second = Pki::open(dir.path()).unwrap();
        assert_eq!(first.ca_pem(), second.ca_pem());
        for file in ["pki/ca.key", "pki/ca.crt"] {
            let mode = std::fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }
}
