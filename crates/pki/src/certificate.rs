//! The layout of X.509 certificates and certificate requests.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::key::ECDSA_WITH_SHA256;
use crate::usage::Encoding;
use crate::{PkiError, PrivateKey, Usage, der};

const COMMON_NAME: &[u32] = &[2, 5, 4, 3];
const ORGANIZATION: &[u32] = &[2, 5, 4, 10];
const EXTENSION_REQUEST: &[u32] = &[1, 2, 840, 113549, 1, 9, 14];
const SUBJECT_KEY_IDENTIFIER: &[u32] = &[2, 5, 29, 14];
const KEY_USAGE: &[u32] = &[2, 5, 29, 15];
const SUBJECT_ALTERNATIVE_NAME: &[u32] = &[2, 5, 29, 17];
const BASIC_CONSTRAINTS: &[u32] = &[2, 5, 29, 19];
const AUTHORITY_KEY_IDENTIFIER: &[u32] = &[2, 5, 29, 35];
const EXTENDED_KEY_USAGE: &[u32] = &[2, 5, 29, 37];

/// Whom a certificate is about: for a client certificate, the user and the groups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// CN, the user.
    pub common_name: String,
    /// O, one per group.
    pub organizations: Vec<String>,
}

impl Subject {
    /// A subject from a user and its groups.
    pub fn new(common_name: impl Into<String>, organizations: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { common_name: common_name.into(), organizations: organizations.into_iter().map(Into::into).collect() }
    }

    pub(crate) fn to_der(&self) -> Vec<u8> {
        let attribute = |identifier: &[u32], text: &str| der::sequence(&[&der::object_identifier(identifier), &der::utf8_string(text)]);
        let mut parts = Vec::new();
        for organization in &self.organizations {
            parts.push(der::set(&[&attribute(ORGANIZATION, organization)]));
        }
        if !self.common_name.is_empty() {
            parts.push(der::set(&[&attribute(COMMON_NAME, &self.common_name)]));
        }
        der::value(0x30, &parts.concat())
    }
}

/// The names and addresses a server certificate is good for. Sorted and without repetition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AlternativeNames {
    /// DNS names; may start with `*.`.
    pub dns: BTreeSet<String>,
    /// IP addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// E-mail addresses. Only ever found in requests.
    pub emails: BTreeSet<String>,
    /// URIs. Only ever found in requests.
    pub uris: BTreeSet<String>,
}

impl AlternativeNames {
    /// Sorts texts into addresses and DNS names.
    pub fn from_hosts(hosts: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut names = Self::default();
        for host in hosts {
            match host.as_ref().parse() {
                Ok(address) => names.addresses.insert(address),
                Err(_) => names.dns.insert(host.as_ref().to_owned()),
            };
        }
        names
    }

    /// No name at all.
    pub fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.addresses.is_empty() && self.emails.is_empty() && self.uris.is_empty()
    }

    /// Has every name of `others`.
    pub fn covers(&self, others: &Self) -> bool {
        self.dns.is_superset(&others.dns)
            && self.addresses.is_superset(&others.addresses)
            && self.emails.is_superset(&others.emails)
            && self.uris.is_superset(&others.uris)
    }

    fn to_der(&self) -> Vec<u8> {
        let mut content = Vec::new();
        content.extend(self.emails.iter().flat_map(|email| der::value(0x81, email.as_bytes())));
        content.extend(self.dns.iter().flat_map(|name| der::value(0x82, name.as_bytes())));
        content.extend(self.uris.iter().flat_map(|uri| der::value(0x86, uri.as_bytes())));
        content.extend(self.addresses.iter().flat_map(|address| match address {
            IpAddr::V4(address) => der::value(0x87, &address.octets()),
            IpAddr::V6(address) => der::value(0x87, &address.octets()),
        }));
        der::value(0x30, &content)
    }
}

/// Everything that goes into a certificate. Names are DER, so that those of a request stay as they were.
pub(crate) struct Template<'a> {
    pub subject: &'a [u8],
    pub issuer: &'a [u8],
    pub public_key_info: &'a [u8],
    /// The issuer's key identifier; a CA's own goes into its certificate too.
    pub issuer_key_identifier: &'a [u8],
    pub names: &'a AlternativeNames,
    pub usages: &'a [Usage],
    pub is_authority: bool,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Template<'_> {
    /// Lays the certificate out and signs it.
    pub fn sign(&self, key: &PrivateKey) -> Result<Vec<u8>, PkiError> {
        let mut serial = [0u8; 16];
        SystemRandom::new().fill(&mut serial).map_err(|_| PkiError::Cryptography("read random bytes"))?;
        // 127 random bits behind a set bit: never zero, always positive, always as long.
        if let Some(first) = serial.first_mut() {
            *first = *first & 0x7f | 0x40;
        }
        let algorithm = der::sequence(&[&der::object_identifier(ECDSA_WITH_SHA256)]);
        let mut extensions = Vec::new();
        if self.is_authority {
            extensions.push(extension(BASIC_CONSTRAINTS, true, &der::sequence(&[&der::boolean_true()])));
            extensions.push(extension(SUBJECT_KEY_IDENTIFIER, false, &der::octet_string(self.issuer_key_identifier)));
        } else {
            extensions.push(extension(BASIC_CONSTRAINTS, true, &der::sequence(&[])));
            let identifier = der::sequence(&[&der::value(0x80, self.issuer_key_identifier)]);
            extensions.push(extension(AUTHORITY_KEY_IDENTIFIER, false, &identifier));
        }
        let subject_is_empty = self.subject == der::sequence(&[]);
        extensions.extend(requested_extensions(self.names, self.usages, subject_is_empty));
        let to_be_signed = der::sequence(&[
            &der::value(0xa0, &der::unsigned_integer(&[2])),
            &der::unsigned_integer(&serial),
            &algorithm,
            self.issuer,
            &der::sequence(&[&der::time(self.not_before), &der::time(self.not_after)]),
            self.subject,
            self.public_key_info,
            &der::value(0xa3, &der::value(0x30, &extensions.concat())),
        ]);
        let signature = key.sign_certificate(&to_be_signed)?;
        Ok(der::sequence(&[&to_be_signed, &algorithm, &der::bit_string(&signature)]))
    }
}

