//! What a budget allows: pure, from its selector's Pods and the size their owners should have.
//! Source: kubernetes/kubernetes pkg/controller/disruption/disruption.go.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::registry::{
    eviction::{DISRUPTION_ALLOWED, say_whether_allowed, set_condition},
    kinds::template::count,
    meta,
};

/// An eviction that has not led to a deletion by then does not count any more.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

/// A Pod that a budget's selector matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Selected<'a> {
    pub(super) name: &'a str,
    pub(super) ready: bool,
    pub(super) deleted: bool,
}

/// How many Pods the owners of the selected ones want, or why nobody knows.
pub(super) type Expected = Result<i64, String>;

/// Whether the budget is reckoned from the size the Pods' owners should have.
pub(super) fn asks_owners(spec: &Value) -> bool {
    !spec["maxUnavailable"].is_null() || spec["minAvailable"].is_string()
}

/// Writes into a budget what its Pods allow; answers when time alone changes that.
pub(super) fn settle(
    budget: &mut Value,
    pods: &[Selected<'_>],
    of_owners: &Expected,
    now: Timestamp,
) -> Option<Timestamp> {
    let generation = count(budget, ["metadata", "generation"]);
    let expected = match of_owners {
        _ if !asks_owners(&budget["spec"]) => i64::try_from(pods.len()).unwrap_or(i64::MAX),
        Ok(expected) => *expected,
        Err(why) => {
            fail(budget, why, now);
            return None;
        }
    };
    let (disrupted, recheck) = still_disrupted(&budget["status"]["disruptedPods"], pods, now);
    let healthy = pods
        .iter()
        .filter(|pod| pod.ready && !pod.deleted && !disrupted.contains_key(pod.name));
    let healthy = i64::try_from(healthy.count()).unwrap_or(i64::MAX);
    let desired = desired(&budget["spec"], expected);
    let allowed = if expected <= 0 {
        0
    } else {
        (healthy - desired).max(0)
    };
    let status = &mut budget["status"];
    if !status.is_object() {
        *status = json!({});
    }
    status["observedGeneration"] = json!(generation);
    status["expectedPods"] = json!(expected);
    status["desiredHealthy"] = json!(desired);
    status["currentHealthy"] = json!(healthy);
    status["disruptionsAllowed"] = json!(allowed);
    status["disruptedPods"] = if disrupted.is_empty() {
        Value::Null
    } else {
        disrupted.into()
    };
    say_whether_allowed(budget, now);
    recheck
}

/// Nobody goes while it is not known how many there should be.
fn fail(budget: &mut Value, why: &str, now: Timestamp) {
    budget["status"]["disruptionsAllowed"] = json!(0);
    let condition = json!({
        "type": DISRUPTION_ALLOWED,
        "status": "False",
        "observedGeneration": count(budget, ["status", "observedGeneration"]),
        "lastTransitionTime": meta::timestamp(now),
        "reason": "SyncFailed",
        "message": why,
    });
    set_condition(budget, &condition);
}

/// How many must be healthy. Percentages are rounded up, either way.
fn desired(spec: &Value, expected: i64) -> i64 {
    let of_expected = |value: &Value| match value {
        Value::String(text) => {
            let percent = text
                .strip_suffix('%')
                .and_then(|digits| digits.parse().ok());
            let percent: i64 = percent.unwrap_or(0);
            expected.saturating_mul(percent).saturating_add(99) / 100
        }
        value => value.as_i64().unwrap_or(0),
    };
    match (&spec["maxUnavailable"], &spec["minAvailable"]) {
        (Value::Null, Value::Null) => 0,
        (Value::Null, least) => of_expected(least),
        (most, _) => (expected - of_expected(most)).max(0),
    }
}

/// The evictions that still count: of Pods that are there and not deleted yet, and not too long ago; and when the next of
/// them ceases to.
fn still_disrupted(
    disrupted: &Value,
    pods: &[Selected<'_>],
    now: Timestamp,
) -> (Map<String, Value>, Option<Timestamp>) {
    let mut kept = Map::new();
    let mut recheck: Option<Timestamp> = None;
    for (name, since) in disrupted.as_object().into_iter().flatten() {
        let waiting = pods.iter().any(|pod| pod.name == name && !pod.deleted);
        let since: Option<Timestamp> = since.as_str().and_then(|since| since.parse().ok());
        let end = since.and_then(|since| since.checked_add(DELETION_TIMEOUT).ok());
        if let Some(end) = end.filter(|end| waiting && *end > now) {
            kept.insert(name.clone(), disrupted[name].clone());
            recheck = Some(recheck.map_or(end, |known| known.min(end)));
        }
    }
    (kept, recheck)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(ready: usize, unready: usize) -> Vec<Selected<'static>> {
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let pod = |(at, name)| Selected {
            name,
            ready: at < ready,
            deleted: false,
        };
        let all = names.into_iter().enumerate().map(pod);
        all.take(ready + unready).collect()
    }

    /// expectedPods, desiredHealthy, currentHealthy, disruptionsAllowed.
    fn numbers(budget: &Value) -> [i64; 4] {
        [
            "expectedPods",
            "desiredHealthy",
            "currentHealthy",
            "disruptionsAllowed",
        ]
        .map(|field| budget["status"][field].as_i64().unwrap())
    }

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    #[test]
    fn what_may_go_follows_from_what_is_there_and_what_should_be() {
        // Spec, ready Pods, others, what owners want, wanted numbers.
        for (spec, ready, unready, owners, wanted) in [
            (json!({"minAvailable": 1}), 2, 0, 9, [2, 1, 2, 1]),
            (json!({"minAvailable": 2}), 2, 1, 9, [3, 2, 2, 0]),
            (json!({"minAvailable": 5}), 2, 0, 9, [2, 5, 2, 0]),
            (json!({"minAvailable": "50%"}), 3, 0, 3, [3, 2, 3, 1]),
            (json!({"maxUnavailable": 1}), 3, 0, 3, [3, 2, 3, 1]),
            (json!({"maxUnavailable": 1}), 2, 1, 3, [3, 2, 2, 0]),
            (json!({"maxUnavailable": "34%"}), 3, 0, 3, [3, 1, 3, 2]),
            (json!({"maxUnavailable": 5}), 3, 0, 3, [3, 0, 3, 3]),
            (json!({"maxUnavailable": 0}), 3, 0, 3, [3, 3, 3, 0]),
            (json!({"maxUnavailable": 1}), 0, 0, 0, [0, 0, 0, 0]),
            (json!({}), 2, 0, 9, [2, 0, 2, 2]),
        ] {
            let mut budget = json!({"metadata": {"generation": 1}, "spec": spec});
            settle(&mut budget, &pods(ready, unready), &Ok(owners), now());
            assert_eq!(numbers(&budget), wanted, "{spec}");
            assert_eq!(budget["status"]["observedGeneration"], 1);
            let condition = &budget["status"]["conditions"][0];
            let status = if wanted[3] > 0 { "True" } else { "False" };
            assert_eq!(condition["status"], status, "{spec}");
        }
    }

    #[test]
    fn an_evicted_pod_does_not_count_until_it_is_deleted_or_the_eviction_is_old() {
        let mut budget = json!({
            "metadata": {"generation": 1},
            "spec": {"minAvailable": 1},
            "status": {"disruptedPods": {
                "a": "2026-01-01T00:09:00Z", "b": "2026-01-01T00:07:00Z", "gone": "2026-01-01T00:09:59Z",
            }},
        });
        let mut all = pods(3, 0);
        let recheck = settle(&mut budget, &all, &Ok(0), now());
        assert_eq!(numbers(&budget), [3, 1, 2, 1]);
        let kept = json!({"a": "2026-01-01T00:09:00Z"});
        assert_eq!(budget["status"]["disruptedPods"], kept);
        assert_eq!(recheck, Some("2026-01-01T00:11:00Z".parse().unwrap()));
        all[0].deleted = true;
        assert_eq!(settle(&mut budget, &all, &Ok(0), now()), None);
        assert_eq!(numbers(&budget), [3, 1, 2, 1]);
        assert_eq!(budget["status"]["disruptedPods"], Value::Null);
    }

    #[test]
    fn nothing_is_allowed_while_the_size_of_an_owner_is_unknown() {
        let mut budget = json!({
            "spec": {"maxUnavailable": 1},
            "status": {"disruptionsAllowed": 3},
        });
        settle(&mut budget, &pods(2, 0), &Err("no scale".into()), now());
        assert_eq!(budget["status"]["disruptionsAllowed"], 0);
        let condition = &budget["status"]["conditions"][0];
        assert_eq!(condition["reason"], "SyncFailed");
        assert_eq!(condition["message"], "no scale");
    }
}
