//! Eviction: the deletion of a Pod that a PodDisruptionBudget may refuse (X9).
//! Source: kubernetes/kubernetes pkg/registry/core/pod/storage/eviction.go.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    ApiError, DeleteOptions, ListQuery, Part, Registry, WriteOptions,
    kinds::{
        POD_DISRUPTION_BUDGETS, PODS, items,
        template::{count, matches},
        text_at,
    },
    meta,
    write::{ATTEMPTS, contention},
};

/// The condition of a budget that says whether a Pod may go now. Source: kubernetes/api policy/v1/types.go.
pub(crate) const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";
/// So many Pods may be on their way out under one budget.
const DISRUPTED_AT_MOST: usize = 2000;

impl Registry {
    /// Deletes a Pod if its budget allows it, and counts it there until it is gone.
    ///
    /// # Errors
    /// [`ApiError::BudgetSpent`], [`ApiError::SeveralBudgets`], [`ApiError::Refused`] for a budget that is out of order, and
    /// those of [`Registry::delete`].
    pub async fn evict(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), ApiError> {
        for _ in 0..ATTEMPTS {
            let pod = self.get(&PODS, Some(namespace), name).await?.value();
            // What it asks for must hold before a budget is charged.
            options.check(&PODS, name, &pod, meta::text(&pod, "resourceVersion"))?;
            let charged = match self.charge(namespace, &pod, options.dry_run).await? {
                Charge::Free => false,
                Charge::Counted => true,
            };
            match self
                .evict_seen(namespace, name, &pod, charged, options)
                .await
            {
                // A Pod that was free to go is another one by now; it is judged again.
                Err(error) if error.is_conflict() && !charged => {}
                done => return done,
            }
        }
        Err(contention(&PODS, name))
    }

    /// Finds the budget that a Pod is under, and takes a disruption from it.
    async fn charge(
        &self,
        namespace: &str,
        pod: &Value,
        dry_run: bool,
    ) -> Result<Charge, ApiError> {
        if is_no_loss(pod) {
            return Ok(Charge::Free);
        }
        let all = ListQuery::default();
        let all = self
            .list(&POD_DISRUPTION_BUDGETS, Some(namespace), &all)
            .await?;
        let labels = &pod["metadata"]["labels"];
        let budgets = all.objects.iter().map(super::Object::value);
        let mut budgets = budgets.filter(|budget| matches(&budget["spec"]["selector"], labels));
        let budget = match (budgets.next(), budgets.next()) {
            (None, _) => return Ok(Charge::Free),
            (Some(budget), None) => budget,
            (Some(_), Some(_)) => return Err(ApiError::SeveralBudgets),
        };
        if !is_ready(pod) && may_go_unready(&budget) {
            return Ok(Charge::Free);
        }
        let name = meta::text(pod, "name");
        let options = WriteOptions {
            dry_run,
            ..WriteOptions::default()
        };
        self.modify(
            &POD_DISRUPTION_BUDGETS,
            Some(namespace),
            meta::text(&budget, "name"),
            Part::Status,
            &options,
            |budget| take_one(budget, name, Timestamp::now()),
        )
        .await?;
        Ok(Charge::Counted)
    }

    /// Says in the Pod why it goes (KEP-3329), and deletes it; only this version of it when no budget was charged.
    async fn evict_seen(
        &self,
        namespace: &str,
        name: &str,
        pod: &Value,
        charged: bool,
        options: &DeleteOptions,
    ) -> Result<(), ApiError> {
        let seen = meta::text(pod, "resourceVersion");
        let uid = meta::text(pod, "uid");
        let mut options = options.clone();
        options.uid = Some(uid.to_owned());
        options.resource_version = (!charged).then(|| seen.to_owned());
        if !options.dry_run && !meta::is_terminating(pod) {
            let write = WriteOptions::default();
            let told = |pod: &mut Value| {
                if meta::text(pod, "uid") != uid
                    || !charged && meta::text(pod, "resourceVersion") != seen
                {
                    return Err(ApiError::modified(&PODS, name));
                }
                set_condition(pod, &disruption_target(Timestamp::now()));
                Ok(())
            };
            let told = self
                .modify(&PODS, Some(namespace), name, Part::Status, &write, told)
                .await?;
            if !charged {
                options.resource_version = Some(told.revision().0.to_string());
            }
        }
        self.delete(&PODS, Some(namespace), name, &options).await?;
        Ok(())
    }
}

/// What an eviction costs.
enum Charge {
    /// Nothing.
    Free,
    /// The Pod is counted among those that its budget has let go.
    Counted,
}

/// Whether nobody misses the Pod: it is over, did not start, or is going already.
fn is_no_loss(pod: &Value) -> bool {
    meta::is_terminating(pod)
        || matches!(
            text_at(pod, &["status", "phase"]),
            "Succeeded" | "Failed" | "Pending"
        )
}

fn is_ready(pod: &Value) -> bool {
    let conditions = items(&pod["status"]["conditions"]).iter();
    let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
    ready.any(|condition| condition["status"] == "True")
}

/// Whether a Pod that is not ready may go without being counted (KEP-3017).
fn may_go_unready(budget: &Value) -> bool {
    if budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" {
        return true;
    }
    let desired = count(budget, ["status", "desiredHealthy"]);
    desired > 0 && count(budget, ["status", "currentHealthy"]) >= desired
}

