//! Statements as kernel expressions.
//!
//! A key's columns are loaded into consecutive 4-byte registers from `NFT_REG32_00`; a value looked up lands behind them.
//! Registers do not survive a rule, so each rule loads what it needs.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{attributes::Buffer, constants::*};
use crate::{
    model::{Family, Protocol},
    ruleset::{Field, Statement, Type, Verdict},
};

impl Type {
    /// Bytes a column has.
    pub(super) fn len(self, family: Family) -> u32 {
        match (self, family) {
            (Type::Address, Family::V4) | (Type::Number, _) => 4,
            (Type::Address, Family::V6) => 16,
            (Type::Protocol, _) => 1,
            (Type::Port, _) => 2,
        }
    }

    /// Bytes a column takes in registers.
    pub(super) fn register_len(self, family: Family) -> usize {
        match self {
            Type::Address => family.address_len(),
            Type::Protocol | Type::Port | Type::Number => 4,
        }
    }
}

/// The content of `NFTA_RULE_EXPRESSIONS`.
pub fn expressions(family: Family, statements: &[Statement]) -> Vec<u8> {
    let mut encoder = Encoder {
        family,
        out: Buffer::default(),
    };
    for statement in statements {
        encoder.statement(statement);
    }
    encoder.out.0
}

pub(super) fn verdict(out: &mut Buffer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (NF_DROP, None),
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Return => (NFT_RETURN, None),
        Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (NFT_GOTO, Some(chain)),
    };
    out.nest(NFTA_DATA_VERDICT, |out| {
        out.i32(NFTA_VERDICT_CODE, code);
        if let Some(chain) = chain {
            out.str(NFTA_VERDICT_CHAIN, chain);
        }
    });
}

struct Encoder {
    family: Family,
    out: Buffer,
}

