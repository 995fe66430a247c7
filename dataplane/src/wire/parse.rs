//! Dumped messages -> tables. Anything may be in a table, so everything that is not understood becomes something which is
//! equal to nothing we want, and is replaced.

use super::{
    Attributes, Message,
    batch::{UDATA_FINGERPRINT, columns_len, key_type, set_data, set_flags},
    constants::*,
};
use crate::{
    model::Family,
    ruleset::{Base, Bytes, ChainType, Data, Holds, Hook, Key, SetKind, Type, Verdict},
};

/// A message that does not have what its type must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's message lacks {0} or has it in an unknown form")]
pub struct ParseError(pub &'static str);

/// A table as `GETTABLE` reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTable {
    /// Its name.
    pub name: String,
    /// `NFT_TABLE_F_*`.
    pub flags: u32,
    /// The netlink port of its owner.
    pub owner: Option<u32>,
}

/// Elements of one message.
pub type Chunk = Vec<(Key, Data)>;

/// Parses `NFT_MSG_NEWTABLE`.
pub fn parse_table(message: &Message<'_>) -> Result<KernelTable, ParseError> {
    let attributes = message.attributes();
    Ok(KernelTable {
        name: attributes
            .str(NFTA_TABLE_NAME)
            .ok_or(ParseError("NFTA_TABLE_NAME"))?
            .to_owned(),
        flags: attributes.u32(NFTA_TABLE_FLAGS).unwrap_or_default(),
        owner: attributes.u32(NFTA_TABLE_OWNER),
    })
}

/// Parses `NFT_MSG_NEWCHAIN` into table, name and hook.
///
/// A base chain of an unknown kind, or one that drops by policy, comes out without hook: unlike any that we make.
pub fn parse_chain<'a>(
    message: &Message<'a>,
) -> Result<(&'a str, &'a str, Option<Base>), ParseError> {
    let attributes = message.attributes();
    let table = attributes
        .str(NFTA_CHAIN_TABLE)
        .ok_or(ParseError("NFTA_CHAIN_TABLE"))?;
    let name = attributes
        .str(NFTA_CHAIN_NAME)
        .ok_or(ParseError("NFTA_CHAIN_NAME"))?;
    Ok((table, name, parse_base(attributes)))
}

fn parse_base(attributes: Attributes<'_>) -> Option<Base> {
    let hook = attributes.nested(NFTA_CHAIN_HOOK)?;
    let accepts = attributes.u32(NFTA_CHAIN_POLICY) == Some(NF_ACCEPT.cast_unsigned());
    let name = attributes.str(NFTA_CHAIN_TYPE)?;
    accepts.then_some(Base {
        kind: [ChainType::Filter, ChainType::Nat]
            .into_iter()
            .find(|kind| kind.as_str() == name)?,
        hook: Hook::from_number(hook.u32(NFTA_HOOK_HOOKNUM)?)?,
        priority: hook.u32(NFTA_HOOK_PRIORITY)?.cast_signed(),
    })
}

/// Parses `NFT_MSG_NEWRULE` into table, chain and our fingerprint (zero when it has none).
pub fn parse_rule<'a>(message: &Message<'a>) -> Result<(&'a str, &'a str, u64), ParseError> {
    let attributes = message.attributes();
    let table = attributes
        .str(NFTA_RULE_TABLE)
        .ok_or(ParseError("NFTA_RULE_TABLE"))?;
    let chain = attributes
        .str(NFTA_RULE_CHAIN)
        .ok_or(ParseError("NFTA_RULE_CHAIN"))?;
    let fingerprint = attributes
        .find(NFTA_RULE_USERDATA)
        .and_then(parse_fingerprint);
    Ok((table, chain, fingerprint.unwrap_or_default()))
}

/// Userdata is a list of type (1 byte), length (1 byte), value.
fn parse_fingerprint(mut userdata: &[u8]) -> Option<u64> {
    while let [kind, len, rest @ ..] = userdata {
        let (value, rest) = rest.split_at_checked(usize::from(*len))?;
        if *kind == UDATA_FINGERPRINT {
            return value.try_into().ok().map(u64::from_be_bytes);
        }
        userdata = rest;
    }
    None
}

/// Parses `NFT_MSG_NEWSET` into table, name and declaration.
///
/// A declaration that we never make comes out as `None`.
pub fn parse_set<'a>(
    message: &Message<'a>,
    family: Family,
) -> Result<(&'a str, &'a str, Option<SetKind>), ParseError> {
    let attributes = message.attributes();
    let table = attributes
        .str(NFTA_SET_TABLE)
        .ok_or(ParseError("NFTA_SET_TABLE"))?;
    let name = attributes
        .str(NFTA_SET_NAME)
        .ok_or(ParseError("NFTA_SET_NAME"))?;
    Ok((table, name, parse_kind(attributes, family)))
}

