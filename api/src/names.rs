//! Names: what is allowed where, in upstream's words (`k8s.io/apimachinery/pkg/util/validation`), and invented ones.
//!
//! Every check answers with the first reason why not, fit for a `FieldValueInvalid` cause.

use rand::Rng;
use rand::seq::IndexedRandom;

/// The longest DNS label, in bytes.
pub const DNS_LABEL_MAX: usize = 63;
/// The longest DNS name, in bytes.
pub const DNS_SUBDOMAIN_MAX: usize = 253;
/// The longest service name of RFC 6335, in bytes.
pub const PORT_NAME_MAX: usize = 15;

type Check = Result<(), String>;

/// A DNS label (RFC 1123): the name of a namespace, a hostname.
pub fn dns1123_label(name: &str) -> Check {
    no_longer_than(name, DNS_LABEL_MAX)?;
    ensure(is_dns1123_label(name), || {
        regex_error(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
             with an alphanumeric character",
            "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "123-abc"],
        )
    })
}

/// Dot-separated DNS labels (RFC 1123): the name of most objects.
pub fn dns1123_subdomain(name: &str) -> Check {
    no_longer_than(name, DNS_SUBDOMAIN_MAX)?;
    ensure(name.split('.').all(is_dns1123_label), || {
        regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start \
             and end with an alphanumeric character",
            r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        )
    })
}

/// A DNS label that starts with a letter (RFC 1035): the name of a Service.
pub fn dns1035_label(name: &str) -> Check {
    no_longer_than(name, DNS_LABEL_MAX)?;
    let ok = is_dns1123_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase());
    ensure(ok, || {
        regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, \
             and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        )
    })
}

/// `name` or `prefix.example/name`: a label key, a finalizer, a condition type.
pub fn qualified_name(name: &str) -> Check {
    let regex = || {
        regex_error(
            "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]",
            &["MyName", "my.name", "123-abc"],
        )
    };
    let (prefix, part) = match name.split_once('/') {
        Some((prefix, part)) => (Some(prefix), part),
        None => (None, name),
    };
    ensure(!part.contains('/'), || {
        format!(
            "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
            regex()
        )
    })?;
    if let Some(prefix) = prefix {
        ensure(!prefix.is_empty(), || {
            "prefix part must be non-empty".to_owned()
        })?;
        dns1123_subdomain(prefix).map_err(|reason| format!("prefix part {reason}"))?;
    }
    ensure(!part.is_empty(), || {
        "name part must be non-empty".to_owned()
    })?;
    no_longer_than(part, DNS_LABEL_MAX).map_err(|reason| format!("name part {reason}"))?;
    ensure(is_label_text(part), || format!("name part {}", regex()))
}

/// The value of a label; may be empty.
pub fn label_value(value: &str) -> Check {
    no_longer_than(value, DNS_LABEL_MAX)?;
    ensure(value.is_empty() || is_label_text(value), || {
        regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and \
             end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        )
    })
}

/// A service name of RFC 6335 section 5.1, as IANA registers them: the name of a container's port, a `targetPort`.
pub fn port_name(name: &str) -> Check {
    no_longer_than(name, PORT_NAME_MAX)?;
    ensure(
        !name.is_empty() && name.bytes().all(is_lower_alnum_or_hyphen),
        || "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
    )?;
    ensure(name.bytes().any(|byte| byte.is_ascii_lowercase()), || {
        "must contain at least one letter (a-z)".to_owned()
    })?;
    ensure(!name.contains("--"), || {
        "must not contain consecutive hyphens".to_owned()
    })?;
    ensure(!name.starts_with('-') && !name.ends_with('-'), || {
        "must not begin or end with a hyphen".to_owned()
    })
}

/// A segment of a URL path: the name of a Role or a ClusterRole.
pub fn path_segment(name: &str) -> Check {
    ensure(!matches!(name, "." | ".."), || {
        format!("may not be '{name}'")
    })?;
    for forbidden in ['/', '%'] {
        ensure(!name.contains(forbidden), || {
            format!("may not contain '{forbidden}'")
        })?;
    }
    Ok(())
}

/// A port number.
pub fn port_number(port: i64) -> Check {
    ensure((1..=65535).contains(&port), || {
        "must be between 1 and 65535, inclusive".to_owned()
    })
}

/// Letters and digits that make no words and do not look like each other.
const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;

