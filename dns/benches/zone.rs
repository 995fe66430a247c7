//! Answers a second from the zone alone, and the cost of one change, by size of the zone.
//!
//! `cargo bench -p dns`; one line per size, times in nanoseconds.

#![expect(clippy::unwrap_used, reason = "a benchmark may stop at once")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use dns::Zone;
use dns::records::{Change, Port, Service};
use dns::zone::{Answer, Config};
use hickory_proto::rr::{Name, RecordType};

const ANSWERS: usize = 300_000;
const CHANGES: usize = 20_000;

fn change(number: usize, addr: u32) -> Change {
    Change::Service {
        namespace: format!("namespace-{}", number % 20).into(),
        name: format!("service-{number}").into(),
        records: Some(Service::Virtual {
            addrs: vec![IpAddr::V4(Ipv4Addr::from(addr))],
            ports: vec![Port {
                name: "http".into(),
                protocol: "tcp",
                number: 80,
            }],
        }),
    }
}

fn names(services: usize) -> Vec<Name> {
    let name = |number| {
        format!(
            "service-{number}.namespace-{}.svc.cluster.local.",
            number % 20
        )
    };
    (0..services)
        .map(|number| Name::from_ascii(name(number)).unwrap())
        .collect()
}

/// Nanoseconds for each of `count` calls.
fn measure(count: usize, mut call: impl FnMut(usize)) -> f64 {
    let start = Instant::now();
    (0..count).for_each(&mut call);
    start.elapsed().as_nanos() as f64 / count as f64
}

fn main() {
    println!(
        "{:>9} {:>12} {:>12} {:>12}",
        "services", "load_ns_each", "answer_ns", "change_ns"
    );
    for services in [100, 1_000, 10_000, 30_000] {
        let zone = Zone::new(Config::default()).unwrap();
        let changes = (0..services)
            .map(|number| change(number, number as u32))
            .collect();
        let start = Instant::now();
        zone.apply(changes);
        let load = start.elapsed().as_nanos() as f64 / services as f64;
        zone.set_synced(true);

        let names = names(services);
        let answer = measure(ANSWERS, |n| {
            let Answer::Ours(reply) = zone
                .snapshot()
                .answer(&names[n * 7919 % services], RecordType::A)
            else {
                panic!("the name is ours");
            };
            assert_eq!(reply.answers.len(), 1);
        });
        let one_change = measure(CHANGES, |n| {
            zone.apply(vec![change(n * 7919 % services, 1 << 24 | n as u32)])
        });
        println!("{services:>9} {load:>12.0} {answer:>12.0} {one_change:>12.0}");
    }
}
