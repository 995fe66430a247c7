//! One question -> one response.

use std::sync::Arc;

use async_trait::async_trait;
use hickory_proto::op::{Edns, Header, HeaderCounts, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use rand::seq::SliceRandom;

use super::fit::{MAX_UDP_BYTES, MIN_UDP_BYTES, fit};
use crate::Zone;
use crate::forward::Forwarder;
use crate::zone::{Answer, Reply};

#[derive(Clone)]
pub(super) struct Handler {
    zone: Zone,
    forwarder: Option<Arc<Forwarder>>,
}

/// A reply and whose truth it is.
struct Outcome {
    reply: Reply,
    authoritative: bool,
}

impl Outcome {
    fn code(code: ResponseCode) -> Outcome {
        Outcome {
            reply: Reply::code(code),
            authoritative: false,
        }
    }
}

impl Handler {
    pub(super) fn new(zone: Zone, forwarder: Option<Forwarder>) -> Handler {
        Handler {
            zone,
            forwarder: forwarder.map(Arc::new),
        }
    }

    async fn outcome(&self, request: &Request) -> Outcome {
        let (name, qtype) = match question(request) {
            Ok(query) => (query.name(), query.query_type()),
            Err(code) => return Outcome::code(code),
        };
        match self.zone.snapshot().answer(name, qtype) {
            Answer::Ours(mut reply) => {
                shuffle(&mut reply.answers);
                self.chase(&mut reply, qtype).await;
                Outcome {
                    reply,
                    authoritative: true,
                }
            }
            Answer::Elsewhere => match &self.forwarder {
                Some(forwarder) if request.metadata.recursion_desired => Outcome {
                    reply: forwarder.ask(name, qtype).await,
                    authoritative: false,
                },
                // REFUSED, not NXDOMAIN: we do not know whether the name exists, and nobody may remember that it does not.
                _ => Outcome::code(ResponseCode::Refused),
            },
        }
    }

    /// Appends what an upstream knows of the name that an external name points at. Without an upstream the alias
    /// stands alone.
    async fn chase(&self, reply: &mut Reply, qtype: RecordType) {
        if let (Some(target), Some(forwarder)) = (reply.chase.take(), &self.forwarder) {
            let rest = forwarder.ask(&target, qtype).await;
            reply.code = rest.code;
            reply.answers.extend(rest.answers);
            reply.authorities.extend(rest.authorities);
        }
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let Outcome {
            mut reply,
            authoritative,
        } = self.outcome(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = authoritative;
        metadata.recursion_available = self.forwarder.is_some();
        metadata.response_code = reply.code;
        metadata.truncation = cut_to_size(&mut reply, request);

        let edns = request.edns.as_ref().map(response_edns);
        let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        let message = builder.build(
            metadata,
            &reply.answers,
            &reply.authorities,
            [],
            &reply.additionals,
        );
        match response.send_response(message).await {
            Ok(sent) => sent,
            Err(error) => {
                tracing::debug!(client = %request.src(), %error, "the answer was not sent");
                unsent(metadata)
            }
        }
    }
}

/// The one question of a request, or why it is not looked up.
fn question(request: &Request) -> Result<&Query, ResponseCode> {
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Err(ResponseCode::BADVERS);
    }
    if request.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    let [query] = request.queries.queries() else {
        return Err(ResponseCode::FormErr);
    };
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if transfer || query.query_class() != DNSClass::IN {
        return Err(ResponseCode::Refused);
    }
    Ok(query.original())
}

/// Spreads clients that take the first address. Aliases stay in front of what they point at.
fn shuffle(answers: &mut [Record]) {
    let aliases = answers
        .iter()
        .take_while(|record| record.record_type() == RecordType::CNAME)
        .count();
    answers[aliases..].shuffle(&mut rand::rng());
}

fn cut_to_size(reply: &mut Reply, request: &Request) -> bool {
    let limit = match (request.protocol(), &request.edns) {
        (Protocol::Udp, Some(edns)) => edns.max_payload().clamp(MIN_UDP_BYTES, MAX_UDP_BYTES),
        (Protocol::Udp, None) => MIN_UDP_BYTES,
        _ => u16::MAX,
    };
    let question_bytes = request.queries.as_bytes().len();
    match request.queries.queries().first() {
        Some(query) => fit(reply, query.original().name(), question_bytes, limit),
        None => false,
    }
}

/// Our own limits, not an echo of the client's; the DO bit is copied (RFC 3225).
fn response_edns(asked: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP_BYTES);
    edns.set_dnssec_ok(asked.flags().dnssec_ok);
    edns
}

fn unsent(metadata: Metadata) -> ResponseInfo {
    let counts = HeaderCounts::default();
    Header { metadata, counts }.into()
}
