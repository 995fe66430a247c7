//! Golden bytes. Where nft has its say, the command is quoted above what `nft --debug=mnl` 1.0.6 printed for it.

use std::{collections::BTreeMap, net::IpAddr};

use proptest::{collection::vec, prelude::*};

use super::{constants::*, *};
use crate::{
    model::{Family, Protocol},
    plan::{Action, Operation},
    ruleset::{
        Base, Bytes, ChainType, Data, Field, Holds, Hook, Key, Rule, SetKind, Statement, Type,
        Verdict,
    },
};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
        .collect()
}

/// Expressions as (name, attributes), with what is free to differ made equal: nft calls the first registers NFT_REG_1
/// where we say NFT_REG32_00, and names a set of the same batch also by its number.
fn expressions_in(bytes: &[u8]) -> Vec<(String, BTreeMap<u16, Vec<u8>>)> {
    let expression = |(_, bytes)| {
        let expression = Attributes(bytes);
        let name = expression.str(NFTA_EXPR_NAME).unwrap().to_owned();
        let registers: &[u16] = match name.as_str() {
            "payload" | "meta" | "ct" | "numgen" | "cmp" => &[1],
            "bitwise" => &[1, 2],
            "lookup" => &[NFTA_LOOKUP_SREG, NFTA_LOOKUP_DREG],
            "nat" => &[NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_PROTO_MIN],
            _ => &[],
        };
        let mut attributes: BTreeMap<u16, Vec<u8>> = expression
            .nested(NFTA_EXPR_DATA)
            .unwrap()
            .map(|(kind, value)| (kind, value.to_vec()))
            .collect();
        for register in registers {
            if let Some(value) = attributes
                .get_mut(register)
                .filter(|value| ***value == 1u32.to_be_bytes())
            {
                *value = NFT_REG32_00.to_be_bytes().to_vec();
            }
        }
        if name == "lookup" {
            attributes.remove(&4);
        }
        (name, attributes)
    };
    Attributes(bytes).map(expression).collect()
}

fn assert_expressions(statements: &[Statement], nft: &str) {
    assert_eq!(
        expressions_in(&expressions(Family::V4, statements)),
        expressions_in(&hex(nft))
    );
}

#[test]
fn rules_are_the_expressions_that_nft_makes() {
    // nft add rule ip minik c ct status dnat goto x
    assert_expressions(
        &[Statement::Translated(true), Statement::Verdict(Verdict::Goto("x".into()))],
        "2000018007000100637400001400028008000200000000020800010000000001440001800c0001006269747769736500340002800800010000
         000001080002000000000108000300000000040c00048008000100200000000c00058008000100000000002c00018008000100636d7000200002
         80080001000000000108000200000000010c0003800800010000000000380001800e000100696d6d6564696174650000002400028008000100
         00000000180002801400028008000100fffffffc0600020078000000",
    );
    // nft add rule ip minik c ip saddr 10.244.0.0/15 masquerade fully-random
    let net = "10.244.0.0/15".parse().unwrap();
    assert_expressions(
        &[Statement::Within { field: Field::SourceAddress, net, negated: false }, Statement::Masquerade],
        "340001800c0001007061796c6f6164002400028008000100000000010800020000000001080003000000000c0800040000000004440001800c00
         01006269747769736500340002800800010000000001080002000000000108000300000000040c00048008000100fffe00000c00058008000100
         000000002c00018008000100636d700020000280080001000000000108000200000000000c000380080001000af400001c000180090001006d61
         7371000000000c0002800800010000000010",
    );
    // nft add rule ip minik p ip daddr . meta l4proto . th dport vmap @m
    let key = vec![
        Field::DestinationAddress,
        Field::Protocol,
        Field::DestinationPort,
    ];
    assert_expressions(
        &[Statement::VerdictMap { key: key.clone(), map: "m".into() }],
        "340001800c0001007061796c6f6164002400028008000100000000010800020000000001080003000000001008000400000000042400018009
         0001006d657461000000001400028008000200000000100800010000000009340001800c0001007061796c6f61640024000280080001000000
         000a080002000000000208000300000000020800040000000002340001800b0001006c6f6f6b75700000240002800800020000000001080003
         0000000000060001006d0000000800040000000001",
    );
    // nft add rule ip minik lb-1 dnat to ip daddr . meta l4proto . th dport . numgen random mod 3 map @w
    //
    // Ours has the value behind the key instead of over it.
    let ours = expressions(
        Family::V4,
        &[Statement::Dnat {
            key: [
                &key[..],
                &[Field::Random {
                    modulus: 3,
                    offset: 0,
                }],
            ]
            .concat(),
            map: "w".into(),
        }],
    );
    let mut wanted = expressions_in(&hex(
        "340001800c0001007061796c6f616400240002800800010000000001080002000000000108000300000000100800040000000004240001800900
         01006d657461000000001400028008000200000000100800010000000009340001800c0001007061796c6f6164002400028008000100000000
         0a080002000000000208000300000000020800040000000002340001800b0001006e756d67656e000024000280080001000000000b08000200
         0000000308000300000000010800040000000000340001800b0001006c6f6f6b75700000240002800800020000000001080003000000000106
         00010077000000080004000000000330000180080001006e617400240002800800010000000001080002000000000208000300000000010800
         050000000009",
    ));
    for (expression, attribute, register) in [
        (4, NFTA_LOOKUP_DREG, 12u32),
        (5, NFTA_NAT_REG_ADDR_MIN, 12),
        (5, NFTA_NAT_REG_PROTO_MIN, 13),
    ] {
        wanted[expression]
            .1
            .insert(attribute, register.to_be_bytes().to_vec());
    }
    assert_eq!(expressions_in(&ours), wanted);
}

