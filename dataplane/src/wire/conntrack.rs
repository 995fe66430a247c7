//! Connection tracking's messages (linux/netfilter/nfnetlink_conntrack.h): flows from dumps, and their deletion.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
};

use super::{Attributes, Buffer, Message, constants::*, expression::protocol_family};
use crate::model::{Family, Protocol};

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const NLM_F_ACK: u16 = 0x4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
/// Source and destination, for IPv4 and for IPv6.
const CTA_IP_V4: Range<u16> = 1..3;
const CTA_IP_V6: Range<u16> = 3..5;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// A tracked UDP flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpFlow {
    /// Where the client sent to.
    pub sent_to: SocketAddr,
    /// Who answers: the endpoint behind a Service, or whom the client sent to.
    pub answered_by: SocketAddr,
    /// What names it to the kernel.
    handle: Handle,
}

#[cfg(test)]
impl UdpFlow {
    /// A flow of the kernel in memory, told from others by its id.
    pub(crate) fn of(sent_to: SocketAddr, answered_by: SocketAddr, id: u32) -> Self {
        let handle = Handle {
            family: Family::of(sent_to.ip()),
            tuple: Box::default(),
            id,
            zone: None,
        };
        Self {
            sent_to,
            answered_by,
            handle,
        }
    }
}

/// The attributes by which the kernel finds a flow, as it gave them. The id makes sure that a flow which came meanwhile
/// between the same ports is not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Handle {
    family: Family,
    tuple: Box<[u8]>,
    id: u32,
    zone: Option<Box<[u8]>>,
}

/// A request to dump all flows of a family.
pub fn flows_request(seq: u32, family: Family) -> Vec<u8> {
    let mut out = Buffer::default();
    let kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET;
    let header = (kind, NLM_F_REQUEST | NLM_F_DUMP, seq);
    out.message(header, (protocol_family(family), 0), |_| {});
    out.0
}

/// A request to delete exactly this flow.
pub fn delete_flow_request(seq: u32, flow: &UdpFlow) -> Vec<u8> {
    let mut out = Buffer::default();
    let Handle {
        family,
        tuple,
        id,
        zone,
    } = &flow.handle;
    let kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE;
    let header = (kind, NLM_F_REQUEST | NLM_F_ACK, seq);
    out.message(header, (protocol_family(*family), 0), |out| {
        out.bytes(CTA_TUPLE_ORIG | NLA_F_NESTED, tuple);
        out.u32(CTA_ID, *id);
        if let Some(zone) = zone {
            out.bytes(CTA_ZONE, zone);
        }
    });
    out.0
}

/// Parses a dumped flow; `None` when it is not UDP.
pub fn parse_udp_flow(message: &Message<'_>, family: Family) -> Option<UdpFlow> {
    let attributes = message.attributes();
    let original = attributes.nested(CTA_TUPLE_ORIG)?;
    let reply = attributes.nested(CTA_TUPLE_REPLY)?;
    let (_, sent_to) = parse_tuple(original, family)?;
    let (answered_by, _) = parse_tuple(reply, family)?;
    let handle = Handle {
        family,
        tuple: attributes.find(CTA_TUPLE_ORIG)?.into(),
        id: attributes.u32(CTA_ID)?,
        zone: attributes.find(CTA_ZONE).map(Into::into),
    };
    Some(UdpFlow {
        sent_to,
        answered_by,
        handle,
    })
}

/// Source and destination of a UDP tuple.
fn parse_tuple(tuple: Attributes<'_>, family: Family) -> Option<(SocketAddr, SocketAddr)> {
    let (ip, proto) = (tuple.nested(CTA_TUPLE_IP)?, tuple.nested(CTA_TUPLE_PROTO)?);
    if proto.find(CTA_PROTO_NUM)? != [Protocol::Udp as u8] {
        return None;
    }
    let addr = |offset: u16| -> Option<IpAddr> {
        Some(match family {
            Family::V4 => {
                let bytes: [u8; 4] = ip.find(CTA_IP_V4.start + offset)?.try_into().ok()?;
                Ipv4Addr::from(bytes).into()
            }
            Family::V6 => {
                let bytes: [u8; 16] = ip.find(CTA_IP_V6.start + offset)?.try_into().ok()?;
                Ipv6Addr::from(bytes).into()
            }
        })
    };
    let port = |kind| Some(u16::from_be_bytes(proto.find(kind)?.try_into().ok()?));
    Some((
        SocketAddr::new(addr(0)?, port(CTA_PROTO_SRC_PORT)?),
        SocketAddr::new(addr(1)?, port(CTA_PROTO_DST_PORT)?),
    ))
}
