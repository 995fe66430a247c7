//! Probes and lifecycle hooks.

use super::IntOrString;
use crate::wire::wire;

wire! {
    /// A question asked of a container again and again. Exactly one of the actions is set.
    pub struct Probe {
        exec: Option<ExecAction>,
        http_get: Option<HttpGetAction>,
        tcp_socket: Option<TcpSocketAction>,
        grpc: Option<GrpcAction>,
        initial_delay_seconds: i32,
        timeout_seconds: i32,
        period_seconds: i32,
        success_threshold: i32,
        failure_threshold: i32,
        termination_grace_period_seconds: Option<i64>,
    }

    /// Hooks around a container's life.
    pub struct Lifecycle {
        post_start: Option<LifecycleHandler>,
        pre_stop: Option<LifecycleHandler>,
        stop_signal: Option<Box<str>>,
    }

    /// What a hook does: exactly one is set.
    pub struct LifecycleHandler {
        exec: Option<ExecAction>,
        http_get: Option<HttpGetAction>,
        tcp_socket: Option<TcpSocketAction>,
        sleep: Option<SleepAction>,
    }

    /// Runs a command in the container; exit code 0 is success.
    pub struct ExecAction {
        command: Vec<Box<str>>,
    }

    /// Asks over HTTP; a code from 200 to 399 is success.
    pub struct HttpGetAction {
        [always] {
            port: IntOrString,
        }
        path: Box<str>,
        host: Box<str>,
        scheme: Box<str>,
        http_headers: Vec<HttpHeader>,
    }

    /// A header of such a question.
    pub struct HttpHeader {
        [always] {
            name: Box<str>,
            value: Box<str>,
        }
    }

    /// Opens a TCP connection.
    pub struct TcpSocketAction {
        [always] {
            port: IntOrString,
        }
        host: Box<str>,
    }

    /// Asks by the gRPC health protocol.
    pub struct GrpcAction {
        [always] {
            port: i32,
        }
        service: Option<Box<str>>,
    }

    /// Waits.
    pub struct SleepAction {
        [always] {
            seconds: i64,
        }
    }
}
