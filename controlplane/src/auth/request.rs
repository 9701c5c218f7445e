//! A request for a certificate (PKCS#10), read and checked; and the certificate that answers it.
//!
//! Subject, key and names are passed on as the bytes that the request has, so that nothing is lost that this program does not
//! know. Everything else a request wishes is not looked at: what a certificate may be used for is the signer's to say.

use std::net::IpAddr;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rcgen::SigningKey;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};
use yasna::models::ObjectIdentifier;
use yasna::tags::{TAG_GENERALIZEDTIME, TAG_UTCTIME};
use yasna::{DERWriter, Tag};

/// A request whose key has signed it.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) common_name: String,
    pub(crate) organizations: Vec<String>,
    pub(crate) dns_names: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
    /// E-mail addresses, URIs and whatever else there is to be called.
    pub(crate) other_names: usize,
    subject: Vec<u8>,
    key: Vec<u8>,
    /// The value of the extension subjectAltName; empty when it has none.
    names: Vec<u8>,
}

impl Request {
    /// The error says what is wrong, for a person to read.
    pub(crate) fn parse(pem: &[u8]) -> Result<Self, String> {
        let mut blocks = Pem::iter_from_buffer(pem);
        let block = match blocks.next() {
            Some(Ok(block)) if block.label == "CERTIFICATE REQUEST" => block,
            _ => return Err("PEM block type must be CERTIFICATE REQUEST".into()),
        };
        let (rest, csr) = X509CertificationRequest::from_der(&block.contents)
            .map_err(|e| format!("the request cannot be read: {e}"))?;
        if !rest.is_empty() {
            return Err("there is more behind the request".into());
        }
        csr.verify_signature().map_err(|_| "the request is not signed by its key".to_owned())?;
        let info = &csr.certification_request_info;
        let text = |value: Result<&str, _>| value.unwrap_or_default().to_owned();
        let mut request = Self {
            common_name: info
                .subject
                .iter_common_name()
                .next()
                .map(|n| text(n.as_str()))
                .unwrap_or_default(),
            organizations: info.subject.iter_organization().map(|o| text(o.as_str())).collect(),
            subject: info.subject.as_raw().to_vec(),
            key: info.subject_pki.raw.to_vec(),
            ..Self::default()
        };
        request.read_names(&csr)?;
        Ok(request)
    }

    fn read_names(&mut self, csr: &X509CertificationRequest<'_>) -> Result<(), String> {
        let attributes = csr.certification_request_info.iter_attributes();
        for attribute in attributes {
            let x509_parser::cri_attributes::ParsedCriAttribute::ExtensionRequest(wishes) =
                attribute.parsed_attribute()
            else {
                continue;
            };
            for extension in &wishes.extensions {
                if extension.oid != OID_X509_EXT_SUBJECT_ALT_NAME {
                    continue;
                }
                let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension()
                else {
                    return Err("the request's names cannot be read".into());
                };
                self.names = extension.value.to_vec();
                for name in &names.general_names {
                    self.read_name(name)?;
                }
            }
        }
        Ok(())
    }

    fn read_name(&mut self, name: &GeneralName<'_>) -> Result<(), String> {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let address = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                self.addresses.push(address.map_err(|_| "an address is neither IPv4 nor IPv6")?);
            }
            _ => self.other_names += 1,
        }
        Ok(())
    }
}

/// Nothing but certificates, at least one.
pub(crate) fn check_chain(pem: &[u8]) -> Result<(), String> {
    let mut count = 0;
    for der in CertificateDer::pem_slice_iter(pem) {
        let der = der.map_err(|e| e.to_string())?;
        X509Certificate::from_der(&der).map_err(|e| e.to_string())?;
        count += 1;
    }
    if count == 0 { Err("must contain at least one CERTIFICATE PEM block".into()) } else { Ok(()) }
}

/// Until when a certificate (PEM) is good.
pub(crate) fn expiry(pem: &[u8]) -> Option<Timestamp> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// What a certificate may be used for; the names are those of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usages {
    pub(crate) signature: bool,
    pub(crate) encipherment: bool,
    pub(crate) client: bool,
    pub(crate) server: bool,
}

/// Everything about a new certificate that its request does not say.
pub(crate) struct Terms {
    pub(crate) serial: [u8; 16],
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
    pub(crate) usages: Usages,
}