fn parse_kind(attributes: Attributes<'_>, family: Family) -> Option<SetKind> {
    let flags = attributes.u32(NFTA_SET_FLAGS).unwrap_or_default();
    let data = attributes.u32(NFTA_SET_DATA_TYPE);
    let kind = SetKind {
        key: parse_columns(attributes.u32(NFTA_SET_KEY_TYPE)?)?,
        holds: match data {
            None => Holds::Keys,
            Some(NFT_DATA_VERDICT) => Holds::Verdicts,
            Some(columns) => Holds::Values(parse_columns(columns)?),
        },
        dynamic: flags & NFT_SET_TIMEOUT != 0,
        ranges: flags & NFT_SET_INTERVAL != 0,
    };
    let same_key = attributes.u32(NFTA_SET_KEY_LEN) == Some(columns_len(&kind.key, family))
        && attributes.u32(NFTA_SET_KEY_TYPE) == Some(key_type(&kind, family));
    let same_data = set_data(&kind, family).map(|(data_type, _)| data_type) == data;
    let capacity = attributes
        .nested(NFTA_SET_DESC)
        .and_then(|desc| desc.u32(NFTA_SET_DESC_SIZE));
    let same_capacity = capacity.filter(|capacity| *capacity != 0) == kind.capacity();
    (same_key && same_data && same_capacity && set_flags(&kind) == flags).then_some(kind)
}

fn parse_columns(mut datatype: u32) -> Option<Vec<Type>> {
    let mut columns = Vec::new();
    while datatype != 0 {
        columns.push(match datatype & 0x3f {
            7 | 8 => Type::Address,
            12 => Type::Protocol,
            13 => Type::Port,
            19 => Type::Number,
            _ => return None,
        });
        datatype >>= 6;
    }
    columns.reverse();
    Some(columns)
}

/// Parses the elements of one `NFT_MSG_NEWSETELEM`.
pub fn parse_elements(message: &Message<'_>) -> Result<Chunk, ParseError> {
    let Some(list) = message.attributes().nested(NFTA_SET_ELEM_LIST_ELEMENTS) else {
        return Ok(Vec::new());
    };
    list.map(|(_, element)| parse_element(Attributes(element)))
        .collect()
}

fn parse_element(element: Attributes<'_>) -> Result<(Key, Data), ParseError> {
    let key = element
        .nested(NFTA_SET_ELEM_KEY)
        .and_then(|key| key.find(NFTA_DATA_VALUE));
    let key = key
        .and_then(Bytes::from_slice)
        .ok_or(ParseError("NFTA_SET_ELEM_KEY"))?;
    if let Some(last) = element.nested(NFTA_SET_ELEM_KEY_END) {
        let last = last.find(NFTA_DATA_VALUE).and_then(Bytes::from_slice);
        let last = last.ok_or(ParseError("NFTA_SET_ELEM_KEY_END"))?;
        return Ok((key, Data::Until(last)));
    }
    let Some(data) = element.nested(NFTA_SET_ELEM_DATA) else {
        return Ok((key, Data::None));
    };
    if let Some(verdict) = data.nested(NFTA_DATA_VERDICT) {
        return Ok((key, Data::Verdict(parse_verdict(verdict)?)));
    }
    let value = data
        .find(NFTA_DATA_VALUE)
        .and_then(Bytes::from_slice)
        .ok_or(ParseError("NFTA_SET_ELEM_DATA"))?;
    Ok((key, Data::Value(value)))
}

fn parse_verdict(verdict: Attributes<'_>) -> Result<Verdict, ParseError> {
    let code = verdict
        .u32(NFTA_VERDICT_CODE)
        .ok_or(ParseError("NFTA_VERDICT_CODE"))?
        .cast_signed();
    let chain = || {
        verdict
            .str(NFTA_VERDICT_CHAIN)
            .map(Into::into)
            .ok_or(ParseError("NFTA_VERDICT_CHAIN"))
    };
    match code {
        NF_DROP => Ok(Verdict::Drop),
        NF_ACCEPT => Ok(Verdict::Accept),
        NFT_RETURN => Ok(Verdict::Return),
        NFT_JUMP => Ok(Verdict::Jump(chain()?)),
        NFT_GOTO => Ok(Verdict::Goto(chain()?)),
        _ => Err(ParseError("a known NFTA_VERDICT_CODE")),
    }
}

/// Parses `NFT_MSG_NEWGEN`.
pub fn parse_generation(message: &Message<'_>) -> Result<u32, ParseError> {
    message
        .attributes()
        .u32(NFTA_GEN_ID)
        .ok_or(ParseError("NFTA_GEN_ID"))
}

/// Parses `NLMSG_ERROR` into errno (positive, zero for an acknowledgement) and the kernel's text if it gave one
/// (`NLMSGERR_ATTR_MSG`).
fn parse_error(message: &Message<'_>) -> (i32, Option<String>) {
    let errno = message
        .payload
        .get(..4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, i32::from_ne_bytes);
    let echoed = message
        .payload
        .get(4..8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_ne_bytes);
    let skip = if message.flags & NLM_F_CAPPED != 0 {
        16
    } else {
        echoed
    };
    let text = (message.flags & NLM_F_ACK_TLVS != 0)
        .then(|| {
            message
                .payload
                .get(4usize.saturating_add(usize::try_from(skip).ok()?.next_multiple_of(4))..)
        })
        .flatten()
        .and_then(|attributes| Attributes(attributes).str(1))
        .map(str::to_owned);
    (errno.saturating_neg(), text)
}

/// What a received message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An object that was asked for.
    Object,
    /// The end of a dump, or an acknowledgement.
    Done,
    /// Refused with this errno, and the kernel's text if it gave one.
    Error(i32, Option<String>),
}

/// Sorts a received message. The end of a dump carries an errno, too.
pub fn answer(message: &Message<'_>) -> Answer {
    match (message.kind, parse_error(message)) {
        (NLMSG_DONE | NLMSG_ERROR, (0, _)) => Answer::Done,
        (NLMSG_DONE | NLMSG_ERROR, (errno, text)) => Answer::Error(errno, text),
        _ => Answer::Object,
    }
}
