//! From a Pod object to what the runtime makes. Pure.

use std::path::PathBuf;

use api::core::{Container, Pod};
use runtime::{
    Capabilities, ContainerSpec, HostPort, Image, Limits, Mount, Network, PodSpec, Stdio, User,
};

use super::{env, files, volumes};
use crate::Addresses;

/// The search path of a container whose image says nothing about it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/";

/// Processes and threads of a container. The API has no limit for them; without one, a container that only forks takes the whole
/// node with it.
const MAX_PROCESSES: u64 = 4096;

/// What of this Pod this version cannot do, if anything. Better refused with words than run wrongly.
pub(super) fn unsupported(pod: &Pod) -> Option<&'static str> {
    let spec = &pod.spec;
    if !spec.init_containers.is_empty() {
        return Some("init containers are not supported yet");
    }
    if let Some(what) = unsupported_volumes(pod) {
        return Some(what);
    }
    if spec.runtime_class_name.is_some() {
        return Some("runtimeClassName is not supported yet");
    }
    if spec.host_pid || spec.host_ipc || spec.share_process_namespace == Some(true) {
        return Some("hostPID, hostIPC and shareProcessNamespace are not supported yet");
    }
    let of_pod = spec.security_context.clone().unwrap_or_default();
    if !of_pod.sysctls.is_empty() {
        return Some("securityContext.sysctls is not supported yet");
    }
    let groups = of_pod.supplemental_groups.iter().chain(&of_pod.fs_group);
    if !groups.copied().all(is_id) {
        return Some("securityContext names a group that is not a number from 0 to 2147483647");
    }
    spec.containers
        .iter()
        .find_map(|container| unsupported_security(pod, container))
}

/// What of its volumes it would not get.
fn unsupported_volumes(pod: &Pod) -> Option<&'static str> {
    let mounts = pod.spec.containers.iter();
    for mount in mounts.flat_map(|container| &container.volume_mounts) {
        if !mount.sub_path.is_empty() || !mount.sub_path_expr.is_empty() {
            return Some("volume mounts with a subPath are not supported yet");
        }
        let propagation = mount.mount_propagation.as_deref();
        if propagation.is_some_and(|propagation| propagation != "None") {
            return Some("mountPropagation is not supported yet, but for None");
        }
        let mut volumes = pod.spec.volumes.iter();
        let volume = volumes.find(|volume| volume.name == mount.name);
        if !volume.is_some_and(volumes::is_supported) {
            return Some(
                "volumes other than configMap, secret, downwardAPI and projected are not supported yet",
            );
        }
    }
    None
}

/// What a container sees of its Pod's volumes, outer places first. Whatever it asks for, it cannot write to them.
pub(super) fn mounts(container: &Container, dir: impl Fn(&str) -> PathBuf) -> Vec<Mount> {
    let mounts = container.volume_mounts.iter().map(|mount| Mount {
        source: dir(&mount.name),
        target: mount.mount_path.to_string(),
        read_only: true,
    });
    let mut mounts: Vec<Mount> = mounts.collect();
    mounts.sort_by_key(|mount| mount.target.split('/').count());
    mounts
}

/// What a container asks for about its rights that it would not get. Never less protection than was asked for.
fn unsupported_security(pod: &Pod, container: &Container) -> Option<&'static str> {
    let of_pod = pod.spec.security_context.clone().unwrap_or_default();
    let security = container.security_context.clone().unwrap_or_default();
    if security.privileged == Some(true) {
        return Some("privileged containers are not supported yet");
    }
    let profile = security.seccomp_profile.or(of_pod.seccomp_profile);
    if profile.is_some_and(|profile| &*profile.r#type != "Unconfined") {
        return Some("seccompProfile is not supported yet, but for Unconfined");
    }
    if security
        .proc_mount
        .is_some_and(|mount| &*mount != "Default")
    {
        return Some("procMount is not supported yet, but for Default");
    }
    if capabilities(container).is_none() {
        return Some("securityContext.capabilities names a capability that Linux does not have");
    }
    let user = security.run_as_user.or(of_pod.run_as_user);
    let ids = user
        .into_iter()
        .chain(security.run_as_group.or(of_pod.run_as_group));
    if !ids.into_iter().all(is_id) {
        return Some("runAsUser or runAsGroup is not a number from 0 to 2147483647");
    }
    let non_root = security.run_as_non_root.or(of_pod.run_as_non_root) == Some(true);
    // The images of this version name no user of their own.
    if non_root && user.unwrap_or(0) == 0 {
        return Some("container has runAsNonRoot and would run as root: set runAsUser");
    }
    None
}

/// The API's bounds of user and group numbers.
fn is_id(number: i64) -> bool {
    i32::try_from(number).is_ok_and(|number| number >= 0)
}

