//! The Pod network against the real kernel, in private network namespaces. Needs root; fails without.

use std::{
    collections::BTreeMap,
    fs::File,
    net::{IpAddr, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    process::Command,
    thread,
    time::Duration,
};

use agent::{
    Addresses,
    network::{self, Conntrack, Network, NetworkConfig},
};
use nix::sched::{CloneFlags, setns, unshare};

/// Runs a test in a namespace of its own: this thread's, which the runtime shares because it has no other thread.
fn in_private_namespace(test: impl Future<Output = ()>) {
    unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (needs root)");
    assert_eq!(
        sh("ip -o link show | wc -l").trim(),
        "1",
        "a fresh namespace has lo only"
    );
    sh(
        "ip link add uplink type bridge && ip addr add 172.30.0.11/24 dev uplink && \
         ip addr add 2001:db8::11/64 dev uplink nodad && ip link set uplink mtu 1450 up",
    );
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime")
        .block_on(test);
}

/// A child of this thread is in this thread's namespace.
fn sh(command: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", command])
        .output()
        .expect("sh");
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

fn pod_namespace() -> OwnedFd {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace for a Pod");
        OwnedFd::from(File::open("/proc/thread-self/ns/net").expect("its file"))
    })
    .join()
    .expect("thread")
}

fn inside<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).expect("setns");
                work()
            })
            .join()
            .expect("thread")
    })
}

async fn open() -> Network {
    open_with(&["10.244.1.0/24", "fd00:0:0:1::/64"]).await
}

async fn open_with(pod_cidrs: &[&str]) -> Network {
    let ranges = pod_cidrs.iter();
    let config = NetworkConfig {
        pod_cidrs: ranges.map(|range| range.parse().expect("range")).collect(),
        cluster_dns: "10.96.0.10".parse().expect("address"),
        node_ip: "172.30.0.11".parse().expect("address"),
    };
    Network::open(config).await.expect("network")
}

async fn attach(network: &Network, uid: &str, namespace: &OwnedFd) -> Addresses {
    let addresses = network.allocate().expect("free");
    network
        .attach(uid, namespace.as_fd(), addresses)
        .await
        .expect("attached");
    addresses
}

fn state() -> String {
    sh(
        "ip -o addr show | grep -v 'scope link'; ip route show; ip -6 route show | grep -v fe80; \
         ip -o link show | sed 's/@.*//' | sort; \
         cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding",
    )
}

#[test]
fn pods_reach_each_other_and_a_restart_finds_everything_as_it_was() {
    in_private_namespace(async {
        let network = open().await;
        let (first, second) = (pod_namespace(), pod_namespace());
        let first_ip = attach(&network, "uid-1", &first).await;
        let second_ip = attach(&network, "uid-2", &second).await;
        assert_eq!(
            [first_ip, second_ip].map(|ip| ip.to_string()),
            ["10.244.1.2,fd00:0:0:1::2", "10.244.1.3,fd00:0:0:1::3"]
        );
        assert_eq!(sh("cat /sys/class/net/minik0/mtu 2>/dev/null || ip -o link show minik0 | grep -o 'mtu 1450'").trim().rsplit(' ').next(), Some("1450"));
        send_between(&first, first_ip, &second, second_ip);

        let before = state();
        drop(network);
        let again = open().await;
        assert_eq!(
            again.adopt(first.as_fd()).await.expect("adopt"),
            Some(first_ip)
        );
        assert_eq!(
            again.adopt(second.as_fd()).await.expect("adopt"),
            Some(second_ip)
        );
        again
            .attach("uid-2", second.as_fd(), second_ip)
            .await
            .expect("attach again");
        assert_eq!(state(), before, "a restart changes nothing");
        let third = pod_namespace();
        let third_ip = attach(&again, "uid-3", &third).await;
        assert_eq!(
            third_ip.to_string(),
            "10.244.1.4,fd00:0:0:1::4",
            "adopted addresses are not given out again"
        );
        send_between(&third, third_ip, &first, first_ip);
    });
}

