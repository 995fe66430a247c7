//! nft's notation: what `nft list table` shows, with one element per line.

use std::fmt::{self, Display, Write as _};

use ipnet::IpNet;

use super::{
    Data, Field, Holds, KeyReader, Rule, Ruleset, Set, Statement, TABLE, Table, Type, Verdict,
};
use crate::model::{Family, Protocol};

impl Ruleset {
    /// Both tables in nft's notation, sorted by name and key.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (family, table) in &self.tables {
            write_table(&mut out, *family, table).expect("writing to a String does not fail");
        }
        out
    }
}

impl Rule {
    /// The rule in nft's notation.
    pub fn text(&self, family: Family) -> String {
        let statements: Vec<String> = self
            .statements
            .iter()
            .map(|statement| StatementText { statement, family }.to_string())
            .collect();
        statements.join(" ")
    }
}

impl Family {
    /// nft's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }
}

impl Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Return => f.write_str("return"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

fn write_table(out: &mut String, family: Family, table: &Table) -> fmt::Result {
    writeln!(out, "table {} {TABLE} {{", family.as_str())?;
    for (name, set) in &table.sets {
        write_set(out, family, name, set)?;
    }
    for (name, chain) in &table.chains {
        writeln!(out, "\tchain {name} {{")?;
        if let Some(base) = chain.base {
            let (kind, hook) = (base.kind.as_str(), base.hook.as_str());
            writeln!(
                out,
                "\t\ttype {kind} hook {hook} priority {}; policy accept;",
                base.priority
            )?;
        }
        for rule in &chain.rules {
            writeln!(out, "\t\t{}", rule.text(family))?;
        }
        writeln!(out, "\t}}")?;
    }
    writeln!(out, "}}")
}

fn write_set(out: &mut String, family: Family, name: &str, set: &Set) -> fmt::Result {
    let word = if set.kind.holds == Holds::Keys {
        "set"
    } else {
        "map"
    };
    writeln!(out, "\t{word} {name} {{")?;
    write!(out, "\t\ttype {}", columns(&set.kind.key, family))?;
    match &set.kind.holds {
        Holds::Keys => writeln!(out)?,
        Holds::Verdicts => writeln!(out, " : verdict")?,
        Holds::Values(value) => writeln!(out, " : {}", columns(value, family))?,
    }
    if let Some(capacity) = set.kind.capacity() {
        writeln!(out, "\t\tsize {capacity}")?;
    }
    if set.kind.dynamic {
        writeln!(out, "\t\tflags dynamic,timeout")?;
    }
    if set.kind.ranges {
        writeln!(out, "\t\tflags interval")?;
    }
    let mut lines: Vec<String> = set
        .elements
        .iter()
        .map(|(key, data)| element(family, set, key.as_slice(), data))
        .collect();
    lines.sort();
    for line in lines {
        writeln!(out, "\t\telement {line}")?;
    }
    writeln!(out, "\t}}")
}

fn columns(columns: &[Type], family: Family) -> String {
    let words: Vec<&str> = columns
        .iter()
        .map(|column| match (column, family) {
            (Type::Address, Family::V4) => "ipv4_addr",
            (Type::Address, Family::V6) => "ipv6_addr",
            (Type::Protocol, _) => "inet_proto",
            (Type::Port, _) => "inet_service",
            (Type::Number, _) => "mark",
        })
        .collect();
    words.join(" . ")
}

fn element(family: Family, set: &Set, key: &[u8], data: &Data) -> String {
    if let Data::Until(last) = data {
        return range(family, &set.kind.key, key, last.as_slice());
    }
    let key = values(family, &set.kind.key, key);
    match (data, &set.kind.holds) {
        (Data::None | Data::Until(_), _) => key,
        (Data::Verdict(verdict), _) => format!("{key} : {verdict}"),
        (Data::Value(value), Holds::Values(types)) => {
            format!("{key} : {}", values(family, types, value.as_slice()))
        }
        (Data::Value(value), _) => format!("{key} : {value:?}"),
    }
}

/// A range of addresses in the last column, as a network when it is one.
fn range(family: Family, types: &[Type], first: &[u8], last: &[u8]) -> String {
    let (first, last) = (values(family, types, first), values(family, types, last));
    let (Some((head, start)), Some((_, end))) = (first.rsplit_once(" . "), last.rsplit_once(" . "))
    else {
        return format!("{first}-{last}");
    };
    let covers = |prefix_len| {
        let net = IpNet::new(start.parse().ok()?, prefix_len).ok()?;
        (net.network().to_string() == start && net.broadcast().to_string() == end).then_some(net)
    };
    match (0..=128).rev().find_map(covers) {
        _ if start == end => first,
        Some(net) => format!("{head} . {net}"),
        None => format!("{first}-{end}"),
    }
}

/// Columns of a key or value; bytes that are not of their type show as `?`.
fn values(family: Family, types: &[Type], bytes: &[u8]) -> String {
    let mut reader = KeyReader(bytes);
    let words: Vec<String> = types
        .iter()
        .map(|column| {
            let word = match column {
                Type::Address => reader.address(family).map(|addr| addr.to_string()),
                Type::Protocol => reader.protocol().map(|protocol| protocol.to_string()),
                Type::Port => reader.port().map(|port| port.to_string()),
                Type::Number => reader.number().map(|number| format!("0x{number:08x}")),
            };
            word.unwrap_or_else(|| "?".to_owned())
        })
        .collect();
    words.join(" . ")
}

struct StatementText<'a> {
    statement: &'a Statement,
    family: Family,
}

