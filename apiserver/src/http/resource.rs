//! One function per verb.

use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    Call,
    body::{self, Document},
    connect,
    guard::Guard,
    json_value, options,
    patch::{self, Patch},
    permit,
    render::View,
    review,
    route::Target,
    scale, schema, stream, success, token_request,
};
use crate::{
    auth::User,
    registry::{
        ApiError, Apply, Binding, Kind, Object, Part, Selection,
        kinds::{CERTIFICATE_SIGNING_REQUESTS, review::is_review},
    },
};

/// The verb of a request (U7), if the target serves it.
pub(super) fn verb(call: &Call, target: &Target) -> Result<&'static str, ApiError> {
    if let Some(verb) = connect::verb(call, target) {
        return verb;
    }
    let one = target.name.is_some();
    let watching = call.query.flag("watch") && target.subresource.is_none();
    let verb = match call.method {
        Method::GET | Method::HEAD if watching => "watch",
        Method::GET | Method::HEAD if one => "get",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT if one => "update",
        Method::PATCH if one => "patch",
        Method::DELETE if one => "delete",
        Method::DELETE => "deletecollection",
        _ => "",
    };
    let kind = target.kind;
    let served = target
        .subresource
        .map_or(kind.verbs, |subresource| subresource.verbs);
    let homeless = verb == "create" && kind.namespaced && target.namespace.is_none();
    let misplaced = verb == "create" && one && target.subresource.is_none();
    if homeless || misplaced || !served.contains(&verb) {
        return Err(ApiError::MethodNotAllowed {
            allow: allowed(target).join(", "),
        });
    }
    Ok(verb)
}

/// The methods that a path serves (E5).
fn allowed(target: &Target) -> Vec<&'static str> {
    let kind = target.kind;
    let methods: &[(&str, &str)] = match (target.subresource, &target.name) {
        (Some(_), _) => &[
            ("GET", "get"),
            ("POST", "create"),
            ("PUT", "update"),
            ("PATCH", "patch"),
            ("DELETE", "delete"),
        ],
        (None, Some(_)) => &[
            ("GET", "get"),
            ("PUT", "update"),
            ("PATCH", "patch"),
            ("DELETE", "delete"),
        ],
        (None, None) if kind.namespaced && target.namespace.is_none() => &[("GET", "list")],
        (None, None) => &[
            ("GET", "list"),
            ("POST", "create"),
            ("DELETE", "deletecollection"),
        ],
    };
    let served = target
        .subresource
        .map_or(kind.verbs, |subresource| subresource.verbs);
    let methods = methods.iter().filter(|(_, verb)| served.contains(verb));
    methods.map(|(method, _)| *method).collect()
}

/// Answers a request whose verb is permitted.
pub(super) async fn serve(
    call: &mut Call,
    target: &Target,
    verb: &str,
) -> Result<Response, ApiError> {
    match (verb, target.subresource.map(|subresource| subresource.name)) {
        ("create", Some("binding")) => bind(call, target).await,
        ("create", Some("eviction")) => evict(call, target).await,
        ("create", Some("token")) => token_request::create(call, target).await,
        ("get", Some("scale")) => scale::get(call, target).await,
        ("update", Some("scale")) => scale::update(call, target).await,
        ("patch", Some("scale")) => scale::patch(call, target).await,
        ("get", _) => get(call, target).await,
        ("list", _) => list(call, target).await,
        ("watch", _) => watch(call, target).await,
        ("create", None) if is_review(target.kind) => review::answer(call, target).await,
        ("create", _) => create(call, target).await,
        ("update", _) => update(call, target).await,
        ("patch", _) => patch(call, target).await,
        ("delete", _) => delete(call, target).await,
        ("deletecollection", _) => delete_collection(call, target).await,
        _ => Err(ApiError::UnknownPath),
    }
}

