//! What keeps a terminating namespace, in its status.
//! Source: kubernetes/kubernetes pkg/controller/namespace/deletion/status_condition_utils.go; types, reasons and messages are
//! upstream's: `kubectl describe namespace` and the waiting loops of others show and read them.

use std::collections::BTreeMap;

use api::{core::NamespaceCondition, meta::Time};

/// What is left in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// How many objects, by `plural.group`.
    pub(super) remaining: BTreeMap<String, usize>,
    /// How many objects each finalizer holds back.
    pub(super) finalizers: BTreeMap<String, usize>,
    /// Why something could not be deleted.
    pub(super) errors: Vec<String>,
}

struct Said {
    r#type: &'static str,
    /// Reason and message when it is so; nothing when it is not.
    so: Option<(&'static str, String)>,
    otherwise: (&'static str, &'static str),
}

/// The conditions after a look, in upstream's order behind those of others. The time changes with the status only.
pub(super) fn after(
    mut conditions: Vec<NamespaceCondition>,
    content: &Content,
    now: Time,
) -> Vec<NamespaceCondition> {
    for said in said(content) {
        let (status, reason, message) = match said.so {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", said.otherwise.0, said.otherwise.1.to_owned()),
        };
        let known = conditions
            .iter_mut()
            .find(|condition| *condition.r#type == *said.r#type);
        let condition = match known {
            Some(condition) => condition,
            None => {
                conditions.push(NamespaceCondition {
                    r#type: said.r#type.into(),
                    ..NamespaceCondition::default()
                });
                conditions.last_mut().expect("pushed just above")
            }
        };
        if &*condition.status != status {
            condition.status = status.into();
            condition.last_transition_time = Some(now);
        }
        condition.reason = reason.into();
        condition.message = message.into();
    }
    conditions
}

fn said(content: &Content) -> [Said; 5] {
    let listed = |counts: &BTreeMap<String, usize>, verb: &str| {
        let parts = counts
            .iter()
            .map(|(name, count)| format!("{name} {verb} {count} resource instances"));
        parts.collect::<Vec<_>>().join(", ")
    };
    let failed = (!content.errors.is_empty()).then(|| {
        let mut errors = content.errors.clone();
        errors.sort_unstable();
        let message = format!(
            "Failed to delete all resource types, {} remaining: {}",
            errors.len(),
            errors.join(", ")
        );
        ("ContentDeletionFailed", message)
    });
    let remaining = (!content.remaining.is_empty()).then(|| {
        let list = listed(&content.remaining, "has");
        (
            "SomeResourcesRemain",
            format!("Some resources are remaining: {list}"),
        )
    });
    let finalizers = (!content.finalizers.is_empty()).then(|| {
        let list = listed(&content.finalizers, "in");
        (
            "SomeFinalizersRemain",
            format!("Some finalizers are remaining: {list}"),
        )
    });
    [
        // Every kind is known to the server itself: these two cannot fail.
        Said {
            r#type: "NamespaceDeletionDiscoveryFailure",
            so: None,
            otherwise: (
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
        },
        Said {
            r#type: "NamespaceDeletionGroupVersionParsingFailure",
            so: None,
            otherwise: (
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
        },
        Said {
            r#type: "NamespaceDeletionContentFailure",
            so: failed,
            otherwise: (
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
        },
        Said {
            r#type: "NamespaceContentRemaining",
            so: remaining,
            otherwise: ("ContentRemoved", "All content successfully removed"),
        },
        Said {
            r#type: "NamespaceFinalizersRemaining",
            so: finalizers,
            otherwise: (
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            ),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `type`, `status`, reason, message of the conditions that are about content.
    fn shown(conditions: &[NamespaceCondition]) -> Vec<(&str, &str, &str, &str)> {
        let shown = conditions.iter().map(|condition| {
            (
                &*condition.r#type,
                &*condition.status,
                &*condition.reason,
                &*condition.message,
            )
        });
        shown.collect()
    }

    #[test]
    fn conditions_say_what_is_left() {
        let counts = |pairs: &[(&str, usize)]| -> BTreeMap<String, usize> {
            pairs
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect()
        };
        let deleted = (
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        );
        let removed = (
            "False",
            "ContentRemoved",
            "All content successfully removed",
        );
        let no_finalizers = (
            "False",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        );
        let rows = [
            (
                "nothing left",
                Content::default(),
                deleted,
                removed,
                no_finalizers,
            ),
            (
                "Pods that take their time",
                Content {
                    remaining: counts(&[("pods.", 2)]),
                    ..Content::default()
                },
                deleted,
                (
                    "True",
                    "SomeResourcesRemain",
                    "Some resources are remaining: pods. has 2 resource instances",
                ),
                no_finalizers,
            ),
            (
                "finalizers",
                Content {
                    remaining: counts(&[("configmaps.", 1), ("leases.coordination.k8s.io", 1)]),
                    finalizers: counts(&[("x/y", 2)]),
                    errors: vec![],
                },
                deleted,
                (
                    "True",
                    "SomeResourcesRemain",
                    "Some resources are remaining: configmaps. has 1 resource instances, leases.coordination.k8s.io has 1 resource instances",
                ),
                (
                    "True",
                    "SomeFinalizersRemain",
                    "Some finalizers are remaining: x/y in 2 resource instances",
                ),
            ),
            (
                "failures, in an order",
                Content {
                    errors: vec!["b".into(), "a".into()],
                    ..Content::default()
                },
                (
                    "True",
                    "ContentDeletionFailed",
                    "Failed to delete all resource types, 2 remaining: a, b",
                ),
                removed,
                no_finalizers,
            ),
        ];
        for (statement, content, failure, remaining, finalizers) in rows {
            let got = after(Vec::new(), &content, Time::now());
            let with = |name, (status, reason, message)| (name, status, reason, message);
            let wanted = [
                with(
                    "NamespaceDeletionDiscoveryFailure",
                    (
                        "False",
                        "ResourcesDiscovered",
                        "All resources successfully discovered",
                    ),
                ),
                with(
                    "NamespaceDeletionGroupVersionParsingFailure",
                    (
                        "False",
                        "ParsedGroupVersions",
                        "All legacy kube types successfully parsed",
                    ),
                ),
                with("NamespaceDeletionContentFailure", failure),
                with("NamespaceContentRemaining", remaining),
                with("NamespaceFinalizersRemaining", finalizers),
            ];
            assert_eq!(shown(&got), wanted, "{statement}");
        }
    }

    #[test]
    fn the_time_is_that_of_the_last_turn_and_conditions_of_others_stay() {
        let (early, late): (Time, Time) = (
            "2026-01-01T00:00:00Z".parse().unwrap(),
            "2026-01-01T00:00:09Z".parse().unwrap(),
        );
        let other = NamespaceCondition {
            r#type: "other/one".into(),
            status: "True".into(),
            ..NamespaceCondition::default()
        };
        let content = |count| Content {
            remaining: [("pods.".to_owned(), count)].into(),
            ..Content::default()
        };
        let first = after(vec![other.clone()], &content(2), early);
        assert_eq!(first[0], other);
        let remaining = |conditions: &[NamespaceCondition]| {
            let found = conditions
                .iter()
                .find(|condition| &*condition.r#type == "NamespaceContentRemaining");
            found.and_then(|condition| condition.last_transition_time)
        };
        let second = after(first.clone(), &content(1), late);
        assert_ne!(first, second, "another count is another message");
        assert_eq!(remaining(&second), Some(early), "but not another status");
        let third = after(second, &Content::default(), late);
        assert_eq!(remaining(&third), Some(late));
    }
}
