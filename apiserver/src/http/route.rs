//! What a path means.

use super::query::decode;
use crate::registry::{Catalog, Kind, kind::Subresource, kinds};

/// An object, a collection, or something below an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The kind.
    pub kind: &'static Kind,
    /// The namespace, when the path names one.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: Option<String>,
    /// What of the object.
    pub subresource: Option<&'static Subresource>,
}

impl Target {
    /// The namespace whose roles count. A Namespace is in itself: who has a role in it may see it.
    #[must_use]
    pub fn authorized_namespace(&self) -> Option<&str> {
        if *self.kind == kinds::NAMESPACES {
            return self.name.as_deref();
        }
        self.namespace.as_deref()
    }
}

/// Everything the API serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/api/v1/…` and `/apis/<group>/<version>/…`.
    Resource(Target),
    /// `/api`.
    Core,
    /// `/apis`.
    Groups,
    /// `/apis/<group>`.
    Group(String),
    /// `/api/v1` and `/apis/<group>/<version>`.
    Resources {
        /// The group, empty for core.
        group: String,
        /// The version.
        version: String,
    },
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiV3,
    /// `/openapi/v3/api/v1` and `/openapi/v3/apis/<group>/<version>`.
    OpenApiV3Document {
        /// The group, empty for core.
        group: String,
        /// The version.
        version: String,
    },
    /// `/.well-known/openid-configuration`.
    OpenIdConfiguration,
    /// `/openid/v1/jwks`.
    OpenIdKeys,
    /// `/metrics`.
    Metrics,
    /// `/version`.
    Version,
    /// `/healthz`, `/livez`, `/readyz`, and each check below them.
    Health {
        /// Which of them.
        probe: Probe,
        /// The check that alone is asked for.
        check: Option<String>,
    },
}

/// Which health path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The process answers; the old name of the next one.
    Health,
    /// The process answers.
    Live,
    /// It can serve.
    Ready,
}

impl Probe {
    /// Its path without the slash.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Health => "healthz",
            Self::Live => "livez",
            Self::Ready => "readyz",
        }
    }
}

/// Cuts a path below `/proxy` of a Pod, Service or node in two: the object's path with `/proxy`, and what is to be passed on,
/// which is empty or begins with a slash.
#[must_use]
pub fn proxied(path: &str) -> Option<(&str, &str)> {
    let parts: Vec<&str> = path.splitn(9, '/').collect();
    let of_object = match parts.as_slice() {
        [
            "",
            "api",
            "v1",
            "namespaces",
            _,
            "pods" | "services",
            _,
            "proxy",
            ..,
        ] => 8,
        ["", "api", "v1", "nodes", _, "proxy", ..] => 6,
        _ => return None,
    };
    let words = parts[..of_object].iter().map(|part| part.len());
    Some(path.split_at(words.sum::<usize>() + of_object - 1))
}

/// Reads a path. `None` is a plain 404.
#[must_use]
pub fn parse(served: &Catalog, path: &str) -> Option<Route> {
    let path = proxied(path).map_or(path, |(object, _)| object);
    let path = path.strip_prefix('/')?;
    let path = path.strip_suffix('/').unwrap_or(path);
    let parts: Vec<String> = path.split('/').map(|part| decode(part, false)).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    // Keys are made of these: no name has a slash in it, and none is empty.
    if parts
        .iter()
        .any(|part| part.is_empty() || part.contains('/'))
    {
        return None;
    }
    Some(match parts.as_slice() {
        [probe @ ("healthz" | "livez" | "readyz"), check @ ..] if check.len() < 2 => {
            Route::Health {
                probe: match *probe {
                    "readyz" => Probe::Ready,
                    "livez" => Probe::Live,
                    _ => Probe::Health,
                },
                check: check.first().map(|&check| check.to_owned()),
            }
        }
        ["metrics"] => Route::Metrics,
        ["version"] => Route::Version,
        [".well-known", "openid-configuration"] => Route::OpenIdConfiguration,
        ["openid", "v1", "jwks"] => Route::OpenIdKeys,
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiV3,
        ["openapi", "v3", "api", version] => served_version(served, "", version)?.document(),
        ["openapi", "v3", "apis", group, version] => {
            served_version(served, group, version)?.document()
        }
        ["api"] => Route::Core,
        ["apis"] => Route::Groups,
        ["api", version] => served_version(served, "", version)?.resources(),
        ["apis", group] => (served.has_group(group) && !group.is_empty())
            .then(|| Route::Group((*group).to_owned()))?,
        ["apis", group, version] => served_version(served, group, version)?.resources(),
        ["api", version, rest @ ..] => Route::Resource(target(served, "", version, rest)?),
        ["apis", group, version, rest @ ..] => {
            Route::Resource(target(served, group, version, rest)?)
        }
        _ => return None,
    })
}

