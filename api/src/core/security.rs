//! As whom containers run, and with what rights.

use crate::wire::wire;

wire! {
    /// For all containers of a Pod.
    pub struct PodSecurityContext {
        run_as_user: Option<i64>,
        run_as_group: Option<i64>,
        run_as_non_root: Option<bool>,
        supplemental_groups: Vec<i64>,
        fs_group: Option<i64>,
        sysctls: Vec<Sysctl>,
        seccomp_profile: Option<SeccompProfile>,
    }

    /// A kernel parameter of the Pod's namespaces.
    pub struct Sysctl {
        [always] {
            name: Box<str>,
            value: Box<str>,
        }
    }

    /// For one container; what is set here wins over the Pod's.
    pub struct SecurityContext {
        capabilities: Option<Capabilities>,
        privileged: Option<bool>,
        run_as_user: Option<i64>,
        run_as_group: Option<i64>,
        run_as_non_root: Option<bool>,
        read_only_root_filesystem: Option<bool>,
        allow_privilege_escalation: Option<bool>,
        seccomp_profile: Option<SeccompProfile>,
        proc_mount: Option<Box<str>>,
    }

    /// Which system calls a container may make.
    pub struct SeccompProfile {
        [always] {
            r#type: Box<str>,
        }
        localhost_profile: Option<Box<str>>,
    }

    /// Capabilities by name, without `CAP_`; `ALL` stands for every one.
    pub struct Capabilities {
        add: Vec<Box<str>>,
        drop: Vec<Box<str>>,
    }
}
