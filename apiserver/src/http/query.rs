//! Query strings, read leniently (N7).

use crate::registry::ApiError;

/// The parameters of a request, in order.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Empty parts are skipped, `+` is a space, `%xx` is a byte.
    pub(crate) fn parse(text: &str) -> Self {
        let parts = text.split('&').filter(|part| !part.is_empty());
        Self(
            parts
                .map(|part| {
                    let (key, value) = part.split_once('=').unwrap_or((part, ""));
                    (decode(key, true), decode(value, true))
                })
                .collect(),
        )
    }

    /// Gives a parameter this one value.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.0.retain(|(known, _)| known != key);
        self.0.push((key.to_owned(), value.to_owned()));
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// Every value of a parameter.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// The value, if it is there and not empty.
    pub(crate) fn filled(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// `true`, `1` and bare presence are yes.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|value| matches!(value, "" | "1" | "true" | "True"))
    }

    /// A whole number.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] when it is none.
    pub(crate) fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.filled(key) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            ApiError::BadRequest(format!("query parameter {key}: \"{text}\" is not a number"))
        })
    }
}

/// Resolves `%xx`, and `+` in queries. A broken escape stands for itself.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes
            .get(at + 1..at + 3)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        let escaped = hex.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match (bytes[at], escaped) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) if plus_is_space => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n7_query_strings_are_read_leniently() {
        let query = Query::parse("&limit=500&watch&a=1&a=2&s=x%3Dy+z&bad=%zz&on=true");
        assert_eq!(query.number("limit").unwrap(), Some(500));
        assert!(query.flag("watch") && query.flag("on") && !query.flag("off"));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(query.get("s"), Some("x=y z"));
        assert_eq!(query.get("bad"), Some("%zz"));
    }
}