/// Takes a disruption for this Pod, or says why there is none.
fn take_one(budget: &mut Value, pod: &str, now: Timestamp) -> Result<(), ApiError> {
    let name = meta::text(budget, "name").to_owned();
    let refused = |detail: &str| ApiError::Refused {
        kind: &POD_DISRUPTION_BUDGETS,
        name: name.clone(),
        detail: detail.to_owned(),
    };
    let allowed = count(budget, ["status", "disruptionsAllowed"]);
    if count(budget, ["status", "observedGeneration"]) < count(budget, ["metadata", "generation"]) {
        return Err(ApiError::BudgetSpent {
            cause: format!("The disruption budget {name} is still being processed by the server."),
        });
    }
    if allowed < 0 {
        return Err(refused("pdb disruptions allowed is negative"));
    }
    let disrupted = budget["status"]["disruptedPods"].as_object();
    if disrupted.is_some_and(|disrupted| disrupted.len() > DISRUPTED_AT_MOST) {
        return Err(refused(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        return Err(ApiError::BudgetSpent {
            cause: why_none(budget, &name),
        });
    }
    let status = &mut budget["status"];
    status["disruptionsAllowed"] = json!(allowed - 1);
    status["disruptedPods"][pod] = meta::timestamp(now).into();
    say_whether_allowed(budget, now);
    Ok(())
}

fn why_none(budget: &Value, name: &str) -> String {
    let conditions = items(&budget["status"]["conditions"]).iter();
    let mut failed = conditions.filter(|condition| {
        condition["type"] == DISRUPTION_ALLOWED && condition["reason"] == "SyncFailed"
    });
    match failed.next() {
        Some(failed) => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
            text_at(failed, &["message"])
        ),
        None => format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            count(budget, ["status", "desiredHealthy"]),
            count(budget, ["status", "currentHealthy"])
        ),
    }
}

/// Makes the condition `DisruptionAllowed` say what the numbers say.
pub(crate) fn say_whether_allowed(budget: &mut Value, now: Timestamp) {
    let (status, reason) = match count(budget, ["status", "disruptionsAllowed"]) {
        0 => ("False", "InsufficientPods"),
        _ => ("True", "SufficientPods"),
    };
    let condition = json!({
        "type": DISRUPTION_ALLOWED,
        "status": status,
        "observedGeneration": count(budget, ["status", "observedGeneration"]),
        "lastTransitionTime": meta::timestamp(now),
        "reason": reason,
        "message": "",
    });
    set_condition(budget, &condition);
}

/// Puts a condition among the others in its object's status; the time stays when it says the same as before.
pub(crate) fn set_condition(object: &mut Value, condition: &Value) {
    let mut conditions = items(&object["status"]["conditions"]).to_vec();
    let known = conditions
        .iter_mut()
        .find(|known| known["type"] == condition["type"]);
    match known {
        None => conditions.push(condition.clone()),
        Some(known) => {
            let same = known["status"] == condition["status"];
            let since = known["lastTransitionTime"].take();
            known.clone_from(condition);
            if same {
                known["lastTransitionTime"] = since;
            }
        }
    }
    object["status"]["conditions"] = conditions.into();
}

fn disruption_target(now: Timestamp) -> Value {
    json!({
        "type": "DisruptionTarget",
        "status": "True",
        "lastTransitionTime": meta::timestamp(now),
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64) -> Value {
        json!({
            "metadata": {"name": "b", "generation": 2},
            "status": {
                "observedGeneration": 2, "disruptionsAllowed": allowed,
                "desiredHealthy": 2, "currentHealthy": 2 + allowed,
            },
        })
    }

    fn refusal(budget: &mut Value) -> String {
        match take_one(budget, "p", Timestamp::UNIX_EPOCH) {
            Err(ApiError::BudgetSpent { cause }) => cause,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_disruption_is_taken_and_the_pod_is_counted() {
        let mut it = budget(1);
        take_one(&mut it, "p", Timestamp::UNIX_EPOCH).unwrap();
        let status = &it["status"];
        assert_eq!(status["disruptionsAllowed"], 0);
        assert_eq!(
            status["disruptedPods"],
            json!({"p": "1970-01-01T00:00:00Z"})
        );
        assert_eq!(status["conditions"][0]["reason"], "InsufficientPods");
    }

    #[test]
    fn who_is_refused_is_told_why() {
        let needs = "The disruption budget b needs 2 healthy pods and has 2 currently";
        assert_eq!(refusal(&mut budget(0)), needs);
        let mut stale = budget(1);
        stale["metadata"]["generation"] = json!(3);
        assert!(refusal(&mut stale).contains("still being processed"));
        let mut failed = budget(0);
        failed["status"]["conditions"] =
            json!([{"type": DISRUPTION_ALLOWED, "reason": "SyncFailed", "message": "no scale"}]);
        assert!(refusal(&mut failed).ends_with("it failed sync: no scale"));
        let negative = take_one(&mut budget(-1), "p", Timestamp::UNIX_EPOCH);
        assert!(matches!(negative, Err(ApiError::Refused { .. })));
    }

    #[test]
    fn a_condition_keeps_its_time_while_it_says_the_same() {
        let condition = |status: &str, time: &str| json!({"type": "T", "status": status, "lastTransitionTime": time});
        let mut object = json!({});
        for (status, time, wanted) in [("A", "1", "1"), ("A", "2", "1"), ("B", "3", "3")] {
            set_condition(&mut object, &condition(status, time));
            let conditions = &object["status"]["conditions"];
            assert_eq!(*conditions, json!([condition(status, wanted)]));
        }
    }

    #[test]
    fn unready_pods_go_when_the_policy_or_the_others_allow_it() {
        let mut it = budget(0);
        assert!(may_go_unready(&it), "the healthy ones are enough");
        it["status"]["currentHealthy"] = json!(1);
        assert!(!may_go_unready(&it));
        it["spec"]["unhealthyPodEvictionPolicy"] = "AlwaysAllow".into();
        assert!(may_go_unready(&it));
    }
}
