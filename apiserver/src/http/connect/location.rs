//! `Location` headers of what is behind a proxy path. Pure.

/// Where a redirection leads, seen from outside. What leads to another place, and relative paths, stay as they are; a path of
/// the backend gets the proxy's path in front. `hosts` are the backend's own and the one the client asked.
///
/// Source: `k8s.io/apimachinery/pkg/util/proxy/transport.go`, `rewriteURL`.
pub(super) fn rewritten(location: &str, hosts: [&str; 2], proxy: &str) -> String {
    let path = match location.split_once("://") {
        Some((_, rest)) => match of_hosts(rest, hosts) {
            Some(path) => path,
            None => return location.to_owned(),
        },
        None => match location.strip_prefix("//") {
            Some(rest) => match of_hosts(rest, hosts) {
                Some(path) => path,
                None => return location.to_owned(),
            },
            None => location,
        },
    };
    if !path.starts_with('/') || path.starts_with(proxy) {
        return path.to_owned();
    }
    format!("{proxy}{path}")
}

/// The path behind one of these hosts; `None` when it is another.
fn of_hosts<'a>(rest: &'a str, hosts: [&str; 2]) -> Option<&'a str> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let path = if path.is_empty() { "/" } else { path };
    hosts.contains(&host).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s11_redirections_of_the_backend_stay_behind_the_proxy() {
        const PROXY: &str = "/api/v1/namespaces/a/pods/b/proxy";
        let cases = [
            (
                "/login?next=/",
                "/api/v1/namespaces/a/pods/b/proxy/login?next=/",
            ),
            ("/", "/api/v1/namespaces/a/pods/b/proxy/"),
            (
                "http://10.244.0.2:80/x/",
                "/api/v1/namespaces/a/pods/b/proxy/x/",
            ),
            ("http://10.244.0.2:80", "/api/v1/namespaces/a/pods/b/proxy/"),
            ("https://api:6443/x", "/api/v1/namespaces/a/pods/b/proxy/x"),
            ("//api:6443/x", "/api/v1/namespaces/a/pods/b/proxy/x"),
            ("https://example.com/x", "https://example.com/x"),
            ("//example.com/x", "//example.com/x"),
            ("next", "next"),
            ("../up", "../up"),
            (
                "/api/v1/namespaces/a/pods/b/proxy/x",
                "/api/v1/namespaces/a/pods/b/proxy/x",
            ),
        ];
        for (location, wanted) in cases {
            let got = rewritten(location, ["10.244.0.2:80", "api:6443"], PROXY);
            assert_eq!(got, wanted, "{location}");
        }
    }
}
