//! Where the API server is.

use std::fmt;

use super::ClientError;

/// The API server's address, from `https://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// An IP address (IPv6 without brackets) or a DNS name.
    pub host: String,
    /// The TCP port; 6443 when the URL has none.
    pub port: u16,
}

impl Server {
    /// Parses `https://HOST[:PORT]`.
    ///
    /// # Errors
    /// [`ClientError::BadServer`] with the reason.
    pub fn parse(url: &str) -> Result<Self, ClientError> {
        let bad = |reason| ClientError::BadServer {
            value: url.to_owned(),
            reason,
        };
        let rest = url
            .strip_prefix("https://")
            .ok_or_else(|| bad("it does not begin with https://"))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority = rest
            .parse::<http::uri::Authority>()
            .map_err(|_| bad("HOST or PORT is malformed"))?;
        if authority.as_str().contains('@') {
            return Err(bad("it holds a user name"));
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        if host.is_empty() {
            return Err(bad("HOST is missing"));
        }
        let tail = &authority.as_str()[authority.host().len()..];
        let port = match tail.strip_prefix(':') {
            None => 6443,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| bad("PORT is not a number between 1 and 65535"))?,
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_urls_are_parsed_or_refused_with_the_reason() {
        let good = [
            ("https://10.0.0.1:6443", "10.0.0.1", 6443),
            ("https://10.0.0.1", "10.0.0.1", 6443),
            ("https://[fd00::1]:7443/", "fd00::1", 7443),
            ("https://control.example", "control.example", 6443),
        ];
        for (url, host, port) in good {
            let server = Server::parse(url).expect(url);
            assert_eq!((server.host.as_str(), server.port), (host, port), "{url}");
        }
        let bad = [
            ("http://10.0.0.1:6443", "https://"),
            ("https://", "HOST"),
            ("https://a:b", "PORT"),
            ("https://a:0", "PORT"),
            ("https://a:70000", "PORT"),
            ("https://user@a:6443", "user name"),
            ("https://a:6443/path", "malformed"),
        ];
        for (url, reason) in bad {
            let error = Server::parse(url).expect_err(url).to_string();
            assert!(error.contains(reason), "{url}: {error}");
        }
    }
}
