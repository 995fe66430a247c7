//! What callers may not make of objects although they may write them: the rules that depend on who asks.

use serde_json::Value;

use super::{Call, route::Target};
use crate::{
    auth::{
        Attributes, User,
        endpoint_restriction::EndpointRestriction,
        node::restriction,
        rbac::escalation::{self, Escalation},
        signers,
    },
    registry::{
        ApiError, Kind, Part,
        kinds::{CERTIFICATE_SIGNING_REQUESTS, NODES, PODS, SERVICES, rbac::GROUP, text_at},
        meta,
    },
};

/// The rules for one write.
pub(super) struct Guard {
    user: User,
    kind: &'static Kind,
    endpoints: Option<EndpointRestriction>,
    escalation: Option<Escalation>,
    /// The request for a certificate that the caller may decide on, by its uid: another may take its name.
    decides: Option<String>,
}

impl Guard {
    /// The rules for this caller and a body that is the whole object.
    pub(super) async fn of(call: &Call, target: &Target, body: &Value) -> Result<Self, ApiError> {
        let kind = target.kind;
        let endpoints = if EndpointRestriction::concerns(kind) {
            Some(EndpointRestriction::read(&call.state.registry).await?)
        } else {
            None
        };
        let name = match &target.name {
            Some(name) => name,
            None => meta::text(body, "name"),
        };
        let (authorizer, registry) = (&*call.state.authorizer, &call.state.registry);
        let object = (kind, target.scope(), name);
        Ok(Self {
            user: call.user.clone(),
            kind,
            endpoints,
            escalation: Escalation::of(authorizer, registry, &call.user, object, body).await?,
            decides: decides(call, target).await?,
        })
    }

    /// The same for a body that says only what is to change.
    pub(super) async fn of_change(
        call: &Call,
        target: &Target,
        body: &Value,
    ) -> Result<Self, ApiError> {
        if target.kind.group != GROUP {
            return Self::of(call, target, body).await;
        }
        let registry = &call.state.registry;
        let name = target.object_name();
        let known = escalation::known(registry, target.kind, target.scope(), name, body).await;
        Self::of(call, target, &known).await
    }

    /// Whether a change is judged by what was there.
    pub(super) fn wants_old(&self, part: Part) -> bool {
        self.is_pinned(part) || self.endpoints.is_some() || self.escalation.is_some()
    }

    /// Whether a node writes what it may not make everything of.
    fn judges_node(&self, part: Part) -> bool {
        let object = *self.kind == NODES || *self.kind == PODS;
        self.user.node().is_some() && object && matches!(part, Part::Main | Part::Status)
    }

    /// Whether what is judged must be what is written to.
    fn is_pinned(&self, part: Part) -> bool {
        self.judges_node(part) || self.decides.is_some()
    }

    /// Sees to it that a replacement is of what it was judged by.
    pub(super) fn pin(&self, part: Part, old: &Value, new: &mut Value) {
        if self.is_pinned(part) && meta::text(new, "resourceVersion").is_empty() {
            let version = meta::text(old, "resourceVersion").to_owned();
            meta::metadata_mut(new).insert("resourceVersion".into(), version.into());
        }
    }

    /// Refuses what the caller may not create, or not make of what is there.
    pub(super) fn check(&self, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
        if let Some(escalation) = &self.escalation {
            escalation.check(old, new)?;
        }
        self.restrict(old, new)
    }

    /// The same for what replaces an object, whatever has become of it since it was read.
    pub(super) fn check_whole(&self, old: &Value, new: &Value) -> Result<(), ApiError> {
        if let Some(escalation) = &self.escalation {
            escalation.check_whole(Some(old), new)?;
        }
        self.restrict(Some(old), new)
    }

    fn restrict(&self, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
        match old {
            None => {
                restriction::check_create(&self.user, self.kind, new)?;
                if *self.kind == CERTIFICATE_SIGNING_REQUESTS {
                    signers::check_subject(new)?;
                }
            }
            Some(old) => restriction::check_change(&self.user, self.kind, old, new)?,
        }
        if let (Some(judged), Some(old)) = (&self.decides, old)
            && meta::text(old, "uid") != judged
        {
            return Err(ApiError::modified(self.kind, meta::text(old, "name")));
        }
        match &self.endpoints {
            Some(endpoints) => endpoints.check(self.kind, old, new),
            None => Ok(()),
        }
    }
}

/// Where a Service is reached is for load-balancer controllers and administrators to say: whoever else writes
/// `status.loadBalancer` draws traffic for any address to his Pods (CVE-2020-8554). An administrator is who may do
/// everything; a right to write `services/status` alone is not enough.
pub(super) async fn check_service_status(
    call: &Call,
    target: &Target,
    verb: &str,
) -> Result<(), ApiError> {
    let status = target.subresource.is_some_and(|sub| sub.name == "status");
    if *target.kind != SERVICES || !status || !matches!(verb, "update" | "patch") {
        return Ok(());
    }
    let controllers = &call.state.registry.context().load_balancer_controllers;
    if controllers.contains(&call.user.name) {
        return Ok(());
    }
    let everything = Attributes {
        verb: "*",
        group: "*",
        resource: "*",
        path: &call.path,
        ..Attributes::default()
    };
    let authorizer = &call.state.authorizer;
    let decision = authorizer.authorize(&call.user, &everything).await;
    if decision.is_allowed() {
        return Ok(());
    }
    let name = target.name.clone().unwrap_or_default();
    Err(ApiError::Forbidden {
        message: format!(
            "services \"{name}\" is forbidden: User \"{user}\" cannot {verb} resource \"services/status\": only load-balancer controllers and administrators say where a Service is reached; start the server with --load-balancer-controller {user} if it is one",
            user = call.user.name,
        ),
        resource: SERVICES.plural.to_owned(),
        group: SERVICES.group.to_owned(),
        name,
    })
}

/// Who decides on a request for a certificate must have a say with its signer. The uid of the request, if this is one.
async fn decides(call: &Call, target: &Target) -> Result<Option<String>, ApiError> {
    let subresource = target.subresource.map_or("", |sub| sub.name);
    let Some(verb) =
        signers::verb_of(subresource).filter(|_| *target.kind == CERTIFICATE_SIGNING_REQUESTS)
    else {
        return Ok(None);
    };
    let name = target.object_name();
    let request = call.state.registry.get(target.kind, None, name).await?;
    let request = request.value();
    let signer = text_at(&request, &["spec", "signerName"]);
    let authorizer = &*call.state.authorizer;
    signers::check(authorizer, &call.user, verb, (name, signer)).await?;
    Ok(Some(meta::text(&request, "uid").to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_may_decide_on_a_request_may_not_on_another_that_took_its_name() {
        let guard = Guard {
            user: User::default(),
            kind: &CERTIFICATE_SIGNING_REQUESTS,
            endpoints: None,
            escalation: None,
            decides: Some("1".into()),
        };
        assert!(guard.wants_old(Part::Approval));
        let request =
            |uid: &str| json!({"metadata": {"name": "r", "uid": uid, "resourceVersion": "7"}});
        let (judged, other) = (request("1"), request("2"));
        assert!(guard.check(Some(&judged), &judged).is_ok());
        let refused = guard.check(Some(&other), &other).unwrap_err();
        assert!(refused.is_conflict(), "{refused}");
        let mut replacement = json!({"metadata": {"name": "r"}});
        guard.pin(Part::Approval, &judged, &mut replacement);
        assert_eq!(meta::text(&replacement, "resourceVersion"), "7");
    }
}