fn frontend_key() -> Key {
    Key::default()
        .address(IpAddr::from([10, 96, 0, 1]))
        .protocol(Protocol::Tcp)
        .port(80)
}

fn encode(action: Action) -> Vec<u8> {
    Batch::encode(
        &[Operation {
            family: Family::V4,
            action,
        }],
        7,
        None,
        0,
    )
    .bytes
}

#[test]
fn elements_are_the_bytes_that_nft_makes() {
    let goto = Data::Verdict(Verdict::Goto("lb-1".into()));
    let value = Data::Value(
        Bytes::default()
            .address(IpAddr::from([10, 244, 0, 2]))
            .port(8080),
    );
    for (key, data, nft) in [
        // nft add element ip minik m { 10.96.0.1 . tcp . 80 : goto lb-1 }
        (
            frontend_key(),
            goto,
            "380003803400018014000180100001000a60000106000000005000001c0002801800028008000100fffffffc090002006c622d3100000000",
        ),
        // nft add element ip minik v { 10.96.0.1 . tcp . 80 . 1 : 10.244.0.2 . 8080 }
        (
            frontend_key().number(1),
            value,
            "300003802c00018018000180140001000a600001060000000050000001000000100002800c0001000af400021f900000",
        ),
        // nft add element ip minik s { 10.96.0.1 }
        (
            Key::default().address(IpAddr::from([10, 96, 0, 1])),
            Data::None,
            "140003801000018 00c000180080001000a600001",
        ),
    ] {
        let bytes = encode(Action::Elements {
            set: "m".into(),
            delete: Vec::new(),
            add: vec![(key, data)],
        });
        let message = Messages(&bytes).nth(1).unwrap();
        assert!(
            message.payload.ends_with(&hex(nft)),
            "{:02x?}",
            message.payload
        );
    }
}

#[test]
fn a_batch_is_begun_and_ended_and_knows_its_operations() {
    let operations = [
        Operation {
            family: Family::V6,
            action: Action::AddTable,
        },
        Operation {
            family: Family::V6,
            action: Action::Elements {
                set: "s".into(),
                delete: vec![(Key::default().port(1), Data::None)],
                add: vec![(Key::default().port(2), Data::None)],
            },
        },
    ];
    let batch = Batch::encode(&operations, 100, Some(9), FLAG_OWNER | FLAG_PERSIST);
    let messages: Vec<Message<'_>> = Messages(&batch.bytes).collect();
    let kinds: Vec<u16> = messages.iter().map(|message| message.kind).collect();
    assert_eq!(kinds, [16, 0xa00, 0xa0e, 0xa0c, 17]);
    assert_eq!(
        messages
            .iter()
            .map(|message| message.seq)
            .collect::<Vec<_>>(),
        [100, 101, 102, 103, 104]
    );
    assert_eq!(
        [100, 101, 102, 103, 104, 105].map(|seq| batch.operation(seq)),
        [None, Some(0), Some(1), Some(1), None, None]
    );
    assert_eq!(batch.next_seq(), 105);
    assert_eq!(
        messages[0].payload,
        hex("0000000a 08000100 00000009"),
        "the generation, big-endian"
    );
    assert_eq!(
        messages[1].payload,
        hex("0a000000 0a000100 6d696e696b000000 08000200 00000006"),
        "owner and persist"
    );
    assert_eq!(messages[4].payload, hex("0000000a"));
}