/// Lays a certificate request (PKCS#10) out and signs it with the key it is for.
pub(crate) fn sign_request(subject: &Subject, names: &AlternativeNames, usages: &[Usage], key: &PrivateKey) -> Result<Vec<u8>, PkiError> {
    let extensions = requested_extensions(names, usages, false);
    let attributes = if extensions.is_empty() {
        Vec::new()
    } else {
        der::sequence(&[&der::object_identifier(EXTENSION_REQUEST), &der::set(&[&der::value(0x30, &extensions.concat())])])
    };
    let information = der::sequence(&[
        &der::unsigned_integer(&[0]),
        &subject.to_der(),
        &key.public_key_info(),
        &der::value(0xa0, &attributes),
    ]);
    let signature = key.sign_certificate(&information)?;
    let algorithm = der::sequence(&[&der::object_identifier(ECDSA_WITH_SHA256)]);
    Ok(der::sequence(&[&information, &algorithm, &der::bit_string(&signature)]))
}

/// The extensions that a request may ask for: names and usages.
fn requested_extensions(names: &AlternativeNames, usages: &[Usage], subject_is_empty: bool) -> Vec<Vec<u8>> {
    let mut bits = 0;
    let mut identifiers: Vec<&[u32]> = Vec::new();
    for usage in usages {
        match usage.encoding() {
            Encoding::Bit(bit) => bits |= bit,
            Encoding::Identifier(identifier) if identifiers.contains(&identifier) => {}
            Encoding::Identifier(identifier) => identifiers.push(identifier),
        }
    }
    let mut extensions = Vec::new();
    if bits != 0 {
        extensions.push(extension(KEY_USAGE, true, &der::named_bits(bits)));
    }
    if !identifiers.is_empty() {
        let content: Vec<u8> = identifiers.iter().flat_map(|identifier| der::object_identifier(identifier)).collect();
        extensions.push(extension(EXTENDED_KEY_USAGE, false, &der::value(0x30, &content)));
    }
    if !names.is_empty() {
        extensions.push(extension(SUBJECT_ALTERNATIVE_NAME, subject_is_empty, &names.to_der()));
    }
    extensions
}

fn extension(identifier: &[u32], critical: bool, content: &[u8]) -> Vec<u8> {
    let critical = if critical { der::boolean_true() } else { Vec::new() };
    der::sequence(&[&der::object_identifier(identifier), &critical, &der::octet_string(content)])
}

/// Reads a certificate's or request's alternative names.
pub(crate) fn read_alternative_names(
    extension: &x509_parser::extensions::SubjectAlternativeName<'_>,
    what: &'static str,
) -> Result<AlternativeNames, PkiError> {
    use x509_parser::extensions::GeneralName;
    let mut names = AlternativeNames::default();
    for name in &extension.general_names {
        match name {
            GeneralName::DNSName(name) => names.dns.insert((*name).to_owned()),
            GeneralName::RFC822Name(email) => names.emails.insert((*email).to_owned()),
            GeneralName::URI(uri) => names.uris.insert((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let address = match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                    (Ok(four), _) => IpAddr::from(four),
                    (_, Ok(sixteen)) => IpAddr::from(sixteen),
                    _ => return Err(PkiError::malformed(what, format!("an IP address has {} bytes", bytes.len()))),
                };
                names.addresses.insert(address)
            }
            other => return Err(PkiError::malformed(what, format!("alternative name {other:?} is not supported"))),
        };
    }
    Ok(names)
}

/// Reads CN and O of a name.
pub(crate) fn read_subject(name: &x509_parser::x509::X509Name<'_>, what: &'static str) -> Result<Subject, PkiError> {
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().map(str::to_owned).map_err(|error| PkiError::malformed(what, format!("its subject is not text: {error}")))
    };
    Ok(Subject {
        // Like Go, which Kubernetes is written in: the last CN counts.
        common_name: name.iter_common_name().last().map(text).transpose()?.unwrap_or_default(),
        organizations: name.iter_organization().map(text).collect::<Result<_, _>>()?,
    })
}
