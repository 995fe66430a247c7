//! ClusterIPs and NodePorts, taken and released in the transaction that writes the Service.
//!
//! What is taken is a key in the store: an IPAddress object for each ClusterIP, `/minik/nodeports/<port>` for each
//! NodePort and health-check port. The commit's `Expect::Absent` is what makes them unique, so there is nothing to
//! repair, nothing to leak, and no copy in memory that could disagree.
//!
//! Bands as upstream (services.md 1.6): the first part of each range is for those who ask for a number; the others
//! get one of the rest, and of the first part only when the rest is used up.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use bytes::Bytes;
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    ApiError, Causes, Kind, Registry,
    kinds::{IP_ADDRESSES, SERVICES, service},
    meta,
    object::canonical,
};
use crate::store::{Expect, Operation, Revision, Write};

mod families;
mod range;
mod ranges;

use range::{scan, static_band};
pub(crate) use ranges::ServiceRange;

/// What a Service write takes and gives back.
#[derive(Debug, Default)]
pub(super) struct Held {
    taken: Vec<(String, Bytes)>,
    released: Vec<String>,
    /// The ServiceCIDRs that addresses were taken from, which must not have begun to go meanwhile.
    relied_on: BTreeMap<Bytes, Revision>,
}

impl Held {
    /// The writes that go with the object's own.
    pub(super) fn writes(&self) -> Vec<Write> {
        let take = self.taken.iter().map(|(key, value)| Write {
            key: key.clone().into(),
            expect: Expect::Absent,
            operation: Operation::Put {
                value: value.clone(),
                ttl: None,
            },
        });
        let check = self.relied_on.iter().map(|(key, modified)| Write {
            key: key.clone(),
            expect: Expect::Modified(*modified),
            operation: Operation::Check,
        });
        take.chain(self.released.iter().map(|key| release(key)))
            .chain(check)
            .collect()
    }
}

fn release(key: &str) -> Write {
    Write {
        key: key.to_owned().into(),
        expect: Expect::Any,
        operation: Operation::Delete,
    }
}

/// Fills the addresses and ports a Service lacks, and says which keys to take and release for it.
/// Other kinds hold nothing.
///
/// # Errors
/// [`ApiError::Invalid`] when an address or port asked for cannot be had, [`ApiError::Exhausted`] when none is left.
pub(super) async fn plan(
    registry: &Registry,
    kind: &'static Kind,
    old: Option<&Value>,
    new: &mut Value,
    dry_run: bool,
) -> Result<Held, ApiError> {
    if *kind != SERVICES {
        return Ok(Held::default());
    }
    families::fill(&registry.context.service_cidrs, old, new)?;
    let before = old.map(Holdings::of).unwrap_or_default();
    let asked = Holdings::of(new);
    let ranges = registry.service_ranges().await?;
    let allocator = Allocator {
        registry,
        ranges: &ranges,
        before: &before,
    };
    allocator.check_asked(new, &asked).await?;
    allocator.fill_addresses(new, dry_run).await?;
    allocator.fill_ports(new, old.is_none()).await?;
    let after = Holdings::of(new);
    let owner = (meta::text(new, "namespace"), meta::text(new, "name"));
    let mut held = Held::default();
    for ip in after.ips.difference(&before.ips) {
        held.taken.push((ip_key(*ip), ip_object(*ip, owner)));
        let range = ranges.iter().find(|range| range.has(*ip));
        held.relied_on
            .extend(range.and_then(|range| range.object.clone()));
    }
    for port in after.ports.difference(&before.ports) {
        let value = json!({"namespace": owner.0, "name": owner.1});
        held.taken.push((port_key(*port), value.to_string().into()));
    }
    held.released
        .extend(before.ips.difference(&after.ips).map(|ip| ip_key(*ip)));
    held.released.extend(
        before
            .ports
            .difference(&after.ports)
            .map(|port| port_key(*port)),
    );
    Ok(held)
}

/// The writes that go with the removal of an object: what it held is free, and a Service's Endpoints go with it.
pub(super) fn release_all(kind: &'static Kind, stored: &Value) -> Vec<Write> {
    if *kind != SERVICES {
        return Vec::new();
    }
    let holdings = Holdings::of(stored);
    let mut keys: Vec<String> = holdings.ips.iter().map(|ip| ip_key(*ip)).collect();
    keys.extend(holdings.ports.iter().map(|port| port_key(*port)));
    let (namespace, name) = (meta::text(stored, "namespace"), meta::text(stored, "name"));
    keys.push(super::kinds::ENDPOINTS.key(Some(namespace), name));
    keys.iter().map(|key| release(key)).collect()
}

