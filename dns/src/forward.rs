//! Names that are not ours: asked of the configured upstreams, under limits.
//!
//! hickory-resolver is given everything explicitly. It never reads `/etc/resolv.conf` (which may point back at us)
//! nor `/etc/hosts`, and gets only absolute names, so no search list applies.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use tokio::sync::Semaphore;

use crate::zone::Reply;

/// Answers kept per DNS thread.
const CACHE_ENTRIES: u64 = 1024;
/// Questions under way at once per DNS thread; one more is answered SERVFAIL at once, so that a dead upstream
/// cannot pile up work, or the descriptors that each takes.
const MAX_UNDER_WAY: usize = 256;
/// One try at one upstream, and all tries together: stub resolvers give up after 5 s.
const TRY_TIMEOUT: Duration = Duration::from_millis(1500);
const TOTAL_TIMEOUT: Duration = Duration::from_millis(4500);

pub(crate) struct Forwarder {
    resolver: TokioResolver,
    under_way: Semaphore,
}

impl Forwarder {
    pub(crate) fn new(upstreams: &[SocketAddr]) -> Result<Forwarder, NetError> {
        let servers = upstreams.iter().map(|addr| name_server(*addr)).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut options = ResolverOpts::default();
        options.timeout = TRY_TIMEOUT;
        options.attempts = 2;
        options.edns0 = true;
        options.cache_size = CACHE_ENTRIES;
        options.use_hosts_file = ResolveHosts::Never;
        options.max_active_requests = MAX_UNDER_WAY;
        options.preserve_intermediates = true;
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        Ok(Forwarder {
            resolver: builder.with_options(options).build()?,
            under_way: Semaphore::new(MAX_UNDER_WAY),
        })
    }

    /// What the upstreams say; SERVFAIL when none says anything in time.
    pub(crate) async fn ask(&self, name: &Name, qtype: RecordType) -> Reply {
        let Ok(_slot) = self.under_way.try_acquire() else {
            return Reply::code(ResponseCode::ServFail);
        };
        match tokio::time::timeout(TOTAL_TIMEOUT, self.resolver.lookup(name.clone(), qtype)).await {
            Ok(Ok(lookup)) => Reply {
                answers: lookup.answers().to_vec(),
                ..Reply::code(ResponseCode::NoError)
            },
            Ok(Err(error)) => negative(error, name),
            Err(_) => {
                tracing::debug!(%name, %qtype, "no upstream answered in time");
                Reply::code(ResponseCode::ServFail)
            }
        }
    }
}

fn negative(error: NetError, name: &Name) -> Reply {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => Reply {
            authorities: none
                .soa
                .map(|soa| soa.into_record_of_rdata())
                .into_iter()
                .collect(),
            ..Reply::code(none.response_code)
        },
        NetError::Dns(DnsError::ResponseCode(code)) => Reply::code(code),
        error => {
            tracing::debug!(%name, %error, "no upstream answered");
            Reply::code(ResponseCode::ServFail)
        }
    }
}

/// An upstream asked over UDP, and over TCP when the answer was cut.
pub(crate) fn name_server(addr: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let connections = connections.map(|mut connection| {
        connection.port = addr.port();
        connection
    });
    NameServerConfig::new(addr.ip(), true, connections.to_vec())
}
