//! The patterns of a schema: regular expressions as Go has them, which match anywhere, as in JSON Schema.
//!
//! The same text means other things to the library here: `\d`, `\w`, `\s` and `\b` would be of all of Unicode (and `\w{1,253}`
//! too big to be accepted), a bracket or `&&` in a class an operator, a brace that repeats nothing an error. So it is translated.
//! Source: pkg.go.dev/regexp/syntax, docs.rs/regex.

use std::{iter::Peekable, str::Chars, str::FromStr};

use regex::{Regex, RegexBuilder};

/// Whoever may write CustomResourceDefinitions writes patterns: this bounds what one takes, in bytes. Go repeats up to a thousand
/// times; any character but a few, a thousand times, takes some 2 MiB.
const SIZE_LIMIT: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// As it stands in the schema.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl FromStr for Pattern {
    type Err = regex::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let regex = RegexBuilder::new(&translated(text))
            .size_limit(SIZE_LIMIT)
            .build()?;
        let text = text.to_owned();
        Ok(Self { text, regex })
    }
}

fn translated(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => escape(&mut rest, false, &mut out),
            '[' => class(&mut rest, &mut out),
            '{' if !repeats(rest.clone()) => out.push_str("\\{"),
            c => out.push(c),
        }
    }
    out
}

/// What follows a backslash.
fn escape(rest: &mut Peekable<Chars<'_>>, in_class: bool, out: &mut String) {
    match rest.next() {
        Some('d') => out.push_str("[0-9]"),
        Some('D') => out.push_str("[^0-9]"),
        Some('w') => out.push_str("[0-9A-Za-z_]"),
        Some('W') => out.push_str("[^0-9A-Za-z_]"),
        Some('s') => out.push_str("[\\t\\n\\f\\r ]"),
        Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
        Some('b') if !in_class => out.push_str("(?-u:\\b)"),
        // `\p{L}`, `\x{10ffff}`
        Some(c @ ('p' | 'P' | 'x')) => {
            out.extend(['\\', c]);
            out.extend(rest.next_if_eq(&'{'));
        }
        Some(c) => out.extend(['\\', c]),
        None => out.push('\\'),
    }
}

/// The rest of a class, behind its bracket.
fn class(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    out.push('[');
    if rest.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    // The first one does not end it.
    if rest.next_if_eq(&']').is_some() {
        out.push_str("\\]");
    }
    while let Some(c) = rest.next() {
        match c {
            '\\' => escape(rest, true, out),
            // `[:alpha:]`
            '[' if rest.peek() == Some(&':') => {
                out.push('[');
                for c in rest.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            '[' | '&' | '~' => out.extend(['\\', c]),
            ']' => return out.push(']'),
            c => out.push(c),
        }
    }
}

/// Whether what follows a brace makes it a repetition: `{2}`, `{2,}`, `{2,3}`.
fn repeats(rest: Peekable<Chars<'_>>) -> bool {
    let inside: String = rest.take_while(|c| *c != '}').collect();
    let (from, to) = inside.split_once(',').unwrap_or((&inside, "0"));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !from.is_empty() && is_number(from) && is_number(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_go() {
        // Pattern, what matches, what does not.
        for (text, good, bad) in [
            (r"^\d+$", "12", "١٢"),
            (r"^\w+$", "a_1", "ä"),
            (r"^\D$", "ä", "1"),
            (r"^[\w.-]{1,253}$", "a.b-c", "a b"),
            (r"^[^\s]{1,1000}$", "a", " "),
            (r"^\S\s\W$", "a\t-", "abc"),
            (r"\bb", "a-b", "ab"),
            (r"^[^[]$", "a", "["),
            (r"^[]a]$", "]", "b"),
            (r"^[a&&b]$", "&", "c"),
            (r"^[[:alpha:]&~]+$", "a&~", "1"),
            (r"^{a}$", "{a}", "a"),
            (r"^a{2,3}$", "aaa", "a"),
            (r"^\[\{$", "[{", "["),
            (r"^\p{L}\x{e4}$", "ää", "1"),
        ] {
            let pattern: Pattern = text.parse().unwrap();
            assert!(pattern.is_match(good), "{text} {good}");
            assert!(!pattern.is_match(bad), "{text} {bad}");
            assert_eq!(pattern.text(), text);
        }
    }

    #[test]
    fn what_is_wrong_or_too_big_is_refused() {
        for text in ["(", "[", "a\\", r"\pL{1000}"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }
}