fn ip_key(ip: IpAddr) -> String {
    IP_ADDRESSES.key(None, &ip.to_string())
}

fn port_key(port: u16) -> String {
    format!("/minik/nodeports/{port}")
}

fn ip_object(ip: IpAddr, (namespace, name): (&str, &str)) -> Bytes {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let object = json!({
        "metadata": {
            "name": ip.to_string(),
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": meta::timestamp(Timestamp::now()),
            "generation": 1,
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family,
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {
            "group": "", "resource": "services", "namespace": namespace, "name": name,
        }},
    });
    canonical(&IP_ADDRESSES, &object, None)
}

/// The addresses and ports in one version of a Service.
#[derive(Debug, Default)]
struct Holdings {
    ips: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Holdings {
    fn of(value: &Value) -> Self {
        let spec = &value["spec"];
        let mut holdings = Self::default();
        if service::wants_cluster_ip(spec) {
            let ips = spec["clusterIPs"].as_array().into_iter().flatten();
            holdings.ips = ips.filter_map(|ip| ip.as_str()?.parse().ok()).collect();
        }
        let ports = spec["ports"].as_array().into_iter().flatten();
        holdings.ports = ports
            .map(|port| &port["nodePort"])
            .chain([&spec["healthCheckNodePort"]])
            .filter_map(|port| u16::try_from(port.as_u64()?).ok())
            .filter(|&port| port != 0)
            .collect();
        holdings
    }
}

struct Allocator<'a> {
    registry: &'a Registry,
    ranges: &'a [ServiceRange],
    before: &'a Holdings,
}

