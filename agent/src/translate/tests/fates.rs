//! Every row of the fate table, traced over the compiled rules, for every path, client, protocol and family.

mod cluster;
mod oracle;

use std::collections::BTreeSet;

use dataplane::{
    model::{Desired, LocalDetector},
    ruleset::{ConnectionState, Landing, Origin, Packet, Ruleset, Source, World},
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use cluster::*;
use oracle::{CLIENTS, Client, DESTINATIONS, Masqueraded, ROWS, To, Wanted, fate};

fn destination(to: To, family: Family) -> SocketAddr {
    let (addr, port) = match to {
        To::ClusterIp => (of(family, CLUSTER_IPS), 80),
        To::UndefinedPort => (of(family, CLUSTER_IPS), 81),
        To::Unallocated => (of(family, ["10.96.0.99", "fd00:96::99"]), 80),
        To::NodePort => (of(family, NODE_IPS), 30080),
        To::NodePortOfLoopback => (of(family, ["127.0.0.1", "::1"]), 30080),
        To::NodePortOfOtherAddress => (of(family, OTHER_NODE_IPS), 30080),
        To::ExternalIp => (of(family, EXTERNAL_IPS), 80),
        To::Vip => (of(family, VIPS), 80),
        To::VipOfModeProxy => (of(family, PROXY_VIPS), 80),
    };
    SocketAddr::new(addr, port)
}

/// Whether such a packet can come at all.
fn is_possible(client: Client, to: To) -> bool {
    match client {
        // From loopback nothing comes in by a link, and the node asks itself there by its own loopback address.
        Client::Node => true,
        Client::NodeAsVip => to == To::Vip,
        _ => to != To::NodePortOfLoopback,
    }
}

fn packet(client: Client, to: To, protocol: model::Protocol, family: Family) -> Packet {
    let source = match to {
        To::NodePortOfLoopback => of(family, ["127.0.0.1", "::1"]),
        _ => client.addr(family),
    };
    Packet {
        origin: if client.is_node() {
            Origin::Node
        } else {
            Origin::Link
        },
        protocol,
        source: SocketAddr::new(source, 40_000),
        destination: destination(to, family),
    }
}

fn world(cluster: &Cluster, client: Client, choice: u32) -> World {
    let mut addresses: BTreeSet<IpAddr> = Family::ALL
        .iter()
        .flat_map(|family| [NODE_IPS, OTHER_NODE_IPS].map(|pair| of(*family, pair)))
        .collect();
    if client == Client::NodeAsVip {
        addresses.extend(Family::ALL.map(|family| of(family, VIPS)));
    }
    let link = match client {
        Client::Endpoint | Client::Pod if cluster.detect == Detect::Prefix => POD_LINK,
        Client::Endpoint | Client::Pod => BRIDGE,
        _ => "eth0",
    };
    World {
        local_addresses: addresses,
        link: link.to_owned(),
        choice,
        ..World::default()
    }
}

/// Traces one packet with every draw, and says what is wrong.
fn judge(
    cluster: &Cluster,
    ruleset: &Ruleset,
    packet: &Packet,
    client: Client,
    wanted: &Wanted,
) -> Result<(), String> {
    let draws = u32::try_from(cluster.members.len()).expect("a few").max(1);
    let landings: Vec<Landing> = (0..draws)
        .map(|choice| {
            let mut world = world(cluster, client, choice);
            ruleset.trace(packet, ConnectionState::New, &mut world)
        })
        .collect();
    let (endpoints, masqueraded) = match wanted {
        Wanted::Endpoints(endpoints, masqueraded) => (endpoints, *masqueraded),
        other => {
            let is_right = |landing: &Landing| match (other, landing) {
                (Wanted::Reject, Landing::Rejected) | (Wanted::Drop, Landing::Dropped) => true,
                (Wanted::Untouched, Landing::Delivered { to, tracked, .. }) => {
                    *to == packet.destination && *tracked
                }
                _ => false,
            };
            return match landings.iter().find(|landing| !is_right(landing)) {
                None => Ok(()),
                Some(got) => Err(format!("wanted {other:?}, got {got:?}")),
            };
        }
    };
    let mut seen = BTreeSet::new();
    for landing in landings {
        let Landing::Delivered { to, source, .. } = landing else {
            return Err(format!("wanted {wanted:?}, got {landing:?}"));
        };
        let hairpin = to.ip() == packet.source.ip();
        let keeps = masqueraded == Masqueraded::No && !hairpin;
        if (source == Source::Kept) != keeps {
            return Err(format!("wanted {wanted:?}, got {landing:?}"));
        }
        if to.port() != target(packet.protocol) {
            return Err(format!("wanted the target port, got {to}"));
        }
        seen.insert(to.ip());
    }
    if seen == *endpoints {
        return Ok(());
    }
    Err(format!("wanted {endpoints:?}, got {seen:?}"))
}

/// Asks everything of a cluster; returns the rows that were met.
fn ask_all(cluster: &Cluster) -> Result<BTreeSet<&'static str>, String> {
    let ruleset = cluster.ruleset();
    let mut met = BTreeSet::new();
    for family in Family::ALL {
        for to in DESTINATIONS {
            for client in CLIENTS {
                if !is_possible(client, to) {
                    continue;
                }
                let (row, wanted) = fate(cluster, client, to, family);
                for protocol in PROTOCOLS {
                    let packet = packet(client, to, protocol, family);
                    judge(cluster, &ruleset, &packet, client, &wanted).map_err(|wrong| {
                        format!("{row}: {client:?} asks {to:?} by {protocol:?} of {family:?}: {wrong}\nin {cluster:#?}")
                    })?;
                }
                met.insert(row);
            }
        }
    }
    Ok(met)
}

