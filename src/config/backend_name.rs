//! The rule for backend names, the same for every source. A name appears in log lines, in metric labels, in paths of
//! the admin API and as POOL/BACKEND on the command line.

use crate::sanitize;

/// The longest name, in bytes: a DNS name (253, RFC 1035, 2.3.4) and the port of an SRV record (`:65535`).
const LONGEST: usize = 259;

/// The rule in words, as in "its name must have …".
pub const BACKEND_NAME_RULE: &str =
    "1 to 259 bytes of visible characters, spaces only between them, no / and not only dots";

/// Whether a backend may have that name. Dots alone are a path segment (RFC 3986, 5.2.4) that browsers resolve before
/// they send a request.
pub fn is_backend_name(name: &str) -> bool {
    let shown = |c: char| !sanitize::is_unsafe(c) && c != '/' && (c == ' ' || !c.is_whitespace());
    (1..=LONGEST).contains(&name.len())
        && name.trim() == name
        && name.chars().all(shown)
        && name.chars().any(|c| c != '.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_printable_and_unambiguous() {
        let longest = format!("{}:65535", "a".repeat(253));
        for name in ["a", "web-1.net", "Server 1", "München", "服务 3", "10.0.0.1:5000", "[::1]:80", &longest]
        {
            assert!(is_backend_name(name), "{name:?}");
        }
        let too_long = "a".repeat(260);
        for name in [
            "",
            " ",
            " a",
            "a ",
            ".",
            "..",
            "a/b",
            "a\nb",
            "a\tb",
            "a\x1b[31m",
            "a\u{85}b",
            "a\u{202e}b",
            "a\u{200b}",
            "a\u{a0}b",
            "a\u{2028}b",
            &too_long,
        ] {
            assert!(!is_backend_name(name), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn every_name_is_one_short_line_that_a_terminal_shows(name in r"(\PC|\p{C}|\p{Z}|[a-z./ ]){0,70}") {
            if is_backend_name(&name) {
                prop_assert_eq!(sanitize::line(&name), name.as_str());
                prop_assert!(name.len() <= LONGEST && !name.contains('/') && name.lines().count() == 1);
            }
        }

        #[test]
        fn every_address_is_a_name(address in any::<std::net::SocketAddr>()) {
            prop_assert!(is_backend_name(&address.to_string()));
        }
    }
}
