//! Where a Pod wants to be, and beside whom.

use crate::meta::{LabelSelector, LabelSelectorRequirement};
use crate::wire::wire;

wire! {
    /// What a Pod asks of its node, and of the Pods around it.
    pub struct Affinity {
        node_affinity: Option<NodeAffinity>,
        pod_affinity: Option<PodAffinity>,
        pod_anti_affinity: Option<PodAffinity>,
    }

    /// What a Pod asks of its node.
    pub struct NodeAffinity {
        required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
        preferred_during_scheduling_ignored_during_execution: Vec<PreferredSchedulingTerm>,
    }

    /// Nodes of which one of the terms holds.
    pub struct NodeSelector {
        [always] {
            node_selector_terms: Vec<NodeSelectorTerm>,
        }
    }

    /// Requirements that must all hold of a node; `operator` may also be `Gt` or `Lt`. The only field is `metadata.name`.
    pub struct NodeSelectorTerm {
        match_expressions: Vec<LabelSelectorRequirement>,
        match_fields: Vec<LabelSelectorRequirement>,
    }

    /// Nodes that are liked better.
    pub struct PreferredSchedulingTerm {
        [always] {
            weight: i32,
            preference: NodeSelectorTerm,
        }
    }

    /// What a Pod asks of the Pods around it; for anti-affinity what may not be there.
    pub struct PodAffinity {
        required_during_scheduling_ignored_during_execution: Vec<PodAffinityTerm>,
        preferred_during_scheduling_ignored_during_execution: Vec<WeightedPodAffinityTerm>,
    }

    /// Pods, and how near "around" is: nodes with the same value of the label `topologyKey`.
    pub struct PodAffinityTerm {
        [always] {
            topology_key: Box<str>,
        }
        label_selector: Option<LabelSelector>,
        namespaces: Vec<Box<str>>,
        namespace_selector: Option<LabelSelector>,
        match_label_keys: Vec<Box<str>>,
        mismatch_label_keys: Vec<Box<str>>,
    }

    /// Pods that are liked (or, for anti-affinity, not liked) around.
    pub struct WeightedPodAffinityTerm {
        [always] {
            weight: i32,
            pod_affinity_term: PodAffinityTerm,
        }
    }

    /// How evenly Pods are to be spread; `whenUnsatisfiable` is `DoNotSchedule` or `ScheduleAnyway`.
    pub struct TopologySpreadConstraint {
        [always] {
            max_skew: i32,
            topology_key: Box<str>,
            when_unsatisfiable: Box<str>,
        }
        label_selector: Option<LabelSelector>,
        min_domains: Option<i32>,
        node_affinity_policy: Option<Box<str>>,
        node_taints_policy: Option<Box<str>>,
        match_label_keys: Vec<Box<str>>,
    }
}
