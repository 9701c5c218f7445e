//! Signs what was approved: the cluster's authority, as the controller of certificates holds it.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::request::{self, Authority, Request, Terms, Usages};

/// How long a certificate is good at most, as upstream's `--cluster-signing-duration`.
const LONGEST: Duration = Duration::from_secs(365 * 86400);
const SHORTEST: Duration = Duration::from_secs(600);
/// Clocks of others may be behind.
const BEFORE: Duration = Duration::from_secs(300);

pub struct Signer {
    key: KeyPair,
    name: Vec<u8>,
    key_id: Vec<u8>,
    until: Timestamp,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer until {}", self.until)
    }
}

impl Signer {
    /// Of an authority's certificate and key, both PEM. The error is for a person to read.
    pub fn new(certificate: &str, key: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(key).map_err(|e| e.to_string())?;
        let der =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| e.to_string())?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|e| e.to_string())?;
        let until = Timestamp::from_second(parsed.validity().not_after.timestamp());
        let key_id =
            parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
        Ok(Self {
            key,
            name: parsed.subject().as_raw().to_vec(),
            key_id: key_id.ok_or("the authority's certificate does not identify its key")?,
            until: until.map_err(|e| e.to_string())?,
        })
    }

    /// A certificate, PEM; `wish` is how long it should be good.
    pub(crate) fn issue(
        &self,
        request: &Request,
        usages: Usages,
        wish: Option<Duration>,
        serial: [u8; 16],
        now: Timestamp,
    ) -> Result<String, rcgen::Error> {
        let lifetime = wish.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST);
        let until = (now + lifetime).min(self.until);
        let terms = Terms { serial, from: now - BEFORE, until, usages };
        let authority = Authority { name: &self.name, key_id: &self.key_id, key: &self.key };
        Ok(pem(&request::sign(request, &terms, &authority)?))
    }
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, SanType};

    use super::*;

    /// An authority and its certificate.
    pub(crate) fn signer() -> (Signer, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test-ca");
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        let pem = params.self_signed(&key).unwrap().pem();
        (Signer::new(&pem, &key.serialize_pem()).unwrap(), pem)
    }

    /// A request of a new key, PEM.
    pub(crate) fn request(name: &str, organization: &str, names: &[&str]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            });
        }
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_certificate_says_what_the_request_and_the_signer_say() {
        let (signer, ca) = signer();
        let asked = request("system:node:n", "system:nodes", &["n.example", "192.0.2.1"]);
        let asked = Request::parse(asked.as_bytes()).unwrap();
        assert_eq!(asked.organizations, ["system:nodes"]);
        assert_eq!((asked.dns_names.len(), asked.addresses.len()), (1, 1));
        let usages = Usages { signature: true, encipherment: true, client: false, server: true };
        let now = at(1_800_000_000);
        let hour = Some(Duration::from_secs(3600));
        let pem = signer.issue(&asked, usages, hour, [0xff; 16], now).unwrap();
        request::check_chain(pem.as_bytes()).unwrap();
        assert_eq!(request::expiry(pem.as_bytes()), Some(now + Duration::from_secs(3600)));
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (rest, found) = X509Certificate::from_der(&der).unwrap();
        assert!(rest.is_empty());
        let ca = CertificateDer::from_pem_slice(ca.as_bytes()).unwrap();
        let (_, ca) = X509Certificate::from_der(&ca).unwrap();
        found.verify_signature(Some(ca.public_key())).unwrap();
        assert_eq!(found.issuer(), ca.subject());
        assert_eq!(found.subject().to_string(), "CN=system:node:n, O=system:nodes");
        let usage = found.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
        let purposes = found.extended_key_usage().unwrap().unwrap().value;
        assert!(purposes.server_auth && !purposes.client_auth);
        assert!(!found.is_ca());
        let names = found.subject_alternative_name().unwrap().unwrap().value;
        assert_eq!(names.general_names.len(), 2);
    }

    #[test]
    fn none_is_good_for_longer_than_a_year_or_the_authority() {
        let (signer, _) = signer();
        let asked = Request::parse(request("x", "y", &[]).as_bytes()).unwrap();
        let usages = Usages { signature: true, encipherment: false, client: true, server: false };
        let until = |wish: u64, now| {
            let wish = Some(Duration::from_secs(wish));
            let pem = signer.issue(&asked, usages, wish, [1; 16], now).unwrap();
            request::expiry(pem.as_bytes()).unwrap()
        };
        let now = at(1_800_000_000);
        assert_eq!(until(1, now), now + SHORTEST);
        assert_eq!(until(u64::from(u32::MAX), now), now + LONGEST);
        let late = signer.until - Duration::from_secs(1000);
        assert_eq!(until(86400, late), signer.until);
    }

    #[test]
    fn requests_that_are_not_are_told_so() {
        let good = request("x", "y", &[]);
        assert!(Request::parse(good.as_bytes()).is_ok());
        let other = good.replace("CERTIFICATE REQUEST", "CERTIFICATE");
        assert!(Request::parse(other.as_bytes()).unwrap_err().contains("block type"));
        assert!(Request::parse(b"").is_err());
        // One bit of the signature.
        let der = x509_parser::pem::Pem::iter_from_buffer(good.as_bytes()).next().unwrap().unwrap();
        let mut bytes = der.contents;
        *bytes.last_mut().unwrap() ^= 1;
        let forged = pem(&bytes).replace("CERTIFICATE", "CERTIFICATE REQUEST");
        assert!(Request::parse(forged.as_bytes()).unwrap_err().contains("signed"));
    }
}