impl Display for StatementText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = |fields| concatenation(fields, self.family);
        match self.statement {
            Statement::Within {
                field,
                net,
                negated,
            } => {
                let operator = if *negated { "!= " } else { "" };
                let host = net.prefix_len() == net.max_prefix_len();
                let net = if host {
                    net.addr().to_string()
                } else {
                    net.to_string()
                };
                write!(f, "{} {operator}{net}", columns(&[*field]))
            }
            Statement::CameInBy { name, prefix } => {
                let more = if *prefix { "*" } else { "" };
                write!(f, "iifname \"{name}{more}\"")
            }
            Statement::CameInByNone => f.write_str("iif 0"),
            Statement::Local(Field::SourceAddress) => f.write_str("fib saddr type local"),
            Statement::Local(_) => f.write_str("fib daddr type local"),
            Statement::New => f.write_str("ct state new"),
            Statement::Invalid => f.write_str("ct state invalid"),
            Statement::Translated(true) => f.write_str("ct status dnat"),
            Statement::Translated(false) => f.write_str("ct status ! dnat"),
            Statement::InSet { key, set } => write!(f, "{} @{set}", columns(key)),
            Statement::VerdictMap { key, map } => write!(f, "{} vmap @{map}", columns(key)),
            Statement::Dnat { key, map } => write!(
                f,
                "dnat {} to {} map @{map}",
                self.family.as_str(),
                columns(key)
            ),
            Statement::Record {
                map,
                key,
                value,
                timeout_secs,
            } => {
                let timeout = Timeout(*timeout_secs);
                write!(
                    f,
                    "update @{map} {{ {} timeout {timeout} : {} }}",
                    columns(key),
                    columns(value)
                )
            }
            Statement::SetPriority { key, map } => {
                write!(f, "meta priority set {} map @{map}", columns(key))
            }
            Statement::ClearPriority => f.write_str("meta priority set none"),
            Statement::Masquerade => f.write_str("masquerade fully-random"),
            Statement::Reject => f.write_str("reject"),
            Statement::Reset => f.write_str("reject with tcp reset"),
            Statement::Untracked => f.write_str("notrack"),
            Statement::Verdict(verdict) => verdict.fmt(f),
        }
    }
}

fn concatenation(fields: &[Field], family: Family) -> String {
    let ip = family.as_str();
    let words: Vec<String> = fields
        .iter()
        .map(|field| match field {
            Field::SourceAddress => format!("{ip} saddr"),
            Field::DestinationAddress => format!("{ip} daddr"),
            Field::Protocol => "meta l4proto".to_owned(),
            Field::SourcePort => "th sport".to_owned(),
            Field::DestinationPort => "th dport".to_owned(),
            Field::OriginalSource => format!("ct original {ip} saddr"),
            Field::OriginalDestination => format!("ct original {ip} daddr"),
            Field::OriginalPort => "ct original proto-dst".to_owned(),
            Field::Priority => "meta priority".to_owned(),
            Field::Random { modulus, offset: 0 } => format!("numgen random mod {modulus}"),
            Field::Random { modulus, offset } => {
                format!("numgen random mod {modulus} offset {offset}")
            }
        })
        .collect();
    words.join(" . ")
}

/// Seconds as nft writes them: `1d2h3m4s`.
struct Timeout(u32);

impl Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0;
        for (unit, secs) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
            if left >= secs {
                write!(f, "{}{unit}", left / secs)?;
                left %= secs;
            }
        }
        Ok(())
    }
}
