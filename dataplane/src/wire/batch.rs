//! Operations as one batch: begin, messages, end. The kernel runs it as one transaction.

use super::{
    attributes::Buffer,
    constants::*,
    expression::{protocol_family, verdict},
};
use crate::{
    model::Family,
    plan::{Action, Operation},
    ruleset::{Base, Data, Holds, Key, Rule, SetKind, TABLE, Type},
};

/// A table that only its maker's socket may change, and that dies with it.
pub const FLAG_OWNER: u32 = NFT_TABLE_F_OWNER;
/// With [`FLAG_OWNER`] (since 6.9): a table that outlives its maker and waits to be adopted.
pub const FLAG_PERSIST: u32 = NFT_TABLE_F_PERSIST;

/// The type of our private entry in a rule's userdata; nft skips types it does not know.
pub(super) const UDATA_FINGERPRINT: u8 = 0x6d;

/// `NFTNL_UDATA_SET_KEYBYTEORDER`, `NFTNL_UDATA_SET_DATABYTEORDER` (libnftnl/udata.h) and nft's `BYTEORDER_HOST_ENDIAN` (datatype.h).
const UDATA_SET_KEY_BYTEORDER: u8 = 0;
const UDATA_SET_DATA_BYTEORDER: u8 = 1;
const UDATA_BYTEORDER_HOST: u32 = 1;

const PROBE_TABLE: &str = "minik-probe";

/// An encoded transaction. Its first message has the sequence number it was made with, each further one the next, so that an
/// error's sequence number tells the operation.
#[derive(Debug)]
pub struct Batch {
    /// What to send, in one datagram: the kernel silently drops a batch cut in two.
    pub bytes: Vec<u8>,
    /// The operation each message belongs to; `None` for begin and end.
    pub operations: Vec<Option<usize>>,
    first_seq: u32,
}

impl Batch {
    /// Encodes operations.
    ///
    /// With `generation` the kernel refuses the batch (ERESTART) when anybody changed any table since. `table_flags` are given
    /// to the tables that the batch creates.
    pub fn encode(
        operations: &[Operation],
        first_seq: u32,
        generation: Option<u32>,
        table_flags: u32,
    ) -> Batch {
        let mut encoder = Encoder {
            out: Buffer::default(),
            of: Vec::new(),
            first_seq,
            table_flags,
        };
        encoder.border(NFNL_MSG_BATCH_BEGIN, generation);
        for (index, operation) in operations.iter().enumerate() {
            encoder.operation(index, operation);
        }
        encoder.border(NFNL_MSG_BATCH_END, None);
        Batch {
            bytes: encoder.out.0,
            operations: encoder.of,
            first_seq,
        }
    }

    /// Makes and deletes a table of a name that nobody uses: leaves nothing, and shows whether it can be done.
    pub fn probe(first_seq: u32, table_flags: u32) -> Batch {
        let mut encoder = Encoder {
            out: Buffer::default(),
            of: Vec::new(),
            first_seq,
            table_flags,
        };
        encoder.border(NFNL_MSG_BATCH_BEGIN, None);
        for family in Family::ALL {
            for (kind, flags) in [(NFT_MSG_NEWTABLE, NLM_F_CREATE), (NFT_MSG_DELTABLE, 0)] {
                let header = (nftables(kind), NLM_F_REQUEST | flags, encoder.seq(None));
                encoder
                    .out
                    .message(header, (protocol_family(family), 0), |out| {
                        out.str(NFTA_TABLE_NAME, PROBE_TABLE);
                        if kind == NFT_MSG_NEWTABLE {
                            out.u32(NFTA_TABLE_FLAGS, table_flags);
                        }
                    });
            }
        }
        encoder.border(NFNL_MSG_BATCH_END, None);
        Batch {
            bytes: encoder.out.0,
            operations: encoder.of,
            first_seq,
        }
    }

    /// The index of the operation that a sequence number belongs to.
    pub fn operation(&self, seq: u32) -> Option<usize> {
        *self
            .operations
            .get(usize::try_from(seq.wrapping_sub(self.first_seq)).ok()?)?
    }

    /// Whether the sequence number belongs to this batch.
    pub fn contains(&self, seq: u32) -> bool {
        usize::try_from(seq.wrapping_sub(self.first_seq))
            .is_ok_and(|index| index < self.operations.len())
    }

    /// The first sequence number that the next batch may use.
    pub fn next_seq(&self) -> u32 {
        self.first_seq
            .wrapping_add(u32::try_from(self.operations.len()).unwrap_or(u32::MAX))
    }
}

/// A request for the generation of the ruleset.
pub fn generation_request(seq: u32) -> Vec<u8> {
    let mut out = Buffer::default();
    out.message(
        (nftables(NFT_MSG_GETGEN), NLM_F_REQUEST, seq),
        (0, 0),
        |_| {},
    );
    out.0
}