/// The path of what is watched, when this is the old form of a watch: `/api/v1/watch/…` (W14).
#[must_use]
pub fn watched(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let (head, rest) = match parts.as_slice() {
        ["api", _, "watch", rest @ ..] => (&parts[..2], rest),
        ["apis", _, _, "watch", rest @ ..] => (&parts[..3], rest),
        _ => return None,
    };
    (!rest.is_empty()).then(|| format!("/{}/{}", head.join("/"), rest.join("/")))
}

/// What a path asks of an object when that is a subresource which is not served: kind, object's name, subresource.
#[must_use]
pub fn unserved(served: &Catalog, path: &str) -> Option<(&'static Kind, String, String)> {
    let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (plural, name, subresource) = match rest {
        ["namespaces", _, plural, name, subresource, ..] => (plural, name, subresource),
        [plural, name, subresource, ..] => (plural, name, subresource),
        _ => return None,
    };
    let kind = served.find(group, version, plural)?;
    let unserved = !name.is_empty() && kind.subresource(subresource).is_none();
    unserved.then(|| (kind, decode(name, false), decode(subresource, false)))
}

struct GroupVersion(String, String);

impl GroupVersion {
    fn document(self) -> Route {
        let Self(group, version) = self;
        Route::OpenApiV3Document { group, version }
    }

    fn resources(self) -> Route {
        let Self(group, version) = self;
        Route::Resources { group, version }
    }
}

fn served_version(served: &Catalog, group: &str, version: &str) -> Option<GroupVersion> {
    let known = served.of_version(group, version).next().is_some();
    known.then(|| GroupVersion(group.to_owned(), version.to_owned()))
}

