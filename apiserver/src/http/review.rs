//! Answers to questions about who somebody is and what they may do (U6).
//! Source: kubernetes/kubernetes pkg/registry/authorization, pkg/apis/authorization/validation/validation.go.

use std::collections::BTreeMap;

use axum::response::Response;
use http::{StatusCode, header};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Call, accept, json_value, resource::object_body, route::Target};
use crate::{
    auth::{Attributes, Decision, User, service_account::TokenError},
    registry::{
        ApiError, Causes, Kind,
        kinds::{
            LOCAL_SUBJECT_ACCESS_REVIEWS, SELF_SUBJECT_ACCESS_REVIEWS, SELF_SUBJECT_REVIEWS,
            SELF_SUBJECT_RULES_REVIEWS, TOKEN_REVIEWS, items, text_at,
        },
    },
};

/// What a review asks about. Absent and `null` fields are empty: the schema has been checked.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    resource_attributes: Option<Resource>,
    non_resource_attributes: Option<Path>,
    user: String,
    groups: Vec<String>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
    namespace: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Resource {
    namespace: String,
    verb: String,
    group: String,
    resource: String,
    subresource: String,
    name: String,
    field_selector: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Path {
    path: String,
    verb: String,
}

/// Answers a review.
pub(super) async fn answer(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    accept::shape(call.header(header::ACCEPT), false)?;
    let kind = target.kind;
    let (mut review, _) = object_body(call, kind).await?;
    crate::registry::meta::match_path(kind, target.namespace.as_deref(), None, &mut review)?;
    if *kind == TOKEN_REVIEWS {
        review["status"] = token(call, &review["spec"]).await?;
        return Ok(json_value(StatusCode::CREATED, &review));
    }
    let mut spec = review["spec"].clone();
    crate::registry::object::drop_nulls(&mut spec);
    let spec = match spec {
        Value::Null => Spec::default(),
        spec => serde_json::from_value(spec)
            .map_err(|error| ApiError::BadRequest(format!("spec: {error}")))?,
    };
    review["status"] = if *kind == SELF_SUBJECT_REVIEWS {
        json!({"userInfo": user_info(&call.user)})
    } else if *kind == SELF_SUBJECT_RULES_REVIEWS {
        rules(call, &spec)?
    } else {
        access(call, target, spec).await?
    };
    Ok(json_value(StatusCode::CREATED, &review))
}

/// A caller as authentication.k8s.io writes it.
pub(super) fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// Whose token this is. One that nobody here made is an answer, not an error.
async fn token(call: &Call, spec: &Value) -> Result<Value, ApiError> {
    let token = text_at(spec, &["token"]);
    if token.is_empty() {
        let message = "token is required for TokenReview in authentication";
        return Err(ApiError::BadRequest(message.into()));
    }
    let audiences = items(&spec["audiences"]).iter();
    let audiences = audiences.filter_map(|audience| audience.as_str().map(str::to_owned));
    let audiences: Vec<String> = audiences.collect();
    let state = &call.state;
    let now = Timestamp::now();
    let known = state
        .tokens
        .authenticate(&state.registry, token, &audiences, now);
    Ok(match known.await {
        Ok((user, audiences)) => json!({
            "authenticated": true, "user": user_info(&user), "audiences": audiences,
        }),
        Err(TokenError::Store(error)) => return Err(error),
        Err(error) => json!({"user": {}, "error": error.to_string()}),
    })
}

async fn access(call: &Call, target: &Target, spec: Spec) -> Result<Value, ApiError> {
    check(target.kind, target.namespace.as_deref(), &spec)?;
    let user = if *target.kind == SELF_SUBJECT_ACCESS_REVIEWS {
        call.user.clone()
    } else {
        User {
            name: spec.user,
            groups: spec.groups,
            uid: spec.uid,
            extra: spec.extra,
        }
    };
    let resource = spec.resource_attributes.unwrap_or_default();
    let path = spec.non_resource_attributes.unwrap_or_default();
    let selector = resource.field_selector.as_ref().map(selector);
    fn given(text: &str) -> Option<&str> {
        Some(text).filter(|text| !text.is_empty())
    }
    let attributes = if path.verb.is_empty() && path.path.is_empty() {
        Attributes {
            verb: &resource.verb,
            group: &resource.group,
            // An empty resource would be a path.
            resource: given(&resource.resource).unwrap_or("-"),
            subresource: &resource.subresource,
            namespace: given(&resource.namespace),
            name: given(&resource.name),
            field_selector: selector.as_deref(),
            path: "",
        }
    } else {
        Attributes {
            verb: &path.verb,
            path: &path.path,
            ..Attributes::default()
        }
    };
    let authorizer = &call.state.authorizer;
    Ok(match authorizer.authorize(&user, &attributes).await {
        Decision::Allow(reason) if reason.is_empty() => json!({"allowed": true}),
        Decision::Allow(reason) => json!({"allowed": true, "reason": reason}),
        Decision::Deny(reason) if reason.is_empty() => json!({"allowed": false}),
        Decision::Deny(reason) => json!({"allowed": false, "reason": reason}),
    })
}

/// A field selector as a query has it.
fn selector(selector: &Value) -> String {
    let raw = text_at(selector, &["rawSelector"]);
    if !raw.is_empty() {
        return raw.to_owned();
    }
    let requirements = items(&selector["requirements"]).iter();
    let only = requirements.filter_map(|requirement| {
        let [value] = items(&requirement["values"]) else {
            return None;
        };
        let operator = match text_at(requirement, &["operator"]) {
            "In" => "=",
            "NotIn" => "!=",
            _ => return None,
        };
        let key = text_at(requirement, &["key"]);
        Some(format!("{key}{operator}{}", value.as_str()?))
    });
    only.collect::<Vec<_>>().join(",")
}

fn check(kind: &'static Kind, namespace: Option<&str>, spec: &Spec) -> Result<(), ApiError> {
    let mut causes = Causes::default();
    let (resource, path) = (&spec.resource_attributes, &spec.non_resource_attributes);
    let either = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
    match (resource, path) {
        (Some(_), Some(_)) => causes.invalid(
            "spec.nonResourceAttributes",
            "",
            "cannot be specified in combination with resourceAttributes",
        ),
        (None, None) => causes.invalid("spec.resourceAttributes", Value::Null, either),
        _ => {}
    }
    let own = *kind == SELF_SUBJECT_ACCESS_REVIEWS;
    if !own && spec.user.is_empty() && spec.groups.is_empty() {
        let detail = "at least one of user or group must be specified";
        causes.invalid("spec.user", "", detail);
    }
    if *kind == LOCAL_SUBJECT_ACCESS_REVIEWS {
        if path.is_some() {
            let detail = "disallowed on this kind of request";
            causes.invalid("spec.nonResourceAttributes", "", detail);
        }
        let asked = resource
            .as_ref()
            .map(|resource| resource.namespace.as_str());
        if asked.is_some_and(|asked| Some(asked) != namespace) {
            let detail = "must match metadata.namespace";
            causes.invalid(
                "spec.resourceAttributes.namespace",
                asked.unwrap_or_default(),
                detail,
            );
        }
    }
    causes.into_result(kind, "")
}

fn rules(call: &Call, spec: &Spec) -> Result<Value, ApiError> {
    if spec.namespace.is_empty() {
        return Err(ApiError::BadRequest("no namespace on request".into()));
    }
    let rules = call
        .state
        .authorizer
        .rules(&call.user, Some(&spec.namespace));
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in &rules {
        let value = serde_json::to_value(rule).expect("rules are plain values");
        if rule.non_resource_urls.is_empty() {
            resources.push(value);
        } else {
            paths.push(value);
        }
    }
    let mut status = json!({
        "resourceRules": resources, "nonResourceRules": paths, "incomplete": false,
    });
    if call.user.node().is_some() {
        status["incomplete"] = json!(true);
        status["evaluationError"] = json!("node authorizer does not support user rule resolution");
    }
    Ok(status)
}
