//! `/proxy` of Pods, Services and nodes (S11): a request is passed on to what answers HTTP there, over the tunnel of its node.
//!
//! Only Pods of the cluster and its nodes are reached, from the node they are on, and the node looks at the address once more:
//! this is no way into the networks of nodes or server.

use std::sync::PoisonError;

use axum::{
    body::{Body, HttpBody as _},
    response::Response,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode,
    header::{self, Entry},
};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use super::{
    super::{Call, Source, plain, route, route::Target},
    location::rewritten,
    proxy_target::Backend,
    proxy_tls,
};
use crate::registry::ApiError;

/// What concerns one connection only (RFC 9110, section 7.6.1), besides what `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

pub(super) async fn serve(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    let path = call.path.clone();
    let (object, tail) = route::proxied(&path).ok_or(ApiError::UnknownPath)?;
    let protocol = upgrade_of(&call.headers);
    if tail.is_empty() && protocol.is_none() {
        return Ok(redirected(&path, &call.raw_query));
    }
    let backend = Backend::find(call, target).await?;
    let mut sender = connect(call, &backend).await?;
    let request = passed_on(call, &backend, (object, tail), protocol.as_ref())?;
    let failed = |error: hyper::Error| {
        ApiError::Unavailable(format!("error trying to reach service: {error}"))
    };
    let mut answer = sender.send_request(request).await.map_err(failed)?;
    let from = hyper::upgrade::on(&mut answer);
    let (mut parts, body) = answer.into_parts();
    let switched = protocol.filter(|_| parts.status == StatusCode::SWITCHING_PROTOCOLS);
    strip(&mut parts.headers);
    rewrite_location(call, &backend, object, &mut parts.headers);
    let Some(protocol) = switched else {
        // As a stream: what is passed on is neither collected nor indented.
        let body = Body::from_stream(Body::new(body).into_data_stream());
        return Ok(Response::from_parts(parts, body));
    };
    let upgrade = call.upgrade.get_mut();
    let upgrade = upgrade.unwrap_or_else(PoisonError::into_inner).take();
    let upgrade = upgrade.ok_or_else(super::upgrade::required)?;
    tokio::spawn(async move {
        // A client that is gone before it has read the answer needs nothing.
        if let (Ok(client), Ok(backend)) = tokio::join!(upgrade, from) {
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            let _ = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
        }
    });
    switch(&mut parts.headers, protocol);
    Ok(Response::from_parts(parts, Body::empty()))
}

/// Relative links of what is served at the root would lead elsewhere without the slash.
fn redirected(path: &str, query: &str) -> Response {
    let mark = if query.is_empty() { "" } else { "?" };
    let mut response = plain(StatusCode::MOVED_PERMANENTLY, String::new());
    if let Ok(location) = HeaderValue::from_str(&format!("{path}/{mark}{query}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The protocol that a request wants to switch to.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut named = connection_words(headers);
    let asked = named.any(|word| word.eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asked).cloned()
}

fn connection_words(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::CONNECTION).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

async fn connect(call: &Call, backend: &Backend) -> Result<SendRequest<Body>, ApiError> {
    let failed = |error: &dyn std::fmt::Display| {
        ApiError::Unavailable(format!("error trying to reach service: {error}"))
    };
    let place = call.connection(Some(&backend.node))?;
    let tunnels = &call.state.tunnels;
    let dialled = tunnels.dial(&backend.node, backend.address, place);
    let stream = match dialled.await {
        Err(ApiError::BadGateway(text)) => return Err(failed(&text)),
        other => other?,
    };
    if backend.tls {
        let stream = proxy_tls::connect(stream, &backend.host, proxy_tls::HANDSHAKE_LIMIT).await;
        let stream = stream.map_err(|error| failed(&error))?;
        return speak(stream).await.map_err(|error| failed(&error));
    }
    speak(stream).await.map_err(|error| failed(&error))
}

async fn speak(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
) -> hyper::Result<SendRequest<Body>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection");
        }
    });
    Ok(sender)
}

/// The request as the backend gets it: without the caller's credentials, and with where it came from.
fn passed_on(
    call: &mut Call,
    backend: &Backend,
    (object, tail): (&str, &str),
    protocol: Option<&HeaderValue>,
) -> Result<Request<Body>, ApiError> {
    let body = call.body.get_mut().unwrap_or_else(PoisonError::into_inner);
    let body = std::mem::replace(body, Body::empty());
    let mark = if call.raw_query.is_empty() { "" } else { "?" };
    let tail = if tail.is_empty() { "/" } else { tail };
    let target = format!("{tail}{mark}{}", call.raw_query);
    let request = Request::builder().method(&call.method).uri(&target);
    let request = request.body(body);
    let mut request = request.map_err(|error| {
        ApiError::BadRequest(format!("the path {target} cannot be passed on: {error}"))
    })?;
    let mut headers = call.headers.clone();
    strip(&mut headers);
    headers.remove(header::AUTHORIZATION);
    let impersonation: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in impersonation {
        headers.remove(name);
    }
    let host = backend.host_header();
    if let Entry::Vacant(place) = headers.entry(header::HOST) {
        // HTTP/2 names the host elsewhere.
        place.insert(value(&host)?);
    }
    // What came may be made up; who asks here is the last one.
    let mut via: Vec<&[u8]> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let source = call.source.map(|Source(ip)| ip.to_string());
    via.extend(source.as_ref().map(String::as_bytes));
    let via = HeaderValue::from_bytes(&via.join(&b", "[..]));
    headers.remove(FORWARDED_FOR);
    if let (Some(_), Ok(via)) = (source, via) {
        headers.insert(FORWARDED_FOR, via);
    }
    let forwarded = [
        ("x-forwarded-uri", format!("{object}{tail}")),
        ("x-forwarded-host", call.host.clone()),
        ("x-forwarded-proto", "https".to_owned()),
    ];
    for (name, text) in forwarded {
        headers.insert(HeaderName::from_static(name), value(&text)?);
    }
    if let Some(protocol) = protocol {
        switch(&mut headers, protocol.clone());
    } else if !request.body().is_end_stream() && request.body().size_hint().exact().is_none() {
        headers.remove(header::CONTENT_LENGTH);
    }
    *request.headers_mut() = headers;
    Ok(request)
}

fn value(text: &str) -> Result<HeaderValue, ApiError> {
    HeaderValue::from_str(text)
        .map_err(|_| ApiError::BadRequest(format!("{text:?} cannot be passed on in a header")))
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<String> = connection_words(headers).map(str::to_owned).collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn switch(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

fn rewrite_location(call: &Call, backend: &Backend, object: &str, headers: &mut HeaderMap) {
    let Entry::Occupied(mut location) = headers.entry(header::LOCATION) else {
        return;
    };
    let hosts = [backend.host_header(), call.host.clone()];
    let hosts = [hosts[0].as_str(), hosts[1].as_str()];
    let new = location.get().to_str().ok();
    let new = new.map(|text| rewritten(text, hosts, object));
    if let Some(new) = new.and_then(|text| HeaderValue::from_str(&text).ok()) {
        location.insert(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s11_what_concerns_one_connection_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("accept", "*/*"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        strip(&mut headers);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["accept"]);
        assert_eq!(upgrade_of(&headers), None);
        switch(&mut headers, HeaderValue::from_static("websocket"));
        assert_eq!(upgrade_of(&headers).unwrap(), "websocket");
    }
}
