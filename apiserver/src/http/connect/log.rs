//! A container's log (S9).

use api::{
    core::{ContainerStatus, Pod},
    meta::Time,
    tunnel::{Logs, Request},
};
use axum::{body::Body, response::Response};
use http::StatusCode;

use super::{
    super::{Call, plain, query::Query, respond, route::Target},
    pod,
};
use crate::registry::{ApiError, Causes};

const TEXT: &str = "text/plain";

pub(super) async fn serve(call: &Call, target: &Target) -> Result<Response, ApiError> {
    let name = target.object_name();
    let options = Options::read(&call.query, name)?;
    let pod = pod::read(call, target).await?;
    let container = pod::container(&pod, call.query.filled("container"))?;
    if pod.spec.node_name.is_empty() {
        // Nothing has been said by what nobody runs yet.
        return Ok(plain(StatusCode::OK, String::new()));
    }
    let attempt = attempt(&pod, container, options.previous)?;
    let request = Request::Logs(options.of(&pod, container, attempt));
    let node = &pod.spec.node_name;
    let place = call.connection(Some(node))?;
    let tunnels = &call.state.tunnels;
    let text = tunnels.ask(node, &request, Body::empty(), place).await?;
    Ok(respond(StatusCode::OK, TEXT, text))
}

/// `PodLogOptions`.
#[derive(Debug, PartialEq)]
struct Options {
    follow: bool,
    previous: bool,
    timestamps: bool,
    since_seconds: Option<i64>,
    since_time: Option<Time>,
    tail_lines: Option<i64>,
    limit_bytes: Option<i64>,
    stream: Option<&'static str>,
}

impl Options {
    fn read(query: &Query, pod: &str) -> Result<Self, ApiError> {
        let mut causes = Causes::default();
        let since_time = match query.filled("sinceTime") {
            Some(text) => Some(time(text)?),
            None => None,
        };
        let stream = match query.filled("stream") {
            None | Some("All") => None,
            Some("Stdout") => Some("stdout"),
            Some("Stderr") => Some("stderr"),
            Some(other) => {
                causes.not_supported("stream", other, &["All", "Stderr", "Stdout"]);
                None
            }
        };
        let options = Self {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            since_seconds: query.number("sinceSeconds")?,
            since_time,
            tail_lines: query.number("tailLines")?,
            limit_bytes: query.number("limitBytes")?,
            stream,
        };
        options.check(&mut causes);
        if causes.0.is_empty() {
            return Ok(options);
        }
        Err(ApiError::Invalid {
            group: "",
            kind: "PodLogOptions",
            name: pod.to_owned(),
            causes: causes.0,
        })
    }

    fn check(&self, causes: &mut Causes) {
        let Self {
            since_seconds,
            tail_lines,
            limit_bytes,
            ..
        } = *self;
        if let Some(lines) = tail_lines.filter(|lines| *lines < 0) {
            causes.invalid("tailLines", lines, "must be greater than or equal to 0");
        }
        if let Some(bytes) = limit_bytes.filter(|bytes| *bytes < 1) {
            causes.invalid("limitBytes", bytes, "must be greater than 0");
        }
        if let Some(secs) = since_seconds.filter(|secs| *secs < 1) {
            causes.invalid("sinceSeconds", secs, "must be greater than 0");
        }
        if since_seconds.is_some() && self.since_time.is_some() {
            let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            causes.forbidden("", detail);
        }
        if tail_lines.is_some() && self.stream.is_some() {
            let detail = "`tailLines` and specific `stream` are mutually exclusive for now";
            causes.forbidden("", detail);
        }
    }

    fn of(&self, pod: &Pod, container: &str, attempt: u32) -> Logs {
        let count = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        Logs {
            pod: pod::reference(pod),
            container: container.to_owned(),
            attempt,
            follow: self.follow && !self.previous,
            timestamps: self.timestamps,
            since_seconds: self.since_seconds,
            since_time: self.since_time,
            tail_lines: count(self.tail_lines),
            limit_bytes: count(self.limit_bytes),
            stream: self.stream.map(str::to_owned),
        }
    }
}

fn time(text: &str) -> Result<Time, ApiError> {
    serde_json::from_value(text.into()).map_err(|error| {
        ApiError::BadRequest(format!(
            "query parameter sinceTime: \"{text}\" is not an RFC 3339 time: {error}"
        ))
    })
}

