//! Which IP families a Service has (services.md 1.3).

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::super::{ApiError, Causes, kinds::SERVICES, meta};

/// The word for the family of a range.
pub(super) fn name(cidr: &IpNet) -> &'static str {
    family(cidr.addr())
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Fills `ipFamilyPolicy` and `ipFamilies`, or refuses what this cluster cannot give.
pub(super) fn fill(
    cidrs: &[IpNet],
    old: Option<&Value>,
    service: &mut Value,
) -> Result<(), ApiError> {
    if service["spec"]["type"] == "ExternalName" {
        return Ok(());
    }
    let configured: Vec<&str> = cidrs.iter().map(name).collect();
    let mut request = Request::read(&service["spec"]);
    if request.policy.is_empty() {
        request.policy = default_policy(old, &request);
    }
    let mut causes = Causes::default();
    if let Some(old) = old {
        if request.is_as_before(&old["spec"], &service["spec"]) {
            return Ok(());
        }
        request.shrink(&old["spec"], &mut causes);
    }
    request.infer(&configured, &mut causes);
    request.complete(&configured);
    causes.into_result(&SERVICES, meta::text(service, "name"))?;
    let spec = &mut service["spec"];
    spec["ipFamilyPolicy"] = request.policy.into();
    spec["ipFamilies"] = json!(request.families);
    if !request.ips.is_empty() {
        spec["clusterIPs"] = json!(request.ips);
    }
    Ok(())
}

fn default_policy(old: Option<&Value>, request: &Request) -> String {
    let before = old.and_then(|old| old["spec"]["ipFamilyPolicy"].as_str());
    match before {
        Some(policy) => policy.to_owned(),
        None if request.headless && request.selectorless => "RequireDualStack".into(),
        None => "SingleStack".into(),
    }
}

/// What the Service says of its families so far.
struct Request {
    policy: String,
    families: Vec<String>,
    ips: Vec<String>,
    headless: bool,
    selectorless: bool,
}

impl Request {
    fn read(spec: &Value) -> Self {
        let ips = texts(&spec["clusterIPs"]);
        Self {
            policy: spec["ipFamilyPolicy"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            families: texts(&spec["ipFamilies"]),
            headless: spec["clusterIP"] == "None" || ips.first().is_some_and(|ip| ip == "None"),
            selectorless: spec["selector"]
                .as_object()
                .is_none_or(serde_json::Map::is_empty),
            ips,
        }
    }

    /// A Service that prefers two families and has one does not get the other by an update of something else, also when
    /// the cluster has it by now.
    fn is_as_before(&self, old: &Value, new: &Value) -> bool {
        let prefers = |policy: &Value| policy == "PreferDualStack";
        prefers(&old["ipFamilyPolicy"])
            && self.policy == "PreferDualStack"
            && ["type", "clusterIPs", "ipFamilies"]
                .iter()
                .all(|field| old[*field] == new[*field])
    }

    /// Going back to one family: each list that was not touched keeps its first entry. Only `SingleStack` may do so.
    fn shrink(&mut self, old: &Value, causes: &mut Causes) {
        let lists = [
            ("clusterIPs", &mut self.ips, "cluster IP"),
            ("ipFamilies", &mut self.families, "IP family"),
        ];
        for (field, list, what) in lists {
            let before = texts(&old[field]);
            if self.policy == "SingleStack" {
                if *list == before {
                    list.truncate(1);
                }
            } else if !list.is_empty() && list.len() < before.len() {
                let detail = format!("must be 'SingleStack' to release the secondary {what}");
                causes.invalid("spec.ipFamilyPolicy", self.policy.as_str(), &detail);
            }
        }
    }

    /// Takes the families of the addresses asked for.
    fn infer(&mut self, configured: &[&str], causes: &mut Causes) {
        if self.policy == "SingleStack" && (self.ips.len() > 1 || self.families.len() > 1) {
            let detail = "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs or IP families are specified";
            causes.invalid("spec.ipFamilyPolicy", self.policy.as_str(), detail);
        }
        let given = self.families.len();
        for (index, ip) in self.ips.iter().enumerate() {
            let Ok(ip) = ip.parse::<IpAddr>() else {
                continue;
            };
            match self.families.get(index) {
                Some(given) if given != family(ip) => causes.invalid(
                    format!("spec.clusterIPs[{index}]"),
                    ip.to_string(),
                    &format!("expected an {given} value as indicated by `ipFamilies[{index}]`"),
                ),
                Some(_) => {}
                None => self.families.push(family(ip).to_owned()),
            }
        }
        // Without selector and without addresses nothing of ours carries the traffic: any family will do.
        if self.headless && self.selectorless {
            return;
        }
        for (index, family) in self.families.iter().enumerate() {
            if !configured.contains(&family.as_str()) {
                let detail = format!("{family} is not configured on this cluster");
                // Its author sees the field he wrote.
                let (field, value) = if index < given {
                    ("ipFamilies", family)
                } else {
                    ("clusterIPs", &self.ips[index])
                };
                causes.invalid(format!("spec.{field}[{index}]"), value.as_str(), &detail);
            }
        }
        if self.policy == "RequireDualStack" && configured.len() < 2 {
            let detail = "this cluster is not configured for dual-stack services";
            causes.invalid("spec.ipFamilyPolicy", self.policy.as_str(), detail);
        }
    }

    /// Adds the families that are missing.
    fn complete(&mut self, configured: &[&str]) {
        if self.families.is_empty() {
            self.families
                .extend(configured.first().map(|&family| family.to_owned()));
        }
        let wants_two = self.policy != "SingleStack" && self.families.len() == 1;
        let two_possible = configured.len() > 1 || (self.headless && self.selectorless);
        if wants_two && two_possible {
            let other = if self.families[0] == "IPv4" {
                "IPv6"
            } else {
                "IPv4"
            };
            self.families.push(other.to_owned());
        }
    }
}

fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}
