//! What the server is told, and what it makes of it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::PathBuf,
    time::Duration,
};

use api::names;
use ipnet::IpNet;

use super::ServerError;
use crate::{
    audit::LogConfig,
    controller::{Pool, PoolEntry},
    pki::ServerNames,
    registry::{Context, DefaultTolerations},
};

/// How the server is to run. Every default works on one host.
#[derive(Debug)]
pub struct Config {
    /// Where the store and the certificates live; made when missing. Flag `--data-dir`.
    pub data_dir: PathBuf,
    /// Where to listen; port 0 takes a free one. Flag `--bind`.
    pub bind: SocketAddr,
    /// Listening sockets that somebody else opened, for example systemd.
    pub inherited: Vec<TcpListener>,
    /// The address by which nodes and Pods reach the server; by default that of `bind`, or of the default route. Flag
    /// `--advertise-address`.
    pub advertise_address: Option<IpAddr>,
    /// Where ClusterIPs come from, one range per family, the primary first. Flag `--service-cidr`.
    pub service_cidrs: Vec<IpNet>,
    /// Where Pod addresses come from; each node gets a /24 (IPv6: a /64). Flag `--pod-cidr`.
    pub pod_cidrs: Vec<IpNet>,
    /// The domain of Service names. Flag `--cluster-domain`.
    pub cluster_domain: String,
    /// The address of the cluster's DNS. Flag `--cluster-dns`.
    pub cluster_dns: IpAddr,
    /// Further names and addresses for the server's certificate. Flag `--tls-san`.
    pub tls_sans: Vec<String>,
    /// How long a node may be silent before it counts as lost.
    pub node_grace: Duration,
    /// How long Pods stay on a node that is not ready or not reachable, unless they say so themselves. Flags
    /// `--default-not-ready-toleration-seconds` and `--default-unreachable-toleration-seconds`.
    pub default_tolerations: DefaultTolerations,
    /// The external IPs that Services may claim. Flag `--allow-external-ips`.
    pub allowed_external_ips: Vec<IpNet>,
    /// The addresses of nodes and of the API that Endpoints written by hand may name. Flag `--allow-endpoint-ips`.
    pub allowed_endpoint_ips: Vec<IpNet>,
    /// The users, besides administrators, that may write the status of Services. Flag `--load-balancer-controller`.
    pub load_balancer_controllers: Vec<String>,
    /// Where Services of type LoadBalancer get their addresses; nowhere when it is empty. Flag `--load-balancer-pool`.
    pub load_balancer_pool: Vec<PoolEntry>,
    /// Where requests are told; nowhere by default. Flags `--audit-log-path`, `--audit-log-maxsize` and
    /// `--audit-log-maxbackup`.
    pub audit: Option<LogConfig>,
}

impl Default for Config {
    fn default() -> Self {
        let v4 = |a, b, c, d, prefix| {
            let net = ipnet::Ipv4Net::new(Ipv4Addr::new(a, b, c, d), prefix);
            IpNet::from(net.expect("a prefix below 33"))
        };
        Self {
            data_dir: "/var/lib/minik/server".into(),
            bind: SocketAddr::from(([0, 0, 0, 0], 6443)),
            inherited: Vec::new(),
            advertise_address: None,
            service_cidrs: vec![v4(10, 96, 0, 0, 16)],
            pod_cidrs: vec![v4(10, 244, 0, 0, 16)],
            cluster_domain: "cluster.local".into(),
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10).into(),
            tls_sans: Vec::new(),
            node_grace: Duration::from_secs(50),
            default_tolerations: DefaultTolerations::default(),
            allowed_external_ips: Vec::new(),
            allowed_endpoint_ips: Vec::new(),
            load_balancer_controllers: Vec::new(),
            load_balancer_pool: Vec::new(),
            audit: None,
        }
    }
}

/// A flag with a value that cannot work.
fn bad(flag: &'static str, value: impl ToString, hint: impl Into<String>) -> ServerError {
    ServerError::Flag {
        flag,
        value: value.to_string(),
        hint: hint.into(),
    }
}

/// The prefix length of one node's share of a Pod range.
#[must_use]
pub fn node_prefix(range: &IpNet) -> u8 {
    match range {
        IpNet::V4(_) => 24,
        IpNet::V6(_) => 64,
    }
}

