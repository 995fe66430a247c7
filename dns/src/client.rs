//! A stub resolver by the rules of `resolv.conf`: name servers, search list, `ndots`.
//!
//! For programs of ours that ask names inside Pods: a static binary has no name service switch of the C library.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};

use crate::forward::name_server;

/// The system's file.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

const DNS_PORT: u16 = 53;

/// What a `resolv.conf` says. Options other than the ones here are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// Name servers, asked in order.
    pub nameservers: Vec<SocketAddr>,
    /// Domains tried after a name.
    pub search: Vec<String>,
    /// A name with fewer dots is tried with the search list first.
    pub ndots: usize,
    /// How long one try at one server may take.
    pub timeout: Duration,
    /// Tries at each server.
    pub attempts: usize,
}

/// Why a name was not resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file names no server.
    #[error("{} names no usable name server", path.display())]
    NoServers {
        /// The file.
        path: PathBuf,
    },
    /// The resolver cannot be set up.
    #[error("cannot set up the resolver")]
    Setup(#[source] NetError),
    /// The name cannot be asked for.
    #[error("{name:?} is not a DNS name")]
    NotAName {
        /// What was asked for.
        name: String,
        /// Why.
        source: hickory_proto::ProtoError,
    },
    /// Nobody has the name, or nobody tells.
    #[error("{name}: no such name: {}", answers(tried))]
    NotFound {
        /// What was asked for.
        name: String,
        /// The absolute names asked, in order, with what the server said.
        tried: Vec<(String, Denial)>,
    },
    /// The name exists and has no address.
    #[error("{name}: {found} exists and has no address (NODATA)")]
    NoAddress {
        /// What was asked for.
        name: String,
        /// The absolute name that exists.
        found: String,
    },
    /// The servers answered with an error, or not at all.
    #[error("{name}: asking for {asked} failed")]
    Failed {
        /// What was asked for.
        name: String,
        /// The absolute name that failed.
        asked: String,
        /// What happened.
        source: Box<NetError>,
    },
}

/// How a server says that it gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The name does not exist.
    NxDomain,
    /// The server does not answer for this name: it is outside the cluster, and there is no upstream.
    Refused,
}

fn answers(tried: &[(String, Denial)]) -> String {
    let word = |denial| match denial {
        Denial::NxDomain => "NXDOMAIN",
        Denial::Refused => "REFUSED",
    };
    let answer = |(name, denial): &(String, Denial)| format!("{} for {name}", word(*denial));
    tried.iter().map(answer).collect::<Vec<_>>().join(", ")
}

impl ResolvConf {
    /// Reads a file, [`RESOLV_CONF`] usually.
    ///
    /// # Errors
    /// When it cannot be read or names no server.
    pub fn read(path: &Path) -> Result<ResolvConf, ResolveError> {
        let text = std::fs::read_to_string(path).map_err(|source| ResolveError::Read {
            path: path.to_owned(),
            source,
        })?;
        let conf = ResolvConf::parse(&text);
        match conf.nameservers.is_empty() {
            true => Err(ResolveError::NoServers {
                path: path.to_owned(),
            }),
            false => Ok(conf),
        }
    }

    /// Parses the text; lines not understood are skipped, as resolvers do (resolv.conf(5)).
    pub fn parse(text: &str) -> ResolvConf {
        let mut conf = ResolvConf {
            nameservers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let addr = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    conf.nameservers
                        .extend(addr.map(|addr| SocketAddr::new(addr, DNS_PORT)));
                }
                // The last line counts.
                Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => words.for_each(|option| conf.set(option)),
                _ => {}
            }
        }
        conf
    }

    fn set(&mut self, option: &str) {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        match (name, value.parse::<u8>()) {
            ("ndots", Ok(ndots)) => self.ndots = usize::from(ndots.min(15)),
            ("timeout", Ok(secs)) => {
                self.timeout = Duration::from_secs(u64::from(secs.clamp(1, 30)))
            }
            ("attempts", Ok(attempts)) => self.attempts = usize::from(attempts.clamp(1, 5)),
            _ => {}
        }
    }

    /// The absolute names tried for `name`, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let absolute = format!("{name}.");
        let searched = self
            .search
            .iter()
            .map(|domain| match domain.trim_end_matches('.') {
                "" => absolute.clone(),
                domain => format!("{name}.{domain}."),
            });
        let mut candidates: Vec<String> = searched.collect();
        let first = match name.matches('.').count() >= self.ndots {
            true => 0,
            false => candidates.len(),
        };
        candidates.insert(first, absolute);
        candidates
    }
}

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The absolute name that had addresses.
    pub name: String,
    /// Its addresses, in the order of the answer, IPv4 first.
    pub addrs: Vec<IpAddr>,
}

/// The addresses of a name by the system's [`RESOLV_CONF`].
///
/// # Errors
/// As [`Client::resolve`], and when the file cannot be used.
pub async fn resolve(name: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let client = Client::new(ResolvConf::read(Path::new(RESOLV_CONF))?)?;
    Ok(client.resolve(name).await?.addrs)
}

/// Asks the servers of a [`ResolvConf`], with no cache and no `/etc/hosts`. Must be used inside a Tokio runtime.
pub struct Client {
    conf: ResolvConf,
    resolver: TokioResolver,
}

