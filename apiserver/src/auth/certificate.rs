//! Client certificates: the common name is the user, the organizations are the groups (U1).

use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{AUTHENTICATED, User};

/// The caller a verified certificate names; `None` when it names nobody.
#[must_use]
pub fn user(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let organizations = subject.iter_organization();
    let mut groups: Vec<String> = organizations
        .filter_map(|organization| organization.as_str().ok().map(str::to_owned))
        .collect();
    groups.push(AUTHENTICATED.into());
    Some(User {
        name,
        groups,
        ..User::default()
    })
}
