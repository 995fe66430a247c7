//! The end of a ServiceCIDR: it stays while an address of its ranges would be in no other range, and goes at once after that.
//!
//! Whether addresses are taken from a range is decided in the write of the Service, which relies on the version of the
//! ServiceCIDR: once that is terminating, none is taken any more, and those that were are seen here. So no time has to pass.
//! Source: kubernetes/kubernetes pkg/controller/servicecidrs/servicecidrs_controller.go.

use std::{net::IpAddr, time::Duration};

use futures_util::future::select_all;
use ipnet::IpNet;
use serde_json::Value;

use crate::{
    registry::{
        ApiError, Kind, ListQuery, Part, Registry, WatchItem, WatchQuery, WatchStart, WriteOptions,
        kinds::{IP_ADDRESSES, SERVICE_CIDR_FINALIZER, SERVICE_CIDRS, items},
        meta,
    },
    store::Revision,
};

/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Lets ServiceCIDRs go for ever.
pub(super) async fn run(registry: Registry) {
    loop {
        match look(&registry).await {
            Ok(seen) => changed(&registry, &seen).await,
            Err(error) => {
                tracing::warn!(%error, "the end of a ServiceCIDR cannot be seen to: trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Lets go what can go; answers what was looked at, in which state.
async fn look(registry: &Registry) -> Result<Vec<(&'static Kind, Revision)>, ApiError> {
    let all = ListQuery::default();
    let cidrs = registry.list(&SERVICE_CIDRS, None, &all).await?;
    let mut seen = vec![(&SERVICE_CIDRS, cidrs.revision)];
    let cidrs = cidrs.objects.iter().map(crate::registry::Object::value);
    let ending: Vec<Value> = cidrs
        .filter(|cidr| meta::is_terminating(cidr) && holds(cidr))
        .collect();
    if ending.is_empty() {
        return Ok(seen);
    }
    let ranges = registry.service_ranges().await?;
    let addresses = registry.list(&IP_ADDRESSES, None, &all).await?;
    let kept = |ip: &IpAddr| ranges.iter().any(|range| range.has(*ip));
    let names = addresses.objects.iter().map(crate::registry::Object::value);
    let homeless: Vec<IpAddr> = names
        .filter_map(|address| meta::text(&address, "name").parse().ok())
        .filter(|ip| !kept(ip))
        .collect();
    for cidr in ending {
        let nets = items(&cidr["spec"]["cidrs"]).iter();
        let mut nets = nets.filter_map(|net| net.as_str()?.parse::<IpNet>().ok());
        if !nets.any(|net| homeless.iter().any(|ip| net.contains(ip))) {
            release(registry, &cidr).await?;
        }
    }
    if !homeless.is_empty() {
        seen.push((&IP_ADDRESSES, addresses.revision));
    }
    Ok(seen)
}

fn holds(cidr: &Value) -> bool {
    meta::finalizers(cidr).contains(&SERVICE_CIDR_FINALIZER)
}

async fn release(registry: &Registry, cidr: &Value) -> Result<(), ApiError> {
    let name = meta::text(cidr, "name");
    let options = WriteOptions::default();
    let released = registry.modify(&SERVICE_CIDRS, None, name, Part::Main, &options, |cidr| {
        if meta::is_terminating(cidr)
            && let Some(finalizers) = cidr["metadata"]["finalizers"].as_array_mut()
        {
            finalizers.retain(|held| held != SERVICE_CIDR_FINALIZER);
        }
        Ok(())
    });
    match released.await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Waits until something of what was looked at changes.
pub(super) async fn changed(registry: &Registry, seen: &[(&'static Kind, Revision)]) {
    let changes = seen.iter().map(|(kind, after)| {
        Box::pin(async move {
            let query = WatchQuery {
                start: WatchStart::After(*after),
                ..WatchQuery::default()
            };
            // A history that is gone already is a change too.
            let Ok(mut changes) = registry.watch(kind, None, &query).await else {
                return;
            };
            while let Some(Ok(item)) = changes.next().await {
                if matches!(item, WatchItem::Change(_)) {
                    return;
                }
            }
        })
    });
    select_all(changes).await;
}
