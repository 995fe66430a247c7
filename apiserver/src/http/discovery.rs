//! What there is: groups, versions, resources, in the old form and the aggregated one (D1-D4).

use axum::response::Response;
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::{Call, accept, json_value, route::Route};
use crate::registry::{ApiError, Catalog, Kind, kind::Subresource};

/// Answers `/api`, `/apis` and what is right below.
pub(super) fn serve(call: &Call, route: &Route) -> Result<Response, ApiError> {
    let kinds = &call.state.registry.kinds();
    let document = match route {
        Route::Core => match aggregated_version(call) {
            Some(version) => return Ok(aggregated(call, kinds, version, &[""])),
            None => json!({
                "kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": [],
            }),
        },
        Route::Groups => match aggregated_version(call) {
            Some(version) => return Ok(aggregated(call, kinds, version, &named_groups(kinds))),
            None => json!({
                "kind": "APIGroupList", "apiVersion": "v1",
                "groups": named_groups(kinds).into_iter().map(|name| group(kinds, name, false)).collect::<Value>(),
            }),
        },
        Route::Group(name) => group(kinds, name, true),
        Route::Resources { group, version } => resources(kinds, group, version),
        _ => return Err(ApiError::UnknownPath),
    };
    Ok(json_value(StatusCode::OK, &document))
}

/// The groups with a name, each once, in the order of the kinds.
fn named_groups(kinds: &Catalog) -> Vec<&'static str> {
    let mut groups = distinct(kinds.all().map(|kind| kind.group));
    groups.retain(|group| !group.is_empty());
    groups
}

/// Each word once, where it first stands.
fn distinct(words: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut seen = Vec::new();
    for word in words {
        if !seen.contains(&word) {
            seen.push(word);
        }
    }
    seen
}

fn versions(kinds: &Catalog, group: &str) -> Vec<&'static str> {
    let of_group = kinds.all().filter(|kind| kind.group == group);
    distinct(of_group.map(|kind| kind.version))
}

fn group(kinds: &Catalog, name: &str, alone: bool) -> Value {
    let versions: Vec<Value> = versions(kinds, name)
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    let mut group = json!({
        "name": name, "versions": versions, "preferredVersion": versions.first(),
    });
    if alone {
        group["kind"] = json!("APIGroup");
        group["apiVersion"] = json!("v1");
    }
    group
}

fn resources(kinds: &Catalog, group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for kind in kinds.of_version(group, version) {
        let mut resource = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": kind.verbs,
        });
        if !kind.short_names.is_empty() {
            resource["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            resource["categories"] = json!(kind.categories);
        }
        resources.push(resource);
        for sub in kind.subresources {
            let (_, _, name) = body_kind(kind, sub);
            let mut resource = json!({
                "name": format!("{}/{}", kind.plural, sub.name), "singularName": "",
                "namespaced": kind.namespaced, "kind": name, "verbs": sub.verbs,
            });
            if let Some((group, version, _)) = sub.body
                && !group.is_empty()
            {
                resource["group"] = json!(group);
                resource["version"] = json!(version);
            }
            resources.push(resource);
        }
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": group_version, "resources": resources,
    })
}

fn body_kind(kind: &Kind, sub: &Subresource) -> (&'static str, &'static str, &'static str) {
    sub.body.unwrap_or((kind.group, kind.version, kind.kind))
}

/// The version of the aggregated form the client prefers, if it takes it at all (D3).
fn aggregated_version(call: &Call) -> Option<&'static str> {
    for clause in accept::clauses(call.header(header::ACCEPT)) {
        if !clause.takes_json() {
            continue;
        }
        let discovery = clause.parameter("g") == Some("apidiscovery.k8s.io")
            && clause.parameter("as") == Some("APIGroupDiscoveryList");
        match (discovery, clause.parameter("v")) {
            (true, Some("v2")) => return Some("v2"),
            (true, Some("v2beta1")) => return Some("v2beta1"),
            (false, _) if clause.parameter("as").is_none() => return None,
            _ => {}
        }
    }
    None
}

fn aggregated(call: &Call, kinds: &Catalog, version: &'static str, groups: &[&str]) -> Response {
    let items: Vec<Value> = groups
        .iter()
        .map(|group| aggregated_group(kinds, group))
        .collect();
    let document = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items,
    })
    .to_string();
    // Clients choose the decoder by this media type, not by what they asked for.
    let media_type = match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    super::tagged(call, media_type, document.into())
}

fn aggregated_group(kinds: &Catalog, group: &str) -> Value {
    let versions: Vec<Value> = versions(kinds, group)
        .into_iter()
        .map(|version| {
            let resources: Vec<Value> = kinds
                .of_version(group, version)
                .map(aggregated_resource)
                .collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let response_kind = |(group, version, kind): (&str, &str, &str)| json!({"group": group, "version": version, "kind": kind});
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": response_kind((kind.group, kind.version, kind.kind)),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    if !kind.subresources.is_empty() {
        let subresources = kind.subresources.iter().map(|sub| {
            json!({
                "subresource": sub.name, "verbs": sub.verbs,
                "responseKind": response_kind(body_kind(kind, sub)),
            })
        });
        resource["subresources"] = subresources.collect();
    }
    resource
}
