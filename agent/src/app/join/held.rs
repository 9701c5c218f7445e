//! The node's certificate, key and CA: in memory, and in `<data-dir>/pki`, readable by root only.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use kube::Client;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::cli::Failure;

/// Certificate and key in one file: never one without the other.
const PAIR: &str = "node-client.pem";
const CA: &str = "node-ca.crt";

/// Both PEM.
#[derive(Clone)]
pub(super) struct Keypair {
    pub(super) certificate: String,
    pub(super) key: String,
}

#[derive(Clone)]
pub(super) struct Held {
    pub(super) pair: Keypair,
    /// PEM.
    pub(super) ca: String,
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

impl Held {
    /// The certificate must be this node's.
    pub(super) fn new(pair: Keypair, ca: String, node: &str) -> Result<Self, Failure> {
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes())
            .map_err(|e| format!("read the node's certificate: {e}"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|e| format!("read the node's certificate: {e}"))?;
        let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        if name != Some(&format!("system:node:{node}")) {
            let of = name.unwrap_or("nobody");
            return Err(format!("the node's certificate is of {of:?}, not of node {node:?}").into());
        }
        let validity = parsed.validity();
        let from = Timestamp::from_second(validity.not_before.timestamp())?;
        let until = Timestamp::from_second(validity.not_after.timestamp())?;
        Ok(Self { pair, ca, from, until })
    }

    pub(super) fn load(pki: &Path, node: &str) -> Result<Option<Self>, Failure> {
        let (Some(both), Some(ca)) = (read(&pki.join(PAIR))?, read(&pki.join(CA))?) else {
            return Ok(None);
        };
        const KEY: &str = "-----BEGIN PRIVATE KEY-----";
        let Some(at) = both.find(KEY) else {
            return Err(format!("{:?} has no key", pki.join(PAIR)).into());
        };
        let (certificate, key) = both.split_at(at);
        let pair = Keypair { certificate: certificate.to_owned(), key: key.to_owned() };
        Self::new(pair, ca, node).map(Some)
    }

    pub(super) fn save(&self, pki: &Path) -> Result<(), Failure> {
        std::fs::create_dir_all(pki).map_err(|e| format!("make directory {pki:?}: {e}"))?;
        // The CA first: a certificate without one is not looked at.
        write(&pki.join(CA), &self.ca)?;
        let both = format!("{}\n{}", self.pair.certificate.trim_end(), self.pair.key);
        write(&pki.join(PAIR), &both)
    }

    pub(super) fn client(&self, url: &http::Uri) -> Result<Client, Failure> {
        let ca = CertificateDer::from_pem_slice(self.ca.as_bytes());
        let ca = ca.map_err(|e| format!("read the cluster's CA: {e}"))?;
        let mut config = kube::Config::new(url.clone());
        config.root_cert = Some(vec![ca.to_vec()]);
        config.auth_info.client_certificate_data = Some(STANDARD.encode(&self.pair.certificate));
        config.auth_info.client_key_data = Some(STANDARD.encode(&self.pair.key).into());
        Ok(Client::try_from(config)?)
    }
}

fn read(path: &PathBuf) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("read {path:?}: {e}").into()),
    }
}

/// All of it or nothing, there after a power cut; temporary files are readable by their owner only.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    Ok(write().map_err(|e| format!("write {path:?}: {e}"))?)
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A certificate that is its own CA.
    pub(crate) fn held(node: &str) -> Held {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 11);
        let certificate = params.self_signed(&key).unwrap().pem();
        let pair = Keypair { certificate: certificate.clone(), key: key.serialize_pem() };
        Held::new(pair, certificate, node).unwrap()
    }

    #[test]
    fn what_was_saved_is_found_again_by_its_node_only() {
        let dir = tempfile::tempdir().unwrap();
        let pki = dir.path().join("pki");
        assert!(Held::load(&pki, "n").unwrap().is_none());
        let held = held("n");
        assert_eq!(held.until.duration_since(held.from).as_hours(), 240);
        held.save(&pki).unwrap();
        let found = Held::load(&pki, "n").unwrap().unwrap();
        assert_eq!((found.pair.key, found.until), (held.pair.key.clone(), held.until));
        let mode = std::fs::metadata(pki.join(PAIR)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let why = Held::load(&pki, "other").err().unwrap().to_string();
        assert!(why.contains("system:node:n"), "{why}");
        std::fs::write(pki.join(PAIR), &held.pair.certificate).unwrap();
        assert!(Held::load(&pki, "n").is_err(), "a certificate without a key");
    }
}
