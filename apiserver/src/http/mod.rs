//! The REST API: paths and verbs, media types, discovery, streams.
//!
//! Reading order: [`route`] (what a path means), [`accept`] (what the client wants to read), [`body`] (what it sent),
//! `resource` (one function per verb), `connect` (what leads to a node), `render` and `stream` (how objects leave), `discovery` and `openapi` (what
//! clients ask first), `health`, `limits` (how much is worked on at once).
//!
//! Connections, TLS and authentication are not here: the caller puts an [`auth::User`](crate::auth::User) into the
//! request's extensions; a request without one is anonymous.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock},
    time::Instant,
};

use api::selector::FieldSelector;
use axum::{
    Router,
    body::Body,
    extract::{Request, State as Shared},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use serde_json::{Value, json};

use crate::{
    audit::{self, Described},
    auth::{Attributes, Authorizer, Decision, User, service_account::Tokens},
    metrics::{Metrics, RequestKind},
    registry::{ApiError, Registry},
    tunnels::Tunnels,
};

pub mod accept;
pub mod body;
mod connect;
pub(crate) mod connections;
mod discovery;
pub(crate) mod finish;
pub mod fuzz;
mod guard;
mod health;
mod limits;
mod openapi;
mod openid;
mod options;
mod patch;
pub(crate) mod query;
mod render;
mod resource;
mod review;
pub mod route;
mod scale;
mod schema;
mod stream;
mod token_request;

pub use health::{Check, version};
use limits::Lanes;
pub use limits::Limits;
use query::Query;
use route::{Route, Target};

/// The other end of the connection a request came over: an extension of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source(pub IpAddr);

/// What the handlers share.
#[derive(Clone)]
pub struct State {
    /// The objects.
    pub registry: Registry,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
    /// Makes tokens, and says whose they are.
    pub tokens: Arc<Tokens>,
    /// What `/readyz` looks at.
    pub checks: Arc<Vec<Check>>,
    /// What `/metrics` says.
    pub metrics: Metrics,
    /// How nodes are asked.
    pub tunnels: Tunnels,
}

/// The whole REST API as a router; other routes may be merged in front of it.
pub fn router(state: State) -> Router {
    limited_router(state, Limits::default())
}

/// The same with limits of one's own.
pub fn limited_router(state: State, limits: Limits) -> Router {
    Router::new()
        .fallback(handle)
        .with_state((state, Lanes::new(limits)))
}

/// A request with its body still unread.
pub(crate) struct Call {
    state: State,
    lanes: Lanes,
    user: User,
    method: Method,
    path: String,
    query: Query,
    /// The query as it came, for what is passed on.
    raw_query: String,
    /// The host that the client asked.
    host: String,
    source: Option<Source>,
    /// What the authorizer allowed it by.
    allowed_by: OnceLock<String>,
    headers: HeaderMap,
    /// Behind a mutex only because a body is not `Sync`, and the call is borrowed across awaits.
    body: Mutex<Body>,
    /// The connection itself, for requests that may turn it into something else.
    upgrade: Mutex<Option<OnUpgrade>>,
}

impl Call {
    fn header(&self, name: header::HeaderName) -> &str {
        let value = self.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Keeps what the authorizer allowed first: what the request itself is about.
    fn allowed(&self, by: String) {
        let _ = self.allowed_by.set(by);
    }

    /// A place for a connection of the caller, to a node if it leads there.
    fn connection(&self, node: Option<&str>) -> Result<connections::Place, ApiError> {
        self.lanes.connections().open(&self.user.name, node)
    }
}

async fn handle(Shared((state, lanes)): Shared<(State, Lanes)>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let user = parts.extensions.get::<User>().cloned();
    let mut path = parts.uri.path().to_owned();
    let mut query = Query::parse(parts.uri.query().unwrap_or_default());
    if let Some(watched) = route::watched(&path) {
        path = watched;
        query.set("watch", "true");
    }
    let named = parts.headers.get(header::HOST);
    let named = named.and_then(|host| host.to_str().ok());
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let mut call = Call {
        raw_query: parts.uri.query().unwrap_or_default().to_owned(),
        host: named.or(authority).unwrap_or_default().to_owned(),
        source: parts.extensions.get().copied(),
        allowed_by: OnceLock::new(),
        state,
        lanes,
        user: user.unwrap_or_else(User::anonymous),
        path,
        query,
        method: parts.method,
        headers: parts.headers,
        body: Mutex::new(body),
        upgrade: Mutex::new(upgrade),
    };
    let form = finish::Form::of(&call);
    let described = parts.extensions.get::<audit::Wanted>();
    let described = described.map(|_| described_as(&call));
    let response = dispatch(&mut call).await;
    let allowed_by = call.allowed_by.into_inner();
    let described = described.map(|described| judged(described, allowed_by, &response));
    let response = response.unwrap_or_else(|error| status_of(&error));
    let mut response = finish::finish(response, form).await;
    if let Some(described) = described {
        response.extensions_mut().insert(described);
    }
    response
}

/// What the audit log says of a request.
fn described_as(call: &Call) -> Described {
    let mut described = Described {
        verb: call.method.as_str().to_lowercase(),
        ..Described::default()
    };
    let route = route::parse(&call.state.registry.kinds(), &call.path);
    let Some(Route::Resource(target)) = route else {
        return described;
    };
    if let Ok(verb) = resource::verb(call, &target) {
        described.verb = verb.to_owned();
    }
    let mut object = json!({"resource": target.kind.plural});
    let subresource = target.subresource.map(|subresource| subresource.name);
    for (field, value) in [
        ("namespace", target.namespace.as_deref()),
        ("name", target.name.as_deref()),
        ("apiGroup", Some(target.kind.group)),
        ("apiVersion", Some(target.kind.version)),
        ("subresource", subresource),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            object[field] = json!(value);
        }
    }
    described.object = Some(object);
    described
}

/// The same with what the authorizer said, if it was asked. What is refused afterwards, for what it would make, it has allowed.
fn judged(
    described: Described,
    allowed_by: Option<String>,
    answer: &Result<Response, ApiError>,
) -> Described {
    let (decision, reason) = match (allowed_by, answer) {
        (Some(reason), _) => ("allow", reason),
        (None, Err(error @ ApiError::Forbidden { .. })) => ("forbid", error.to_string()),
        (None, _) => ("", String::new()),
    };
    Described {
        decision,
        reason,
        ..described
    }
}

async fn dispatch(call: &mut Call) -> Result<Response, ApiError> {
    let kinds = call.state.registry.kinds();
    let Some(route) = route::parse(&kinds, &call.path) else {
        permit_path(call).await?;
        // Without a `Status`, kubectl would say that the object does not exist.
        if let Some((kind, name, subresource)) = route::unserved(&kinds, &call.path) {
            return Err(ApiError::UnservedSubresource {
                kind,
                name,
                subresource,
            });
        }
        return Ok(plain(StatusCode::NOT_FOUND, "404 page not found\n".into()));
    };
    if let Route::Resource(target) = route {
        let verb = resource::verb(call, &target)?;
        let started = Instant::now();
        let mut result = serve_resource(call, &target, verb).await;
        if let (Ok(response), Some(instead)) = (&mut result, target.kind.rules.deprecated) {
            render::warn(response, &[instead.to_owned()]);
        }
        let code = match &result {
            Ok(response) => response.status().as_u16(),
            Err(error) => error.code_and_reason().0,
        };
        let kind = RequestKind {
            verb,
            group: target.kind.group,
            resource: target.kind.plural,
            subresource: target
                .subresource
                .map_or("", |subresource| subresource.name),
        };
        call.state.metrics.request(kind, code, started.elapsed());
        return result;
    }
    permit_path(call).await?;
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return Err(ApiError::MethodNotAllowed {
            allow: "GET, HEAD".to_owned(),
        });
    }
    match route {
        Route::Health { probe, check } => Ok(health::serve(call, probe, check.as_deref())),
        Route::Metrics => {
            let revision = call.state.registry.backend().current();
            let text = call.state.metrics.text(revision.0);
            let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            Ok(respond(StatusCode::OK, format, text))
        }
        Route::Version => Ok(json_value(StatusCode::OK, &version())),
        Route::OpenIdConfiguration => Ok(openid::configuration(call)),
        Route::OpenIdKeys => Ok(openid::keys(call)),
        Route::OpenApiV2 => Ok(openapi::v2(call)),
        Route::OpenApiV3 => Ok(openapi::v3_root(call)),
        Route::OpenApiV3Document { group, version } => {
            Ok(openapi::v3_document(call, &group, &version))
        }
        Route::Core | Route::Groups | Route::Group(_) | Route::Resources { .. } => {
            discovery::serve(call, &route)
        }
        Route::Resource(_) => Err(ApiError::UnknownPath),
    }
}

