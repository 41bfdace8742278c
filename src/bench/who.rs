//! Who answered: how a backend is told from another by what came back, and what each of them has on its account.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName};
use regex::bytes::Regex;

use crate::remote::Address;
use crate::sanitize;

/// Header fields in which servers say who they are: the demo's backends, the Flask backend, and what is usual
/// elsewhere.
const KNOWN: [&str; 5] = ["x-backend", "x-server", "x-served-by", "x-backend-server", "x-hostname"];
/// A body of more bytes is no name.
const SHORT: usize = 256;
/// Of a body, so much is searched for a name.
const SEARCHED: usize = 64 * 1024;
/// Names that are told apart; what else answers is unknown.
const NAMES: usize = 10_000;
/// Bodies of more kinds than this name something else than backends: a time, a number of their own.
const BODIES: usize = 256;
/// Letters of a name that are shown.
const LETTERS: usize = 80;

/// By what the backend that answered is known.
#[derive(Clone, Debug, Default)]
pub enum By {
    /// A header field that is known to name servers, or else the whole body, if it is short and comes again.
    #[default]
    Auto,
    /// This header field.
    Header(HeaderName),
    /// What the expression's first group finds in the body, or the whole expression if it has none.
    Body(Regex),
    /// The balancer's own account: what its admin server counts before and after.
    Admin(Address),
}

/// What one backend has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Requests that it answered well.
    pub(super) succeeded: u64,
    /// Those that it answered with a status of 400 or above.
    pub(super) failed: u64,
    /// How long the former took, all together.
    pub(super) time: Duration,
}

impl Account {
    fn add(&mut self, other: Self) {
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.time = self.time.saturating_add(other.time);
    }

    /// Requests that it answered.
    pub(super) fn requests(&self) -> u64 {
        self.succeeded + self.failed
    }
}

/// The accounts by name.
pub(super) type Accounts = BTreeMap<String, Account>;

/// A name, and by which of several ways it was learned.
pub(super) type Name = (usize, String);

impl By {
    /// In how many ways names may be learned.
    fn ways(&self) -> usize {
        match self {
            Self::Auto => KNOWN.len() + 1,
            Self::Header(_) | Self::Body(_) => 1,
            Self::Admin(_) => 0,
        }
    }

    fn label(&self, way: usize) -> String {
        match self {
            Self::Auto => KNOWN.get(way).map_or("body".to_owned(), |name| format!("header {name}")),
            _ => self.to_string(),
        }
    }

    /// How many bytes of a body are needed to know.
    pub(super) fn needs(&self) -> usize {
        match self {
            Self::Auto => SHORT + 1,
            Self::Body(_) => SEARCHED,
            Self::Header(_) | Self::Admin(_) => 0,
        }
    }

    /// Who sent this.
    pub(super) fn name(&self, headers: &HeaderMap, body: &[u8]) -> Option<Name> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let field = |name: &str| headers.get(name).map(|value| text(value.as_bytes()));
        match self {
            Self::Auto => {
                let named = KNOWN.iter().enumerate().find_map(|(way, name)| Some((way, field(name)?)));
                named.or_else(|| {
                    let short = (1..=SHORT).contains(&body.len());
                    short
                        .then(|| std::str::from_utf8(body).ok())
                        .flatten()
                        .map(|b| (KNOWN.len(), b.to_owned()))
                })
            }
            Self::Header(name) => field(name.as_str()).map(|name| (0, name)),
            Self::Body(expression) => {
                let found = expression.captures(body)?;
                let group = if found.len() > 1 { found.get(1)? } else { found.get(0)? };
                Some((0, text(group.as_bytes())))
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
            Self::Admin(address) => write!(f, "admin server {address}"),
        }
    }
}

/// What each backend has done, by each way of knowing it.
#[derive(Debug)]
pub(super) struct Names {
    ways: Vec<HashMap<String, Account>>,
    /// Answers of more names than are told apart.
    others: u64,
}

impl Names {
    pub(super) fn new(by: &By) -> Self {
        Self { ways: vec![HashMap::new(); by.ways()], others: 0 }
    }