#[test]
fn a_pod_made_anew_is_connected_while_its_old_namespace_still_stands() {
    in_private_namespace(async {
        let network = open().await;
        let (dead, new, other) = (pod_namespace(), pod_namespace(), pod_namespace());
        attach(&network, "uid-1", &dead).await;
        let address = attach(&network, "uid-1", &new).await;
        let other_ip = attach(&network, "uid-2", &other).await;
        send_between(&new, address, &other, other_ip);
    });
}

/// Left to itself, a bridge takes the lowest MAC address of its ports: Pods that knew another one would lose their gateway.
#[test]
fn pods_that_come_and_go_leave_the_gateways_mac_address_alone() {
    in_private_namespace(async {
        let network = open().await;
        let pod = pod_namespace();
        let ips = attach(&network, "uid-1", &pod).await;
        let mac = || sh("ip -o link show minik0 | grep -o 'link/ether [0-9a-f:]*'");
        let before = mac();
        sh(
            "ip link add lowest address 00:00:00:00:00:02 type veth peer name other && ip link set lowest master minik0 up",
        );
        assert_eq!(mac(), before, "a port with a lower address came");
        sh("ip link del lowest");
        assert_eq!(mac(), before, "it went");

        // One that an earlier version made, or somebody else: what is known of it by now stays.
        drop(network);
        sh("ip link del minik0 && ip link add minik0 type bridge && ip link set minik0 up");
        let _network = open().await;
        let before = mac();
        sh(
            "ip link add lowest address 00:00:00:00:00:02 type veth peer name other && ip link set lowest master minik0 up",
        );
        assert_eq!(mac(), before);
        drop((pod, ips));
    });
}

/// An agent that has just started gives out the lowest free address, which may have been another Pod's a moment ago: the kernel
/// has not removed that one's namespace yet.
#[test]
fn an_address_that_was_another_pods_leads_to_its_new_owner_at_once() {
    in_private_namespace(async {
        let network = open().await;
        let (gone, next, other) = (pod_namespace(), pod_namespace(), pod_namespace());
        let address = attach(&network, "uid-1", &gone).await;
        let other_ip = attach(&network, "uid-2", &other).await;
        send_between(&other, other_ip, &gone, address);
        network.release("uid-1", address).await;
        network
            .attach("uid-3", next.as_fd(), address)
            .await
            .expect("attached");
        send_between(&other, other_ip, &next, address);
    });
}

/// Neither in IPv4 clusters, where nobody expects IPv6.
#[test]
fn nobody_believes_a_pods_router_advertisements_or_the_nodes_redirects() {
    for ranges in [&["10.244.1.0/24"][..], &["fd00:0:0:1::/64"]] {
        thread::spawn(move || {
            in_private_namespace(async {
                let network = open_with(ranges).await;
                let pod = pod_namespace();
                attach(&network, "uid-1", &pod).await;
                let off = |link: &str| {
                    let settings = ["accept_ra", "accept_redirects", "accept_dad"];
                    let read = settings
                        .map(|name| format!("cat /proc/sys/net/ipv6/conf/{link}/{name}"))
                        .join("; ");
                    assert_eq!(sh(&read), "0\n0\n0\n", "{link}: {read}");
                };
                off("minik0");
                inside(&pod, || off("eth0"));
            });
        })
        .join()
        .expect("thread");
    }
}

#[test]
fn a_way_out_that_a_router_advertised_stays_when_the_node_becomes_a_router() {
    in_private_namespace(async {
        let _ipv4 = open_with(&["10.244.1.0/24"]).await;
        let uplink = "cat /proc/sys/net/ipv6/conf/uplink/accept_ra";
        assert_eq!(sh(uplink).trim(), "1");
        let _both = open().await;
        assert_eq!(sh(uplink).trim(), "2");
        assert_eq!(
            sh("cat /proc/sys/net/ipv6/conf/minik0/accept_ra").trim(),
            "0"
        );
    });
}

#[test]
fn the_nodes_address_of_the_other_family_is_found_beside_the_known_one() {
    in_private_namespace(async {
        sh(
            "ip addr add 2001:db8::99/64 dev uplink preferred_lft 0 nodad; \
            ip link add other type bridge && ip addr add 2001:db8:1::1/64 dev other nodad",
        );
        let beside = network::addresses_beside("172.30.0.11".parse().expect("address"))
            .await
            .expect("addresses");
        assert_eq!(beside, ["2001:db8::11".parse::<IpAddr>().expect("address")]);
    });
}

