//! Bytes of nf_tables netlink (linux/netfilter/nf_tables.h), from operations and to tables, and of connection tracking's.
//! No sockets here.

mod attributes;
mod batch;
mod conntrack;
mod constants;
mod expression;
mod parse;
#[cfg(test)]
mod tests;

pub use self::{
    attributes::{Attributes, Buffer, Message, Messages},
    batch::{Batch, FLAG_OWNER, FLAG_PERSIST, dump_request, generation_request},
    conntrack::{UdpFlow, delete_flow_request, flows_request, parse_udp_flow},
    constants::{
        NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSET, NFT_MSG_GETSETELEM, NFT_MSG_GETTABLE,
    },
    expression::expressions,
    parse::{
        Answer, Chunk, KernelTable, ParseError, answer, parse_chain, parse_elements,
        parse_generation, parse_rule, parse_set, parse_table,
    },
};