/// A name from `metadata.generateName`: the prefix, cut so that a label results, and five random characters.
pub fn generate_name(prefix: &str, rng: &mut impl Rng) -> String {
    let mut cut = prefix.len().min(DNS_LABEL_MAX - SUFFIX_LENGTH);
    while !prefix.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut name = prefix[..cut].to_owned();
    name.push_str(&random_suffix(SUFFIX_LENGTH, rng));
    name
}

/// Random characters of the alphabet generated names use.
pub fn random_suffix(length: usize, rng: &mut impl Rng) -> String {
    let one = |_| {
        char::from(
            *SUFFIX_ALPHABET
                .choose(rng)
                .expect("the alphabet is not empty"),
        )
    };
    (0..length).map(one).collect()
}

fn ensure(ok: bool, reason: impl FnOnce() -> String) -> Check {
    if ok { Ok(()) } else { Err(reason()) }
}

fn no_longer_than(text: &str, max: usize) -> Check {
    ensure(text.len() <= max, || {
        format!("must be no more than {max} bytes")
    })
}

fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<_> = examples
        .iter()
        .map(|example| format!("'{example}', "))
        .collect();
    format!(
        "{message} (e.g. {}regex used for validation is '{regex}')",
        examples.join(" or ")
    )
}

fn is_lower_alnum_or_hyphen(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn is_dns1123_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(is_lower_alnum_or_hyphen)
}

fn is_label_text(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let ends = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(ends) && text.ends_with(ends) && text.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn table(check: fn(&str) -> Check, good: &[&str], bad: &[&str]) {
        for name in good {
            assert_eq!(check(name), Ok(()), "{name:?}");
        }
        for name in bad {
            assert!(check(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn labels_and_subdomains_follow_the_rfcs() {
        let long = "a".repeat(63);
        let too_long = "a".repeat(64);
        table(
            dns1123_label,
            &["a", "1", "a-1", "0a", &long],
            &["", "-a", "a-", "A", "a.b", "a_b", "ä", &too_long],
        );
        table(
            dns1035_label,
            &["a", "a-1", &long],
            &["", "1", "0a", "-a", "a-", "A", "a.b", &too_long],
        );
        let name = format!("{long}.{long}.{long}.{}", "b".repeat(61));
        table(
            dns1123_subdomain,
            &["a", "a.b", "1.2.3.4", &too_long, &name],
            &["", ".", "a.", ".a", "a..b", "A.b", &format!("{name}b")],
        );
    }

    #[test]
    fn qualified_names_and_label_values_follow_the_documentation() {
        table(
            qualified_name,
            &["a", "A.b_c-d", "example.com/Name", "1/2"],
            &[
                "",
                "/a",
                "a/",
                "a/b/c",
                "-a",
                "a-",
                "Ex.com/a",
                "a b",
                &"a".repeat(64),
            ],
        );
        table(
            label_value,
            &["", "a", "A_b.c-1", &"a".repeat(63)],
            &["-a", "a-", "a b", "a/b", &"a".repeat(64)],
        );
    }

    #[test]
    fn port_names_follow_rfc_6335() {
        table(
            port_name,
            &["a", "http", "x-1", "8080-tcp"],
            &[
                "",
                "80",
                "-a",
                "a-",
                "a--b",
                "HTTP",
                "a_b",
                "sixteen-letters-",
            ],
        );
    }

    #[test]
    fn path_segments_are_wider_but_not_paths() {
        table(
            path_segment,
            &["system:node", "A b", "..."],
            &[".", "..", "a/b", "a%"],
        );
    }

    #[test]
    fn reasons_are_upstreams_words() {
        assert_eq!(
            dns1123_label("A").unwrap_err(),
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
             alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        );
        assert_eq!(
            dns1123_label(&"a".repeat(64)).unwrap_err(),
            "must be no more than 63 bytes"
        );
        assert_eq!(
            port_number(0).unwrap_err(),
            "must be between 1 and 65535, inclusive"
        );
        assert_eq!(
            qualified_name("a/").unwrap_err(),
            "name part must be non-empty"
        );
    }

    #[test]
    fn generated_names_are_labels_with_a_random_end() {
        let mut rng = SmallRng::seed_from_u64(1);
        let name = generate_name("web-", &mut rng);
        assert_eq!((name.len(), &name[..4]), (9, "web-"));
        assert_eq!(dns1123_label(&name), Ok(()));
        assert_ne!(generate_name("web-", &mut rng), name);
        assert_eq!(generate_name(&"a".repeat(100), &mut rng).len(), 63);
    }
}