impl Encoder {
    fn expression(&mut self, name: &str, body: impl FnOnce(&mut Buffer)) {
        self.out.nest(NFTA_LIST_ELEM, |out| {
            out.str(NFTA_EXPR_NAME, name);
            out.nest(NFTA_EXPR_DATA, body);
        });
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Within {
                field,
                net,
                negated,
            } => self.within(*field, *net, *negated),
            Statement::CameInBy { name, prefix } => {
                self.meta(NFT_META_IIFNAME, NFT_REG32_00);
                // A whole name is compared with the zeroes behind it.
                let mut padded = [0; IFNAMSIZ];
                let len = name.len().min(IFNAMSIZ - 1);
                padded[..len].copy_from_slice(&name.as_bytes()[..len]);
                let compared = if *prefix { len } else { IFNAMSIZ };
                self.compare(NFT_CMP_EQ, &padded[..compared]);
            }
            Statement::CameInByNone => {
                self.meta(NFT_META_IIF, NFT_REG32_00);
                self.compare(NFT_CMP_EQ, &0_u32.to_ne_bytes());
            }
            Statement::Local(field) => {
                let flag = match field {
                    Field::SourceAddress => NFTA_FIB_F_SADDR,
                    _ => NFTA_FIB_F_DADDR,
                };
                self.expression("fib", |out| {
                    out.u32(NFTA_FIB_DREG, NFT_REG32_00);
                    out.u32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
                    out.u32(NFTA_FIB_FLAGS, flag);
                });
                self.compare(NFT_CMP_EQ, &RTN_LOCAL.to_ne_bytes());
            }
            Statement::New => {
                self.ct(NFT_CT_STATE, NFT_REG32_00, None);
                self.test_bit(STATE_NEW, true);
            }
            Statement::Invalid => {
                self.ct(NFT_CT_STATE, NFT_REG32_00, None);
                self.test_bit(STATE_INVALID, true);
            }
            Statement::Translated(wanted) => {
                self.ct(NFT_CT_STATUS, NFT_REG32_00, None);
                self.test_bit(IPS_DST_NAT, *wanted);
            }
            Statement::InSet { key, set } => {
                self.load(key, NFT_REG32_00);
                self.lookup(set, None);
            }
            Statement::VerdictMap { key, map } => {
                self.load(key, NFT_REG32_00);
                self.lookup(map, Some(NFT_REG_VERDICT));
            }
            Statement::Dnat { key, map } => self.dnat(key, map),
            Statement::Record {
                map,
                key,
                value,
                timeout_secs,
            } => self.record(map, key, value, *timeout_secs),
            Statement::SetPriority { key, map } => {
                self.load(key, NFT_REG32_00);
                self.lookup(map, Some(NFT_REG32_00));
                self.set_priority();
            }
            Statement::ClearPriority => {
                self.expression("immediate", |out| {
                    out.u32(NFTA_IMMEDIATE_DREG, NFT_REG32_00);
                    out.nest(NFTA_IMMEDIATE_DATA, |out| {
                        out.bytes(NFTA_DATA_VALUE, &[0; 4])
                    });
                });
                self.set_priority();
            }
            Statement::Masquerade => {
                self.expression("masq", |out| {
                    out.u32(NFTA_MASQ_FLAGS, NF_NAT_RANGE_PROTO_RANDOM_FULLY)
                });
            }
            Statement::Reset => {
                self.load_field(Field::Protocol, NFT_REG32_00);
                self.compare(NFT_CMP_EQ, &[Protocol::Tcp as u8]);
                self.expression("reject", |out| {
                    out.u32(NFTA_REJECT_TYPE, NFT_REJECT_TCP_RST);
                });
            }
            Statement::Reject => {
                let code = match self.family {
                    Family::V4 => ICMP_PORT_UNREACH,
                    Family::V6 => ICMPV6_PORT_UNREACH,
                };
                self.expression("reject", |out| {
                    out.u32(NFTA_REJECT_TYPE, NFT_REJECT_ICMP_UNREACH);
                    out.u8(NFTA_REJECT_ICMP_CODE, code);
                });
            }
            Statement::Untracked => self.expression("notrack", |_| {}),
            Statement::Verdict(which) => self.expression("immediate", |out| {
                out.u32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
                out.nest(NFTA_IMMEDIATE_DATA, |out| verdict(out, which));
            }),
        }
    }

    fn dnat(&mut self, key: &[Field], map: &str) {
        let address = self.load(key, NFT_REG32_00);
        self.lookup(map, Some(address));
        let port = address + registers(self.family.address_len());
        let family = protocol_family(self.family);
        self.expression("nat", |out| {
            out.u32(NFTA_NAT_TYPE, NFT_NAT_DNAT);
            out.u32(NFTA_NAT_FAMILY, u32::from(family));
            out.u32(NFTA_NAT_REG_ADDR_MIN, address);
            out.u32(NFTA_NAT_REG_PROTO_MIN, port);
        });
    }

    fn record(&mut self, map: &str, key: &[Field], value: &[Field], timeout_secs: u32) {
        let data = self.load(key, NFT_REG32_00);
        self.load(value, data);
        self.expression("dynset", |out| {
            out.str(NFTA_DYNSET_SET_NAME, map);
            out.u32(NFTA_DYNSET_OP, NFT_DYNSET_OP_UPDATE);
            out.u32(NFTA_DYNSET_SREG_KEY, NFT_REG32_00);
            out.u32(NFTA_DYNSET_SREG_DATA, data);
            out.u64(NFTA_DYNSET_TIMEOUT, u64::from(timeout_secs) * 1000);
        });
    }

    fn set_priority(&mut self) {
        self.expression("meta", |out| {
            out.u32(NFTA_META_KEY, NFT_META_PRIORITY);
            out.u32(NFTA_META_SREG, NFT_REG32_00);
        });
    }

    fn meta(&mut self, key: u32, register: u32) {
        self.expression("meta", |out| {
            out.u32(NFTA_META_KEY, key);
            out.u32(NFTA_META_DREG, register);
        });
    }

    fn within(&mut self, field: Field, net: IpNet, negated: bool) {
        self.load(&[field], NFT_REG32_00);
        let (mask, network) = (octets(net.netmask()), octets(net.network()));
        if net.prefix_len() < net.max_prefix_len() {
            self.bitwise(&mask);
        }
        self.compare(if negated { NFT_CMP_NEQ } else { NFT_CMP_EQ }, &network);
    }

    fn test_bit(&mut self, bit: u32, wanted: bool) {
        self.bitwise(&bit.to_ne_bytes());
        self.compare(if wanted { NFT_CMP_NEQ } else { NFT_CMP_EQ }, &[0; 4]);
    }

    /// Loads columns from a register on; returns the first register behind them.
    fn load(&mut self, fields: &[Field], first: u32) -> u32 {
        fields.iter().fold(first, |register, field| {
            self.load_field(*field, register);
            register + registers(field.column().register_len(self.family))
        })
    }

    fn load_field(&mut self, field: Field, register: u32) {
        let address_len = u32::try_from(self.family.address_len()).expect("4 or 16");
        // Offsets in the IPv4 (RFC 791) and IPv6 (RFC 8200) header.
        let (source, destination) = match self.family {
            Family::V4 => (12, 16),
            Family::V6 => (8, 24),
        };
        let (ct_source, ct_destination) = match self.family {
            Family::V4 => (NFT_CT_SRC_IP, NFT_CT_DST_IP),
            Family::V6 => (NFT_CT_SRC_IP6, NFT_CT_DST_IP6),
        };
        let original = Some(IP_CT_DIR_ORIGINAL);
        match field {
            Field::SourceAddress => {
                self.payload(NFT_PAYLOAD_NETWORK_HEADER, source, address_len, register)
            }
            Field::DestinationAddress => self.payload(
                NFT_PAYLOAD_NETWORK_HEADER,
                destination,
                address_len,
                register,
            ),
            Field::SourcePort => self.payload(NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, register),
            Field::DestinationPort => self.payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, register),
            Field::Protocol => self.meta(NFT_META_L4PROTO, register),
            Field::Priority => self.meta(NFT_META_PRIORITY, register),
            Field::OriginalSource => self.ct(ct_source, register, original),
            Field::OriginalDestination => self.ct(ct_destination, register, original),
            Field::OriginalPort => self.ct(NFT_CT_PROTO_DST, register, original),
            Field::Random { modulus, offset } => self.expression("numgen", |out| {
                out.u32(NFTA_NG_DREG, register);
                out.u32(NFTA_NG_MODULUS, modulus);
                out.u32(NFTA_NG_TYPE, NFT_NG_RANDOM);
                out.u32(NFTA_NG_OFFSET, offset);
            }),
        }
    }

    fn payload(&mut self, base: u32, offset: u32, len: u32, register: u32) {
        self.expression("payload", |out| {
            out.u32(NFTA_PAYLOAD_DREG, register);
            out.u32(NFTA_PAYLOAD_BASE, base);
            out.u32(NFTA_PAYLOAD_OFFSET, offset);
            out.u32(NFTA_PAYLOAD_LEN, len);
        });
    }

    fn ct(&mut self, key: u32, register: u32, direction: Option<u8>) {
        self.expression("ct", |out| {
            out.u32(NFTA_CT_KEY, key);
            out.u32(NFTA_CT_DREG, register);
            if let Some(direction) = direction {
                out.u8(NFTA_CT_DIRECTION, direction);
            }
        });
    }

    fn lookup(&mut self, set: &str, into: Option<u32>) {
        self.expression("lookup", |out| {
            out.u32(NFTA_LOOKUP_SREG, NFT_REG32_00);
            if let Some(register) = into {
                out.u32(NFTA_LOOKUP_DREG, register);
            }
            out.str(NFTA_LOOKUP_SET, set);
        });
    }

    /// Masks the first register(s) in place.
    fn bitwise(&mut self, mask: &[u8]) {
        let len = u32::try_from(mask.len()).expect("4 or 16");
        self.expression("bitwise", |out| {
            out.u32(NFTA_BITWISE_SREG, NFT_REG32_00);
            out.u32(NFTA_BITWISE_DREG, NFT_REG32_00);
            out.u32(NFTA_BITWISE_LEN, len);
            out.nest(NFTA_BITWISE_MASK, |out| out.bytes(NFTA_DATA_VALUE, mask));
            out.nest(NFTA_BITWISE_XOR, |out| {
                out.bytes(NFTA_DATA_VALUE, &[0; 16][..mask.len()])
            });
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.expression("cmp", |out| {
            out.u32(NFTA_CMP_SREG, NFT_REG32_00);
            out.u32(NFTA_CMP_OP, operator);
            out.nest(NFTA_CMP_DATA, |out| out.bytes(NFTA_DATA_VALUE, value));
        });
    }
}

/// The `NFPROTO_*` number of a table's family.
pub(super) fn protocol_family(family: Family) -> u8 {
    match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    }
}

fn registers(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(4)).expect("at most 16 bytes")
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}