impl Config {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`ServerError::Flag`], naming flag, value and what to do.
    pub fn check(&self) -> Result<(), ServerError> {
        one_per_family("--service-cidr", &self.service_cidrs)?;
        one_per_family("--pod-cidr", &self.pod_cidrs)?;
        for range in &self.service_cidrs {
            if range.max_prefix_len() - range.prefix_len() < 3 {
                return Err(bad(
                    "--service-cidr",
                    range,
                    "too small: give at least 8 addresses",
                ));
            }
            if range.addr().is_ipv6() && range.prefix_len() < 64 {
                let hint =
                    "too large: an IPv6 range of Services is a /64 or smaller, usually a /112";
                return Err(bad("--service-cidr", range, hint));
            }
            for pods in &self.pod_cidrs {
                if range.contains(pods) || pods.contains(range) {
                    let hint = format!("overlaps --pod-cidr {pods}: give disjoint ranges");
                    return Err(bad("--service-cidr", range, hint));
                }
            }
        }
        for range in &self.pod_cidrs {
            let prefix = node_prefix(range);
            if range.prefix_len() > prefix {
                let hint = format!("each node needs a /{prefix}: give a larger range");
                return Err(bad("--pod-cidr", range, hint));
            }
        }
        if !self
            .service_cidrs
            .iter()
            .any(|range| range.contains(&self.cluster_dns))
        {
            let hint = "outside --service-cidr: give an address inside it, usually the tenth";
            return Err(bad("--cluster-dns", self.cluster_dns, hint));
        }
        if self.cluster_dns == self.api_service_ip() {
            let hint = "the first Service address is that of the API: give another one";
            return Err(bad("--cluster-dns", self.cluster_dns, hint));
        }
        self.check_load_balancer_pool()?;
        names::dns1123_subdomain(&self.cluster_domain)
            .map_err(|reason| bad("--cluster-domain", &self.cluster_domain, reason))?;
        for san in &self.tls_sans {
            if san.parse::<IpAddr>().is_err() {
                let name = san.strip_prefix("*.").unwrap_or(san);
                names::dns1123_subdomain(name).map_err(|reason| bad("--tls-san", san, reason))?;
            }
        }
        if self
            .advertise_address
            .is_some_and(|ip| ip.is_unspecified() || ip.is_multicast())
        {
            let value = self
                .advertise_address
                .map(|ip| ip.to_string())
                .unwrap_or_default();
            return Err(bad(
                "--advertise-address",
                value,
                "give an address nodes can connect to",
            ));
        }
        Ok(())
    }

    fn check_load_balancer_pool(&self) -> Result<(), ServerError> {
        let flag = "--load-balancer-pool";
        let pool = &self.load_balancer_pool;
        if pool.len() > 1 && pool.contains(&PoolEntry::Nodes) {
            let hint = "cannot be combined with ranges: give either it or them";
            return Err(bad(flag, "nodes", hint));
        }
        for (other, ranges) in [
            ("--service-cidr", &self.service_cidrs),
            ("--pod-cidr", &self.pod_cidrs),
        ] {
            for range in ranges {
                if let Some(entry) = pool.iter().find(|entry| entry.overlaps(range)) {
                    let hint = format!(
                        "overlaps {other} {range}: give free addresses of the nodes' own network"
                    );
                    return Err(bad(flag, entry, hint));
                }
            }
        }
        Ok(())
    }

    /// The pool, for the controllers.
    pub(super) fn pool(&self) -> Pool {
        Pool(self.load_balancer_pool.clone())
    }

    /// The ClusterIP of `default/kubernetes`: the first of the primary range.
    #[must_use]
    pub fn api_service_ip(&self) -> IpAddr {
        nth(&self.service_cidrs[0], 1)
    }

    /// Where the cluster's DNS answers unless told otherwise: the tenth address of the primary range.
    #[must_use]
    pub fn default_cluster_dns(service_cidrs: &[IpNet]) -> IpAddr {
        let any = IpNet::from(IpAddr::from(Ipv4Addr::UNSPECIFIED));
        nth(service_cidrs.first().unwrap_or(&any), 10)
    }

    /// The address by which nodes and Pods reach the server.
    #[must_use]
    pub fn advertised(&self) -> IpAddr {
        self.advertise_address.unwrap_or_else(|| {
            let ip = self.bind.ip();
            if ip.is_unspecified() {
                default_route_ip()
            } else {
                ip
            }
        })
    }

    /// What the server's certificate must be valid for.
    pub(super) fn server_names(&self) -> ServerNames {
        let mut names = ServerNames::default();
        let dns = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ];
        names.dns.extend(dns.map(str::to_owned));
        names
            .dns
            .push(format!("kubernetes.default.svc.{}", self.cluster_domain));
        names.ips.push(Ipv4Addr::LOCALHOST.into());
        names.ips.push(std::net::Ipv6Addr::LOCALHOST.into());
        names.ips.extend([self.advertised(), self.api_service_ip()]);
        if !self.bind.ip().is_unspecified() {
            names.ips.push(self.bind.ip());
        }
        for san in &self.tls_sans {
            match san.parse() {
                Ok(ip) => names.ips.push(ip),
                Err(_) => names.dns.push(san.clone()),
            }
        }
        names
    }

    /// What of it the registry's rules depend on.
    pub(super) fn context(&self) -> Context {
        Context {
            service_cidrs: self.service_cidrs.clone(),
            pod_cidrs: self.pod_cidrs.clone(),
            default_tolerations: self.default_tolerations,
            allowed_external_ips: self.allowed_external_ips.clone(),
            allowed_endpoint_ips: self.allowed_endpoint_ips.clone(),
            load_balancer_controllers: self.load_balancer_controllers.clone(),
            service_accounts: true,
            ..Context::default()
        }
    }
}