#[test]
fn an_address_towards_a_single_peer_is_the_nodes_own_and_not_the_peers() {
    in_private_namespace(async {
        sh(
            "ip link add wire type bridge && ip addr add 198.51.100.1 peer 198.51.100.2/32 dev wire && ip link set wire up",
        );
        let network = open().await;
        let has = async |address: &str| {
            let address = address.parse().expect("address");
            network.has_address(address).await.expect("addresses")
        };
        assert!(has("198.51.100.1").await);
        assert!(!has("198.51.100.2").await);
    });
}

#[test]
fn ipv6_works_where_new_links_have_it_off() {
    in_private_namespace(async {
        sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
        let network = open().await;
        let (first, second) = (pod_namespace(), pod_namespace());
        let first_ip = attach(&network, "uid-1", &first).await;
        let second_ip = attach(&network, "uid-2", &second).await;
        send_between(&first, first_ip, &second, second_ip);
    });
}

/// The old range may be another node's by now: its Pods would be looked for on the bridge.
#[test]
fn a_node_that_joined_anew_forgets_its_former_ranges() {
    in_private_namespace(async {
        drop(open().await);
        let network = open_with(&["10.244.7.0/24", "fd00:0:0:7::/64"]).await;
        let addresses = sh("ip -o addr show dev minik0 scope global | awk '{print $4}'");
        assert_eq!(addresses, "10.244.7.1/24\nfd00:0:0:7::1/64\n");
        let routes = [
            ("10.244.1.0/24", "172.30.0.12"),
            ("fd00:0:0:1::/64", "2001:db8::12"),
        ];
        let routes: BTreeMap<_, _> = routes
            .iter()
            .map(|(to, via)| (to.parse().expect("range"), via.parse().expect("address")))
            .collect();
        network.set_routes(&routes).await.expect("routes");
        for (pod, via) in [
            ("10.244.1.9", "via 172.30.0.12"),
            ("fd00:0:0:1::9", "via 2001:db8::12"),
        ] {
            let way = sh(&format!("ip route get {pod}"));
            assert!(way.contains(via), "{way}");
        }
    });
}

#[test]
fn a_pod_that_was_connected_by_half_keeps_no_address_of_the_first_attempt() {
    in_private_namespace(async {
        let network = open().await;
        let pod = pod_namespace();
        attach(&network, "uid-1", &pod).await;
        inside(&pod, || {
            sh("ip -6 addr del fd00:0:0:1::2/128 dev eth0");
        });
        drop(network);
        let network = open().await;
        let adopted = network.adopt(pod.as_fd()).await.expect("adopt");
        assert_eq!(adopted, None, "nothing runs in it yet");
        let _others = network.allocate().expect("free");
        let new = attach(&network, "uid-1", &pod).await;
        let list = "ip -o addr show dev eth0 scope global | awk '{print $4}' | cut -d/ -f1";
        let wanted: String = new.into_iter().map(|ip| format!("{ip}\n")).collect();
        assert_eq!(inside(&pod, || sh(list)), wanted);
    });
}

#[test]
fn a_route_that_the_kernel_refuses_keeps_no_other_node_from_being_reached() {
    in_private_namespace(async {
        let network = open().await;
        // A Node object that was left behind when this host changed its name has our own address.
        let routes = [
            ("fd00:0:0:2::/64", "2001:db8::11"),
            ("fd00:0:0:3::/64", "2001:db8::13"),
        ];
        let routes: BTreeMap<_, _> = routes
            .iter()
            .map(|(to, via)| (to.parse().expect("range"), via.parse().expect("address")))
            .collect();
        let error = network.set_routes(&routes).await.expect_err("a refusal");
        assert!(error.to_string().contains("fd00:0:0:2::/64"), "{error}");
        let table = sh("ip -6 route show | grep via");
        assert!(
            table.contains("fd00:0:0:3::/64 via 2001:db8::13"),
            "{table}"
        );
    });
}

