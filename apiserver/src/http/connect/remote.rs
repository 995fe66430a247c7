//! exec and attach (S1-S6): what is asked for, and the two protocols it may come by.

use api::{
    core::Pod,
    tunnel::{self, Attach, Exec, Streams},
};
use axum::{body::Body, response::Response};
use http::header;

use super::{
    super::{Call, query::Query, route::Target},
    channels::{self, Protocol},
    pod,
    remote_spdy::{self, Version},
    upgrade::{self, STREAM_PROTOCOL, Wanted},
};
use crate::{http::connections::Place, registry::ApiError, tunnels::Tunnels};

/// Commands and attachments to one container of one node.
pub(super) struct Remote {
    tunnels: Tunnels,
    node: String,
    request: tunnel::Request,
    pub(super) streams: Streams,
    place: Place,
}

impl Remote {
    /// Begins: `input` are the frames of the client.
    pub(super) async fn begin(&self, input: Body) -> Result<Body, ApiError> {
        let place = Place::clone(&self.place);
        let Self {
            tunnels,
            node,
            request,
            ..
        } = self;
        tunnels.ask(node, request, input, place).await
    }
}

pub(super) async fn exec(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    let pod = pod::read(call, target).await?;
    let name = &pod.metadata.name;
    if pod.is_finished() {
        let phase = &pod.status.phase;
        let text =
            format!("cannot exec into a container in a completed pod; current phase is {phase}");
        return Err(ApiError::BadRequest(text));
    }
    let streams = streams(&call.query)?;
    let container = container(call, &pod)?;
    let command: Vec<String> = call.query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        let text = format!(
            "no command for container {container} of pod {name}: set the query parameter command"
        );
        return Err(ApiError::BadRequest(text));
    }
    let request = tunnel::Request::Exec(Exec {
        pod: pod::reference(&pod),
        container,
        command,
        streams,
    });
    connect(call, &pod, request, streams).await
}

pub(super) async fn attach(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    let pod = pod::read(call, target).await?;
    if pod.is_finished() {
        let phase = &pod.status.phase;
        let text =
            format!("cannot attach a container in a completed pod; current phase is {phase}");
        return Err(ApiError::BadRequest(text));
    }
    let streams = streams(&call.query)?;
    let container = container(call, &pod)?;
    let request = tunnel::Request::Attach(Attach {
        pod: pod::reference(&pod),
        container,
        streams,
    });
    connect(call, &pod, request, streams).await
}

/// The container, which must run.
fn container(call: &Call, pod: &Pod) -> Result<String, ApiError> {
    let container = pod::container(pod, call.query.filled("container"))?;
    pod::node(pod)?;
    let status = pod::status(pod, container);
    if status.is_none_or(|status| status.state.running.is_none()) {
        let text = format!("unable to upgrade connection: container not found (\"{container}\")");
        return Err(ApiError::Internal(text));
    }
    Ok(container.to_owned())
}

/// Which streams the client wants. A terminal has one output.
fn streams(query: &Query) -> Result<Streams, ApiError> {
    let tty = query.flag("tty");
    let streams = Streams {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr") && !tty,
        tty,
    };
    if !(streams.stdin || streams.stdout || streams.stderr) {
        let text = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(ApiError::BadRequest(text.into()));
    }
    Ok(streams)
}

async fn connect(
    call: &mut Call,
    pod: &Pod,
    request: tunnel::Request,
    streams: Streams,
) -> Result<Response, ApiError> {
    let node = pod::node(pod)?.to_owned();
    let wanted = upgrade::wanted(call);
    if wanted == Wanted::Nothing {
        return Err(upgrade::required());
    }
    let place = call.connection(Some(&node))?;
    let tunnels = call.state.tunnels.clone();
    tunnels.connected(&node).await?;
    let remote = Remote {
        tunnels,
        node,
        request,
        streams,
        place,
    };
    match wanted {
        Wanted::WebSocket => {
            let offers = upgrade::offered(call, &header::SEC_WEBSOCKET_PROTOCOL);
            let (name, protocol) = Protocol::choose(&offers)?;
            upgrade::to_websocket(call, name, move |socket| {
                channels::serve(socket, protocol, remote)
            })
        }
        _ => {
            let offers = upgrade::offered(call, &STREAM_PROTOCOL);
            let (name, version) = Version::choose(&offers)?;
            upgrade::to_spdy(call, name, move |io| {
                remote_spdy::serve(io, version, remote)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_a_terminal_has_one_output_and_something_must_be_wanted() {
        let of = |query| streams(&Query::parse(query));
        let all = of("stdin=true&stdout=1&stderr=true&tty=true").unwrap();
        let wanted = Streams {
            stdin: true,
            stdout: true,
            stderr: false,
            tty: true,
        };
        assert_eq!(all, wanted);
        assert!(of("stderr=1").unwrap().stderr);
        assert!(of("stdin=false&tty=true").is_err());
    }
}
