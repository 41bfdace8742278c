//! Kinds of values that only one part of the configuration has.

mod bind;
mod discover;
mod health;
mod http_url;
mod kubernetes;
mod network_block;
mod pool;
mod rate;
mod replicas;
mod routing;

use std::net::IpAddr;

use serde_json::json;

use super::kind::Kind;
use super::scalar::{pattern, text_that};

pub use bind::bind_address;
pub(super) use bind::{BoundAddresses, bind};
pub use discover::backend_address;
pub(super) use discover::{
    backend_name, dns_server, docker_label, engine, key_prefix, name_and_port, service_name, socket_address,
    srv_name, zone_name,
};
pub(super) use health::{bytes, http_host, http_path, protocol_word, server_name, status};
pub use http_url::HttpUrl;
pub(super) use http_url::http_url;
pub use kubernetes::ServicePort;
pub(super) use kubernetes::{object_name, service_port};
pub(super) use network_block::{ip_address, network_block};
pub(super) use pool::{policy, shadow};
pub(super) use rate::rate;
pub(super) use replicas::{command, container_name, environment, group, network};
pub(super) use routing::{by_network, by_protocol, by_server_name, pool_shares};

/// A name as in a Host header, without the port.
pub(super) fn host_name() -> Kind<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let must = "must be a name without a port, such as lb.example.com";
    text_that(must, || pattern("^[A-Za-z0-9._-]+$"), move |name| name.chars().all(good))
}

/// Whether the host of an address is a name, not a number.
fn looks_like_a_name(host: &str) -> bool {
    host.parse::<IpAddr>().is_err() && host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(':')
}

/// The schema of text with at least `least` characters.
fn text_from(least: usize) -> serde_json::Value {
    json!({"type": "string", "minLength": least})
}
