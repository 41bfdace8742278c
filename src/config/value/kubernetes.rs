//! Names and ports of objects in Kubernetes.

use std::fmt;

use serde_json::json;

use super::super::kind::Kind;
use super::super::outline::Outline;
use super::super::scalar::{pattern, text_that};
use super::super::yaml::YamlNode;

/// The port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServicePort {
    /// Its name in the Service.
    Name(String),
    /// The number of the Pods' port.
    Number(u16),
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => number.fmt(f),
        }
    }
}

/// The name of a Service or of a namespace: a label of DNS (RFC 1123) in lower case.
pub(in crate::config) fn object_name() -> Kind<String> {
    text_that(
        "must be a name of at most 63 lower-case letters, digits and '-', such as web",
        || pattern("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"),
        |name| name.len() <= 63 && is_label(name),
    )
}

/// The port of a Service: a number, or a name, which has a letter.
pub(in crate::config) fn service_port() -> Kind<ServicePort> {
    let parse = |node: &YamlNode| {
        let text = node.text().unwrap_or_default();
        match text.parse::<u16>() {
            Ok(number) if number > 0 => Ok(ServicePort::Number(number)),
            Err(_) if is_label(text) && text.contains(|c: char| c.is_ascii_lowercase()) => {
                Ok(ServicePort::Name(text.to_owned()))
            }
            _ => {
                Err("must be the name of the port in the Service, such as http, or a number from 1 to 65535"
                    .to_owned())
            }
        }
    };
    let write = |port: &ServicePort| match port {
        ServicePort::Name(name) => Outline::text(name),
        ServicePort::Number(number) => Outline::Number(u64::from(*number)),
    };
    let schema = || {
        let name = pattern("^[-a-z0-9]*[a-z][-a-z0-9]*$");
        json!({"anyOf": [name, {"type": "integer", "minimum": 1, "maximum": u16::MAX}]})
    };
    Kind::scalar(parse, write, schema)
}

fn is_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.chars().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}
