//! IP addresses and CIDRs in text: what was always read, and what new objects may hold.
//! Source: `k8s.io/apimachinery/pkg/util/validation/ip.go`; KEP-4858 (strict IP and CIDR validation).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

const IP_WANTED: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const CIDR_WANTED: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Reads an address as Kubernetes always did: leading zeros are decimal, an IPv4-mapped IPv6 address is the IPv4 address.
///
/// # Errors
/// The reason, in upstream's words.
pub fn parse(text: &str) -> Result<IpAddr, String> {
    parse_v4(text)
        .map(IpAddr::V4)
        .or_else(|| parse_v6(text))
        .ok_or_else(|| IP_WANTED.to_owned())
}

/// Reads an address in the form new objects must use.
///
/// # Errors
/// The reason, in upstream's words.
pub fn parse_strict(text: &str) -> Result<IpAddr, String> {
    let ip = parse(text)?;
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            Err("must not be an IPv4-mapped IPv6 address".to_owned())
        }
        Ok(_) => Ok(ip),
        Err(_) => Err("must not have leading 0s".to_owned()),
    }
}

/// Reads a CIDR as Kubernetes always did; bits beyond the prefix are kept.
///
/// # Errors
/// The reason, in upstream's words.
pub fn parse_cidr(text: &str) -> Result<IpNet, String> {
    let cidr = || {
        let (address, length) = text.split_once('/')?;
        if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        IpNet::new(parse(address).ok()?, length.parse().ok()?).ok()
    };
    cidr().ok_or_else(|| CIDR_WANTED.to_owned())
}

/// Reads a CIDR in the form new objects must use.
///
/// # Errors
/// The reason, in upstream's words.
pub fn parse_cidr_strict(text: &str) -> Result<IpNet, String> {
    let cidr = parse_cidr(text)?;
    let (address, length) = text.split_once('/').ok_or_else(|| CIDR_WANTED.to_owned())?;
    parse_strict(address).map_err(|reason| match reason.as_str() {
        "must not have leading 0s" => "must not have leading 0s in IP".to_owned(),
        _ => reason,
    })?;
    if length.len() > 1 && length.starts_with('0') {
        return Err("must not have leading 0s in prefix length".to_owned());
    }
    if cidr.addr() != cidr.network() {
        return Err("must not have bits set beyond the prefix length".to_owned());
    }
    Ok(cidr)
}

/// Why this address may not be an endpoint's or an external IP, if so: it would lead a node to itself or nowhere.
///
/// # Errors
/// The reason, in upstream's words.
pub fn check_endpoint(ip: IpAddr) -> Result<(), String> {
    if ip.is_unspecified() {
        return Err(format!("may not be unspecified ({ip})"));
    }
    if ip.is_loopback() {
        return Err("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    }
    if is_link_local(ip) {
        return Err("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    }
    if is_link_local_multicast(ip) {
        return Err(
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
        );
    }
    Ok(())
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// IPv6 goes by scope 2, whatever the flags, as Go's net package has it.
fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => matches!(v4.octets(), [224, 0, 0, _]),
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

fn parse_v6(text: &str) -> Option<IpAddr> {
    let direct = || text.parse::<Ipv6Addr>().ok();
    // The dotted tail may have leading zeros too.
    let dotted = || {
        let (head, tail) = text.rsplit_once(':')?;
        format!("{head}:{}", parse_v4(tail)?).parse().ok()
    };
    let v6 = direct().or_else(dotted)?;
    Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_leniently_and_printed_canonically() {
        let cases = [
            ("10.0.0.1", "10.0.0.1"),
            ("010.000.0.01", "10.0.0.1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("::ffff:01.2.3.4", "1.2.3.4"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("::", "::"),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse(text).unwrap().to_string(), wanted, "{text}");
        }
        for text in [
            "",
            "1.2.3",
            "1.2.3.4.5",
            "256.0.0.1",
            "1.2.3.",
            "a",
            "1.2.3.4/8",
            "fe80::1%eth0",
            " 1.2.3.4",
            "+1.2.3.4",
        ] {
            assert_eq!(parse(text), Err(IP_WANTED.to_owned()), "{text}");
        }
    }

    #[test]
    fn strict_reading_names_what_is_wrong() {
        assert!(parse_strict("10.0.0.1").is_ok());
        assert_eq!(
            parse_strict("10.0.0.01").unwrap_err(),
            "must not have leading 0s"
        );
        assert_eq!(
            parse_strict("::ffff:1.2.3.4").unwrap_err(),
            "must not be an IPv4-mapped IPv6 address"
        );
        assert!(parse_cidr_strict("10.0.0.0/8").is_ok());
        assert_eq!(
            parse_cidr_strict("10.0.0.1/8").unwrap_err(),
            "must not have bits set beyond the prefix length"
        );
        assert_eq!(
            parse_cidr_strict("10.0.0.0/08").unwrap_err(),
            "must not have leading 0s in prefix length"
        );
        assert_eq!(
            parse_cidr_strict("010.0.0.0/8").unwrap_err(),
            "must not have leading 0s in IP"
        );
        assert_eq!(parse_cidr_strict("10.0.0.0/33").unwrap_err(), CIDR_WANTED);
        assert_eq!(
            parse_cidr("10.1.2.3/08").unwrap().trunc().to_string(),
            "10.0.0.0/8"
        );
    }

    #[test]
    fn endpoints_must_be_reachable_addresses() {
        for good in ["10.0.0.1", "224.0.1.1", "2001:db8::1", "ff05::1"] {
            assert_eq!(check_endpoint(parse(good).unwrap()), Ok(()), "{good}");
        }
        for bad in [
            "0.0.0.0",
            "::",
            "127.1.2.3",
            "::1",
            "169.254.1.1",
            "fe80::1",
            "224.0.0.5",
            "ff02::1",
        ] {
            assert!(check_endpoint(parse(bad).unwrap()).is_err(), "{bad}");
        }
    }
}
