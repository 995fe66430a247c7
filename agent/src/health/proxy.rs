//! Whether the node's rules follow the cluster: `/healthz` and `/livez`.
//! <https://kubernetes.io/docs/reference/networking/virtual-ips/>, KEP-3836.

use std::{collections::BTreeMap, time::Duration};

use dataplane::model::Family;
use jiff::Timestamp;
use serde::Serialize;

use super::{Moment, service::Answer};

/// How long a change may wait until the node counts as unhealthy: twice the reference proxy's sync period.
const LATE: Duration = Duration::from_secs(60);

/// The state of the rules. A node that starts is healthy.
#[derive(Debug)]
pub(super) struct Proxy {
    /// When the rules last showed everything, by family; `None` before the first time.
    last_updated: BTreeMap<Family, Option<Timestamp>>,
    /// Since when the oldest change waits.
    pending: Option<Moment>,
    node_eligible: bool,
}

/// The body, as the reference proxy has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyBody {
    last_updated: String,
    healthy: bool,
}

impl Proxy {
    pub(super) fn new(families: impl IntoIterator<Item = Family>) -> Self {
        Self {
            last_updated: families.into_iter().map(|family| (family, None)).collect(),
            pending: None,
            node_eligible: true,
        }
    }

    pub(super) fn queued(&mut self, now: Moment) {
        self.pending.get_or_insert(now);
    }

    pub(super) fn updated(&mut self, now: Moment) {
        self.pending = None;
        for updated in self.last_updated.values_mut() {
            *updated = Some(now.wall);
        }
    }

    pub(super) fn set_node_eligible(&mut self, eligible: bool) {
        self.node_eligible = eligible;
    }

    /// False when a change has waited too long. Before the rules were complete once, waiting is no failure.
    pub(super) fn is_healthy(&self, now: Moment) -> bool {
        let was_updated = self.last_updated.values().any(Option::is_some);
        let is_late = |since: Moment| now.elapsed.saturating_duration_since(since.elapsed) >= LATE;
        !(was_updated && self.pending.is_some_and(is_late))
    }

    /// `/healthz`: unhealthy also when the node is about to go.
    pub(super) fn healthz(&self, now: Moment) -> Answer {
        self.answer(now, Some(self.node_eligible))
    }

    /// `/livez`: the rules alone.
    pub(super) fn livez(&self, now: Moment) -> Answer {
        self.answer(now, None)
    }

    fn answer(&self, now: Moment, node_eligible: Option<bool>) -> Answer {
        let healthy = self.is_healthy(now);
        let is_good = healthy && node_eligible != Some(false);
        let newest = self.last_updated.values().copied().flatten().max();
        let status = self.last_updated.iter().filter_map(|(family, updated)| {
            let body = FamilyBody {
                last_updated: show(Some((*updated)?)),
                healthy,
            };
            Some((family_name(*family), body))
        });
        let body = Body {
            // Clients take an old time for a fault: while all is well it is the present.
            last_updated: show(if is_good { Some(now.wall) } else { newest }),
            current_time: show(Some(now.wall)),
            node_eligible,
            healthy,
            status: status.collect(),
        };
        Answer {
            is_good,
            weight: None,
            body: serde_json::to_string(&body).expect("strings and bools are JSON"),
        }
    }
}

const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// RFC 3339; the zero time of Go for "never".
fn show(time: Option<Timestamp>) -> String {
    time.map_or_else(
        || "0001-01-01T00:00:00Z".to_owned(),
        |time| time.to_string(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(start: Moment, secs: i64) -> Moment {
        Moment {
            elapsed: start.elapsed + Duration::from_secs(secs.unsigned_abs()),
            wall: Timestamp::from_second(1_700_000_000 + secs).expect("a time"),
        }
    }

    fn says(answer: &Answer) -> (bool, Value) {
        let body = serde_json::from_str(&answer.body).expect("JSON");
        (answer.is_good, body)
    }

    #[test]
    fn a_change_that_waits_too_long_makes_the_node_unhealthy_until_it_is_applied() {
        let start = Moment::now();
        let mut proxy = Proxy::new([Family::V4]);
        let healthy = |updated: &str, current: &str, own: &str| {
            json!({
                "lastUpdated": updated, "currentTime": current, "nodeEligible": true, "healthy": true,
                "status": {"IPv4": {"lastUpdated": own, "healthy": true}},
            })
        };
        proxy.queued(at(start, 0));
        assert!(
            proxy.is_healthy(at(start, 1000)),
            "it is still starting, however long that takes"
        );
        assert_eq!(
            says(&proxy.healthz(at(start, 0))).1,
            json!({
                "lastUpdated": "2023-11-14T22:13:20Z", "currentTime": "2023-11-14T22:13:20Z",
                "nodeEligible": true, "healthy": true,
            })
        );
        proxy.updated(at(start, 1));
        let (good, body) = says(&proxy.healthz(at(start, 1000)));
        assert!(good);
        assert_eq!(
            body,
            healthy(
                "2023-11-14T22:30:00Z",
                "2023-11-14T22:30:00Z",
                "2023-11-14T22:13:21Z"
            )
        );
        proxy.queued(at(start, 1000));
        proxy.queued(at(start, 1059));
        assert!(says(&proxy.healthz(at(start, 1059))).0);
        let (good, body) = says(&proxy.healthz(at(start, 1060)));
        assert!(!good, "the oldest change counts");
        assert_eq!(
            body,
            json!({
                "lastUpdated": "2023-11-14T22:13:21Z", "currentTime": "2023-11-14T22:31:00Z",
                "nodeEligible": true, "healthy": false,
                "status": {"IPv4": {"lastUpdated": "2023-11-14T22:13:21Z", "healthy": false}},
            })
        );
        assert!(!says(&proxy.livez(at(start, 1060))).0);
        proxy.updated(at(start, 1061));
        assert!(says(&proxy.healthz(at(start, 1061))).0);
    }

    #[test]
    fn a_node_that_is_taken_away_is_alive_but_not_healthy() {
        let start = Moment::now();
        let mut proxy = Proxy::new([Family::V4, Family::V6]);
        proxy.updated(at(start, 0));
        proxy.set_node_eligible(false);
        let (good, body) = says(&proxy.healthz(at(start, 5)));
        assert!(!good);
        assert_eq!(body["nodeEligible"], false);
        assert_eq!(body["healthy"], true, "its rules are");
        let (good, body) = says(&proxy.livez(at(start, 5)));
        assert!(good);
        assert_eq!(body.get("nodeEligible"), None);
        assert!(body["status"]["IPv6"]["healthy"].as_bool().expect("a bool"));
    }
}