/// A request to dump all objects of a kind (`NFT_MSG_GETTABLE`, ...) in our table, or the elements of one of its sets.
pub fn dump_request(seq: u32, message: u16, family: Family, set: Option<&str>) -> Vec<u8> {
    let mut out = Buffer::default();
    let header = (nftables(message), NLM_F_REQUEST | NLM_F_DUMP, seq);
    out.message(header, (protocol_family(family), 0), |out| {
        // NFTA_{TABLE_NAME,CHAIN_TABLE,RULE_TABLE,SET_TABLE,SET_ELEM_LIST_TABLE} are all 1.
        out.str(NFTA_SET_TABLE, TABLE);
        if let Some(set) = set {
            out.str(NFTA_SET_ELEM_LIST_SET, set);
        }
    });
    out.0
}

fn nftables(message: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | message
}

struct Encoder {
    out: Buffer,
    of: Vec<Option<usize>>,
    first_seq: u32,
    table_flags: u32,
}

impl Encoder {
    fn seq(&mut self, operation: Option<usize>) -> u32 {
        let index = u32::try_from(self.of.len()).expect("transactions are bounded");
        self.of.push(operation);
        self.first_seq.wrapping_add(index)
    }

    fn border(&mut self, kind: u16, generation: Option<u32>) {
        let seq = self.seq(None);
        self.out.message(
            (kind, NLM_F_REQUEST, seq),
            (0, NFNL_SUBSYS_NFTABLES),
            |out| {
                if let Some(generation) = generation {
                    out.u32(NFNL_BATCH_GENID, generation);
                }
            },
        );
    }

    fn message(
        &mut self,
        index: usize,
        family: Family,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Buffer),
    ) {
        let seq = self.seq(Some(index));
        let header = (nftables(kind), NLM_F_REQUEST | flags, seq);
        self.out
            .message(header, (protocol_family(family), 0), |out| {
                out.str(NFTA_SET_TABLE, TABLE);
                body(out);
            });
    }

    fn operation(&mut self, index: usize, operation: &Operation) {
        let family = operation.family;
        let create = NLM_F_CREATE | NLM_F_EXCL;
        match &operation.action {
            Action::AddTable => {
                let flags = self.table_flags;
                self.message(index, family, NFT_MSG_NEWTABLE, NLM_F_CREATE, |out| {
                    out.u32(NFTA_TABLE_FLAGS, flags)
                });
            }
            Action::DeleteTable => self.message(index, family, NFT_MSG_DELTABLE, 0, |_| {}),
            Action::AddChain { name, base } => {
                self.message(index, family, NFT_MSG_NEWCHAIN, create, |out| {
                    out.str(NFTA_CHAIN_NAME, name);
                    if let Some(base) = base {
                        base_chain(out, base);
                    }
                })
            }
            Action::DeleteChain { name } => {
                self.message(index, family, NFT_MSG_DELCHAIN, 0, |out| {
                    out.str(NFTA_CHAIN_NAME, name)
                });
            }
            Action::FlushChain { name } => {
                self.message(index, family, NFT_MSG_DELRULE, 0, |out| {
                    out.str(NFTA_RULE_CHAIN, name)
                });
            }
            Action::AddRule { chain, rule: what } => {
                let flags = NLM_F_CREATE | NLM_F_APPEND;
                self.message(index, family, NFT_MSG_NEWRULE, flags, |out| {
                    rule(out, family, chain, what)
                });
            }
            Action::AddSet { name, kind } => {
                let id = u32::try_from(index).expect("transactions are bounded") + 1;
                self.message(index, family, NFT_MSG_NEWSET, create, |out| {
                    out.str(NFTA_SET_NAME, name);
                    out.u32(NFTA_SET_ID, id);
                    set(out, family, kind);
                });
            }
            Action::DeleteSet { name } => {
                self.message(index, family, NFT_MSG_DELSET, 0, |out| {
                    out.str(NFTA_SET_NAME, name)
                });
            }
            Action::Elements { set, delete, add } => {
                if !delete.is_empty() {
                    self.message(index, family, NFT_MSG_DELSETELEM, 0, |out| {
                        elements(out, set, delete)
                    });
                }
                if !add.is_empty() {
                    self.message(index, family, NFT_MSG_NEWSETELEM, create, |out| {
                        elements(out, set, add)
                    });
                }
            }
        }
    }
}

fn base_chain(out: &mut Buffer, base: &Base) {
    out.nest(NFTA_CHAIN_HOOK, |out| {
        out.u32(NFTA_HOOK_HOOKNUM, base.hook as u32);
        out.i32(NFTA_HOOK_PRIORITY, base.priority);
    });
    out.i32(NFTA_CHAIN_POLICY, NF_ACCEPT);
    out.str(NFTA_CHAIN_TYPE, base.kind.as_str());
}

fn rule(out: &mut Buffer, family: Family, chain: &str, rule: &Rule) {
    out.str(NFTA_RULE_CHAIN, chain);
    let expressions = super::expressions(family, &rule.statements);
    out.nest(NFTA_RULE_EXPRESSIONS, |out| out.0.extend(expressions));
    let userdata = [&[UDATA_FINGERPRINT, 8][..], &rule.fingerprint.to_be_bytes()].concat();
    out.bytes(NFTA_RULE_USERDATA, &userdata);
}

