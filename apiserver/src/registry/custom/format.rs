//! The formats a schema can ask of text. Those that are not known ask for nothing, as upstream.
//! Source: kubernetes/kubernetes vendor k8s.io/kube-openapi/pkg/validation/strfmt.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnet::IpNet;

/// Whether the text is of the format.
pub(super) fn fits(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => duration(text),
        "byte" => STANDARD.decode(text).is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<IpNet>().is_ok(),
        "mac" => mac(text),
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        "uuid3" => version(text, 3),
        "uuid4" => version(text, 4),
        "uuid5" => version(text, 5),
        "hostname" => text.len() <= 255 && text.split('.').all(label),
        "uri" => uri(text),
        "email" => text.split_once('@').is_some_and(|(user, host)| {
            !user.is_empty() && !user.contains(char::is_whitespace) && host.split('.').all(label)
        }),
        _ => true,
    }
}

/// Go's: `1h30m`, `250ms`, also with a sign and fractions.
fn duration(text: &str) -> bool {
    let mut rest = text.trim_start_matches(['+', '-']);
    if rest == "0" {
        return true;
    }
    let mut parts = 0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let Some(unit_at) = unit_at.filter(|at| rest[..*at].parse::<f64>().is_ok()) else {
            return false;
        };
        let unit = &rest[unit_at..];
        let units = ["ns", "us", "µs", "ms", "s", "m", "h", "d", "w"];
        let Some(unit) = units.iter().find_map(|name| unit.strip_prefix(name)) else {
            return false;
        };
        rest = unit;
        parts += 1;
    }
    parts > 0
}

/// A URI with a scheme, or an absolute path. Source: Go's net/url, ParseRequestURI.
fn uri(text: &str) -> bool {
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    let rest = match text.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => rest,
        _ if text.starts_with('/') => text,
        _ => return false,
    };
    let authority = rest.strip_prefix("//").filter(|_| rest.len() < text.len());
    let authority = authority.and_then(|rest| rest.split(['/', '?']).next());
    let path = rest.split('?').next().unwrap_or_default();
    let mut escapes = path.split('%').skip(1);
    let is_hex = |hex: &str| hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    !text.contains(|c: char| c.is_ascii_control())
        && !authority.is_some_and(|authority| authority.contains(' '))
        && escapes.all(|escape| escape.get(..2).is_some_and(is_hex))
}

fn mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let byte = |part: &&str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
    matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(byte)
}

fn version(text: &str, wanted: usize) -> bool {
    uuid::Uuid::parse_str(text).is_ok_and(|uuid| uuid.get_version_num() == wanted)
}

fn label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || c == '-' || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_accept_and_refuse() {
        let good = [
            ("date-time", "2024-01-02T03:04:05Z"),
            ("date", "2024-01-02"),
            ("duration", "1h30m"),
            ("duration", "0"),
            ("duration", "-1.5s"),
            ("byte", "YQ=="),
            ("ipv4", "10.0.0.1"),
            ("ipv6", "::1"),
            ("cidr", "10.0.0.0/8"),
            ("mac", "00:11:22:aa:bb:cc"),
            ("uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
            ("hostname", "a.example"),
            ("uri", "https://example.com/x"),
            ("uri", "file:///etc/hosts"),
            ("uri", "urn:isbn:0451450523"),
            ("uri", "mailto:a@example.com"),
            ("uri", "/a/path?query"),
            ("email", "a@example.com"),
            ("of-our-own", "?"),
        ];
        for (format, text) in good {
            assert!(fits(format, text), "{format} {text}");
        }
        let bad = [
            ("date-time", "2024-01-02"),
            ("date", "2024-13-02"),
            ("duration", "1 hour"),
            ("duration", ""),
            ("byte", "?"),
            ("ipv4", "10.0.0.256"),
            ("ipv6", "10.0.0.1"),
            ("cidr", "10.0.0.0"),
            ("mac", "00:11"),
            ("uuid", "x"),
            ("uuid4", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
            ("hostname", "-a"),
            ("uri", "x y"),
            ("uri", ""),
            ("uri", "example.com"),
            ("uri", "git@example.com:a/b"),
            ("uri", "https://a b/"),
            ("uri", "https://a/%zz"),
            ("email", "a"),
        ];
        for (format, text) in bad {
            assert!(!fits(format, text), "{format} {text}");
        }
    }
}
