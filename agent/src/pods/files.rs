//! The files that make a Pod find its way: `/etc/resolv.conf`, `/etc/hosts`, the host name.
//! <https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/>

use std::{fmt::Write as _, net::IpAddr};

use api::core::Pod;

use crate::Addresses;

/// Limits of the resolver library and of Kubernetes: more is cut off.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
const MAX_SEARCH_NAME_CHARS: usize = 253;

/// A `resolv.conf` as its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResolvConf {
    pub(super) nameservers: Vec<String>,
    pub(super) searches: Vec<String>,
    pub(super) options: Vec<String>,
}

impl ResolvConf {
    /// Reads a file's text; the last `search` line counts.
    pub(super) fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let rest =
                |words: std::str::SplitWhitespace<'_>| words.map(str::to_owned).collect::<Vec<_>>();
            match words.next() {
                Some("nameserver") => conf.nameservers.extend(words.next().map(str::to_owned)),
                Some("search") => conf.searches = rest(words),
                Some("options") => conf.options.extend(rest(words)),
                _ => {}
            }
        }
        conf.searches = conf
            .searches
            .iter()
            .filter(|name| *name != ".")
            .map(|name| name.trim_end_matches('.').to_owned())
            .collect();
        conf
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for nameserver in &self.nameservers {
            let _ = writeln!(text, "nameserver {nameserver}");
        }
        if !self.searches.is_empty() {
            let _ = writeln!(text, "search {}", self.searches.join(" "));
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

/// What every Pod's resolver is made from.
#[derive(Clone, Debug)]
pub(super) struct DnsSetup {
    pub(super) cluster_dns: IpAddr,
    pub(super) domain: String,
    pub(super) host: ResolvConf,
}

/// The Pod's `/etc/resolv.conf`, by `dnsPolicy` and `dnsConfig`.
pub(super) fn resolv_conf(pod: &Pod, setup: &DnsSetup) -> String {
    let spec = &pod.spec;
    let cluster_first = match &*spec.dns_policy {
        "None" | "Default" => false,
        "ClusterFirstWithHostNet" => true,
        _ => !spec.host_network,
    };
    let mut conf = if cluster_first {
        let domain = &setup.domain;
        let own = [
            format!("{}.svc.{domain}", pod.metadata.namespace),
            format!("svc.{domain}"),
            domain.clone(),
        ];
        ResolvConf {
            nameservers: vec![setup.cluster_dns.to_string()],
            searches: merged(own, &setup.host.searches),
            // The host's options are not meant for the cluster's resolver.
            options: vec!["ndots:5".to_owned()],
        }
    } else if &*spec.dns_policy == "None" {
        ResolvConf::default()
    } else {
        setup.host.clone()
    };
    if let Some(config) = &spec.dns_config {
        conf.nameservers = merged(
            conf.nameservers,
            config.nameservers.iter().map(ToString::to_string),
        );
        conf.searches = merged(
            conf.searches,
            config.searches.iter().map(ToString::to_string),
        );
        for option in &config.options {
            set_option(&mut conf.options, &option.name, option.value.as_deref());
        }
    }
    conf.nameservers.truncate(MAX_NAMESERVERS);
    conf.searches = limited(conf.searches);
    conf.text()
}

/// Both lists, each name once.
fn merged<T: AsRef<str>>(
    first: impl IntoIterator<Item = String>,
    second: impl IntoIterator<Item = T>,
) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let second = second.into_iter().map(|name| name.as_ref().to_owned());
    for name in first.into_iter().chain(second) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

fn set_option(options: &mut Vec<String>, name: &str, value: Option<&str>) {
    options.retain(|option| option.split(':').next() != Some(name));
    options.push(value.map_or_else(|| name.to_owned(), |value| format!("{name}:{value}")));
}

fn limited(mut searches: Vec<String>) -> Vec<String> {
    searches.retain(|name| name.len() <= MAX_SEARCH_NAME_CHARS);
    searches.truncate(MAX_SEARCHES);
    let mut chars = 0;
    searches
        .into_iter()
        .take_while(|name| {
            chars += name.len() + 1;
            chars - 1 <= MAX_SEARCH_CHARS
        })
        .collect()
}

/// `spec.hostname`, or the Pod's name, cut to a DNS label; the node's on the node's network.
pub(super) fn hostname(pod: &Pod) -> String {
    let wanted = if pod.spec.host_network {
        &pod.spec.node_name
    } else if pod.spec.hostname.is_empty() {
        &pod.metadata.name
    } else {
        &pod.spec.hostname
    };
    let cut: String = wanted.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The Pod's `/etc/hosts`.
pub(super) fn hosts(pod: &Pod, addresses: Addresses, domain: &str) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n\
        127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::\tip6-localnet\n\
        fe00::\tip6-mcastprefix\n\
        fe00::1\tip6-allnodes\n\
        fe00::2\tip6-allrouters\n"
        .to_owned();
    let hostname = hostname(pod);
    let names = if pod.spec.subdomain.is_empty() {
        hostname
    } else {
        let (subdomain, namespace) = (&pod.spec.subdomain, &pod.metadata.namespace);
        format!("{hostname}.{subdomain}.{namespace}.svc.{domain}\t{hostname}")
    };
    for address in addresses {
        let _ = writeln!(text, "{address}\t{names}");
    }
    text.push_str(&aliases(pod));
    text
}

/// `spec.hostAliases`, behind whatever the file has.
pub(super) fn aliases(pod: &Pod) -> String {
    let mut text = String::new();
    if !pod.spec.host_aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in &pod.spec.host_aliases {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.join("\t"));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        let meta = json!({"name": "web-0", "namespace": "team"});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("pod")
    }

    fn setup() -> DnsSetup {
        DnsSetup {
            cluster_dns: [10, 96, 0, 10].into(),
            domain: "cluster.local".to_owned(),
            host: ResolvConf::parse(
                "nameserver 192.0.2.1\nsearch example.org. svc.cluster.local .\noptions timeout:1 rotate\n",
            ),
        }
    }

    #[test]
    fn each_dns_policy_has_its_resolver() {
        let cluster = "nameserver 10.96.0.10\n\
            search team.svc.cluster.local svc.cluster.local cluster.local example.org\n\
            options ndots:5\n";
        let host = "nameserver 192.0.2.1\nsearch example.org svc.cluster.local\noptions timeout:1 rotate\n";
        let cases = [
            (json!({}), cluster),
            (json!({"dnsPolicy": "ClusterFirst"}), cluster),
            (
                json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}),
                host,
            ),
            (
                json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
                cluster,
            ),
            (json!({"dnsPolicy": "Default"}), host),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.9"], "searches": ["a.b"], "options": [{"name": "edns0"}]}}),
                "nameserver 192.0.2.9\nsearch a.b\noptions edns0\n",
            ),
            (
                json!({"dnsConfig": {"nameservers": ["192.0.2.9"], "searches": ["cluster.local", "x"], "options": [{"name": "ndots", "value": "2"}]}}),
                "nameserver 10.96.0.10\nnameserver 192.0.2.9\n\
                 search team.svc.cluster.local svc.cluster.local cluster.local example.org x\n\
                 options ndots:2\n",
            ),
        ];
        for (spec, wanted) in cases {
            assert_eq!(resolv_conf(&pod(spec.clone()), &setup()), wanted, "{spec}");
        }
    }

    #[test]
    fn too_many_servers_and_names_are_cut_off() {
        let many: Vec<String> = (0..40).map(|n| format!("{n}{}", "x".repeat(98))).collect();
        let spec = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"], "searches": many}});
        let text = resolv_conf(&pod(spec), &setup());
        assert_eq!(text.matches("nameserver").count(), 3);
        let search = text
            .lines()
            .find_map(|line| line.strip_prefix("search "))
            .expect("search");
        assert!(
            search.len() <= 2048 && search.split(' ').count() >= 20,
            "{}",
            search.len()
        );
    }

    #[test]
    fn the_hosts_file_names_the_pod_and_its_aliases() {
        let spec = json!({"hostname": "db", "subdomain": "dbs", "hostAliases": [{"ip": "192.0.2.5", "hostnames": ["a", "b"]}]});
        let both = ["10.244.1.2", "fd00::2"].map(|ip| ip.parse().expect("address"));
        let both = Addresses::of_each_family(both).expect("addresses");
        let text = hosts(&pod(spec), both, "cluster.local");
        for address in both {
            let line = format!("\n{address}\tdb.dbs.team.svc.cluster.local\tdb\n");
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.ends_with("192.0.2.5\ta\tb\n"), "{text}");
        assert_eq!(hostname(&pod(json!({}))), "web-0");
        let on_host = json!({"hostNetwork": true, "nodeName": "node-7", "hostname": "db"});
        assert_eq!(hostname(&pod(on_host)), "node-7");
    }
}
