//! `Impersonate-*` headers: somebody acts as somebody else (U8). They are honoured or refused, never ignored: ignoring one
//! would lend the caller's own rights to another name.
//! Source: kubernetes/kubernetes staging/src/k8s.io/apiserver/pkg/endpoints/filters/impersonation.go.

use std::collections::BTreeMap;

use http::HeaderMap;

use super::{
    AUTHENTICATED, Attributes, Authorizer, Decision, SERVICE_ACCOUNT_PREFIX, UNAUTHENTICATED, User,
    service_account::check::{SERVICE_ACCOUNTS_GROUP, namespace_group},
};
use crate::{http::query::decode, registry::ApiError};

const PREFIX: &str = "impersonate-";
const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
/// The group of the resources `uids` and `userextras`.
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The caller as whom the request is made: `user` itself without such headers.
///
/// # Errors
/// [`ApiError::Forbidden`] for callers who may not act as this user, in this group, with this uid or with this further
/// property: each is a right of its own. [`ApiError::BadRequest`] for anything without a user, and unknown headers.
pub async fn effective(
    authorizer: &dyn Authorizer,
    user: &User,
    headers: &HeaderMap,
) -> Result<User, ApiError> {
    let Some(asked) = wanted(headers)? else {
        return Ok(user.clone());
    };
    for attributes in rights(&asked) {
        let decision = authorizer.authorize(user, &attributes).await;
        if let Decision::Deny(reason) = decision {
            return Err(refused(user, &attributes, &reason));
        }
    }
    Ok(completed(asked))
}

/// Who the headers ask for; `None` when there are none.
fn wanted(headers: &HeaderMap) -> Result<Option<User>, ApiError> {
    let named = headers.keys().map(http::HeaderName::as_str);
    let mut named = named.filter(|name| name.starts_with(PREFIX)).peekable();
    let Some(&first) = named.peek() else {
        return Ok(None);
    };
    let texts = |name: &str| -> Result<Vec<String>, ApiError> {
        let values = headers.get_all(name).iter();
        let text = |value: &http::HeaderValue| value.to_str().map(str::to_owned);
        let unreadable = |_| ApiError::BadRequest(format!("header {name} is not plain text"));
        values
            .map(text)
            .collect::<Result<_, _>>()
            .map_err(unreadable)
    };
    let one = |name: &str| -> Result<String, ApiError> {
        Ok(texts(name)?.into_iter().next().unwrap_or_default())
    };
    let mut extra = BTreeMap::new();
    for name in named {
        if let Some(key) = name.strip_prefix(EXTRA) {
            extra.insert(decode(key, false), texts(name)?);
        } else if !matches!(name, USER | GROUP | UID) {
            let message = format!("header {name} is not known");
            return Err(ApiError::BadRequest(message));
        }
    }
    let user = User {
        name: one(USER)?,
        groups: texts(GROUP)?,
        uid: one(UID)?,
        extra,
    };
    if user.name.is_empty() {
        return Err(ApiError::BadRequest(format!(
            "requested {first} without impersonating a user: set Impersonate-User too"
        )));
    }
    Ok(Some(user))
}

/// What the caller must be allowed to do, one right for each property.
fn rights(asked: &User) -> Vec<Attributes<'_>> {
    let named = |resource, name| Attributes {
        verb: "impersonate",
        resource,
        name: Some(name),
        ..Attributes::default()
    };
    let mut rights = vec![match service_account(&asked.name) {
        Some((namespace, name)) => Attributes {
            namespace: Some(namespace),
            ..named("serviceaccounts", name)
        },
        None => named("users", &asked.name),
    }];
    rights.extend(asked.groups.iter().map(|group| named("groups", group)));
    if !asked.uid.is_empty() {
        rights.push(Attributes {
            group: AUTHENTICATION,
            ..named("uids", &asked.uid)
        });
    }
    for (key, values) in &asked.extra {
        rights.extend(values.iter().map(|value| Attributes {
            group: AUTHENTICATION,
            subresource: key,
            ..named("userextras", value)
        }));
    }
    rights
}

/// Namespace and name of the ServiceAccount a user name is of.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    let plain = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
    plain.then_some((namespace, name))
}

/// The user with the groups it would have by its own credentials.
fn completed(mut user: User) -> User {
    if let Some((namespace, _)) = service_account(&user.name)
        && user.groups.is_empty()
    {
        user.groups = vec![SERVICE_ACCOUNTS_GROUP.into(), namespace_group(namespace)];
    }
    let own = if user.name == User::anonymous().name {
        UNAUTHENTICATED
    } else {
        AUTHENTICATED
    };
    if !user.in_group(AUTHENTICATED) && !user.in_group(UNAUTHENTICATED) {
        user.groups.push(own.to_owned());
    }
    user
}

