//! The backend that a command names.

use super::Failure;
use crate::api::{BackendInfo, StatusReply};
use crate::http1::encode;
use crate::names::natural_order;

/// A backend, as a path of the API names it.
#[derive(Debug)]
pub(super) struct BackendTarget {
    pub(super) pool: String,
    pub(super) backend: String,
}

impl BackendTarget {
    /// Finds the backend: names may contain slashes, and a backend's name alone is enough if it is unique.
    pub(super) fn find(written: &str, status: &StatusReply) -> Result<Self, Failure> {
        let is = |backend: &BackendInfo, name: &str| *backend.name == *name || backend.address == name;
        let named = |pool: &str, backend: &str| Self { pool: pool.to_owned(), backend: backend.to_owned() };
        for pool in &status.pools {
            let rest = written.strip_prefix(&*pool.name).and_then(|rest| rest.strip_prefix('/'));
            if let Some(rest) = rest.filter(|rest| pool.backends.iter().any(|backend| is(backend, rest))) {
                return Ok(named(&pool.name, rest));
            }
        }
        let mut alone = status.pools.iter().filter(|pool| pool.backends.iter().any(|b| is(b, written)));
        match (alone.next(), alone.next()) {
            (Some(pool), None) => return Ok(named(&pool.name, written)),
            (Some(one), Some(other)) => {
                return Err(Failure::Invalid(format!(
                    "several pools have a backend {written:?}: use {}/{written} or {}/{written}",
                    one.name, other.name
                )));
            }
            (None, _) => {}
        }
        // None matches: the server's error lists the backends.
        match written.split_once('/') {
            Some((pool, backend)) if !pool.is_empty() && !backend.is_empty() => Ok(named(pool, backend)),
            _ => {
                let mut known = Vec::new();
                for pool in &status.pools {
                    known.extend(
                        pool.backends.iter().map(|backend| format!("{}/{}", pool.name, backend.name)),
                    );
                }
                known.sort_by(|a, b| natural_order(a, b));
                let more = if known.len() > 8 { ", …" } else { "" };
                let known = if known.is_empty() {
                    "there are no backends".to_owned()
                } else {
                    format!("there is {}{more}", known[..known.len().min(8)].join(", "))
                };
                Err(Failure::Invalid(format!(
                    "no backend has the name {written:?}: use POOL/BACKEND; {known}"
                )))
            }
        }
    }

    pub(super) fn path(&self) -> String {
        format!("/api/v1/pools/{}/backends/{}", encode(&self.pool), encode(&self.backend))
    }
}

/// The path of a listener in the API.
pub(super) fn listener_path(name: &str) -> String {
    format!("/api/v1/listeners/{}", encode(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> StatusReply {
        let text = r#"{"pools": [
            {"name": "web", "backends": [{"name": "a", "address": "10.0.0.1:80"}, {"name": "x/y z", "address": "10.0.0.2:80"}]},
            {"name": "web/x", "backends": [{"name": "y", "address": "10.0.0.3:80"}, {"name": "a", "address": "10.0.0.4:80"}]}]}"#;
        serde_json::from_str(text).unwrap()
    }

    fn found(written: &str) -> Result<String, String> {
        BackendTarget::find(written, &status()).map(|target| target.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_backend_is_found_by_name_or_address_with_or_without_its_pool() {
        for (written, path) in [
            ("web/a", "/api/v1/pools/web/backends/a"),
            ("web/x/y z", "/api/v1/pools/web/backends/x%2Fy%20z"),
            ("web/x/y", "/api/v1/pools/web%2Fx/backends/y"),
            ("web/10.0.0.1:80", "/api/v1/pools/web/backends/10.0.0.1%3A80"),
            ("10.0.0.3:80", "/api/v1/pools/web%2Fx/backends/10.0.0.3%3A80"),
            ("y", "/api/v1/pools/web%2Fx/backends/y"),
            // The server reports what is wrong with these.
            ("web/b", "/api/v1/pools/web/backends/b"),
            ("wob/a", "/api/v1/pools/wob/backends/a"),
        ] {
            assert_eq!(found(written).as_deref(), Ok(path), "{written}");
        }
        assert!(found("a").unwrap_err().contains("web/a or web/x/a"));
        for wrong in ["", "missing", "/", "web/"] {
            assert!(found(wrong).unwrap_err().contains("POOL/BACKEND"), "{wrong}");
        }
    }
}
