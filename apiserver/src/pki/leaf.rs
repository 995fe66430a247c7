//! Certificates signed by the CA: what they say, and when they must be made anew.

use std::{net::IpAddr, path::Path};

use jiff::{Timestamp, ToSpan as _, civil::Date, tz::TimeZone};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, SanType,
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{
    Authority, LEAF_YEARS, PkiError, ServerNames, client_usage,
    files::{self, Access},
    new_key, set_validity,
};

/// A certificate with its key, both in PEM.
#[derive(Clone)]
pub struct Leaf {
    /// The certificate.
    pub certificate_pem: String,
    /// The key, PKCS #8.
    pub key_pem: String,
}

/// What a certificate is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    what: &'static str,
    common_name: String,
    organization: Option<&'static str>,
    names: ServerNames,
    usage: Vec<ExtendedKeyUsagePurpose>,
}

/// The server's certificate.
pub(super) fn server(names: &ServerNames) -> Template {
    let mut names = names.clone();
    names.dns.sort();
    names.dns.dedup();
    names.ips.sort();
    names.ips.dedup();
    Template {
        what: "server",
        common_name: "minik-server".into(),
        organization: None,
        names,
        usage: vec![ExtendedKeyUsagePurpose::ServerAuth],
    }
}

/// The administrator's certificate.
pub(super) fn admin() -> Template {
    Template {
        what: "administrator's",
        common_name: "minik-admin".into(),
        organization: Some("system:masters"),
        names: ServerNames::default(),
        usage: client_usage(),
    }
}

/// A node's certificate.
pub(super) fn node(name: &str) -> Template {
    Template {
        what: "node's",
        common_name: format!("system:node:{name}"),
        organization: Some("system:nodes"),
        names: ServerNames::default(),
        usage: client_usage(),
    }
}

impl Template {
    /// The template in rcgen's terms.
    pub(super) fn params(&self, today: Date) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, self.common_name.as_str());
        if let Some(organization) = self.organization {
            params
                .distinguished_name
                .push(DnType::OrganizationName, organization);
        }
        let dns = self.names.dns.iter().filter_map(|name| {
            let name = name.as_str().try_into().ok()?;
            Some(SanType::DnsName(name))
        });
        let ips = self.names.ips.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names = dns.chain(ips).collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages.clone_from(&self.usage);
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, today, LEAF_YEARS);
        params
    }
}

/// Reads `dir/name.{crt,key}`, and makes them anew when they are missing, outdated or not what the template says.
pub(super) fn open(
    dir: &Path,
    name: &str,
    ca: &Authority,
    template: Template,
    today: Date,
) -> Result<Leaf, PkiError> {
    let certificate_path = dir.join(name).with_extension("crt");
    let key_path = dir.join(name).with_extension("key");
    if let (Some(certificate_pem), Some(key_pem)) =
        (files::read(&certificate_path)?, files::read(&key_path)?)
        && is_current(&certificate_pem, &key_pem, ca, &template.names, today)
    {
        return Ok(Leaf {
            certificate_pem,
            key_pem,
        });
    }
    let key = new_key(template.what)?;
    let certificate = template
        .params(today)
        .signed_by(&key, &ca.issuer)
        .map_err(|source| PkiError::Make {
            what: template.what,
            source,
        })?;
    let leaf = Leaf {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    };
    files::write(&key_path, &leaf.key_pem, Access::Secret)?;
    files::write(&certificate_path, &leaf.certificate_pem, Access::Public)?;
    Ok(leaf)
}

/// Whether a certificate can go on being used: its own key, our CA, the same names, and a year left.
fn is_current(pem: &str, key_pem: &str, ca: &Authority, names: &ServerNames, today: Date) -> bool {
    let check = || {
        let der = pem_to_der(pem)?;
        let key = KeyPair::from_pem(key_pem).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let (_, issuer) = X509Certificate::from_der(&ca.der).ok()?;
        let signed = certificate
            .verify_signature(Some(issuer.public_key()))
            .is_ok();
        let needed_until = today
            .saturating_add(1.year())
            .to_zoned(TimeZone::UTC)
            .ok()?
            .timestamp();
        let ends = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
        Some(
            belongs(&der, &key)
                && signed
                && ends > needed_until
                && names_of(&certificate)? == *names,
        )
    };
    check().unwrap_or(false)
}

fn names_of(certificate: &X509Certificate<'_>) -> Option<ServerNames> {
    let mut names = ServerNames::default();
    if let Some(extension) = certificate.subject_alternative_name().ok()? {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => names.ips.push(ip(bytes)?),
                _ => return None,
            }
        }
    }
    names.dns.sort();
    names.ips.sort();
    Some(names)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// Whether `key` is the key of this certificate.
pub(super) fn belongs(der: &[u8], key: &KeyPair) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
        certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
    })
}

/// The first certificate of a PEM text.
pub(super) fn pem_to_der(pem: &str) -> Option<Vec<u8>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    (pem.label == "CERTIFICATE").then_some(pem.contents)
}