/// The usual capabilities, with `add` and without `drop`; `None` when a name is unknown. `ALL` counts before single names, so
/// `drop: [ALL], add: [NET_BIND_SERVICE]` leaves one.
fn capabilities(container: &Container) -> Option<Capabilities> {
    let asked = container
        .security_context
        .clone()
        .unwrap_or_default()
        .capabilities
        .unwrap_or_default();
    let named = |names: &[Box<str>]| {
        let sets = names.iter().map(|name| Capabilities::named(name));
        sets.collect::<Option<Vec<_>>>()
    };
    let all = Capabilities::ALL;
    let (add, drop) = (named(&asked.add)?, named(&asked.drop)?);
    let mut set = Capabilities::USUAL;
    if add.contains(&all) {
        set = all;
    }
    if drop.contains(&all) {
        set = Capabilities::NONE;
    }
    let singles = |sets: Vec<Capabilities>| {
        let sets = sets.into_iter().filter(move |one| *one != all);
        sets.fold(Capabilities::NONE, Capabilities::and)
    };
    Some(set.and(singles(add)).without(singles(drop)))
}

/// The Pod's sandbox.
pub(super) fn pod_spec(
    pod: &Pod,
    addresses: Addresses,
    dns: &files::DnsSetup,
    host_hosts: &str,
    host_ports: Vec<HostPort>,
) -> PodSpec {
    let host_network = pod.spec.host_network;
    PodSpec {
        uid: pod.metadata.uid.to_string(),
        namespace: pod.metadata.namespace.to_string(),
        name: pod.metadata.name.to_string(),
        hostname: files::hostname(pod),
        network: if host_network {
            Network::Host
        } else {
            Network::Own
        },
        resolv_conf: files::resolv_conf(pod, dns),
        hosts: if host_network {
            format!("{host_hosts}{}", files::aliases(pod))
        } else {
            files::hosts(pod, addresses, &dns.domain)
        },
        host_ports,
    }
}

/// One attempt of a container; `environment` is the whole declared one.
pub(super) fn container_spec(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    image: Image,
    environment: Vec<(String, String)>,
) -> Result<ContainerSpec, env::EnvError> {
    let security = container.security_context.clone().unwrap_or_default();
    let mut env = vec![
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOSTNAME".to_owned(), files::hostname(pod)),
    ];
    env.retain(|(name, _)| environment.iter().all(|(other, _)| other != name));
    env.extend(environment);
    let argv = argv(container, &image, &env)?;
    Ok(ContainerSpec {
        name: container.name.to_string(),
        attempt,
        argv,
        env,
        working_dir: if container.working_dir.is_empty() {
            "/"
        } else {
            &container.working_dir
        }
        .to_owned(),
        user: user(pod, container),
        limits: limits(container),
        capabilities: capabilities(container).unwrap_or(Capabilities::NONE),
        allow_privilege_escalation: security.allow_privilege_escalation.unwrap_or(true),
        read_only_root: security.read_only_root_filesystem.unwrap_or(false),
        stdio: Stdio {
            stdin: container.stdin,
            stdin_once: container.stdin_once,
            tty: container.tty,
        },
        mounts: Vec::new(),
        image,
    })
}

/// `command` takes the place of the image's entry point; `args` follow either.
fn argv(
    container: &Container,
    image: &Image,
    env: &[(String, String)],
) -> Result<Vec<String>, env::EnvError> {
    let get = |name: &str| {
        env.iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| &**value)
    };
    let mut left = env::MAX_TOTAL_BYTES;
    let mut expanded = |what: &str, words: &[Box<str>]| {
        let mut out = Vec::with_capacity(words.len());
        for word in words {
            let word = env::expand(word, get).ok_or_else(|| env::EnvError::TooLong {
                what: format!("a word of {what}"),
            })?;
            left = left.checked_sub(word.len()).ok_or(env::EnvError::TooMuch)?;
            out.push(word);
        }
        Ok(out)
    };
    let mut argv = expanded("command", &container.command)?;
    if argv.is_empty() {
        argv = image.entrypoint();
    }
    argv.extend(expanded("args", &container.args)?);
    Ok(argv)
}

fn user(pod: &Pod, container: &Container) -> User {
    let of_pod = pod.spec.security_context.clone().unwrap_or_default();
    let of_container = container.security_context.clone().unwrap_or_default();
    let number = |id: Option<i64>| id.and_then(|id| u32::try_from(id).ok());
    let groups = of_pod.supplemental_groups.iter().chain(&of_pod.fs_group);
    User {
        uid: number(of_container.run_as_user.or(of_pod.run_as_user)).unwrap_or(0),
        gid: number(of_container.run_as_group.or(of_pod.run_as_group)).unwrap_or(0),
        groups: groups
            .filter_map(|group| u32::try_from(*group).ok())
            .collect(),
    }
}