const HERE: u8 = 1;
const THERE: u8 = 2;

/// Endpoints that make every list of the rules differ from every other.
fn layouts() -> Vec<Vec<Member>> {
    let zoned = |node, host, zone| Member {
        zone: Some(zone),
        ..Member::new(node, host, READY)
    };
    vec![
        vec![],
        vec![Member::new(HERE, 1, READY), Member::new(THERE, 2, READY)],
        vec![Member::new(HERE, 1, READY), Member::new(HERE, 2, UNREADY)],
        vec![
            Member::new(THERE, 2, READY),
            Member::new(THERE, 3, STARTING),
        ],
        vec![Member::new(HERE, 1, SERVING), Member::new(THERE, 2, READY)],
        vec![
            Member::new(HERE, 1, TERMINATING),
            Member::new(THERE, 2, SERVING),
        ],
        vec![
            Member::new(HERE, 1, UNREADY),
            Member::new(THERE, 2, STARTING),
        ],
        vec![
            Member::new(HERE, 1, PUBLISHED),
            Member::new(THERE, 2, SERVING),
        ],
        vec![
            zoned(HERE, 2, "z2"),
            zoned(THERE, 2, "z1"),
            zoned(THERE, 3, "z2"),
        ],
    ]
}

const POLICIES: [Policy; 2] = [Policy::Cluster, Policy::Local];

/// None, let the outside in, let the node in, let nobody of IPv6 in, let all in by one of two, let strangers in only.
const RANGES: [&[&str]; 6] = [
    &[],
    &[" 203.0.113.0/24", "2001:db8:9::/48"],
    &["192.0.2.0/28", "2001:db8:1::1/128"],
    &["203.0.113.0/24"],
    &["10.0.0.0/32", "0.0.0.0/0", "2001:db8:77::/48", "::/0"],
    &["198.51.100.77/32", "2001:db8:77::/48"],
];