/// An address of a range by its number; one behind its end for a range that is too small, which is refused elsewhere.
fn nth(range: &IpNet, number: u8) -> IpAddr {
    match range.network() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().wrapping_add(number.into())).into(),
        IpAddr::V6(ip) => {
            std::net::Ipv6Addr::from_bits(ip.to_bits().wrapping_add(number.into())).into()
        }
    }
}

fn one_per_family(flag: &'static str, ranges: &[IpNet]) -> Result<(), ServerError> {
    let list = || {
        ranges
            .iter()
            .map(IpNet::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    match ranges {
        [_] => {}
        [a, b] if a.addr().is_ipv4() != b.addr().is_ipv4() => {}
        _ => {
            return Err(bad(
                flag,
                list(),
                "give one range, or one of each IP family",
            ));
        }
    }
    for range in ranges {
        if range.trunc() != *range {
            let hint = format!("has bits set behind its prefix: write {}", range.trunc());
            return Err(bad(flag, range, hint));
        }
    }
    Ok(())
}

/// The source address of the default route: connecting a datagram socket asks the routing table and sends nothing.
fn default_route_ip() -> IpAddr {
    let ask = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    };
    ask().map_or(Ipv4Addr::LOCALHOST.into(), |local| local.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_accepted() {
        Config::default().check().unwrap();
    }

    #[test]
    fn each_bad_flag_is_named_with_its_value_and_what_to_do() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let cases = [
            (
                refusal(|c| c.service_cidrs = vec![net("10.96.0.1/16")]),
                "--service-cidr 10.96.0.1/16: has bits set behind its prefix: write 10.96.0.0/16",
            ),
            (
                refusal(|c| c.service_cidrs = vec![net("10.96.0.0/30")]),
                "--service-cidr 10.96.0.0/30: too small: give at least 8 addresses",
            ),
            (
                refusal(|c| c.pod_cidrs = vec![net("10.0.0.0/8")]),
                "--service-cidr 10.96.0.0/16: overlaps --pod-cidr 10.0.0.0/8: give disjoint ranges",
            ),
            (
                refusal(|c| c.pod_cidrs = vec![net("10.244.0.0/25")]),
                "--pod-cidr 10.244.0.0/25: each node needs a /24: give a larger range",
            ),
            (
                refusal(|c| c.pod_cidrs = vec![net("10.1.0.0/16"), net("10.2.0.0/16")]),
                "--pod-cidr 10.1.0.0/16,10.2.0.0/16: give one range, or one of each IP family",
            ),
            (
                refusal(|c| c.cluster_dns = "10.0.0.1".parse().unwrap()),
                "--cluster-dns 10.0.0.1: outside --service-cidr: give an address inside it, usually the tenth",
            ),
            (
                refusal(|c| c.load_balancer_pool = vec!["10.96.9.0/24".parse().unwrap()]),
                "--load-balancer-pool 10.96.9.1-10.96.9.254: overlaps --service-cidr 10.96.0.0/16: give free addresses of the nodes' own network",
            ),
            (
                refusal(|c| {
                    c.load_balancer_pool = vec![PoolEntry::Nodes, "192.0.2.0/24".parse().unwrap()];
                }),
                "--load-balancer-pool nodes: cannot be combined with ranges: give either it or them",
            ),
        ];
        for (got, wanted) in cases {
            assert_eq!(got, wanted);
        }
        assert!(
            refusal(|c| c.cluster_domain = "Cluster".into())
                .starts_with("--cluster-domain Cluster: ")
        );
        assert!(refusal(|c| c.tls_sans = vec!["a b".into()]).starts_with("--tls-san a b: "));
        assert!(
            refusal(|c| c.advertise_address = Some(Ipv4Addr::UNSPECIFIED.into()))
                .starts_with("--advertise-address 0.0.0.0: ")
        );
    }
}
