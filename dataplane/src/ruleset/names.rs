//! Names of what every table holds.

/// Names of chains.
pub mod chains {
    /// Looks up Services and NodePorts; called for the first packet of a connection.
    pub const SERVICES: &str = "services";
    /// Source rules of translated connections.
    pub const MASQUERADE_SERVICES: &str = "masquerade-services";
    /// Drops what does not come from where an address may be reached.
    pub const SOURCE_RANGES: &str = "check-source-ranges";
    /// Picks for those who may.
    pub const PERMITTED: &str = "permitted";
    /// Picks by source where a Service with a local policy is asked.
    pub const LOCAL_POLICY: &str = "local-policy";
    /// The same for NodePorts.
    pub const LOCAL_POLICY_NODEPORTS: &str = "local-policy-nodeports";
    /// Masquerades what comes from this node's own processes.
    pub const MASQUERADE_NODE: &str = "masquerade-node";
    /// Masquerades what does not come from a Pod.
    pub const MASQUERADE_NON_PODS: &str = "masquerade-non-pods";
    /// Masquerades Pods' connections that leave pod and service networks.
    pub const MASQUERADE_EGRESS: &str = "masquerade-egress";
    /// Rejects or drops what was sent to a Service and not translated.
    pub const CHECK_SERVICES: &str = "check-services";
    /// The same for NodePorts.
    pub const CHECK_NODEPORTS: &str = "check-nodeports";
    /// Untranslated packets to an address of a service network.
    pub const CHECK_NETWORKS: &str = "check-service-networks";
    /// Refuses.
    pub const REJECT: &str = "reject";
    /// Picks the memory by source where a Service with a local policy was asked.
    pub const LOCAL_AFFINITY: &str = "local-affinity";
    /// The same for NodePorts.
    pub const LOCAL_AFFINITY_NODEPORTS: &str = "local-affinity-nodeports";
    /// Remembers which endpoint a client got.
    pub const AFFINITY: &str = "affinity-record";
}