fn clusters() -> Vec<Cluster> {
    let mut all = Vec::new();
    for internal in POLICIES {
        for external in POLICIES {
            let policies = Cluster {
                internal,
                external,
                ..Cluster::default()
            };
            all.extend(layouts().into_iter().map(|members| Cluster {
                members,
                ..policies.clone()
            }));
            let members = || vec![Member::new(HERE, 1, READY), Member::new(THERE, 2, READY)];
            all.extend(RANGES[1..].iter().map(|ranges| Cluster {
                members: members(),
                ranges: ranges.to_vec(),
                ..policies.clone()
            }));
            all.extend(DETECTORS.map(|detect| Cluster {
                members: members(),
                detect,
                masquerade_all: detect == Detect::NodeCidr,
                primary_only: detect != Detect::Prefix,
                affinity: detect != Detect::Bridge,
                ..policies.clone()
            }));
        }
    }
    all.push(Cluster {
        ranges: RANGES[5].to_vec(),
        ..Cluster::default()
    });
    all
}

#[test]
fn every_row_of_the_fate_table_holds_for_every_path_client_protocol_and_family() {
    let mut met = BTreeSet::new();
    for cluster in clusters() {
        met.extend(ask_all(&cluster).unwrap_or_else(|wrong| panic!("{wrong}")));
    }
    assert_eq!(met, BTreeSet::from(ROWS), "each row is met");
}

fn any_member() -> impl Strategy<Value = Member> {
    let zones = select(vec![None, Some("z1"), Some("z1"), Some("z2")]);
    let nodes = select(vec![None, None, Some("n1"), Some("n2")]);
    let state = select([STATES.to_vec(), vec![READY; 4]].concat());
    (1..4_u8, 1..4_u8, state, zones, nodes, 0..3_usize).prop_map(
        |(node, host, state, zone, on, slice)| Member {
            node,
            host,
            state,
            zone,
            on,
            slice,
        },
    )
}

/// An address may be named twice, but then it must be certain whose it is: of two of which one terminates.
fn without_ambiguity(members: Vec<Member>) -> Vec<Member> {
    let mut kept: Vec<Member> = Vec::new();
    for member in members {
        let same = |other: &&Member| (other.node, other.host) == (member.node, member.host);
        let others: Vec<_> = kept.iter().filter(same).collect();
        let terminates = |member: &Member| member.state.terminating == Some(true);
        if others.is_empty() || others.len() == 1 && terminates(others[0]) != terminates(&member) {
            kept.push(member);
        }
    }
    kept
}

/// All zones named, or all nodes, or none: else complete hints would be rare.
fn with_hints(members: Vec<Member>, complete: u8) -> Vec<Member> {
    let hint = |member: Member| Member {
        zone: match complete {
            0 => None,
            1 | 2 => member.zone.or(Some("z2")),
            _ => member.zone,
        },
        on: match complete {
            2 => member.on.or(Some("n3")),
            0 | 1 => None,
            _ => member.on,
        },
        ..member
    };
    members.into_iter().map(hint).collect()
}

fn any_cluster() -> impl Strategy<Value = Cluster> {
    let policy = || select(POLICIES.to_vec());
    let members = (vec(any_member(), 0..7), 0..4_u8)
        .prop_map(|(members, complete)| with_hints(without_ambiguity(members), complete));
    let ranges = option::weighted(0.4, select(RANGES.to_vec()));
    let setup = (
        select(DETECTORS.to_vec()),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    (policy(), policy(), members, ranges, setup).prop_map(
        |(
            internal,
            external,
            members,
            ranges,
            (detect, masquerade_all, primary_only, affinity),
        )| {
            Cluster {
                internal,
                external,
                members,
                ranges: ranges.unwrap_or_default().to_vec(),
                affinity,
                detect,
                masquerade_all,
                primary_only,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_clusters_follow_the_oracle(cluster in any_cluster()) {
        let asked = ask_all(&cluster);
        prop_assert!(asked.is_ok(), "{}", asked.expect_err("checked"));
    }
}