    pub(super) fn note(&mut self, (way, name): Name, account: Account) {
        let Some(names) = self.ways.get_mut(way) else { return };
        let full = names.len() >= NAMES;
        match names.get_mut(&name) {
            Some(known) => known.add(account),
            None if full => self.others += account.requests(),
            None => {
                names.insert(name, account);
            }
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.others += other.others;
        for (way, names) in other.ways.into_iter().enumerate() {
            for (name, account) in names {
                self.note((way, name), account);
            }
        }
    }

    /// Answers that were named, in whatever way.
    pub(super) fn answers(&self) -> u64 {
        self.others + self.ways.iter().flat_map(HashMap::values).map(Account::requests).sum::<u64>()
    }

    /// The accounts under the way that most answers could be told by, and what that way is; `None` if there is none
    /// that says anything.
    pub(super) fn best(&self, by: &By) -> Option<(String, Accounts)> {
        let requests = |names: &HashMap<String, Account>| names.values().map(Account::requests).sum::<u64>();
        let is_body = |way: usize| matches!(by, By::Auto) && way == KNOWN.len();
        let says_something = |way: usize, names: &HashMap<String, Account>| {
            let again = names.len() == 1 || requests(names) >= 2 * names.len() as u64;
            !names.is_empty() && (!is_body(way) || names.len() <= BODIES && again)
        };
        // Of two that tell as much, the first.
        let (way, names) = (self.ways.iter().enumerate().rev())
            .filter(|(way, names)| says_something(*way, names))
            .max_by_key(|(_, names)| requests(names))?;
        let mut accounts = Accounts::new();
        for (name, account) in names {
            accounts.entry(clean(name)).or_default().add(*account);
        }
        Some((by.label(way), if is_body(way) { without_common_words(accounts) } else { accounts }))
    }
}

/// A name on one line, without what a terminal would take for a command.
fn clean(name: &str) -> String {
    let visible = sanitize::line(name.trim());
    let name: String = visible.chars().take(LETTERS).collect();
    if name.is_empty() { "(empty)".to_owned() } else { name }
}

/// Takes off what all names begin and end with, in whole words: of "Response from a" and "Response from b", a and b.
fn without_common_words(accounts: Accounts) -> Accounts {
    let names: Vec<&str> = accounts.keys().map(String::as_str).collect();
    let Some((first, others)) = names.split_first().filter(|(_, others)| !others.is_empty()) else {
        return accounts;
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
        return accounts;
    }
    // Where the two parts overlap in a short name, two could become one.
    let mut short = Accounts::new();
    for (name, account) in &accounts {
        if short.insert(core(name), *account).is_some() {
            return accounts;
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accounts(names: &[&str]) -> Accounts {
        names
            .iter()
            .map(|name| ((*name).to_owned(), Account { succeeded: 1, ..Account::default() }))
            .collect()
    }

    fn short(names: &[&str]) -> Vec<String> {
        without_common_words(accounts(names)).into_keys().collect()
    }

    fn told(by: &By, answers: &[(&[(&str, &str)], &str)]) -> Option<(String, Accounts)> {
        let mut names = Names::new(by);
        for (fields, body) in answers {
            let mut headers = HeaderMap::new();
            for (name, value) in *fields {
                headers.insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            if let Some(name) = by.name(&headers, body.as_bytes()) {
                names.note(name, Account { succeeded: 1, ..Account::default() });
            }
        }
        names.best(by)
    }

    fn counts(accounts: &Accounts) -> Vec<(&str, u64)> {
        accounts.iter().map(|(name, account)| (name.as_str(), account.requests())).collect()
    }

    #[test]
    fn words_that_all_names_share_are_left_out() {
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
    fn a_header_counts_more_than_a_body_and_a_body_that_never_comes_again_counts_nothing() {
        let named: &[(&str, &str)] = &[("X-Backend", "a")];
        let (label, of) = told(&By::Auto, &[(named, "1"), (named, "2"), (&[], "one")]).unwrap();
        assert_eq!((label.as_str(), counts(&of)), ("header x-backend", vec![("a", 2)]));
        let (label, of) = told(&By::Auto, &[(&[], "a\n"), (&[], "b\n"), (&[], "a\n"), (&[], "b\n")]).unwrap();
        assert_eq!((label.as_str(), counts(&of)), ("body", vec![("a", 2), ("b", 2)]));
        assert!(told(&By::Auto, &[(&[], "1"), (&[], "2"), (&[], "3")]).is_none());
        assert!(told(&By::Auto, &[(&[], &"long".repeat(100)), (&[], "")]).is_none());
    }

    #[test]
    fn an_expression_names_by_its_first_group_or_as_a_whole() {
        let by = |expression: &str| By::Body(Regex::new(expression).unwrap());
        let answers: &[(&[(&str, &str)], &str)] = &[(&[], "id=7;"), (&[], "id=8;"), (&[], "none")];
        let (_, of) = told(&by(r"id=(\d)"), answers).unwrap();
        assert_eq!(counts(&of), [("7", 1), ("8", 1)]);
        let (_, of) = told(&by(r"id=\d"), answers).unwrap();
        assert_eq!(counts(&of), [("id=7", 1), ("id=8", 1)]);
        assert!(told(&by("(nobody)"), answers).is_none());
    }

    #[test]
    fn a_name_cannot_command_the_terminal() {
        assert_eq!(clean(" a\x1b[2J\r\nb "), "a [2J  b");
        assert_eq!(clean("\n"), "(empty)");
    }

    proptest! {
        #[test]
        fn whatever_answers_no_answer_is_lost_or_invented(
            answers in proptest::collection::vec(("[ab :\"]{0,6}", 0u64..5, 0u64..5), 0..40),
            halves in any::<bool>(),
        ) {
            let by = By::Header(HeaderName::from_static("x"));
            let (mut one, mut other) = (Names::new(&by), Names::new(&by));
            for (nth, (name, succeeded, failed)) in answers.iter().enumerate() {
                let account =
                    Account { succeeded: *succeeded, failed: *failed, time: Duration::from_millis(*succeeded) };
                let book = if halves && nth % 2 == 0 { &mut other } else { &mut one };
                book.note((0, name.clone()), account);
            }
            one.merge(other);
            let sum = answers.iter().map(|(_, succeeded, failed)| succeeded + failed).sum::<u64>();
            let (_, of) = one.best(&by).unwrap_or_default();
            prop_assert_eq!(of.values().map(Account::requests).sum::<u64>(), sum);
            let short = without_common_words(of.clone());
            prop_assert_eq!(short.len(), of.len());
            prop_assert_eq!(short.values().map(Account::requests).sum::<u64>(), sum);
        }
    }
}
