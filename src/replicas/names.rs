//! The names of replicas: for users ("Server 4"), for the engine and for DNS. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use crate::config::{BACKEND_NAME_RULE, is_backend_name};

/// Longer names do not fit into tables.
const LONGEST: usize = 64;
/// The limit of a DNS label (RFC 1035, 2.3.4).
const LONGEST_HOST: usize = 63;
/// The suffix of a container that is being removed; a Pointsman that starts later finishes the removal.
pub(super) const LEAVING: &str = "-leaving";

/// Why a replica cannot have this name, if so.
pub(super) fn invalid(name: &str) -> Option<String> {
    if name.trim().is_empty() {
        Some("a hostname is empty".to_owned())
    } else if name.trim() != name || name.chars().any(char::is_control) {
        Some(format!("the hostname {name:?} has control characters, or spaces around it"))
    } else if name.chars().count() > LONGEST {
        Some(format!("the hostname {name:?} is longer than {LONGEST} characters"))
    } else if !is_backend_name(name) {
        Some(format!("the hostname {name:?} is no valid backend name: use {BACKEND_NAME_RULE}"))
    } else {
        None
    }
}

/// `n` free names: `Server 1` and on, the lowest numbers first.
pub(super) fn generate(n: usize, taken: &HashSet<&str>) -> Vec<Arc<str>> {
    let names = (1_u32..).map(|number| format!("Server {number}"));
    names.filter(|name| !taken.contains(name.as_str())).take(n).map(Arc::from).collect()
}

/// The name as a host name (RFC 1123, 2.1): letters, digits and hyphens. Different names may give the same.
pub(super) fn host(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let host: String = name.chars().map(safe).take(LONGEST_HOST).collect();
    match host.trim_matches('-') {
        "" => "replica".to_owned(),
        host => host.to_owned(),
    }
}

/// A free name for a replica's container.
pub(super) fn container(group: &str, name: &str, taken: &HashSet<String>) -> String {
    let plain = format!("{group}-{}", host(name));
    let numbered = (2_u32..).map(|number| format!("{plain}-{number}"));
    std::iter::once(plain.clone()).chain(numbered).find(|name| !taken.contains(name)).unwrap_or(plain)
}

/// The id of a replica, for its environment: the number at the end of its name, or else the name.
pub(super) fn server_id(name: &str) -> &str {
    match name.trim_end_matches(|c: char| c.is_ascii_digit()).len() {
        before if before < name.len() => &name[before..],
        _ => name,
    }
}

/// The first digits of a container id, as Docker shows it.
pub(super) fn short_id(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_become_host_names_and_ids() {
        for (name, safe, id) in [
            ("Server 4", "Server-4", "4"),
            ("server_12", "server-12", "12"),
            ("S5", "S5", "5"),
            ("7", "7", "7"),
            ("München", "M-nchen", "München"),
            ("1st", "1st", "1st"),
            ("服务 3", "3", "3"),
            ("服务", "replica", "服务"),
            ("--", "replica", "--"),
        ] {
            assert_eq!((&*host(name), server_id(name)), (safe, id), "{name}");
        }
    }

    #[test]
    fn generated_names_have_the_lowest_free_numbers() {
        let taken = HashSet::from(["Server 1", "Server 3", "web"]);
        let names = generate(3, &taken);
        assert_eq!(
            names.iter().map(|name| &**name).collect::<Vec<_>>(),
            ["Server 2", "Server 4", "Server 5"]
        );
    }

    #[test]
    fn container_names_are_unique() {
        let mut taken = HashSet::new();
        for (name, expected) in [("A b", "web-A-b"), ("A-b", "web-A-b-2"), ("A_b", "web-A-b-3")] {
            let found = container("web", name, &taken);
            assert_eq!(found, expected);
            taken.insert(found);
        }
    }

    #[test]
    fn unreadable_names_are_refused() {
        for name in ["", " ", " a", "a ", "a\nb", "a/b", "..", "a\u{202e}b", &"x".repeat(65)] {
            assert!(invalid(name).is_some(), "{name:?}");
        }
        for name in ["a", "Server 4", "ß", &"x".repeat(64)] {
            assert_eq!(invalid(name), None);
        }
    }

    proptest! {
        #[test]
        fn host_names_are_valid_for_dns_and_the_engine(name in "\\PC{0,80}", group in "[a-z]{1,8}") {
            let host = host(&name);
            prop_assert!((1..=63).contains(&host.len()), "{host}");
            prop_assert!(host.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
            prop_assert!(!host.starts_with('-') && !host.ends_with('-'));
            let container = container(&group, &name, &HashSet::new());
            prop_assert!(container.len() <= 80);
            prop_assert!(!server_id(&name).is_empty() || name.is_empty());
        }
    }
}