/// Which start of the container is meant, counted from 0. One that is about to start again shows what it said last.
fn attempt(pod: &Pod, container: &str, previous: bool) -> Result<u32, ApiError> {
    let name = &pod.metadata.name;
    let refused = |why: String| {
        let text = format!("container \"{container}\" in pod \"{name}\" is {why}");
        Err(ApiError::BadRequest(text))
    };
    let Some(status) = pod::status(pod, container) else {
        return refused("not available".to_owned());
    };
    let newest = u32::try_from(status.restart_count).unwrap_or(0);
    let ran_before = status.last_state.terminated.is_some();
    let ContainerStatus { state, .. } = status;
    if previous {
        if !ran_before {
            return Err(ApiError::BadRequest(format!(
                "previous terminated container \"{container}\" in pod \"{name}\" not found"
            )));
        }
        let waits = state.waiting.is_some();
        return Ok(if waits {
            newest
        } else {
            newest.saturating_sub(1)
        });
    }
    match &state.waiting {
        Some(waiting) if !ran_before => refused(match &*waiting.reason {
            "ErrImagePull" => "waiting to start: image can't be pulled".to_owned(),
            "ImagePullBackOff" => "waiting to start: trying and failing to pull image".to_owned(),
            reason => format!("waiting to start: {reason}"),
        }),
        None if state.running.is_none() && state.terminated.is_none() => {
            refused("waiting to start - no logs yet".to_owned())
        }
        _ => Ok(newest),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn options(query: &str) -> Result<Options, String> {
        Options::read(&Query::parse(query), "p").map_err(|error| error.to_string())
    }

    #[test]
    fn s9_parameters_are_read_and_checked() {
        let all = options(
            "container=c&follow=true&timestamps=1&sinceTime=2026-01-01T00:00:00Z&tailLines=0&limitBytes=1&insecureSkipTLSVerifyBackend=true",
        );
        let all = all.unwrap();
        assert!(all.follow && all.timestamps && !all.previous);
        assert_eq!((all.tail_lines, all.limit_bytes), (Some(0), Some(1)));
        assert_eq!(options("stream=Stderr").unwrap().stream, Some("stderr"));
        assert_eq!(options("stream=All&tailLines=1").unwrap().stream, None);
        let refused = [
            (
                "tailLines=-1",
                "PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "limitBytes=0",
                "limitBytes: Invalid value: 0: must be greater than 0",
            ),
            ("sinceSeconds=0", "sinceSeconds: Invalid value: 0"),
            (
                "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
                "at most one of `sinceTime` or `sinceSeconds`",
            ),
            ("stream=Both", "stream: Unsupported value: \"Both\""),
            ("stream=Stdout&tailLines=1", "mutually exclusive"),
            ("sinceTime=yesterday", "sinceTime: \"yesterday\" is not"),
            ("tailLines=many", "tailLines: \"many\" is not a number"),
        ];
        for (query, wanted) in refused {
            let error = options(query).unwrap_err();
            assert!(error.contains(wanted), "{query}: {error}");
        }
    }

    #[test]
    fn s9_which_start_is_meant_follows_the_status() {
        let ended = json!({"terminated": {"exitCode": 1}});
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        let running = json!({"running": {}});
        let cases: [(Value, Value, bool, Result<u32, &str>); 9] = [
            (running.clone(), json!({}), false, Ok(2)),
            (running.clone(), ended.clone(), true, Ok(1)),
            (ended.clone(), json!({}), false, Ok(2)),
            (waiting("CrashLoopBackOff"), ended.clone(), false, Ok(2)),
            (waiting("CrashLoopBackOff"), ended, true, Ok(2)),
            (
                running,
                json!({}),
                true,
                Err("previous terminated container \"c\" in pod \"p\" not found"),
            ),
            (
                waiting("ContainerCreating"),
                json!({}),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"),
            ),
            (
                waiting("ErrImagePull"),
                json!({}),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled"),
            ),
            (
                json!({}),
                json!({}),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start - no logs yet"),
            ),
        ];
        for (state, last, previous, wanted) in cases {
            let status = json!({"name": "c", "state": state, "lastState": last, "restartCount": 2});
            let pod = json!({
                "metadata": {"name": "p"},
                "status": {"containerStatuses": [status.clone()]},
            });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let got = attempt(&pod, "c", previous).map_err(|error| error.to_string());
            assert_eq!(
                got.as_ref().map_err(String::as_str),
                wanted.as_ref().map_err(|text| *text),
                "{status}"
            );
        }
    }
}
