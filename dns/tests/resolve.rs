//! Our stub resolver asks our server over loopback, as a Pod asks its node.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::time::Duration;

use dns::client::{Client, ResolvConf, ResolveError, Resolved};
use dns::records::{Change, Host, Service};
use dns::server::{Config, Running};
use dns::{Server, Zone};

fn service(name: &str, records: Service) -> Change {
    Change::Service {
        namespace: "default".into(),
        name: name.into(),
        records: Some(records),
    }
}

fn serve() -> (Zone, Running, SocketAddr) {
    let zone = Zone::new(dns::zone::Config::default()).unwrap();
    let addrs = |list: &[&str]| list.iter().map(|addr| addr.parse().unwrap()).collect();
    let host = |number: u32| Host {
        hostname: None,
        addr: IpAddr::V4(Ipv4Addr::from(0x0af4_0000 + number)),
        ports: vec![],
    };
    let hosts = (1..=200).map(host).collect();
    zone.apply(vec![
        service(
            "my-service",
            Service::Virtual {
                addrs: addrs(&["10.96.0.7", "fd00:96::7"]),
                ports: vec![],
            },
        ),
        service("many", Service::Headless { hosts }),
        service(
            "ext",
            Service::Alias {
                target: "my-service.default.svc.cluster.local".into(),
            },
        ),
    ]);
    zone.set_synced(true);
    let config = Config {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        upstreams: vec![],
        threads: NonZeroUsize::MIN,
    };
    let server = Server::bind(config, zone.clone()).unwrap();
    let addr = server.local_addrs()[0];
    (zone, server.serve().unwrap(), addr)
}

/// What a Pod's `resolv.conf` makes of a name.
fn resolve(server: SocketAddr, name: &str) -> Result<Resolved, ResolveError> {
    let conf = ResolvConf {
        nameservers: vec![server],
        timeout: Duration::from_millis(500),
        attempts: 1,
        ..ResolvConf::parse(
            "search default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n",
        )
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { Client::new(conf)?.resolve(name).await })
}

#[test]
fn a_service_is_found_by_each_of_its_names() {
    let (_zone, _running, server) = serve();
    let names = [
        "my-service",
        "my-service.default",
        "my-service.default.svc",
        "my-service.default.svc.cluster.local",
    ];
    for name in names {
        let found = resolve(server, name).unwrap();
        assert_eq!(
            found.name, "my-service.default.svc.cluster.local.",
            "{name}"
        );
        assert_eq!(
            found.addrs,
            ["10.96.0.7", "fd00:96::7"].map(|addr| addr.parse::<IpAddr>().unwrap()),
            "{name}"
        );
    }
}

#[test]
fn an_external_name_of_ours_leads_to_the_addresses_behind_it() {
    let (_zone, _running, server) = serve();
    assert_eq!(resolve(server, "ext").unwrap().addrs.len(), 2);
}

#[test]
fn an_answer_too_large_for_udp_comes_whole_over_tcp() {
    let (_zone, _running, server) = serve();
    assert_eq!(resolve(server, "many").unwrap().addrs.len(), 200);
}

#[test]
fn a_missing_name_says_what_was_tried_and_answered() {
    let (_zone, _running, server) = serve();
    let error = resolve(server, "my-servce.default").unwrap_err();
    assert!(matches!(error, ResolveError::NotFound { .. }), "{error:?}");
    let wanted = "my-servce.default: no such name: NXDOMAIN for my-servce.default.default.svc.cluster.local., \
                  NXDOMAIN for my-servce.default.svc.cluster.local., NXDOMAIN for my-servce.default.cluster.local., \
                  REFUSED for my-servce.default.";
    assert_eq!(error.to_string(), wanted);
}

#[test]
fn a_name_that_exists_without_address_is_told_apart() {
    let (_zone, _running, server) = serve();
    let error = resolve(server, "default.svc.cluster.local.").unwrap_err();
    assert!(matches!(error, ResolveError::NoAddress { .. }), "{error:?}");
}

#[test]
fn a_zone_that_is_not_synced_fails_instead_of_denying() {
    let (zone, _running, server) = serve();
    zone.set_synced(false);
    let error = resolve(server, "my-service").unwrap_err();
    assert!(matches!(error, ResolveError::Failed { .. }), "{error:?}");
}

#[test]
fn a_silent_server_is_a_timeout() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let error = resolve(silent.local_addr().unwrap(), "my-service").unwrap_err();
    let cause = error.source().expect("a cause").to_string();
    assert!(cause.contains("timed out"), "{cause}");
}

#[test]
fn an_address_needs_no_server() {
    let nobody = (Ipv4Addr::LOCALHOST, 9).into();
    assert_eq!(
        resolve(nobody, "10.96.0.7").unwrap().addrs,
        [IpAddr::from([10, 96, 0, 7])]
    );
}