/// Names of sets and maps.
pub mod sets {
    /// number : goto the chain of that number, for those who look in `service-picks` or `nodeport-picks`. The maps of picks
    /// hold numbers instead of verdicts, because the kernel looks at every verdict of a table again, for each hook that
    /// leads there, when one is added (`nft_table_validate`): 3 ms with 30 000 of them.
    pub const CHAINS: &str = "chains";
    /// The same for those who look in `permitted-picks`. Apart, because the kernel refuses a map that leads to where it is
    /// looked into.
    pub const PERMITTED_CHAINS: &str = "permitted-chains";
    /// The same for those who look in the maps for inside and outside.
    pub const SIDE_CHAINS: &str = "side-chains";
    /// All of them: each leads to every chain that picks an endpoint.
    pub const OF_CHAINS: [&str; 3] = [CHAINS, PERMITTED_CHAINS, SIDE_CHAINS];
    /// address . protocol . port : the number of the chain that picks an endpoint.
    pub const SERVICES: &str = "service-picks";
    /// address . protocol . port . slot : address . port. The slots for connections from inside the cluster, where they
    /// differ, are numbered from 2^31. Which of the maps is decided by the hash of address . protocol . port: a dump's cost
    /// grows with the square of a map's size, because the kernel begins each message by walking from the first element
    /// (`nft_hash_walk`).
    pub const SLOTS: [&str; 16] = [
        "service-slots-0",
        "service-slots-1",
        "service-slots-2",
        "service-slots-3",
        "service-slots-4",
        "service-slots-5",
        "service-slots-6",
        "service-slots-7",
        "service-slots-8",
        "service-slots-9",
        "service-slots-10",
        "service-slots-11",
        "service-slots-12",
        "service-slots-13",
        "service-slots-14",
        "service-slots-15",
    ];
    /// address . protocol . port . source: who may reach an address whose sources are limited.
    pub const SOURCE_RANGES: &str = "source-ranges";
    /// address . protocol . port : what `service-picks` would have, if the sources were not limited.
    pub const PERMITTED: &str = "permitted-picks";
    /// protocol . port : the number of the chain that picks an endpoint.
    pub const NODEPORTS: &str = "nodeport-picks";
    /// protocol . port . slot : address . port.
    pub const NODEPORT_SLOTS: &str = "nodeport-slots";
    /// address . protocol . port : the number of the chain that picks an endpoint for Pods and this node.
    pub const INSIDE: &str = "inside-picks";
    /// address . protocol . port : the number of the chain that picks an endpoint for clients outside the cluster.
    pub const OUTSIDE: &str = "outside-picks";
    /// protocol . port : the number of the chain that picks an endpoint for Pods and this node.
    pub const INSIDE_NODEPORTS: &str = "inside-nodeport-picks";
    /// protocol . port : the number of the chain that picks an endpoint for clients outside the cluster.
    pub const OUTSIDE_NODEPORTS: &str = "outside-nodeport-picks";
    /// The maps whose values are numbers of chains.
    pub const OF_PICKS: [&str; 7] = [
        SERVICES,
        PERMITTED,
        NODEPORTS,
        INSIDE,
        OUTSIDE,
        INSIDE_NODEPORTS,
        OUTSIDE_NODEPORTS,
    ];
    /// address . protocol . port of Services without any endpoint.
    pub const REJECT: &str = "reject-ips";
    /// protocol . port of NodePorts without any endpoint.
    pub const REJECT_NODEPORTS: &str = "reject-nodeports";
    /// address . protocol . port of Services that a policy closes here.
    pub const DROP: &str = "drop-ips";
    /// protocol . port of NodePorts that a policy closes here.
    pub const DROP_NODEPORTS: &str = "drop-nodeports";
    /// address . protocol . port: every connection is masqueraded.
    pub const MASQUERADE_ALWAYS: &str = "masquerade-always-ips";
    /// address . protocol . port: masqueraded unless from a Pod.
    pub const MASQUERADE_NON_PODS: &str = "masquerade-non-pods-ips";
    /// address . protocol . port: masqueraded when from this node.
    pub const MASQUERADE_NODE: &str = "masquerade-node-ips";
    /// protocol . port: every connection is masqueraded.
    pub const MASQUERADE_ALWAYS_NODEPORTS: &str = "masquerade-always-nodeports";
    /// protocol . port: masqueraded unless from a Pod.
    pub const MASQUERADE_NON_PODS_NODEPORTS: &str = "masquerade-non-pods-nodeports";
    /// protocol . port: masqueraded when from this node.
    pub const MASQUERADE_NODE_NODEPORTS: &str = "masquerade-node-nodeports";
    /// client . memory : address . port; filled by the packet path.
    pub const AFFINITY: &str = "affinity-clients";
    /// address . protocol . port : goto the chain that remembers.
    pub const AFFINITY_SERVICES: &str = "affinity-ips";
    /// protocol . port : goto the chain that remembers.
    pub const AFFINITY_NODEPORTS: &str = "affinity-nodeports";
    /// address . protocol . port : goto the chain that remembers clients inside the cluster.
    pub const AFFINITY_INSIDE: &str = "affinity-inside-ips";
    /// address . protocol . port : goto the chain that remembers clients outside the cluster.
    pub const AFFINITY_OUTSIDE: &str = "affinity-outside-ips";
    /// protocol . port : goto the chain that remembers clients inside the cluster.
    pub const AFFINITY_INSIDE_NODEPORTS: &str = "affinity-inside-nodeports";
    /// protocol . port : goto the chain that remembers clients outside the cluster.
    pub const AFFINITY_OUTSIDE_NODEPORTS: &str = "affinity-outside-nodeports";
    /// The maps that lead to chains which remember.
    pub const REMEMBERING: [&str; 6] = [
        AFFINITY_SERVICES,
        AFFINITY_NODEPORTS,
        AFFINITY_INSIDE,
        AFFINITY_OUTSIDE,
        AFFINITY_INSIDE_NODEPORTS,
        AFFINITY_OUTSIDE_NODEPORTS,
    ];
    /// address . protocol . port : the number of the memory of its clients.
    pub const MEMORIES: &str = "memory-ips";
    /// protocol . port : the number of the memory of its clients.
    pub const NODEPORT_MEMORIES: &str = "memory-nodeports";
    /// address . protocol . port : the number of the memory of its clients inside the cluster.
    pub const INSIDE_MEMORIES: &str = "memory-inside-ips";
    /// protocol . port : the number of the memory of its clients inside the cluster.
    pub const INSIDE_NODEPORT_MEMORIES: &str = "memory-inside-nodeports";
    /// Every address of a Service.
    pub const ACTIVE: &str = "active-ips";
    /// address . address of each local Pod.
    pub const HAIRPIN: &str = "hairpin";
    /// address . protocol . port served by a process of this node.
    pub const LISTENERS: &str = "local-listeners";
}