/// nft's numbers of data types (`enum datatypes` of nftables' datatype.h): only nft looks at them, to print elements.
fn datatype(columns: &[Type], family: Family) -> u32 {
    columns.iter().fold(0, |all, column| {
        let one = match (column, family) {
            (Type::Address, Family::V4) => 7,
            (Type::Address, Family::V6) => 8,
            (Type::Protocol, _) => 12,
            (Type::Port, _) => 13,
            (Type::Number, _) => 19,
        };
        all << 6 | one
    })
}

pub(super) fn columns_len(columns: &[Type], family: Family) -> u32 {
    let len: usize = columns
        .iter()
        .map(|column| column.register_len(family))
        .sum();
    u32::try_from(len).expect("keys are at most 40 bytes")
}

/// The `NFT_SET_*` flags of a declaration.
pub(super) fn set_flags(kind: &SetKind) -> u32 {
    let map = if kind.holds == Holds::Keys {
        0
    } else {
        NFT_SET_MAP
    };
    let dynamic = if kind.dynamic {
        NFT_SET_EVAL | NFT_SET_TIMEOUT
    } else {
        0
    };
    let ranges = if kind.ranges {
        NFT_SET_INTERVAL | NFT_SET_CONCAT
    } else {
        0
    };
    map | dynamic | ranges
}

/// The `NFTA_SET_DATA_TYPE` and `NFTA_SET_DATA_LEN` of a declaration; a verdict has no length that the kernel reports.
pub(super) fn set_data(kind: &SetKind, family: Family) -> Option<(u32, u32)> {
    match &kind.holds {
        Holds::Keys => None,
        Holds::Verdicts => Some((NFT_DATA_VERDICT, 0)),
        Holds::Values(columns) => Some((datatype(columns, family), columns_len(columns, family))),
    }
}

pub(super) fn key_type(kind: &SetKind, family: Family) -> u32 {
    datatype(&kind.key, family)
}

fn set(out: &mut Buffer, family: Family, kind: &SetKind) {
    out.u32(NFTA_SET_FLAGS, set_flags(kind));
    out.u32(NFTA_SET_KEY_TYPE, key_type(kind, family));
    out.u32(NFTA_SET_KEY_LEN, columns_len(&kind.key, family));
    if let Some((data_type, data_len)) = set_data(kind, family) {
        out.u32(NFTA_SET_DATA_TYPE, data_type);
        out.u32(NFTA_SET_DATA_LEN, data_len);
    }
    // Only nft reads this: without it, it prints a number that is all of a key or value as if it were big-endian.
    let numbers = [
        (UDATA_SET_KEY_BYTEORDER, kind.key == [Type::Number]),
        (
            UDATA_SET_DATA_BYTEORDER,
            kind.holds == Holds::Values(vec![Type::Number]),
        ),
    ];
    let userdata: Vec<u8> = numbers
        .into_iter()
        .filter(|(_, is_number)| *is_number)
        .flat_map(|(of, _)| [&[of, 4][..], &UDATA_BYTEORDER_HOST.to_ne_bytes()].concat())
        .collect();
    if !userdata.is_empty() {
        out.bytes(NFTA_SET_USERDATA, &userdata);
    }
    out.nest(NFTA_SET_DESC, |out| {
        if let Some(capacity) = kind.capacity() {
            out.u32(NFTA_SET_DESC_SIZE, capacity);
        }
        if kind.ranges {
            out.nest(NFTA_SET_DESC_CONCAT, |out| {
                for column in &kind.key {
                    let len = column.len(family);
                    out.nest(NFTA_LIST_ELEM, |out| out.u32(NFTA_SET_FIELD_LEN, len));
                }
            });
        }
    });
}

fn elements(out: &mut Buffer, set: &str, elements: &[(Key, Data)]) {
    out.str(NFTA_SET_ELEM_LIST_SET, set);
    out.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |out| {
        for (key, data) in elements {
            out.nest(NFTA_LIST_ELEM, |out| element(out, key, data));
        }
    });
}

fn element(out: &mut Buffer, key: &Key, data: &Data) {
    out.nest(NFTA_SET_ELEM_KEY, |out| {
        out.bytes(NFTA_DATA_VALUE, key.as_slice())
    });
    match data {
        Data::None => {}
        Data::Until(last) => out.nest(NFTA_SET_ELEM_KEY_END, |out| {
            out.bytes(NFTA_DATA_VALUE, last.as_slice())
        }),
        Data::Verdict(which) => out.nest(NFTA_SET_ELEM_DATA, |out| verdict(out, which)),
        Data::Value(value) => out.nest(NFTA_SET_ELEM_DATA, |out| {
            out.bytes(NFTA_DATA_VALUE, value.as_slice())
        }),
    }
}