impl Client {
    /// A client of these servers.
    ///
    /// # Errors
    /// When the resolver cannot be set up.
    pub fn new(conf: ResolvConf) -> Result<Client, ResolveError> {
        let servers = conf
            .nameservers
            .iter()
            .map(|addr| name_server(*addr))
            .collect();
        let mut options = ResolverOpts::default();
        options.timeout = conf.timeout;
        options.attempts = conf.attempts;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let resolver = builder
            .with_options(options)
            .build()
            .map_err(ResolveError::Setup)?;
        Ok(Client { conf, resolver })
    }

    /// The addresses of a name, or of the first name of the search list that has some. An address is its own answer.
    ///
    /// # Errors
    /// Told apart: no such name or no one who tells, no address, a server's error, silence.
    pub async fn resolve(&self, name: &str) -> Result<Resolved, ResolveError> {
        if let Ok(addr) = name.parse() {
            return Ok(Resolved {
                name: name.to_owned(),
                addrs: vec![addr],
            });
        }
        let (mut tried, mut without_address) = (Vec::new(), None);
        for candidate in self.conf.candidates(name) {
            match self.lookup(name, &candidate).await? {
                Lookup::Addrs(addrs) => {
                    let name = candidate;
                    return Ok(Resolved { name, addrs });
                }
                Lookup::NoData => without_address = without_address.or(Some(candidate)),
                Lookup::Denied(denial) => tried.push((candidate, denial)),
            }
        }
        let name = name.to_owned();
        Err(match without_address {
            Some(found) => ResolveError::NoAddress { name, found },
            None => ResolveError::NotFound { name, tried },
        })
    }

    async fn lookup(&self, name: &str, candidate: &str) -> Result<Lookup, ResolveError> {
        let asked = Name::from_ascii(candidate).map_err(|source| ResolveError::NotAName {
            name: name.to_owned(),
            source,
        })?;
        let v4 = self.resolver.lookup(asked.clone(), RecordType::A);
        let v6 = self.resolver.lookup(asked, RecordType::AAAA);
        let (v4, v6) = tokio::join!(v4, v6);
        let found = outcome(v4).and_then(|v4| Ok(v4.and(outcome(v6)?)));
        found.map_err(|source| ResolveError::Failed {
            name: name.to_owned(),
            asked: candidate.to_owned(),
            source: Box::new(source),
        })
    }
}

enum Lookup {
    Addrs(Vec<IpAddr>),
    NoData,
    Denied(Denial),
}

impl Lookup {
    /// Both families of one name.
    fn and(self, other: Lookup) -> Lookup {
        match (self, other) {
            (Lookup::Addrs(mut addrs), Lookup::Addrs(more)) => {
                addrs.extend(more);
                Lookup::Addrs(addrs)
            }
            (Lookup::Addrs(addrs), _) | (_, Lookup::Addrs(addrs)) => Lookup::Addrs(addrs),
            (Lookup::Denied(denial), Lookup::Denied(_)) => Lookup::Denied(denial),
            _ => Lookup::NoData,
        }
    }
}

fn outcome(result: Result<hickory_resolver::lookup::Lookup, NetError>) -> Result<Lookup, NetError> {
    match result {
        Ok(lookup) => Ok(Lookup::Addrs(
            lookup
                .answers()
                .iter()
                .filter_map(|record| record.data.ip_addr())
                .collect(),
        )),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Ok(match none.response_code {
            ResponseCode::NXDomain => Lookup::Denied(Denial::NxDomain),
            _ => Lookup::NoData,
        }),
        Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused))) => {
            Ok(Lookup::Denied(Denial::Refused))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "search default.svc.cluster.local svc.cluster.local cluster.local\n\
                       nameserver 10.96.0.10\noptions ndots:5 timeout:2\n";

    #[test]
    fn a_short_name_walks_the_search_list_before_it_is_asked_as_it_is() {
        let tried = ResolvConf::parse(POD).candidates("my-service.default");
        let wanted = [
            "my-service.default.default.svc.cluster.local.",
            "my-service.default.svc.cluster.local.",
            "my-service.default.cluster.local.",
            "my-service.default.",
        ];
        assert_eq!(tried, wanted);
    }

    #[test]
    fn a_name_with_enough_dots_is_asked_as_it_is_first() {
        let conf = ResolvConf::parse("nameserver 10.0.0.1\nsearch lan\n");
        assert_eq!(
            conf.candidates("www.example"),
            ["www.example.", "www.example.lan."]
        );
        assert_eq!(conf.candidates("www.example."), ["www.example."]);
    }

    #[test]
    fn the_file_is_read_as_resolvers_read_it() {
        let conf = ResolvConf::parse(
            "# note\nsearch old\nbogus line\nsearch new\nnameserver nonsense\nnameserver fd00::1\n",
        );
        assert_eq!(conf.search, ["new"]);
        assert_eq!(conf.nameservers, ["[fd00::1]:53".parse().unwrap()]);
        assert_eq!((conf.ndots, conf.attempts), (1, 2));
        assert_eq!(ResolvConf::parse(POD).timeout, Duration::from_secs(2));
    }
}
