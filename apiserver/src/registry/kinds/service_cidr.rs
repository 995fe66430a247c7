//! ServiceCIDR (networking.k8s.io/v1): a range that ClusterIPs come from (KEP-1880). `kubernetes` holds the configured ranges,
//! and stays; others may be added, and go when no address of theirs would be left without a range.
//! Source: kubernetes/kubernetes pkg/apis/networking/validation/validation.go.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{items, text_at};
use crate::registry::{
    causes::Causes,
    eviction::set_condition,
    kind::{ALL_VERBS, Kind, Rules, STATUS},
    meta,
    table::{AGE, Column, NAME, Table},
};

/// The one with the ranges the server was started with.
const CONFIGURED: &str = "kubernetes";
/// Held until no address of its ranges needs it.
pub(crate) const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

/// ServiceCIDR.
pub static SERVICE_CIDRS: Kind = Kind {
    group: "networking.k8s.io",
    version: "v1",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    singular: "servicecidr",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[STATUS],
    rules: Rules {
        generation: true,
        has_status: true,
        permanent: &[CONFIGURED],
        prepare_create: |new| {
            hold(new);
            let since = meta::text(new, "creationTimestamp").to_owned();
            new["status"] = json!({});
            set_ready(new, true, &since);
        },
        // A manifest without it does not take it away.
        prepare_update: |_, old, new| {
            if !meta::is_terminating(old) {
                hold(new);
            }
        },
        on_terminating: |going| {
            let since = meta::text(going, "deletionTimestamp").to_owned();
            set_ready(going, false, &since);
        },
        validate: |context, new, old, causes| {
            validate(&new["spec"]["cidrs"], old, &context.pod_cidrs, causes);
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[NAME, Column::text("CIDRs", "The ranges."), AGE],
        cells: |object, row| {
            row.name(object);
            let cidrs: Vec<&str> = items(&object["spec"]["cidrs"])
                .iter()
                .filter_map(|cidr| cidr.as_str())
                .collect();
            row.text(&cidrs.join(","));
            row.age(object);
        },
    },
};

fn hold(object: &mut Value) {
    let mut finalizers = items(&object["metadata"]["finalizers"]).to_vec();
    if !finalizers.iter().any(|held| held == FINALIZER) {
        finalizers.push(FINALIZER.into());
        object["metadata"]["finalizers"] = finalizers.into();
    }
}

/// Says whether addresses are taken from it.
fn set_ready(object: &mut Value, ready: bool, since: &str) {
    let (status, reason, message) = if ready {
        ("True", "Ready", "Kubernetes Service CIDR is ready")
    } else {
        (
            "False",
            "Terminating",
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
        )
    };
    let condition = json!({
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
    });
    set_condition(object, &condition);
}

fn validate(cidrs: &Value, old: Option<&Value>, pod_cidrs: &[IpNet], causes: &mut Causes) {
    let list = items(cidrs);
    match list.len() {
        0 => causes.required("spec.cidrs", "at least one CIDR required"),
        1 | 2 => {}
        _ => {
            let detail = "may only hold up to 2 values";
            causes.invalid("spec.cidrs", cidrs.clone(), detail);
        }
    }
    let known = old.map_or(&[][..], |old| items(&old["spec"]["cidrs"]));
    let mut nets = Vec::new();
    for (index, cidr) in list.iter().enumerate() {
        let path = format!("spec.cidrs[{index}]");
        match net(cidr.as_str().unwrap_or_default()) {
            Ok(net) => {
                // Packets to a ClusterIP without a Service are dropped, and that would be every Pod. What is stored must be able
                // to go.
                let mut pods = pod_cidrs.iter().filter(|_| !known.contains(cidr));
                if let Some(pods) = pods.find(|pods| pods.contains(&net) || net.contains(*pods)) {
                    let detail = format!(
                        "overlaps the Pods' range {pods} (--pod-cidr): give a range that nobody else uses"
                    );
                    causes.invalid(path, cidr.clone(), &detail);
                }
                nets.push(net);
            }
            Err(detail) => causes.invalid(path, cidr.clone(), detail),
        }
    }
    if let [first, second] = nets.as_slice()
        && first.addr().is_ipv4() == second.addr().is_ipv4()
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        causes.invalid("spec.cidrs", cidrs.clone(), detail);
    }
    let Some(old) = old else { return };
    // It may grow by the other family, and does not change otherwise.
    let grown = known.len() == 1 && list.len() == 2 && list[0] == known[0];
    if list != known && !grown && text_at(old, &["metadata", "name"]) != CONFIGURED {
        causes.invalid("spec.cidrs", cidrs.clone(), "field is immutable");
    }
}

/// A range that addresses can be taken from.
fn net(text: &str) -> Result<IpNet, &'static str> {
    let net: IpNet = text
        .parse()
        .map_err(|_| "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")?;
    if net.trunc() != net || net.to_string() != text {
        return Err("must be in canonical form, with the network's own address");
    }
    if net.addr().is_ipv6() && net.prefix_len() < 64 {
        return Err("is too large: an IPv6 range of Services is a /64 or smaller");
    }
    if net.max_prefix_len() - net.prefix_len() < 3 {
        return Err("is too small: give at least 8 addresses");
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(cidrs: &[&str], before: Option<&[&str]>) -> bool {
        let old = before.map(|cidrs| json!({"metadata": {"name": "x"}, "spec": {"cidrs": cidrs}}));
        let mut causes = Causes::default();
        let pods = ["10.244.0.0/16".parse().unwrap()];
        validate(&json!(cidrs), old.as_ref(), &pods, &mut causes);
        !causes.0.is_empty()
    }

    #[test]
    fn s1_6_a_service_cidr_has_one_range_of_each_family_and_only_grows() {
        let (v4, v6) = ("10.0.0.0/24", "fd00::/112");
        for (cidrs, before, wanted) in [
            (&[v4][..], None, false),
            (&[v6, v4], None, false),
            (&[], None, true),
            (&[v4, "10.1.0.0/24"], None, true),
            (&[v4, v6, v4], None, true),
            (&["10.0.0.1/24"], None, true),
            (&["10.0.0.0"], None, true),
            (&["10.0.0.0/30"], None, true),
            (&["fd00::/48"], None, true),
            (&["fd00:0::/112"], None, true),
            (&["10.244.7.0/24"], None, true),
            (&["10.0.0.0/8"], None, true),
            (&["10.245.0.0/16"], None, false),
            (&["10.0.0.0/8"], Some(&["10.0.0.0/8"][..]), false),
            (&[v4], Some(&[v4][..]), false),
            (&[v4, v6], Some(&[v4]), false),
            (&[v6, v4], Some(&[v4]), true),
            (&[v4], Some(&[v4, v6]), true),
            (&["10.1.0.0/24"], Some(&[v4]), true),
        ] {
            assert_eq!(refused(cidrs, before), wanted, "{cidrs:?} {before:?}");
        }
    }
}
