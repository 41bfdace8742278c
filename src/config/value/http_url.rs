//! The URL of a server with an HTTP API.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::super::decode::FoundValue;
use super::super::kind::Kind;
use super::super::outline::Outline;
use super::super::scalar::pattern;
use super::super::shape::ValueShape;
use super::discover::is_dns_name;

/// The URL of a server with an HTTP API: scheme, host and port. It has no user name, so that no password is in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpUrl {
    /// Whether the scheme is `https`.
    pub tls: bool,
    /// A DNS name, or an IP address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HttpUrl {
    /// `http://127.0.0.1:PORT`.
    pub fn local(port: u16) -> Self {
        Self { tls: false, host: "127.0.0.1".to_owned(), port }
    }

    /// That of Kubernetes' API server, as Pods know it.
    pub fn kubernetes() -> Self {
        Self { tls: true, host: "kubernetes.default.svc".to_owned(), port: 443 }
    }

    /// Host and port, as in a Host header.
    pub fn authority(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, self.port).to_string(),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl FromStr for HttpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let must = "must be a URL with a port, such as http://10.0.0.1:2379";
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(must.to_owned()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err("must be a URL without a user name or a password".to_owned());
        }
        if authority.contains(['/', '?', '#']) {
            return Err("must be a URL without a path, such as http://10.0.0.1:2379".to_owned());
        }
        let (host, port) = authority.rsplit_once(':').ok_or(must)?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or(must)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6).ok_or(must)?.to_string(),
            None if is_dns_name(host) => host.to_owned(),
            None => return Err(must.to_owned()),
        };
        Ok(Self { tls, host, port })
    }
}

/// The URL of a server with an HTTP API.
pub(in crate::config) fn http_url() -> Kind<HttpUrl> {
    let read = |found: &FoundValue<'_>| {
        let text = found.node.text().unwrap_or_default();
        let wrong = |error: String| match text.contains('@') {
            // A password must not be in the message, which is logged if a reload fails.
            true => found.problem(format!("{} {error}", found.what)),
            false => found.wrong(&error),
        };
        text.parse().map_err(wrong).ok()
    };
    let shape =
        || ValueShape::Scalar { forms: vec![pattern("^https?://[^/?#@]+:[0-9]+/?$")], range: String::new() };
    Kind::new(read, |url: &HttpUrl| Some(Outline::text(url.to_string())), shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_and_a_port_and_nothing_else() {
        for (text, shown) in [
            ("http://10.0.0.1:2379", "http://10.0.0.1:2379"),
            ("https://etcd.example.com:2379/", "https://etcd.example.com:2379"),
            ("http://[2001:DB8::1]:8500", "http://[2001:db8::1]:8500"),
        ] {
            assert_eq!(text.parse::<HttpUrl>().map(|url| url.to_string()), Ok(shown.to_owned()));
        }
        for wrong in [
            "",
            "10.0.0.1:2379",
            "http://",
            "http://:2379",
            "http://10.0.0.1",
            "http://10.0.0.1:0",
            "http://10.0.0.1:99999",
            "http://a:2379/v3",
            "http://user:secret@a:2379",
            "http://a b:2379",
            "http://[10.0.0.1]:2379",
            "http://::1:2379",
            "unix:///run/etcd",
            "ftp://a:1",
        ] {
            let error = wrong.parse::<HttpUrl>().unwrap_err();
            assert!(error.starts_with("must be a URL") && !error.contains("secret"), "{wrong}: {error}");
        }
    }
}