#[test]
fn what_is_written_is_what_is_read() {
    let base = Base {
        kind: ChainType::Nat,
        hook: Hook::Prerouting,
        priority: -100,
    };
    let bytes = encode(Action::AddChain {
        name: "c".into(),
        base: Some(base),
    });
    assert_eq!(
        parse_chain(&Messages(&bytes).nth(1).unwrap()),
        Ok(("minik", "c", Some(base)))
    );

    let rule = Rule::new(Family::V4, vec![Statement::Reject]);
    let bytes = encode(Action::AddRule {
        chain: "c".into(),
        rule: rule.clone(),
    });
    assert_eq!(
        parse_rule(&Messages(&bytes).nth(1).unwrap()),
        Ok(("minik", "c", rule.fingerprint))
    );

    for (holds, dynamic, ranges) in [
        (Holds::Keys, false, false),
        (Holds::Keys, false, true),
        (Holds::Verdicts, false, false),
        (Holds::Values(vec![Type::Address, Type::Port]), false, false),
        (Holds::Values(vec![Type::Address]), true, false),
    ] {
        let kind = SetKind {
            key: vec![Type::Address, Type::Protocol, Type::Number],
            holds,
            dynamic,
            ranges,
        };
        let bytes = encode(Action::AddSet {
            name: "s".into(),
            kind: kind.clone(),
        });
        assert_eq!(
            parse_set(&Messages(&bytes).nth(1).unwrap(), Family::V4),
            Ok(("minik", "s", Some(kind)))
        );
    }

    let elements = vec![
        (frontend_key(), Data::Verdict(Verdict::Jump("x".into()))),
        (frontend_key().number(3), Data::Verdict(Verdict::Drop)),
        (
            frontend_key().number(4),
            Data::Value(Bytes::default().port(9)),
        ),
        (Key::default().port(5), Data::None),
        (Key::default().port(6), Data::Until(Key::default().port(9))),
    ];
    let bytes = encode(Action::Elements {
        set: "s".into(),
        delete: Vec::new(),
        add: elements.clone(),
    });
    assert_eq!(
        parse_elements(&Messages(&bytes).nth(1).unwrap()),
        Ok(elements)
    );
}

#[test]
fn an_error_carries_errno_and_the_kernels_words() {
    // NLMSG_ERROR, flags CAPPED | ACK_TLVS, seq 7: errno -2, the header of message 7, NLMSGERR_ATTR_MSG "no".
    let bytes = hex(
        "2c000000 0200 0003 07000000 00000000 feffffff 20000000 010a 0500 07000000 00000000 07000100 6e6f0000",
    );
    let message = Messages(&bytes).next().unwrap();
    assert_eq!(
        (message.seq, answer(&message)),
        (7, Answer::Error(2, Some("no".to_owned())))
    );
    let acknowledgement =
        hex("24000000 0200 0001 07000000 00000000 00000000 20000000 010a 0500 07000000 00000000");
    assert_eq!(
        answer(&Messages(&acknowledgement).next().unwrap()),
        Answer::Done
    );
}

fn read_everything(bytes: &[u8]) {
    for message in Messages(bytes) {
        let _ = parse_table(&message);
        let _ = parse_chain(&message);
        let _ = parse_rule(&message);
        let _ = parse_elements(&message);
        let _ = parse_generation(&message);
        let _ = answer(&message);
        for family in Family::ALL {
            let _ = parse_set(&message, family);
        }
    }
}

proptest! {
    #[test]
    fn reading_never_panics_on_noise(bytes in vec(any::<u8>(), 0..600)) {
        read_everything(&bytes);
    }

    #[test]
    fn reading_never_panics_on_spoilt_messages(spoils in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in any::<prop::sample::Index>()) {
        let goto = Data::Verdict(Verdict::Goto("lb-1".into()));
        let mut bytes = [
            encode(Action::AddChain { name: "c".into(), base: Some(Base { kind: ChainType::Nat, hook: Hook::Input, priority: 0 }) }),
            encode(Action::AddRule { chain: "c".into(), rule: Rule::new(Family::V6, vec![Statement::Reset]) }),
            encode(Action::AddSet { name: "s".into(), kind: SetKind { key: vec![Type::Port], holds: Holds::Verdicts, dynamic: false, ranges: false } }),
            encode(Action::Elements { set: "s".into(), delete: Vec::new(), add: vec![(frontend_key(), goto)] }),
        ].concat();
        for (at, byte) in spoils {
            *at.get_mut(&mut bytes) = byte;
        }
        bytes.truncate(cut.index(bytes.len()));
        read_everything(&bytes);
    }
}
