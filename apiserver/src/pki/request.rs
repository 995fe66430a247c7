//! Requests for certificates (PKCS #10, RFC 2986), and the client certificates (RFC 5280) they lead to.
//!
//! Encoded here and not by the library that makes our own certificates: that one keeps one organization of a name, and the
//! organizations are a user's groups.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use rcgen::{PKCS_ECDSA_P256_SHA256, SigningKey as _};
use time::OffsetDateTime;
use x509_parser::{
    certification_request::X509CertificationRequest,
    pem::parse_x509_pem,
    prelude::{FromDer as _, X509Certificate},
};
use yasna::{
    DERWriter, Tag, construct_der,
    models::{GeneralizedTime, ObjectIdentifier, UTCTime},
};

use super::{Authority, PkiError};

/// For clients whose clock is behind.
const BACKDATED: SignedDuration = SignedDuration::from_mins(5);

/// `id-ce-basicConstraints` and its likes (RFC 5280 section 4.2.1).
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
const AUTHORITY_KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 35];
/// `id-kp-clientAuth`.
const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];
/// `ecdsa-with-SHA256` (RFC 5758): the CA's key is ECDSA P-256.
const ECDSA_WITH_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];

/// A request whose author has the key it names.
#[derive(Debug)]
pub struct CertificateRequest {
    /// A Name in DER.
    subject: Vec<u8>,
    /// A SubjectPublicKeyInfo in DER.
    public_key: Vec<u8>,
    organizations: Vec<String>,
}

impl CertificateRequest {
    /// Reads a PEM text.
    ///
    /// # Errors
    /// Why it is no request, or not its author's.
    pub fn from_pem(text: &[u8]) -> Result<Self, &'static str> {
        let (_, pem) = parse_x509_pem(text).map_err(|_| NOT_PEM)?;
        if pem.label != "CERTIFICATE REQUEST" {
            return Err(NOT_PEM);
        }
        let parsed = X509CertificationRequest::from_der(&pem.contents);
        let (rest, request) = parsed.map_err(|_| "its PEM block holds no certificate request")?;
        if !rest.is_empty() {
            return Err("something follows the certificate request in its PEM block");
        }
        if request.verify_signature().is_err() {
            return Err("its signature does not fit its key, or is of an unknown algorithm");
        }
        let info = &request.certification_request_info;
        let organizations = info.subject.iter_organization();
        let texts: Result<_, _> = organizations
            .map(|name| name.as_str().map(str::to_owned))
            .collect();
        Ok(Self {
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            organizations: texts.map_err(|_| "an organization of its subject is no text")?,
        })
    }

    /// The organizations of its subject: the groups its author wants to be of.
    #[must_use]
    pub fn organizations(&self) -> &[String] {
        &self.organizations
    }
}

const NOT_PEM: &str = "PEM block type must be CERTIFICATE REQUEST";

/// What a client certificate is to be.
#[derive(Clone, Copy, Debug)]
pub struct ClientCertificate<'a> {
    /// Whose.
    pub request: &'a CertificateRequest,
    /// Whether it says that its key may encrypt keys, beside signing.
    pub key_encipherment: bool,
    /// How long it holds from now on, the CA permitting.
    pub lifetime: SignedDuration,
}

