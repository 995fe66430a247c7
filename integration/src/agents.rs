//! A node's agent that is killed, and started again with flags of its own.

use serde_json::Value;

use crate::{DEADLINE, Lab, eventually, minik};

/// What an agent says once the rules and names of the whole cluster are in place.
const IN_PLACE: &str = "the node is ready";
/// The agent that [`Lab::restart_agent_with`] has started.
const UNIT: &str = "agent-with-flags";

impl Lab {
    /// `kill -9` of a node's agent.
    ///
    /// # Panics
    /// When none runs.
    pub fn kill_agent(&self, node: &str) {
        let _ = self.lab(&["kill", node]).ok();
    }

    /// Starts it again, and waits until its rules are in place.
    ///
    /// # Panics
    /// When they are not in time.
    pub fn start_agent(&self, node: &str) {
        let before = self.log(node, "agent").matches(IN_PLACE).count();
        let _ = self.lab(&["start", node]).ok();
        eventually("the agent's rules are in place", DEADLINE, || {
            let log = self.log(node, "agent");
            let now = log.matches(IN_PLACE).count();
            (now > before).then_some(()).ok_or(log)
        });
    }

    /// Puts an agent with these flags in the place of the one that runs, which is killed, and waits until its rules are in
    /// place.
    ///
    /// # Panics
    /// When they are not in time.
    pub fn restart_agent_with(&self, node: &str, flags: &[&str]) {
        let dir = self.dir().join(node);
        if dir.join(format!("{UNIT}.pid")).exists() {
            self.kill_on(node, UNIT);
        } else {
            self.kill_agent(node);
        }
        let minik = minik().to_string_lossy().into_owned();
        let mut command = vec![minik, "agent".to_owned()];
        let mut flag =
            |name: &str, value: &str| command.extend([name.to_owned(), value.to_owned()]);
        flag("--join", "https://198.18.0.2:6443");
        flag("--node-name", node);
        let object = self.get(&["node", node]);
        let addresses = object["status"]["addresses"].as_array().cloned();
        for address in addresses.unwrap_or_default() {
            if address["type"] == "InternalIP" {
                flag(
                    "--node-ip",
                    address["address"].as_str().expect("an address"),
                );
            }
        }
        for (name, sub) in [
            ("--data-dir", "lib"),
            ("--run-dir", "run"),
            ("--log-dir", "pods"),
        ] {
            flag(name, &dir.join(sub).to_string_lossy());
        }
        flag(
            "--cgroup-parent",
            &format!("minik-lab-{}/{node}", self.name()),
        );
        command.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let log = dir.join(format!("{UNIT}.log"));
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let before = said().matches(IN_PLACE).count();
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        self.start_on(node, UNIT, &command);
        eventually("the agent's rules are in place", DEADLINE, || {
            (said().matches(IN_PLACE).count() > before)
                .then_some(())
                .ok_or_else(said)
        });
    }

    /// Waits until every node's rules have a Service as it is now.
    ///
    /// # Panics
    /// When they have it not in time.
    pub fn programmed(&self, service: &str) {
        let condition = "--for=condition=minik.dev/Programmed=True";
        let name = format!("service/{service}");
        let _ = self
            .kubectl(&["wait", condition, "--timeout=60s", &name])
            .ok();
    }

    /// The addresses of a Pod, the primary one first.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn pod_ips(&self, pod: &str) -> Vec<std::net::IpAddr> {
        let object = self.get(&["pod", pod]);
        let ips = object["status"]["podIPs"].as_array().cloned();
        let ips = ips.expect("addresses").into_iter();
        let parse = |ip: Value| ip["ip"].as_str().and_then(|ip| ip.parse().ok());
        ips.map(|ip| parse(ip).expect("an address")).collect()
    }
}
