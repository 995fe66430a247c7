//! Questions to the cluster's name server.

use std::sync::LazyLock;

use dns::{
    Zone,
    records::{Change, Host, Port, Service},
    zone::{Answer, Config},
};
use hickory_proto::op::Message;

/// Every question of a message.
pub fn run(bytes: &[u8]) {
    let Ok(message) = Message::from_vec(bytes) else {
        return;
    };
    let zone = ZONE.snapshot();
    for query in &message.queries {
        if let Answer::Ours(reply) = zone.answer(query.name(), query.query_type()) {
            let records = reply.answers.len() + reply.additionals.len();
            assert!(records < 64, "an answer longer than the zone");
        }
    }
}

/// Something of everything.
static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let addr = |text: &str| text.parse().expect("an address");
    let config = Config {
        nameservers: vec![addr("10.96.0.10")],
        reverse: ["10.96.0.0/16", "fd00:96::/108"]
            .map(|net| net.parse().expect("a network"))
            .into(),
        ..Config::default()
    };
    let zone = Zone::new(config).expect("a domain");
    let ports = || {
        vec![Port {
            name: "http".into(),
            protocol: "tcp",
            number: 80,
        }]
    };
    let service = |name: &str, records| Change::Service {
        namespace: "default".into(),
        name: name.into(),
        records: Some(records),
    };
    zone.apply(vec![
        Change::Namespace {
            name: "default".into(),
            exists: true,
        },
        service(
            "web",
            Service::Virtual {
                addrs: vec![addr("10.96.0.2"), addr("fd00:96::2")],
                ports: ports(),
            },
        ),
        service(
            "db",
            Service::Headless {
                hosts: vec![Host {
                    hostname: Some("db-0".into()),
                    addr: addr("10.244.0.2"),
                    ports: ports(),
                }],
            },
        ),
        service(
            "far",
            Service::Alias {
                target: "web.default.svc.cluster.local".into(),
            },
        ),
        service(
            "loop",
            Service::Alias {
                target: "loop.default.svc.cluster.local".into(),
            },
        ),
    ]);
    zone.set_synced(true);
    zone
});