impl Authority {
    /// A client certificate in PEM, of the subject and key that were asked for.
    pub(super) fn sign_client(
        &self,
        wanted: ClientCertificate<'_>,
        now: Timestamp,
    ) -> Result<String, PkiError> {
        let failed = |source| PkiError::Make {
            what: "client",
            source,
        };
        // Not ours, then: somebody put it there.
        if !self.issuer.key().is_compatible(&PKCS_ECDSA_P256_SHA256) {
            return Err(failed(rcgen::Error::UnsupportedSignatureAlgorithm));
        }
        let (_, ca) = X509Certificate::from_der(&self.der)
            .map_err(|_| failed(rcgen::Error::CouldNotParseCertificate))?;
        let until = (now + wanted.lifetime)
            .as_second()
            .min(ca.validity().not_after.timestamp());
        let from = (now - BACKDATED).as_second();
        let signed = construct_der(|writer| {
            writer.write_sequence(|fields| {
                let version_3 = 2;
                fields
                    .next()
                    .write_tagged(Tag::context(0), |writer| writer.write_u8(version_3));
                fields.next().write_bigint_bytes(&serial(), true);
                algorithm(fields.next());
                fields.next().write_der(ca.subject().as_raw());
                fields.next().write_sequence(|validity| {
                    write_time(validity.next(), from);
                    write_time(validity.next(), until);
                });
                fields.next().write_der(&wanted.request.subject);
                fields.next().write_der(&wanted.request.public_key);
                fields.next().write_tagged(Tag::context(3), |writer| {
                    extensions(writer, wanted.key_encipherment, &key_identifier(&ca));
                });
            });
        });
        let signature = self.issuer.key().sign(&signed).map_err(failed)?;
        let certificate = construct_der(|writer| {
            writer.write_sequence(|fields| {
                fields.next().write_der(&signed);
                algorithm(fields.next());
                fields
                    .next()
                    .write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(pem(&certificate))
    }
}

/// 16 random bytes that make a positive number (RFC 5280 section 4.1.2.2).
fn serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

fn algorithm(writer: DERWriter<'_>) {
    writer.write_sequence(|fields| fields.next().write_oid(&oid(ECDSA_WITH_SHA256)));
}

fn oid(parts: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(parts)
}

/// From 2050 on times have another form (RFC 5280 section 4.1.2.5).
fn write_time(writer: DERWriter<'_>, second: i64) {
    let time = OffsetDateTime::from_unix_timestamp(second).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    if time.year() < 2050 {
        writer.write_utctime(&UTCTime::from_datetime(time));
    } else {
        writer.write_generalized_time(&GeneralizedTime::from_datetime(time));
    }
}

/// What the CA calls its key; empty if it has no word for it.
fn key_identifier(ca: &X509Certificate<'_>) -> Vec<u8> {
    use x509_parser::extensions::ParsedExtension;
    let mut extensions = ca.extensions().iter();
    let found = extensions.find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
        _ => None,
    });
    found.unwrap_or_default()
}

fn extensions(writer: DERWriter<'_>, key_encipherment: bool, ca_key: &[u8]) {
    // Bits are counted from the highest: digitalSignature is 0, keyEncipherment is 2.
    let (usage, bits) = if key_encipherment {
        (0b1010_0000, 3)
    } else {
        (0b1000_0000, 1)
    };
    writer.write_sequence(|all| {
        let mut add = |id: &[u64], critical: bool, value: Vec<u8>| {
            all.next().write_sequence(|fields| {
                fields.next().write_oid(&oid(id));
                if critical {
                    fields.next().write_bool(true);
                }
                fields.next().write_bytes(&value);
            });
        };
        let usage = construct_der(|writer| writer.write_bitvec_bytes(&[usage], bits));
        add(KEY_USAGE, true, usage);
        let purposes = construct_der(|writer| {
            writer.write_sequence(|purposes| purposes.next().write_oid(&oid(CLIENT_AUTH)));
        });
        add(EXTENDED_KEY_USAGE, false, purposes);
        // Nothing said is: no CA.
        let constraints = construct_der(|writer| writer.write_sequence(|_| {}));
        add(BASIC_CONSTRAINTS, true, constraints);
        if !ca_key.is_empty() {
            let identifier = construct_der(|writer| {
                writer.write_sequence(|fields| {
                    let tag = Tag::context(0);
                    fields
                        .next()
                        .write_tagged_implicit(tag, |writer| writer.write_bytes(ca_key));
                });
            });
            add(AUTHORITY_KEY_IDENTIFIER, false, identifier);
        }
    });
}

/// RFC 7468.
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|&byte| char::from(byte)));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}