async fn serve_resource(
    call: &mut Call,
    target: &Target,
    verb: &'static str,
) -> Result<Response, ApiError> {
    permit(call, target, verb).await?;
    guard::check_service_status(call, target, verb).await?;
    if connect::is_connection(target) {
        return connect::serve(call, target).await;
    }
    let _place = call.lanes.enter(&call.user, verb)?;
    let limit = call.lanes.answer_within(verb);
    let serving = resource::serve(call, target, verb);
    let Some(limit) = limit else {
        let response = serving.await?;
        return if verb == "watch" {
            connect::frames::of_watch(call, response)
        } else {
            Ok(response)
        };
    };
    let served = tokio::time::timeout(limit, serving).await;
    served.unwrap_or(Err(ApiError::TimedOut { limit }))
}

/// Asks the authorizer about an object or collection.
async fn permit(call: &Call, target: &Target, verb: &str) -> Result<(), ApiError> {
    let kind = target.kind;
    let selected = selected_name(call, verb);
    let attributes = Attributes {
        verb,
        group: kind.group,
        resource: kind.plural,
        subresource: target
            .subresource
            .map_or("", |subresource| subresource.name),
        namespace: target.authorized_namespace(),
        name: target.name.as_deref().or(selected.as_deref()),
        field_selector: call.query.get("fieldSelector"),
        path: &call.path,
    };
    let authorizer = &call.state.authorizer;
    let reason = match authorizer.authorize(&call.user, &attributes).await {
        Decision::Allow(by) => {
            call.allowed(by);
            return Ok(());
        }
        Decision::Deny(reason) => reason,
    };
    let resource = match target.subresource {
        Some(subresource) => format!("{}/{}", kind.plural, subresource.name),
        None => kind.plural.to_owned(),
    };
    let scope = match target.authorized_namespace() {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".to_owned(),
    };
    let subject = match &target.name {
        Some(name) => format!("{} \"{name}\"", kind.resource()),
        None => kind.resource(),
    };
    let mut message = format!(
        "{subject} is forbidden: User \"{}\" cannot {verb} resource \"{resource}\" in API group \"{}\" {scope}",
        call.user.name, kind.group
    );
    if !reason.is_empty() {
        message = format!("{message}: {reason}");
    }
    Err(ApiError::Forbidden {
        message,
        resource: kind.plural.to_owned(),
        group: kind.group.to_owned(),
        name: target.name.clone().unwrap_or_default(),
    })
}

