//! Attribution: which backend sent a response, and the responses of each backend.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName};
use regex_lite::Regex;

use super::admin::BackendCounters;
use crate::names;
use crate::sanitize;

/// Header fields that name a server: those of the demo, of the Flask backend, and common ones.
const NAME_HEADERS: [&str; 5] = ["x-backend", "x-server", "x-served-by", "x-backend-server", "x-hostname"];
/// The most bytes of a body that is used as a name.
const NAME_BODY: usize = 256;
/// The bytes of a body that are searched for a name.
const SEARCHED: usize = 64 * 1024;
/// The most names that are counted separately; further ones count as unknown.
const MAX_NAMES: usize = 10_000;
/// With more distinct bodies than this, bodies do not name backends, but contain a time or a serial number.
const MAX_BODIES: usize = 256;
/// The most columns of a shown name.
const NAME_LENGTH: usize = 80;

/// How a response is attributed to a backend.
#[derive(Clone, Debug, Default)]
pub enum By {
    /// A header field that commonly names a server, or else the whole body if it is short and repeats.
    #[default]
    Auto,
    /// This header field.
    Header(HeaderName),
    /// The first group of the expression's match in the body, or the whole match if it has none.
    Body(Regex),
    /// The balancer's own counters, before and after.
    Admin(Arc<dyn BackendCounters>),
}

/// The responses of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ResponseCounts {
    /// Responses of a status below 400, or connections that succeeded.
    pub(super) succeeded: u64,
    /// Responses of a status of 400 or above.
    pub(super) failed: u64,
    /// The summed latency of `succeeded`.
    pub(super) time: Duration,
}

impl ResponseCounts {
    fn add(&mut self, other: Self) {
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.time = self.time.saturating_add(other.time);
    }

    /// All its responses.
    pub(super) fn requests(&self) -> u64 {
        self.succeeded + self.failed
    }
}

/// The responses by name.
pub(super) type CountsByName = BTreeMap<String, ResponseCounts>;

/// The index of a method of attribution, and the name it found.
pub(super) type Attribution = (usize, String);

impl By {
    /// The number of methods.
    fn methods(&self) -> usize {
        match self {
            Self::Auto => NAME_HEADERS.len() + 1,
            Self::Header(_) | Self::Body(_) => 1,
            Self::Admin(_) => 0,
        }
    }

    fn label(&self, method: usize) -> String {
        match self {
            Self::Auto => NAME_HEADERS.get(method).map_or("body".to_owned(), |name| format!("header {name}")),
            _ => self.to_string(),
        }
    }

    /// The number of bytes of a body that the method needs.
    pub(super) fn needed_bytes(&self) -> usize {
        match self {
            Self::Auto => NAME_BODY + 1,
            Self::Body(_) => SEARCHED,
            Self::Header(_) | Self::Admin(_) => 0,
        }
    }

    /// The backend that sent this response.
    pub(super) fn attribute(&self, headers: &HeaderMap, body: &[u8]) -> Option<Attribution> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let field = |name: &str| headers.get(name).map(|value| text(value.as_bytes()));
        match self {
            Self::Auto => {
                let named =
                    NAME_HEADERS.iter().enumerate().find_map(|(method, name)| Some((method, field(name)?)));
                named.or_else(|| {
                    let short = (1..=NAME_BODY).contains(&body.len());
                    short
                        .then(|| std::str::from_utf8(body).ok())
                        .flatten()
                        .map(|b| (NAME_HEADERS.len(), b.to_owned()))
                })
            }
            Self::Header(name) => field(name.as_str()).map(|name| (0, name)),
            Self::Body(expression) => {
                let body = String::from_utf8_lossy(body);
                let found = expression.captures(&body)?;
                let group = if found.len() > 1 { found.get(1)? } else { found.get(0)? };
                Some((0, group.as_str().to_owned()))
            }
            Self::Admin(_) => None,
        }
    }
}

impl Display for By {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("header or body"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Body(expression) => write!(f, "body, {expression}"),
            Self::Admin(counters) => write!(f, "admin server {counters}"),
        }
    }
}

/// The responses by name, for each method.
#[derive(Debug)]
pub(super) struct NameCounts {
    methods: Vec<HashMap<String, ResponseCounts>>,
    /// Responses of names beyond [`MAX_NAMES`].
    others: u64,
}