/// Who signs: the DER of its name, the identifier of its key, the key.
pub(crate) struct Authority<'a, K> {
    pub(crate) name: &'a [u8],
    pub(crate) key_id: &'a [u8],
    pub(crate) key: &'a K,
}

/// The certificate, DER.
pub(crate) fn sign<K: SigningKey>(
    request: &Request,
    terms: &Terms,
    authority: &Authority<'_, K>,
) -> Result<Vec<u8>, rcgen::Error> {
    let to_be_signed = yasna::construct_der(|writer| body(writer, request, terms, authority));
    let signature = authority.key.sign(&to_be_signed)?;
    Ok(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(&to_be_signed);
            algorithm(writer.next());
            writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    }))
}

/// RFC 5280, section 4.1: TBSCertificate.
fn body<K>(writer: DERWriter<'_>, request: &Request, terms: &Terms, authority: &Authority<'_, K>) {
    writer.write_sequence(|writer| {
        writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
        // A serial number is positive.
        let mut serial = terms.serial;
        serial[0] = serial[0] & 0x7f | 0x40;
        writer.next().write_bigint_bytes(&serial, true);
        algorithm(writer.next());
        writer.next().write_der(authority.name);
        writer.next().write_sequence(|writer| {
            time(writer.next(), terms.from);
            time(writer.next(), terms.until);
        });
        writer.next().write_der(&request.subject);
        writer.next().write_der(&request.key);
        writer.next().write_tagged(Tag::context(3), |writer| {
            writer.write_sequence(|writer| {
                for (oid, critical, value) in extensions(request, terms, authority.key_id) {
                    extension(writer.next(), &oid, critical, &value);
                }
            });
        });
    });
}

/// ecdsa-with-SHA256: the authority's key is one of P-256.
fn algorithm(writer: DERWriter<'_>) {
    let oid = ObjectIdentifier::from_slice(&[1, 2, 840, 10045, 4, 3, 2]);
    writer.write_sequence(|writer| writer.next().write_oid(&oid));
}

/// RFC 5280: from 2050 on in another form.
fn time(writer: DERWriter<'_>, at: Timestamp) {
    let at = at.to_zoned(TimeZone::UTC);
    let (tag, form) = match at.year() {
        1950..2050 => (TAG_UTCTIME, "%y%m%d%H%M%SZ"),
        _ => (TAG_GENERALIZEDTIME, "%Y%m%d%H%M%SZ"),
    };
    let text = at.strftime(form).to_string();
    writer.write_tagged_implicit(tag, |writer| writer.write_bytes(text.as_bytes()));
}

fn extension(writer: DERWriter<'_>, oid: &[u64], critical: bool, value: &[u8]) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&ObjectIdentifier::from_slice(oid));
        if critical {
            writer.next().write_bool(true);
        }
        writer.next().write_bytes(value);
    });
}

fn extensions(request: &Request, terms: &Terms, key_id: &[u8]) -> Vec<(Vec<u64>, bool, Vec<u8>)> {
    let Usages { signature, encipherment, client, server } = terms.usages;
    let bits = [signature, false, encipherment];
    let byte = bits.iter().enumerate().fold(0u8, |byte, (n, on)| byte | u8::from(*on) << (7 - n));
    // DER has no zeros at the end.
    let length = 8 - usize::try_from(byte.trailing_zeros()).unwrap_or(8).min(8);
    let usage = || yasna::construct_der(|w| w.write_bitvec_bytes(&[byte], length));
    let purposes = [(server, 1), (client, 2)].into_iter().filter(|(on, _)| *on);
    let purposes = yasna::construct_der(|w| {
        w.write_sequence(|w| {
            for (_, purpose) in purposes {
                let oid = [1, 3, 6, 1, 5, 5, 7, 3, purpose];
                w.next().write_oid(&ObjectIdentifier::from_slice(&oid));
            }
        });
    });
    let no_authority = yasna::construct_der(|w| w.write_sequence(|_| {}));
    let by = yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_tagged_implicit(Tag::context(0), |w| w.write_bytes(key_id))
        });
    });
    let mut all = vec![
        (vec![2, 5, 29, 37], false, purposes),
        (vec![2, 5, 29, 19], true, no_authority),
        (vec![2, 5, 29, 35], false, by),
    ];
    if byte != 0 {
        all.insert(0, (vec![2, 5, 29, 15], true, usage()));
    }
    if !request.names.is_empty() {
        all.push((vec![2, 5, 29, 17], false, request.names.clone()));
    }
    all
}
