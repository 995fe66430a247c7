//! What tells a Pod's connection from others.

use std::collections::BTreeSet;

use dataplane::model::LocalDetector;
use ipnet::IpNet;

use super::ConfigError;
use crate::network::BRIDGE;

/// The modes of the reference proxy. A node knows its own Pods by each of them, those of other nodes by the first only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DetectLocal {
    /// Their source is in a Pod range of the cluster.
    ClusterCidr,
    /// Their source is in this node's Pod range.
    NodeCidr,
    /// They come in by this bridge.
    BridgeInterface(Box<str>),
    /// They come in by an interface whose name begins so.
    InterfaceNamePrefix(Box<str>),
}

impl DetectLocal {
    /// On the node with these Pod ranges.
    pub(crate) fn detector(&self, node_cidrs: BTreeSet<IpNet>) -> LocalDetector {
        match self {
            Self::ClusterCidr => LocalDetector::PodNetworks,
            Self::NodeCidr => LocalDetector::Networks(node_cidrs),
            Self::BridgeInterface(name) => LocalDetector::Interface(name.clone()),
            Self::InterfaceNamePrefix(prefix) => LocalDetector::InterfacePrefix(prefix.clone()),
        }
    }
}

const BRIDGE_FLAG: &str = "--pod-bridge-interface";
const PREFIX_FLAG: &str = "--pod-interface-name-prefix";

/// # Errors
/// A mode that does not exist, or a name that is missing, wrong, or of another mode.
pub(super) fn mode(
    mode: &str,
    bridge: Option<String>,
    prefix: Option<String>,
) -> Result<DetectLocal, ConfigError> {
    let is_of_other_mode = |flag, value: &Option<String>| match value {
        None => Ok(()),
        value => Err(bad(
            flag,
            value.clone(),
            "this --detect-local-mode does not look at it",
        )),
    };
    if mode != "BridgeInterface" {
        is_of_other_mode(BRIDGE_FLAG, &bridge)?;
    }
    if mode != "InterfaceNamePrefix" {
        is_of_other_mode(PREFIX_FLAG, &prefix)?;
    }
    match mode {
        "" | "ClusterCIDR" => Ok(DetectLocal::ClusterCidr),
        "NodeCIDR" => Ok(DetectLocal::NodeCidr),
        "BridgeInterface" => {
            let name = bridge.unwrap_or_else(|| BRIDGE.to_owned());
            Ok(DetectLocal::BridgeInterface(interface(BRIDGE_FLAG, name)?))
        }
        "InterfaceNamePrefix" => {
            let prefix = prefix
                .ok_or_else(|| bad(PREFIX_FLAG, None, "this --detect-local-mode needs it"))?;
            Ok(DetectLocal::InterfaceNamePrefix(interface(
                PREFIX_FLAG,
                prefix,
            )?))
        }
        other => Err(ConfigError::DetectLocalMode {
            value: other.to_owned(),
        }),
    }
}

/// Linux takes 1 to 15 bytes without `/`, `:` and white space (`dev_valid_name`); `*` would be nft's sign for a prefix.
fn interface(flag: &'static str, name: String) -> Result<Box<str>, ConfigError> {
    let is_bad =
        |byte: u8| byte.is_ascii_whitespace() || matches!(byte, b'/' | b':' | b'*' | b'"' | 0);
    if name.is_empty() || name.len() > 15 || name.bytes().any(is_bad) {
        return Err(bad(
            flag,
            Some(name),
            "wanted 1 to 15 characters without '/', ':', '*', quotes and spaces",
        ));
    }
    Ok(name.into())
}

fn bad(flag: &'static str, value: Option<String>, reason: &'static str) -> ConfigError {
    ConfigError::DetectLocalInterface {
        flag,
        value,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: [&str; 3]) -> Result<DetectLocal, String> {
        let given = |word: &str| (!word.is_empty()).then(|| word.to_owned());
        mode(words[0], given(words[1]), given(words[2])).map_err(|error| error.to_string())
    }

    #[test]
    fn each_mode_gives_its_detector() {
        let node = BTreeSet::from(["10.244.1.0/24".parse().expect("a network")]);
        let rows = [
            (["", "", ""], LocalDetector::PodNetworks),
            (["ClusterCIDR", "", ""], LocalDetector::PodNetworks),
            (["NodeCIDR", "", ""], LocalDetector::Networks(node.clone())),
            (
                ["BridgeInterface", "", ""],
                LocalDetector::Interface(BRIDGE.into()),
            ),
            (
                ["BridgeInterface", "cni0", ""],
                LocalDetector::Interface("cni0".into()),
            ),
            (
                ["InterfaceNamePrefix", "", "veth"],
                LocalDetector::InterfacePrefix("veth".into()),
            ),
        ];
        for (words, wanted) in rows {
            let got = parsed(words).expect("a mode").detector(node.clone());
            assert_eq!(got, wanted, "{words:?}");
        }
    }

    #[test]
    fn what_does_not_belong_together_is_named() {
        let rows = [
            (
                ["clustercidr", "", ""],
                "--detect-local-mode \"clustercidr\"",
            ),
            (
                ["InterfaceNamePrefix", "", ""],
                "--pod-interface-name-prefix: this",
            ),
            (
                ["ClusterCIDR", "cni0", ""],
                "--pod-bridge-interface \"cni0\": this",
            ),
            (
                ["BridgeInterface", "", "veth"],
                "--pod-interface-name-prefix \"veth\": this",
            ),
            (
                ["BridgeInterface", "a/b", ""],
                "--pod-bridge-interface \"a/b\": wanted",
            ),
            (
                ["BridgeInterface", "sixteen-letters-", ""],
                "--pod-bridge-interface \"sixteen-letters-\": wanted",
            ),
        ];
        for (words, wanted) in rows {
            let error = parsed(words).expect_err("refused");
            assert!(error.starts_with(wanted), "{error}");
        }
    }
}