/// The one object a list, watch or deletion of a collection is about, by its field selector: rights to single objects reach
/// as far (`resourceNames` in roles).
fn selected_name(call: &Call, verb: &str) -> Option<String> {
    if !matches!(verb, "list" | "watch" | "deletecollection") {
        return None;
    }
    let selector = call.query.get("fieldSelector")?;
    let selector = selector.parse::<FieldSelector>().ok()?;
    selector.required_value("metadata.name").map(str::to_owned)
}

/// Asks the authorizer about a path that is no resource.
async fn permit_path(call: &Call) -> Result<(), ApiError> {
    let verb = call.method.as_str().to_lowercase();
    let attributes = Attributes {
        verb: &verb,
        path: &call.path,
        ..Attributes::default()
    };
    match call
        .state
        .authorizer
        .authorize(&call.user, &attributes)
        .await
    {
        Decision::Allow(by) => {
            call.allowed(by);
            Ok(())
        }
        Decision::Deny(_) => Err(ApiError::Forbidden {
            message: format!(
                "forbidden: User \"{}\" cannot {verb} path \"{}\"",
                call.user.name, call.path
            ),
            resource: String::new(),
            group: String::new(),
            name: String::new(),
        }),
    }
}

/// The `Status` of an error as a response.
pub fn status_of(error: &ApiError) -> Response {
    let (code, reason) = error.code_and_reason();
    if code >= 500 && code != 504 {
        tracing::error!(error = %error, "request failed");
    }
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_value(code, &error.to_status());
    response.extensions_mut().insert(audit::Failure(reason));
    if let Some(secs) = error.retry_after_secs() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, secs.into());
    }
    if let ApiError::MethodNotAllowed { allow } = error
        && let Ok(allow) = header::HeaderValue::from_str(allow)
    {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// A `Status` that says it worked.
pub(crate) fn success(details: &Value) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    })
}

fn json_value(code: StatusCode, value: &Value) -> Response {
    json_bytes(code, value.to_string())
}

fn json_bytes(code: StatusCode, body: impl Into<Body>) -> Response {
    respond(code, "application/json", body)
}

/// A document that clients keep and ask about by its hash; what they accept chooses its form.
fn tagged(call: &Call, media_type: &'static str, document: Bytes) -> Response {
    let mut hasher = DefaultHasher::new();
    document.hash(&mut hasher);
    let etag = format!("\"{:016x}\"", hasher.finish());
    let mut known = call.header(header::IF_NONE_MATCH).split(',');
    let (code, body) = if known.any(|known| known.trim() == etag) {
        (StatusCode::NOT_MODIFIED, Bytes::new())
    } else {
        (StatusCode::OK, document)
    };
    let mut response = respond(code, media_type, body);
    if let Ok(etag) = header::HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    let vary = header::HeaderValue::from_static("Accept");
    response.headers_mut().insert(header::VARY, vary);
    response
}

fn plain(code: StatusCode, text: String) -> Response {
    respond(code, "text/plain; charset=utf-8", text)
}

fn respond(code: StatusCode, media_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    let media_type = header::HeaderValue::from_static(media_type);
    headers.insert(header::CONTENT_TYPE, media_type);
    let private = header::HeaderValue::from_static("no-cache, private");
    headers.insert(header::CACHE_CONTROL, private);
    response
}