fn send_between(from: &OwnedFd, from_ips: Addresses, to: &OwnedFd, to_ips: Addresses) {
    for to_ip in to_ips {
        let from_ip = from_ips.alike(to_ip).expect("both have both families");
        send(from, from_ip, to, to_ip);
    }
}

fn send(from: &OwnedFd, from_ip: IpAddr, to: &OwnedFd, to_ip: IpAddr) {
    let receiver = inside(to, || UdpSocket::bind((to_ip, 7000)).expect("bind"));
    receiver
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("timeout");
    let sender = inside(from, || UdpSocket::bind((from_ip, 0)).expect("bind"));
    sender.send_to(b"hello", (to_ip, 7000)).expect("send");
    let mut buffer = [0; 16];
    let (length, peer) = receiver
        .recv_from(&mut buffer)
        .expect("the datagram arrives");
    assert_eq!(
        (&buffer[..length], peer.ip()),
        (&b"hello"[..], from_ip),
        "no address is translated"
    );
}

#[test]
fn routes_to_other_nodes_are_exactly_the_wanted_ones_and_foreign_routes_stay() {
    in_private_namespace(async {
        let network = open().await;
        sh("ip route add 203.0.113.0/24 via 172.30.0.99");
        let routes = |list: &[(&str, &str)]| -> BTreeMap<_, _> {
            list.iter()
                .map(|(to, via)| (to.parse().expect("range"), via.parse().expect("address")))
                .collect()
        };
        let both = routes(&[
            ("10.244.2.0/24", "172.30.0.12"),
            ("10.244.3.0/24", "172.30.0.13"),
            ("fd00:0:0:2::/64", "2001:db8::12"),
            ("fd00:0:0:3::/64", "2001:db8::13"),
        ]);
        network.set_routes(&both).await.expect("routes");
        network
            .set_routes(&both)
            .await
            .expect("the same routes again");
        let moved = routes(&[
            ("10.244.2.0/24", "172.30.0.22"),
            ("10.244.4.0/24", "198.51.100.7"),
            ("fd00:0:0:2::/64", "2001:db8::22"),
            ("fd00:0:0:4::/64", "2001:db8:4::7"),
        ]);
        network
            .set_routes(&moved)
            .await
            .expect("a node that moved, one that went, one that is unreachable");
        let table = sh("ip route show | grep via");
        assert!(table.contains("10.244.2.0/24 via 172.30.0.22"), "{table}");
        assert!(table.contains("203.0.113.0/24 via 172.30.0.99"), "{table}");
        assert!(
            !table.contains("10.244.3.0") && !table.contains("10.244.4.0"),
            "{table}"
        );
        let table = sh("ip -6 route show | grep via");
        assert_eq!(table.lines().count(), 1, "{table}");
        assert!(
            table.contains("fd00:0:0:2::/64 via 2001:db8::22"),
            "{table}"
        );
    });
}

/// A file of connection tracking, as this namespace has it.
fn conntrack(file: &str) -> u64 {
    let path = format!("/proc/sys/net/netfilter/nf_conntrack_{file}");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim().parse().expect("a number")
}

#[test]
fn connection_tracking_is_given_time_in_its_namespace_and_its_size_is_the_machines() {
    in_private_namespace(async {
        let sizes = || [conntrack("max"), conntrack("buckets")];
        let before = sizes();
        let set = |file: &str, value: &str| {
            let path = format!("/proc/sys/net/netfilter/nf_conntrack_{file}");
            std::fs::write(path, value).expect("write");
        };
        set("tcp_timeout_established", "600");
        set("udp_timeout", "77");
        let settings = Conntrack {
            max_per_core: u32::MAX,
            udp_timeout: Duration::from_secs(60),
            udp_timeout_stream: Duration::from_secs(1000),
            tcp_be_liberal: true,
            ..Conntrack::default()
        };
        settings.raise();
        let now = [
            "tcp_timeout_established",
            "tcp_timeout_close_wait",
            "udp_timeout",
            "udp_timeout_stream",
            "tcp_be_liberal",
        ];
        assert_eq!(now.map(conntrack), [86_400, 3600, 77, 1000, 1]);
        assert_eq!(sizes(), before, "no namespace changes the machine's table");
    });
}