impl Allocator<'_> {
    async fn is_taken(&self, key: &str) -> Result<bool, ApiError> {
        Ok(self
            .registry
            .backend
            .get(key.as_bytes(), None)
            .await?
            .is_some())
    }

    /// Refuses asked-for numbers that are out of range or taken.
    async fn check_asked(&self, new: &Value, asked: &Holdings) -> Result<(), ApiError> {
        let mut causes = Causes::default();
        for ip in asked.ips.difference(&self.before.ips) {
            let problem = if !self.ranges.iter().any(|range| range.has(*ip)) {
                "the provided network does not match the current range"
            } else if self.is_taken(&ip_key(*ip)).await? {
                "provided IP is already allocated"
            } else {
                continue;
            };
            let value = new["spec"]["clusterIPs"].clone();
            let detail = format!("failed to allocate IP {ip}: {problem}");
            causes.invalid("spec.clusterIPs", value, &detail);
        }
        self.check_numbers(&new["spec"], &mut causes)?;
        for port in asked.ports.difference(&self.before.ports) {
            let detail = if !self.registry.context.node_ports.contains(port) {
                self.out_of_range()
            } else if self.is_taken(&port_key(*port)).await? {
                "provided port is already allocated".to_owned()
            } else {
                continue;
            };
            match port_index(new, *port) {
                Some(index) => {
                    causes.invalid(format!("spec.ports[{index}].nodePort"), *port, &detail);
                }
                None => return Err(bad_health_check_port((*port).into(), &detail)),
            }
        }
        causes.into_result(&SERVICES, meta::text(new, "name"))
    }

    /// Refuses what is no port number at all, and so is none of the [`Holdings`].
    fn check_numbers(&self, spec: &Value, causes: &mut Causes) -> Result<(), ApiError> {
        let beyond = |value: &Value| value.as_i64().filter(|&port| u16::try_from(port).is_err());
        let ports = spec["ports"].as_array().into_iter().flatten();
        for (index, port) in ports.enumerate() {
            if let Some(number) = beyond(&port["nodePort"]) {
                let field = format!("spec.ports[{index}].nodePort");
                causes.invalid(field, number, &self.out_of_range());
            }
        }
        match beyond(&spec["healthCheckNodePort"]) {
            Some(number) => Err(bad_health_check_port(number, &self.out_of_range())),
            None => Ok(()),
        }
    }

    fn out_of_range(&self) -> String {
        let range = &self.registry.context.node_ports;
        format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            range.start(),
            range.end()
        )
    }

    /// One address for each family that has none yet.
    async fn fill_addresses(&self, new: &mut Value, dry_run: bool) -> Result<(), ApiError> {
        if !service::wants_cluster_ip(&new["spec"]) {
            return Ok(());
        }
        let families = new["spec"]["ipFamilies"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let mut ips: Vec<Value> = new["spec"]["clusterIPs"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for family in families.iter().skip(ips.len()) {
            let family = family.as_str().unwrap_or_default();
            let ranges = self.ranges.iter().map(|range| &range.net);
            let ranges: Vec<&IpNet> = ranges.filter(|net| families::name(net) == family).collect();
            let first = ranges.first().ok_or_else(|| {
                ApiError::Exhausted(format!("no service CIDR of family {family}"))
            })?;
            // A dry run consumes nothing and shows the network address, as upstream does.
            let ip = if dry_run {
                first.network()
            } else {
                self.free_ip(&ranges).await?
            };
            ips.push(ip.to_string().into());
        }
        if let Some(first) = ips.first().cloned() {
            new["spec"]["clusterIP"] = first;
            new["spec"]["clusterIPs"] = ips.into();
        }
        Ok(())
    }

    /// A free address: of the first range, then of the next when that is full.
    async fn free_ip(&self, ranges: &[&IpNet]) -> Result<IpAddr, ApiError> {
        for cidr in ranges {
            let band = static_band(range::size(cidr), 16, 256);
            for offset in scan(range::host_count(cidr), band) {
                let ip = range::nth(cidr, offset);
                if !self.is_taken(&ip_key(ip)).await? {
                    return Ok(ip);
                }
            }
        }
        Err(ApiError::Exhausted(
            "failed to allocate a serviceIP: range is full".into(),
        ))
    }

    /// A NodePort for each port that wants one, and the health-check port.
    async fn fill_ports(&self, new: &mut Value, creating: bool) -> Result<(), ApiError> {
        let spec = &new["spec"];
        let mut chosen = Holdings::of(new).ports;
        if service::wants_node_ports(spec) {
            let mut ports = spec["ports"].as_array().cloned().unwrap_or_default();
            for index in 0..ports.len() {
                if ports[index]["nodePort"].as_u64().unwrap_or(0) != 0 {
                    continue;
                }
                // On create, one port number under several protocols gets one NodePort; on update each its own.
                let number = ports[index]["port"].clone();
                let shared = ports.iter().find(|port| {
                    creating && port["port"] == number && port["nodePort"].as_u64().is_some()
                });
                let node_port = match shared {
                    Some(port) => port["nodePort"].clone(),
                    None => self.free_port(&chosen).await?.into(),
                };
                chosen.extend(node_port.as_u64().and_then(|port| u16::try_from(port).ok()));
                ports[index]["nodePort"] = node_port;
            }
            if !ports.is_empty() {
                new["spec"]["ports"] = ports.into();
            }
        }
        let spec = &mut new["spec"];
        let missing = spec["healthCheckNodePort"].as_u64().unwrap_or(0) == 0;
        if service::wants_health_check_port(spec) && missing {
            spec["healthCheckNodePort"] = self.free_port(&chosen).await?.into();
        } else if missing && let Some(spec) = spec.as_object_mut() {
            spec.shift_remove("healthCheckNodePort");
        }
        Ok(())
    }

    async fn free_port(&self, chosen: &BTreeSet<u16>) -> Result<u16, ApiError> {
        let range = self.registry.context.node_ports.clone();
        let size = u64::try_from(range.len()).unwrap_or(0);
        let band = static_band(size, 32, 128);
        for offset in scan(size, band) {
            let port = range.start() + u16::try_from(offset).unwrap_or(0);
            if !chosen.contains(&port) && !self.is_taken(&port_key(port)).await? {
                return Ok(port);
            }
        }
        Err(ApiError::Exhausted(
            "failed to allocate a nodePort: range is full".into(),
        ))
    }
}

/// Upstream answers a taken health-check port with 500: its clients retry only on Invalid.
fn bad_health_check_port(port: i64, detail: &str) -> ApiError {
    ApiError::Exhausted(format!(
        "failed to allocate requested HealthCheck NodePort {port}: {detail}"
    ))
}

fn port_index(service: &Value, port: u16) -> Option<usize> {
    let ports = service["spec"]["ports"].as_array()?;
    ports
        .iter()
        .position(|p| p["nodePort"].as_u64() == Some(u64::from(port)))
}
