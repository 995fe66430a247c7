//! The Event about a health-check node port that cannot be served, in the words of the reference proxy.

use std::{io, net::SocketAddr};

use jiff::Timestamp;
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::{
    client::{Client, encode},
    objects::Key,
};

const COMPONENT: &str = "minik-agent";

/// Tells the Service's owner that its health-check node port is not served here.
pub(super) async fn report(
    client: &Client,
    node: &str,
    key: &Key,
    addr: SocketAddr,
    error: &io::Error,
) {
    let namespace = encode(&key.namespace);
    // With its uid `kubectl describe service` finds the Event.
    let path = format!(
        "/api/v1/namespaces/{namespace}/services/{}",
        encode(&key.name)
    );
    let uid = match client.get::<Value>(&path).await {
        Ok(service) => service["metadata"]["uid"].clone(),
        Err(_) => Value::Null,
    };
    let event = event(node, key, &uid, addr, error);
    let path = format!("/api/v1/namespaces/{namespace}/events");
    if let Err(error) = client.create::<Value>(&path, &event).await {
        tracing::warn!(%error, "an event could not be written");
    }
}

fn event(node: &str, key: &Key, uid: &Value, addr: SocketAddr, error: &io::Error) -> Value {
    let Key { namespace, name } = key;
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (port, why) = (addr.port(), reason(error));
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"generateName": format!("{name}."), "namespace": namespace},
        "involvedObject": {
            "apiVersion": "v1", "kind": "Service", "namespace": namespace, "name": name, "uid": uid,
        },
        "type": "Warning", "reason": "FailedToStartServiceHealthcheck", "action": "Listen",
        "message": format!(
            "node {node} failed to start healthcheck \"{key}\" on port {port}: listen tcp {addr}: bind: {why}"
        ),
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT, "reportingInstance": node,
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    })
}

/// The system's words for it, which Go has in small letters.
fn reason(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || error.to_string(),
        |errno| Errno::from_raw(errno).desc().to_lowercase(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_the_reference_proxys() {
        let error = io::Error::from_raw_os_error(nix::libc::EADDRINUSE);
        let key = Key::new("default", "web");
        for (addr, listen) in [
            ("0.0.0.0:32123", "listen tcp 0.0.0.0:32123"),
            ("[::]:32123", "listen tcp [::]:32123"),
        ] {
            let addr = addr.parse().expect("an address");
            let event = event("node1", &key, &Value::Null, addr, &error);
            assert_eq!(
                event["message"],
                format!(
                    "node node1 failed to start healthcheck \"default/web\" on port 32123: {listen}: \
                     bind: address already in use"
                )
            );
        }
    }
}