fn target(served: &Catalog, group: &str, version: &str, rest: &[&str]) -> Option<Target> {
    let (namespace, plural, rest) = match rest {
        // `/namespaces/<name>/finalize` is below the Namespace; `/namespaces/<name>/pods` is inside it.
        ["namespaces", name, sub, ..]
            if group.is_empty() && kinds::NAMESPACES.subresource(sub).is_some() =>
        {
            (None, "namespaces", &rest[1..])
        }
        ["namespaces", namespace, plural, rest @ ..] => (Some(*namespace), *plural, rest),
        [plural, rest @ ..] => (None, *plural, rest),
        [] => return None,
    };
    let kind = served.find(group, version, plural)?;
    if namespace.is_some() != kind.namespaced && (namespace.is_some() || !rest.is_empty()) {
        return None;
    }
    let (name, subresource) = match rest {
        [] => (None, None),
        [name] => (Some(*name), None),
        [name, sub] => (Some(*name), Some(kind.subresource(sub)?)),
        _ => return None,
    };
    Some(Target {
        kind,
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        subresource,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::kinds::{NAMESPACES, PODS};

    fn resource(
        path: &str,
    ) -> Option<(&'static Kind, Option<String>, Option<String>, &'static str)> {
        let Route::Resource(target) = parse(&Catalog::default(), path)? else {
            return None;
        };
        let sub = target.subresource.map_or("", |sub| sub.name);
        Some((target.kind, target.namespace, target.name, sub))
    }

    #[test]
    fn paths_name_kinds_objects_and_subresources() {
        let some = |text: &str| Some(text.to_owned());
        let cases = [
            ("/api/v1/pods", Some((&PODS, None, None, ""))),
            (
                "/api/v1/namespaces/a/pods",
                Some((&PODS, some("a"), None, "")),
            ),
            (
                "/api/v1/namespaces/a/pods/b",
                Some((&PODS, some("a"), some("b"), "")),
            ),
            (
                "/api/v1/namespaces/a/pods/b/status",
                Some((&PODS, some("a"), some("b"), "status")),
            ),
            ("/api/v1/namespaces", Some((&NAMESPACES, None, None, ""))),
            (
                "/api/v1/namespaces/a",
                Some((&NAMESPACES, None, some("a"), "")),
            ),
            (
                "/api/v1/namespaces/a/finalize",
                Some((&NAMESPACES, None, some("a"), "finalize")),
            ),
            (
                "/api/v1/namespaces/a/status",
                Some((&NAMESPACES, None, some("a"), "status")),
            ),
            ("/api/v1/namespaces/a%2Fb/pods", None),
            ("/api/v1/namespaces/a/nodes", None),
            ("/api/v1/pods/b", None),
            ("/api/v1/unknowns", None),
            ("/apis/apps/v1/pods", None),
        ];
        for (path, wanted) in cases {
            let wanted = wanted.map(|(kind, namespace, name, sub): (&'static Kind, _, _, _)| {
                (kind, namespace, name, sub)
            });
            assert_eq!(resource(path), wanted, "{path}");
        }
    }

    #[test]
    fn w14_the_old_form_of_a_watch_names_what_is_watched() {
        for (path, wanted) in [
            ("/api/v1/watch/pods", Some("/api/v1/pods")),
            (
                "/apis/apps/v1/watch/namespaces/a/deployments/b",
                Some("/apis/apps/v1/namespaces/a/deployments/b"),
            ),
            ("/api/v1/watch", None),
            ("/api/v1/namespaces/watch/pods", None),
        ] {
            assert_eq!(watched(path).as_deref(), wanted, "{path}");
        }
    }

    #[test]
    fn s11_what_is_passed_on_begins_behind_proxy() {
        let cases = [
            ("/api/v1/namespaces/a/pods/b:80/proxy", Some("")),
            ("/api/v1/namespaces/a/pods/b:80/proxy/", Some("/")),
            (
                "/api/v1/namespaces/a/services/https:b:x/proxy/c//d%2F/",
                Some("/c//d%2F/"),
            ),
            ("/api/v1/nodes/n/proxy/healthz", Some("/healthz")),
            ("/api/v1/nodes/n/proxy/a/b/c/d/e/f", Some("/a/b/c/d/e/f")),
            ("/api/v1/namespaces/proxy/pods/proxy", None),
            ("/api/v1/namespaces/a/pods/b/log", None),
        ];
        for (path, wanted) in cases {
            let got = proxied(path);
            assert_eq!(got.map(|(_, tail)| tail), wanted, "{path}");
            if let Some((object, tail)) = got {
                assert_eq!(format!("{object}{tail}"), path);
                let (_, _, _, sub) = resource(path).expect(path);
                assert_eq!(sub, "proxy", "{path}");
            }
        }
    }

    #[test]
    fn d6_unknown_paths_are_no_route() {
        for path in [
            "/",
            "/apis/apps.example.com",
            "/apis/apps/v2",
            "/api/v2",
            "/metricsx",
            "/api//v1",
        ] {
            assert_eq!(parse(&Catalog::default(), path), None, "{path}");
        }
        assert_eq!(parse(&Catalog::default(), "/apis/"), Some(Route::Groups));
    }
}
