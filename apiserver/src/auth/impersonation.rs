//! `Impersonate-*` headers: an administrator acts as somebody else (U8). They are honoured or refused, never ignored:
//! ignoring one would lend the administrator's rights to another name.

use http::HeaderMap;

use super::{AUTHENTICATED, User};
use crate::registry::ApiError;

const PREFIX: &str = "impersonate-";
const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";

/// The caller as whom the request is made.
///
/// # Errors
/// [`ApiError::Forbidden`] for callers who may not impersonate, and for what cannot be impersonated;
/// [`ApiError::BadRequest`] for groups without a user.
pub fn effective(user: &User, headers: &HeaderMap) -> Result<User, ApiError> {
    let asked = || {
        headers
            .keys()
            .filter(|name| name.as_str().starts_with(PREFIX))
    };
    let Some(first) = asked().next() else {
        return Ok(user.clone());
    };
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let name = text(USER).unwrap_or_default();
    if !user.is_master() {
        return Err(refused(user, "users", name));
    }
    if let Some(other) = asked().find(|name| !matches!(name.as_str(), USER | GROUP)) {
        return Err(refused(user, "userextras", other.as_str()));
    }
    if name.is_empty() {
        return Err(ApiError::BadRequest(format!(
            "requested {first} without impersonating a user: set Impersonate-User too"
        )));
    }
    let groups = headers.get_all(GROUP).iter();
    let mut groups: Vec<String> = groups
        .filter_map(|group| group.to_str().ok().map(str::to_owned))
        .collect();
    let anonymous = User::anonymous();
    let own = if name == anonymous.name {
        anonymous.groups[0].clone()
    } else {
        AUTHENTICATED.to_owned()
    };
    if !groups.contains(&own) {
        groups.push(own);
    }
    Ok(User {
        name: name.to_owned(),
        groups,
        ..User::default()
    })
}

fn refused(user: &User, resource: &str, name: &str) -> ApiError {
    ApiError::Forbidden {
        message: format!(
            "{resource} \"{name}\" is forbidden: User \"{}\" cannot impersonate resource \"{resource}\" in API group \
             \"\" at the cluster scope",
            user.name
        ),
        resource: resource.to_owned(),
        group: String::new(),
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::MASTERS;

    fn user(name: &str, groups: &[&str]) -> User {
        User {
            name: name.into(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            ..User::default()
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn without_the_headers_callers_are_themselves() {
        let jane = user("jane", &[]);
        assert_eq!(effective(&jane, &headers(&[])).unwrap(), jane);
    }

    #[test]
    fn an_administrator_acts_as_somebody_else_with_that_ones_groups_only() {
        let admin = user("minik-admin", &[MASTERS]);
        let asked = headers(&[(USER, "jane"), (GROUP, "a"), (GROUP, "b")]);
        let wanted = user("jane", &["a", "b", AUTHENTICATED]);
        assert_eq!(effective(&admin, &asked).unwrap(), wanted);
    }

    #[test]
    fn others_and_other_headers_are_refused() {
        let admin = user("minik-admin", &[MASTERS]);
        let code = |user: &User, pairs: &[_]| {
            effective(user, &headers(pairs))
                .unwrap_err()
                .code_and_reason()
                .0
        };
        assert_eq!(code(&user("jane", &[]), &[(USER, "minik-admin")]), 403);
        assert_eq!(
            code(&admin, &[(USER, "jane"), ("impersonate-uid", "1")]),
            403
        );
        assert_eq!(
            code(&admin, &[(USER, "jane"), ("impersonate-extra-a", "1")]),
            403
        );
        assert_eq!(code(&admin, &[(GROUP, "a")]), 400);
    }
}