impl NameCounts {
    pub(super) fn new(by: &By) -> Self {
        Self { methods: vec![HashMap::new(); by.methods()], others: 0 }
    }

    pub(super) fn add(&mut self, (method, name): Attribution, counts: ResponseCounts) {
        let Some(names) = self.methods.get_mut(method) else { return };
        let full = names.len() >= MAX_NAMES;
        match names.get_mut(&name) {
            Some(known) => known.add(counts),
            None if full => self.others += counts.requests(),
            None => {
                names.insert(name, counts);
            }
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.others += other.others;
        for (method, names) in other.methods.into_iter().enumerate() {
            for (name, counts) in names {
                self.add((method, name), counts);
            }
        }
    }

    /// All attributed responses.
    pub(super) fn total(&self) -> u64 {
        self.others + self.methods.iter().flat_map(HashMap::values).map(ResponseCounts::requests).sum::<u64>()
    }

    /// The label and the counts of the method that attributes the most responses; `None` if no method is meaningful.
    pub(super) fn best(&self, by: &By) -> Option<(String, CountsByName)> {
        let requests = |names: &HashMap<String, ResponseCounts>| {
            names.values().map(ResponseCounts::requests).sum::<u64>()
        };
        let is_body = |method: usize| matches!(by, By::Auto) && method == NAME_HEADERS.len();
        let says_something = |method: usize, names: &HashMap<String, ResponseCounts>| {
            let again = names.len() == 1 || requests(names) >= 2 * names.len() as u64;
            !names.is_empty() && (!is_body(method) || names.len() <= MAX_BODIES && again)
        };
        // Of two equal ones, the first.
        let (method, names) = (self.methods.iter().enumerate().rev())
            .filter(|(method, names)| says_something(*method, names))
            .max_by_key(|(_, names)| requests(names))?;
        let mut counts_by_name = CountsByName::new();
        for (name, counts) in names {
            counts_by_name.entry(clean(name)).or_default().add(*counts);
        }
        Some((
            by.label(method),
            if is_body(method) { without_common_words(counts_by_name) } else { counts_by_name },
        ))
    }
}

/// A name on one line, without control characters.
fn clean(name: &str) -> String {
    let visible = sanitize::line(name.trim());
    if visible.is_empty() {
        "(empty)".to_owned()
    } else {
        names::shortened(&visible, NAME_LENGTH).into_owned()
    }
}

/// Strips the words that all names begin and end with: of "Response from a" and "Response from b", a and b remain.
fn without_common_words(counts_by_name: CountsByName) -> CountsByName {
    let names: Vec<&str> = counts_by_name.keys().map(String::as_str).collect();
    let Some((first, others)) = names.split_first().filter(|(_, others)| !others.is_empty()) else {
        return counts_by_name;
    };
    let ends_a_word = |c: char| c.is_whitespace() || "\"':=,;()[]{}<>".contains(c);
    let common = |forward: bool| {
        let letters = |name: &str| -> Vec<char> {
            if forward { name.chars().collect() } else { name.chars().rev().collect() }
        };
        let first = letters(first);
        let length = others.iter().fold(first.len(), |length, other| {
            first.iter().zip(letters(other)).take(length).take_while(|(a, b)| **a == *b).count()
        });
        first[..length].iter().rposition(|c| ends_a_word(*c)).map_or(0, |last| last + 1)
    };
    let (before, after) = (common(true), common(false));
    let core = |name: &str| -> String {
        let length = name.chars().count().saturating_sub(before + after);
        name.chars().skip(before).take(length).collect()
    };
    if names.iter().any(|name| core(name).is_empty()) {
        return counts_by_name;
    }
    // If the two parts overlap in a short name, two names could become one.
    let mut short = CountsByName::new();
    for (name, counts) in &counts_by_name {
        if short.insert(core(name), *counts).is_some() {
            return counts_by_name;
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts_by_name(names: &[&str]) -> CountsByName {
        names
            .iter()
            .map(|name| ((*name).to_owned(), ResponseCounts { succeeded: 1, ..ResponseCounts::default() }))
            .collect()
    }

    fn short(names: &[&str]) -> Vec<String> {
        without_common_words(counts_by_name(names)).into_keys().collect()
    }

    fn attributed(by: &By, responses: &[(&[(&str, &str)], &str)]) -> Option<(String, CountsByName)> {
        let mut names = NameCounts::new(by);
        for (fields, body) in responses {
            let mut headers = HeaderMap::new();
            for (name, value) in *fields {
                headers.insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            if let Some(name) = by.attribute(&headers, body.as_bytes()) {
                names.add(name, ResponseCounts { succeeded: 1, ..ResponseCounts::default() });
            }
        }
        names.best(by)
    }

    fn requests_by_name(counts_by_name: &CountsByName) -> Vec<(&str, u64)> {
        counts_by_name.iter().map(|(name, counts)| (name.as_str(), counts.requests())).collect()
    }

    #[test]
    fn words_shared_by_all_names_are_stripped() {
        assert_eq!(short(&["Response from a", "Response from b"]), ["a", "b"]);
        assert_eq!(
            short(&["Response from backend-1", "Response from backend-2"]),
            ["backend-1", "backend-2"]
        );
        let json = |id: &str| format!(r#"{{"message":"Hello from Server: {id}","status":"successful"}}"#);
        assert_eq!(short(&[&json("1f2e"), &json("1f9c"), &json("2")]), ["1f2e", "1f9c", "2"]);
        assert_eq!(short(&["only one"]), ["only one"]);
        assert_eq!(short(&["server a", "server"]), ["server", "server a"]);
        assert_eq!(short(&["x a x", "x b x"]), ["a", "b"]);
    }

    #[test]
    fn a_header_precedes_a_body_and_a_body_must_repeat() {
        let named: &[(&str, &str)] = &[("X-Backend", "a")];
        let (label, of) = attributed(&By::Auto, &[(named, "1"), (named, "2"), (&[], "one")]).unwrap();
        assert_eq!((label.as_str(), requests_by_name(&of)), ("header x-backend", vec![("a", 2)]));
        let (label, of) =
            attributed(&By::Auto, &[(&[], "a\n"), (&[], "b\n"), (&[], "a\n"), (&[], "b\n")]).unwrap();
        assert_eq!((label.as_str(), requests_by_name(&of)), ("body", vec![("a", 2), ("b", 2)]));
        assert!(attributed(&By::Auto, &[(&[], "1"), (&[], "2"), (&[], "3")]).is_none());
        assert!(attributed(&By::Auto, &[(&[], &"long".repeat(100)), (&[], "")]).is_none());
    }

    #[test]
    fn an_expression_yields_its_first_group_or_the_whole_match() {
        let by = |expression: &str| By::Body(Regex::new(expression).unwrap());
        let responses: &[(&[(&str, &str)], &str)] = &[(&[], "id=7;"), (&[], "id=8;"), (&[], "none")];
        let (_, of) = attributed(&by(r"id=(\d)"), responses).unwrap();
        assert_eq!(requests_by_name(&of), [("7", 1), ("8", 1)]);
        let (_, of) = attributed(&by(r"id=\d"), responses).unwrap();
        assert_eq!(requests_by_name(&of), [("id=7", 1), ("id=8", 1)]);
        assert!(attributed(&by("(missing)"), responses).is_none());
    }

    #[test]
    fn a_name_has_no_control_characters() {
        assert_eq!(clean(" a\x1b[2J\r\nb "), "a [2J  b");
        assert_eq!(clean("\n"), "(empty)");
    }

    proptest! {
        #[test]
        fn no_response_is_lost_or_invented(
            responses in proptest::collection::vec(("[ab :\"]{0,6}", 0u64..5, 0u64..5), 0..40),
            halves in any::<bool>(),
        ) {
            let by = By::Header(HeaderName::from_static("x"));
            let (mut one, mut other) = (NameCounts::new(&by), NameCounts::new(&by));
            for (nth, (name, succeeded, failed)) in responses.iter().enumerate() {
                let counts =
                    ResponseCounts { succeeded: *succeeded, failed: *failed, time: Duration::from_millis(*succeeded) };
                let part = if halves && nth % 2 == 0 { &mut other } else { &mut one };
                part.add((0, name.clone()), counts);
            }
            one.merge(other);
            let sum = responses.iter().map(|(_, succeeded, failed)| succeeded + failed).sum::<u64>();
            let (_, of) = one.best(&by).unwrap_or_default();
            prop_assert_eq!(of.values().map(ResponseCounts::requests).sum::<u64>(), sum);
            let short = without_common_words(of.clone());
            prop_assert_eq!(short.len(), of.len());
            prop_assert_eq!(short.values().map(ResponseCounts::requests).sum::<u64>(), sum);
        }
    }
}