impl Target {
    pub(super) fn scope(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    pub(super) fn object_name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    fn part(&self) -> Part {
        match self.subresource.map(|subresource| subresource.name) {
            Some("status") => Part::Status,
            Some("approval") => Part::Approval,
            Some("finalize") => Part::Finalize,
            _ => Part::Main,
        }
    }
}

async fn get(call: &Call, target: &Target) -> Result<Response, ApiError> {
    let view = View::of(call)?;
    let freshness = options::freshness(&call.query)?;
    let registry = &call.state.registry;
    let name = target.object_name();
    let object = registry
        .get_fresh(target.kind, target.scope(), name, freshness)
        .await?;
    Ok(view.respond(StatusCode::OK, &object, &[]))
}

async fn list(call: &Call, target: &Target) -> Result<Response, ApiError> {
    let view = View::of(call)?;
    let query = options::list(&call.query)?;
    query.selection.check(target.kind)?;
    let registry = &call.state.registry;
    let list = registry.list(target.kind, target.scope(), &query).await?;
    Ok(view.list(target.kind, &list))
}

async fn watch(call: &Call, target: &Target) -> Result<Response, ApiError> {
    let view = View::of(call)?;
    let mut query = options::watch(call)?;
    if let Some(name) = &target.name {
        only(&mut query.selection, name);
    }
    query.selection.check(target.kind)?;
    let registry = &call.state.registry;
    match registry.watch(target.kind, target.scope(), &query).await {
        Ok(watch) => Ok(stream::respond(target.kind, view, watch)),
        Err(error) if error.is_expired() => Ok(stream::refuse(&error)),
        Err(error) => Err(error),
    }
}

/// Watching one object is watching by its name (W14).
fn only(selection: &mut Selection, name: &str) {
    let fields = selection.fields.get_or_insert_default();
    fields.requirements.push(api::selector::FieldRequirement {
        field: "metadata.name".into(),
        operator: api::selector::FieldOperator::Equals,
        value: name.into(),
    });
}

/// Reads a body as an object of this kind.
pub(super) async fn object_body(
    call: &mut Call,
    kind: &'static Kind,
) -> Result<(Value, schema::Warnings), ApiError> {
    // Nothing says which tags the fields of a custom resource have.
    if kind.is_custom() && body::media_type(call) == "application/vnd.kubernetes.protobuf" {
        let accepted = "application/json, application/yaml";
        return Err(ApiError::UnsupportedMediaType { accepted });
    }
    let validation = options::field_validation(&call.query)?;
    let Document {
        mut value,
        duplicates,
    } = body::decode(call, (kind.group, kind.version, kind.kind)).await?;
    let warnings = schema::settle(
        kind,
        &mut value,
        &duplicates,
        validation,
        ApiError::BadRequest,
    )?;
    Ok((value, warnings))
}

async fn create(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    let view = View::of(call)?;
    let write = options::write(call)?;
    let (mut value, warnings) = object_body(call, target.kind).await?;
    if *target.kind == CERTIFICATE_SIGNING_REQUESTS {
        asked_by(&call.user, &mut value);
    }
    Guard::of(call, target, &value).await?.check(None, &value)?;
    let registry = &call.state.registry;
    let object = registry
        .create(target.kind, target.scope(), value, &write)
        .await?;
    let warnings = warn(target, &object, warnings);
    Ok(view.respond(StatusCode::CREATED, &object, &warnings))
}

/// A request for a certificate says who made it, whatever its author wrote there.
fn asked_by(user: &User, request: &mut Value) {
    if !request["spec"].is_object() {
        request["spec"] = json!({});
    }
    if let Some(spec) = request["spec"].as_object_mut() {
        spec.shift_remove("uid");
        spec.shift_remove("extra");
        spec.insert("username".into(), json!(user.name));
        spec.insert("groups".into(), json!(user.groups));
    }
}

async fn update(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    let view = View::of(call)?;
    let write = options::write(call)?;
    let (mut value, warnings) = object_body(call, target.kind).await?;
    guard_update(call, target, &mut value).await?;
    let (object, created) = call
        .state
        .registry
        .replace(
            target.kind,
            target.scope(),
            target.object_name(),
            value,
            target.part(),
            &write,
        )
        .await?;
    let code = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let warnings = warn(target, &object, warnings);
    Ok(view.respond(code, &object, &warnings))
}

/// Judges a replacement by what is there. Somebody may write in between, but what is judged so was accepted before
/// (an endpoint's address); what a node writes is held to the version it was judged by.
async fn guard_update(call: &Call, target: &Target, new: &mut Value) -> Result<(), ApiError> {
    let guard = Guard::of(call, target, new).await?;
    if !guard.wants_old(target.part()) {
        return Ok(());
    }
    let registry = &call.state.registry;
    let name = target.object_name();
    match registry.get(target.kind, target.scope(), name).await {
        Ok(old) => {
            let old = old.value();
            guard.check_whole(&old, new)?;
            guard.pin(target.part(), &old, new);
            Ok(())
        }
        Err(error) if error.is_not_found() && target.kind.rules.create_on_update => {
            guard.check(None, new)
        }
        Err(error) => Err(error),
    }
}

/// Adds what the kind has to say of an object that was stored.
fn warn(target: &Target, object: &Object, mut warnings: schema::Warnings) -> schema::Warnings {
    if let Some(custom) = target.kind.custom() {
        warnings.extend(custom.deprecation().map(str::to_owned));
    }
    warnings.extend_from_slice(object.warnings());
    warnings
}

async fn patch(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    if body::media_type(call) == patch::APPLY {
        return apply(call, target).await;
    }
    let view = View::of(call)?;
    let mut write = options::write(call)?;
    let validation = options::field_validation(&call.query)?;
    let (patch, duplicates) = Patch::read(call, target.kind).await?;
    write.sees_managed_fields = patch.names("managedFields");
    let kind = target.kind;
    let guard = Guard::of_change(call, target, &Value::Null).await?;
    let mut warnings = Vec::new();
    let object = call
        .state
        .registry
        .modify(
            kind,
            target.scope(),
            target.object_name(),
            target.part(),
            &write,
            |value| {
                let old = guard.wants_old(target.part()).then(|| value.clone());
                patch.apply(kind, value)?;
                if let Some(old) = old {
                    guard.check(Some(&old), value)?;
                }
                warnings = schema::settle(
                    kind,
                    value,
                    &duplicates,
                    validation,
                    ApiError::Unprocessable,
                )?;
                Ok(())
            },
        )
        .await?;
    let warnings = warn(target, &object, warnings);
    Ok(view.respond(StatusCode::OK, &object, &warnings))
}

/// A PATCH whose body is a configuration to apply, in YAML or JSON (A1-A13).
async fn apply(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    let view = View::of(call)?;
    let options = options::apply(call)?;
    let validation = options::field_validation(&call.query)?;
    let bytes = body::read(call).await?;
    let Document {
        mut value,
        duplicates,
    } = body::yaml(&bytes)?;
    if *target.kind == CERTIFICATE_SIGNING_REQUESTS && value.is_object() {
        asked_by(&call.user, &mut value);
    }
    let warnings = schema::duplicates(&duplicates, validation)?;
    // Applying to what does not exist creates it, which is a right of its own (U7).
    let denied = permit(call, target, "create").await.err();
    let guard = Guard::of_change(call, target, &value).await?;
    let apply = Apply {
        config: value,
        part: target.part(),
        force: call.query.flag("force"),
        may_create: denied.is_none(),
        options,
    };
    let kind = target.kind;
    let check = |old: Option<&Value>, new: &Value| guard.check(old, new);
    let registry = &call.state.registry;
    let applied = registry
        .apply(kind, target.scope(), target.object_name(), apply, &check)
        .await;
    let (object, created) = match (applied, denied) {
        (Err(error), Some(denied)) if error.is_not_found() => return Err(denied),
        (applied, _) => applied?,
    };
    let code = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let warnings = warn(target, &object, warnings);
    Ok(view.respond(code, &object, &warnings))
}

/// The body of a DELETE: DeleteOptions, or nothing.
async fn delete_body(call: &mut Call) -> Result<Value, ApiError> {
    let media_type = body::media_type(call);
    let bytes = body::read(call).await?;
    if bytes.is_empty() {
        return Ok(json!({}));
    }
    let options = body::document(&media_type, &bytes, ("", "v1", "DeleteOptions"))?.value;
    schema::check_options(("", "v1", "DeleteOptions"), &options)?;
    Ok(options)
}

async fn delete(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    let view = View::of(call)?;
    let body = delete_body(call).await?;
    let how = options::delete(&call.query, &body)?;
    let kind = target.kind;
    let registry = &call.state.registry;
    let deleted = registry
        .delete(kind, target.scope(), target.object_name(), &how)
        .await?;
    if !deleted.gone || kind.rules.delete_returns_object {
        return Ok(view.respond(StatusCode::OK, &deleted.object, &[]));
    }
    let value = deleted.object.value();
    let mut details = json!({"name": target.object_name()});
    if !kind.group.is_empty() {
        details["group"] = json!(kind.group);
    }
    details["kind"] = json!(kind.plural);
    details["uid"] = value["metadata"]["uid"].clone();
    Ok(json_value(StatusCode::OK, &success(&details)))
}

async fn delete_collection(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    let view = View::of(call)?;
    let query = options::list(&call.query)?;
    query.selection.check(target.kind)?;
    let body = delete_body(call).await?;
    let how = options::delete(&call.query, &body)?;
    let registry = &call.state.registry;
    let list = registry
        .delete_collection(target.kind, target.scope(), &query, &how)
        .await?;
    Ok(view.list(target.kind, &list))
}

/// `POST pods/X/binding`: puts the Pod on a node, once (X10).
async fn bind(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    let write = options::write(call)?;
    let body = body::decode(call, ("", "v1", "Binding")).await?.value;
    let name = target.object_name();
    let binding = Binding::from_value(&body, name)?;
    let namespace = target.scope().unwrap_or_default();
    let registry = &call.state.registry;
    registry.bind(namespace, name, &binding, &write).await?;
    Ok(created())
}

/// The answer to what was made of an object that shows nothing itself.
fn created() -> Response {
    let mut status = success(&json!({}));
    status["code"] = json!(201);
    json_value(StatusCode::CREATED, &status)
}

/// `POST pods/X/eviction`: deletes the Pod if its budget allows it (X9).
async fn evict(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    let write = options::write(call)?;
    let body = body::decode(call, ("policy", "v1", "Eviction"))
        .await?
        .value;
    schema::check_options(("policy", "v1", "Eviction"), &body)?;
    let name = target.object_name();
    let own = body["metadata"]["name"].as_str().unwrap_or_default();
    if !own.is_empty() && own != name {
        return Err(ApiError::BadRequest(
            "name in URL does not match name in Eviction object".into(),
        ));
    }
    let mut how = options::delete(&call.query, &body["deleteOptions"])?;
    how.dry_run |= write.dry_run;
    let namespace = target.scope().unwrap_or_default();
    let registry = &call.state.registry;
    registry.evict(namespace, name, &how).await?;
    Ok(created())
}