fn limits(container: &Container) -> Limits {
    let limit = |name: &str| container.resources.limits.get(name)?.amount().ok();
    Limits {
        memory_bytes: limit("memory").and_then(|amount| u64::try_from(amount.units()).ok()),
        cpu_millis: limit("cpu").and_then(|amount| u64::try_from(amount.millis()).ok()),
        pids: Some(MAX_PROCESSES),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn command_replaces_the_entry_point_and_args_follow_either() {
        let cases = [
            (json!({}), vec!["/minik", "echo"]),
            (
                json!({"args": ["--port", "$(PORT)"]}),
                vec!["/minik", "echo", "--port", "80"],
            ),
            (
                json!({"command": ["/minik", "version"]}),
                vec!["/minik", "version"],
            ),
        ];
        for (fields, wanted) in cases {
            let container: Container = serde_json::from_value(fields.clone()).expect("container");
            let env = vec![("PORT".to_owned(), "80".to_owned())];
            let spec = container_spec(&Pod::default(), &container, 0, Image::BuiltIn, env)
                .expect("it fits");
            assert_eq!(spec.argv, wanted, "{fields}");
        }
    }

    #[test]
    fn what_would_be_less_protected_than_asked_for_is_refused() {
        let cases = [
            (json!({}), json!({}), None),
            (json!({"hostPID": true}), json!({}), Some("hostPID")),
            (json!({"hostIPC": true}), json!({}), Some("hostIPC")),
            (
                json!({"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}),
                json!({}),
                Some("seccompProfile"),
            ),
            (
                json!({"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}),
                json!({"seccompProfile": {"type": "Unconfined"}}),
                None,
            ),
            (
                json!({}),
                json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}}),
                Some("seccompProfile"),
            ),
            (
                json!({}),
                json!({"procMount": "Unmasked"}),
                Some("procMount"),
            ),
            (
                json!({"shareProcessNamespace": true}),
                json!({}),
                Some("shareProcessNamespace"),
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "9"}]}}),
                json!({}),
                Some("sysctls"),
            ),
            (
                json!({"securityContext": {"fsGroup": -1}}),
                json!({}),
                Some("group"),
            ),
            (json!({}), json!({"privileged": true}), Some("privileged")),
            (
                json!({}),
                json!({"capabilities": {"drop": ["FLY"]}}),
                Some("capabilities"),
            ),
            (
                json!({}),
                json!({"runAsUser": 1_i64 << 32}),
                Some("runAsUser"),
            ),
            (
                json!({}),
                json!({"runAsNonRoot": true}),
                Some("runAsNonRoot"),
            ),
            (
                json!({"securityContext": {"runAsNonRoot": true}}),
                json!({"runAsUser": 0}),
                Some("runAsNonRoot"),
            ),
            (
                json!({"securityContext": {"runAsNonRoot": true}}),
                json!({"runAsUser": 1000}),
                None,
            ),
        ];
        for (mut spec, security, wanted) in cases {
            spec["containers"] = json!([{"name": "c", "securityContext": security}]);
            let text = spec.to_string();
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).expect("pod");
            match (unsupported(&pod), wanted) {
                (Some(reason), Some(wanted)) => {
                    assert!(reason.contains(wanted), "{text}: {reason}")
                }
                (got, wanted) => assert_eq!(got, wanted, "{text}"),
            }
        }
    }

    #[test]
    fn a_command_that_grows_without_end_is_refused() {
        let env = vec![("BIG".to_owned(), "x".repeat(100 << 10))];
        for words in [json!(["$(BIG)$(BIG)"]), json!(vec!["$(BIG)"; 64])] {
            let container: Container =
                serde_json::from_value(json!({"args": words})).expect("container");
            let spec = container_spec(&Pod::default(), &container, 0, Image::BuiltIn, env.clone());
            let error = spec.expect_err("too much").to_string();
            assert!(error.contains("no program can be given that"), "{error}");
        }
    }

    #[test]
    fn capabilities_are_added_and_dropped_by_name() {
        let named = |name| Capabilities::named(name).expect("a name");
        let cases = [
            (json!({}), Capabilities::USUAL),
            (json!({"drop": ["ALL"]}), Capabilities::NONE),
            (
                json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}),
                named("NET_BIND_SERVICE"),
            ),
            (
                json!({"drop": ["NET_RAW"]}),
                Capabilities::USUAL.without(named("NET_RAW")),
            ),
            (
                json!({"add": ["NET_ADMIN"]}),
                Capabilities::USUAL.and(named("NET_ADMIN")),
            ),
            (
                json!({"add": ["ALL"], "drop": ["CAP_SYS_ADMIN"]}),
                Capabilities::ALL.without(named("SYS_ADMIN")),
            ),
        ];
        for (asked, wanted) in cases {
            let container = json!({"securityContext": {"capabilities": asked}});
            let container: Container = serde_json::from_value(container).expect("container");
            let spec = container_spec(&Pod::default(), &container, 0, Image::BuiltIn, Vec::new())
                .expect("it fits");
            assert_eq!(spec.capabilities, wanted, "{asked}");
        }
    }

    #[test]
    fn the_container_wins_over_the_pod_about_the_user() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 7}},
        }))
        .expect("pod");
        let container: Container =
            serde_json::from_value(json!({"securityContext": {"runAsUser": 2000}, "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}}}))
                .expect("container");
        let spec =
            container_spec(&pod, &container, 0, Image::BuiltIn, Vec::new()).expect("it fits");
        assert_eq!(
            (spec.user.uid, spec.user.gid, spec.user.groups),
            (2000, 1000, vec![7])
        );
        assert_eq!(
            (spec.limits.memory_bytes, spec.limits.cpu_millis),
            (Some(64 << 20), Some(500))
        );
    }
}