fn refused(user: &User, wanted: &Attributes<'_>, reason: &str) -> ApiError {
    let (resource, group) = (wanted.resource, wanted.group);
    let name = wanted.name.unwrap_or_default();
    let full = match wanted.subresource {
        "" => resource.to_owned(),
        subresource => format!("{resource}/{subresource}"),
    };
    let kind = match group {
        "" => resource.to_owned(),
        group => format!("{resource}.{group}"),
    };
    let scope = match wanted.namespace {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".to_owned(),
    };
    let mut message = format!(
        "{kind} \"{name}\" is forbidden: User \"{}\" cannot impersonate resource \"{full}\" in API group \"{group}\" {scope}",
        user.name
    );
    if !reason.is_empty() {
        message = format!("{message}: {reason}");
    }
    ApiError::Forbidden {
        message,
        resource: resource.to_owned(),
        group: group.to_owned(),
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use api::rbac::PolicyRule;
    use async_trait::async_trait;

    use super::*;

    /// Resource, subresource, namespace, name.
    type Right = (&'static str, &'static str, &'static str, &'static str);

    const JANE: Right = ("users", "", "", "jane");

    /// Allows what is in the list.
    struct Only(&'static [Right]);

    #[async_trait]
    impl Authorizer for Only {
        async fn authorize(&self, _: &User, asked: &Attributes<'_>) -> Decision {
            assert_eq!(asked.verb, "impersonate");
            let row = (
                asked.resource,
                asked.subresource,
                asked.namespace.unwrap_or_default(),
                asked.name.unwrap_or_default(),
            );
            match self.0.contains(&row) {
                true => Decision::allow(),
                false => Decision::Deny(String::new()),
            }
        }

        fn rules(&self, _: &User, _: Option<&str>) -> Vec<PolicyRule> {
            Vec::new()
        }
    }

    fn user(name: &str, groups: &[&str]) -> User {
        User {
            name: name.into(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            ..User::default()
        }
    }

    async fn act(rights: Only, pairs: &[(&'static str, &'static str)]) -> Result<User, ApiError> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        effective(&rights, &user("helper", &["h"]), &headers).await
    }

    #[tokio::test]
    async fn u8_without_the_headers_callers_are_themselves() {
        let got = act(Only(&[]), &[("user-agent", "x")]).await.unwrap();
        assert_eq!(got, user("helper", &["h"]));
    }

    #[tokio::test]
    async fn u8_callers_become_somebody_else_with_that_ones_properties_only() {
        let all = Only(&[
            ("users", "", "", "jane"),
            ("users", "", "", "system:anonymous"),
            ("groups", "", "", "a"),
            ("groups", "", "", "b"),
            ("uids", "", "", "7"),
            ("userextras", "acme.com/team", "", "x"),
            ("userextras", "acme.com/team", "", "y"),
            ("serviceaccounts", "", "ns", "robot"),
        ]);
        let jane = act(
            Only(all.0),
            &[
                (USER, "jane"),
                (GROUP, "a"),
                (GROUP, "b"),
                (UID, "7"),
                ("impersonate-extra-acme.com%2fteam", "x"),
                ("impersonate-extra-acme.com%2fteam", "y"),
            ],
        );
        let wanted = User {
            uid: "7".into(),
            extra: [("acme.com/team".into(), vec!["x".into(), "y".into()])].into(),
            ..user("jane", &["a", "b", AUTHENTICATED])
        };
        assert_eq!(jane.await.unwrap(), wanted);
        let robot = "system:serviceaccount:ns:robot";
        let groups = [
            "system:serviceaccounts",
            "system:serviceaccounts:ns",
            AUTHENTICATED,
        ];
        let got = act(Only(all.0), &[(USER, robot)]).await.unwrap();
        assert_eq!(got, user(robot, &groups));
        let got = act(Only(all.0), &[(USER, "system:anonymous")])
            .await
            .unwrap();
        assert_eq!(got, User::anonymous());
    }

    #[tokio::test]
    async fn u8_each_property_is_a_right_of_its_own() {
        type Case = (Only, &'static [(&'static str, &'static str)], u16);
        let cases: [Case; 10] = [
            (Only(&[]), &[(USER, "jane")], 403),
            (Only(&[]), &[(USER, "")], 400),
            (Only(&[JANE]), &[(USER, "jack")], 403),
            (
                Only(&[JANE]),
                &[(USER, "jane"), (GROUP, "system:masters")],
                403,
            ),
            (Only(&[JANE]), &[(USER, "jane"), (UID, "1")], 403),
            (
                Only(&[JANE]),
                &[(USER, "jane"), ("impersonate-extra-a", "1")],
                403,
            ),
            // Values of one key are rights of their own too.
            (
                Only(&[JANE, ("userextras", "a", "", "1")]),
                &[
                    (USER, "jane"),
                    ("impersonate-extra-a", "1"),
                    ("impersonate-extra-a", "2"),
                ],
                403,
            ),
            // A ServiceAccount is none of the users.
            (
                Only(&[("users", "", "", "system:serviceaccount:ns:robot")]),
                &[(USER, "system:serviceaccount:ns:robot")],
                403,
            ),
            (
                Only(&[JANE]),
                &[(USER, "jane"), ("impersonate-other", "1")],
                400,
            ),
            (Only(&[("groups", "", "", "a")]), &[(GROUP, "a")], 400),
        ];
        for (rights, headers, wanted) in cases {
            let error = act(rights, headers).await.unwrap_err();
            assert_eq!(error.code_and_reason().0, wanted, "{headers:?}: {error}");
        }
    }
}
