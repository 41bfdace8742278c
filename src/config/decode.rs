//! Reading a tree key by key. Every problem is noted and reading goes on, so that all of them are told at once.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::report::{Place, Problem};
use super::tree::{Key, Node, Value};

/// Keys that the design knows and this version does not.
const LATER: &[&str] = &[
    "hash",
    "eject",
    "panic",
    "limits",
    "slow_start",
    "on_drain",
    "send_proxy_protocol",
    "proxy_protocol",
    "replicas",
    "sni",
    "default",
    "allow",
    "deny",
    "per_client",
    "token_file",
    "exchange",
    "srv",
    "file",
    "docker",
    "backup",
];

/// Collects the problems while a tree is read.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    problems: RefCell<Vec<Problem>>,
    /// Every key that was asked for, as a path: what the JSON Schema is compared with.
    pub(super) asked: RefCell<std::collections::BTreeSet<String>>,
}

impl Decoder {
    /// Notes a problem.
    pub(super) fn problem(&self, at: Place, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { at: Some(at), message: message.into() });
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    /// Reads `node` as a map. `what` is what to call it; `path` is where it stands in the schema.
    pub(super) fn table<'a>(&'a self, node: &'a Node, what: &str, path: &str) -> Option<Table<'a>> {
        let pairs = match &node.value {
            Value::Map(pairs) => &pairs[..],
            Value::Null => &[],
            Value::Scalar(_) | Value::List(_) => {
                self.problem(
                    node.at,
                    format!("{what} must be a map of keys and values, not {}", describe(node)),
                );
                return None;
            }
        };
        Some(Table {
            decoder: self,
            at: node.at,
            pairs,
            what: what.to_owned(),
            path: path.to_owned(),
            asked: RefCell::default(),
        })
    }
}

/// A map that is being read. Keys that nobody asked for are problems when it is dropped.
pub(super) struct Table<'a> {
    pub(super) decoder: &'a Decoder,
    pub(super) at: Place,
    pub(super) what: String,
    pub(super) path: String,
    pairs: &'a [(Key, Node)],
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Table<'a> {
    /// The value of `key`, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<&'a Node> {
        self.decoder.asked.borrow_mut().insert(format!("{}.{key}", self.path));
        self.asked.borrow_mut().push(key);
        self.pairs.iter().find(|(k, _)| k.text == key).map(|(_, node)| node)
    }

    /// Where `key` itself stands, for a problem with it.
    pub(super) fn place(&self, key: &str) -> Place {
        self.pairs.iter().find(|(k, _)| k.text == key).map_or(self.at, |(k, _)| k.at)
    }

    /// Reads the value of `key`; an error says what the value must be, as in "must be a number".
    pub(super) fn read<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Node) -> Result<T, String>,
    ) -> Option<T> {
        let node = self.get(key)?;
        match read(node) {
            Ok(value) => Some(value),
            Err(error) => {
                self.decoder
                    .problem(node.at, format!("{key:?} in {} {error}, not {}", self.what, describe(node)));
                None
            }
        }
    }

    /// Reads the value of `key` as a map.
    pub(super) fn table(&self, key: &'static str) -> Option<Table<'a>> {
        let node = self.get(key)?;
        let what = if self.what == TOP { format!("{key:?}") } else { format!("{key:?} in {}", self.what) };
        self.decoder.table(node, &what, &format!("{}.{key}", self.path))
    }

    /// All pairs of a map whose keys are names.
    pub(super) fn named(&self) -> &'a [(Key, Node)] {
        self.asked.borrow_mut().push(ANY);
        self.pairs
    }

    /// Whether there is a key that only a later version knows.
    pub(super) fn later(&self) -> bool {
        self.pairs.iter().any(|(key, _)| LATER.contains(&&*key.text))
    }

    /// The keys that are there, of those given.
    pub(super) fn present(&self, keys: &[&str]) -> Vec<&'a str> {
        let found = self.pairs.iter().map(|(key, _)| &*key.text);
        found.filter(|key| keys.contains(key)).collect()
    }
}

/// What the file as a whole is called.
pub(super) const TOP: &str = "the configuration";
const ANY: &str = "*";

impl Drop for Table<'_> {
    fn drop(&mut self) {
        let asked = self.asked.borrow();
        if asked.contains(&ANY) {
            return;
        }
        for (key, _) in self.pairs {
            let text = &*key.text;
            if asked.contains(&text) || (self.what == TOP && text.starts_with("x-")) {
                continue;
            }
            let end = if LATER.contains(&text) {
                "this version does not support it yet".to_owned()
            } else if let Some(nearest) = nearest(text, asked.iter().copied()) {
                format!("did you mean {nearest:?}?")
            } else {
                format!("known are {}", asked.join(", "))
            };
            self.decoder.problem(key.at, format!("unknown key {text:?} in {}; {end}", self.what));
        }
    }
}

/// The known word that is most like `word`, if one is like it at all.
pub(super) fn nearest<'w>(word: &str, known: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let close = |known: &&str| {
        let shorter = word.chars().count().min(known.chars().count());
        shorter > 1 && strsim::damerau_levenshtein(word, known) <= 1.max(shorter / 3)
    };
    let mut known: Vec<&str> = known.into_iter().filter(close).collect();
    known.sort_by_key(|known| strsim::damerau_levenshtein(word, known));
    known.first().copied()
}

/// A value in a message.
pub(super) fn describe(node: &Node) -> String {
    match &node.value {
        Value::Null => "nothing".to_owned(),
        Value::Scalar(text) => format!("{text:?}"),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a map".to_owned(),
    }
}

/// Reads text.
pub(super) fn text(node: &Node) -> Result<&str, String> {
    match &node.value {
        Value::Scalar(text) if !text.is_empty() => Ok(text),
        _ => Err("must be text".to_owned()),
    }
}

/// Reads a whole number in a range.
pub(super) fn number(range: RangeInclusive<u64>) -> impl Fn(&Node) -> Result<u64, String> {
    move |node| {
        let number = text(node).ok().and_then(|text| text.parse().ok()).filter(|n| range.contains(n));
        number.ok_or_else(|| match *range.end() {
            u64::MAX => format!("must be a whole number from {} up", range.start()),
            end => format!("must be a whole number from {} to {end}", range.start()),
        })
    }
}

/// Reads yes or no.
pub(super) fn boolean(node: &Node) -> Result<bool, String> {
    match text(node) {
        Ok("true") => Ok(true),
        Ok("false") => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// Longer than this is a slip of the pen, and would overflow in arithmetic with clocks.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Reads a duration of at least `least`.
pub(super) fn duration(least: Duration) -> impl Fn(&Node) -> Result<Duration, String> {
    duration_within(least..=LONGEST)
}

/// Reads a duration in a range.
pub(super) fn duration_within(range: RangeInclusive<Duration>) -> impl Fn(&Node) -> Result<Duration, String> {
    move |node| {
        let duration = text(node).ok().and_then(|text| humantime::parse_duration(text).ok());
        duration.filter(|duration| range.contains(duration)).ok_or_else(|| {
            let (least, most) = (*range.start(), *range.end());
            let (shown, example) = (humantime::format_duration, ", such as 500ms, 2s, 1m30s or 1h");
            let end = if most < LONGEST {
                format!(", from {} to {}", shown(least), shown(most))
            } else if least.is_zero() {
                example.to_owned()
            } else {
                format!(", at least {}{example}", shown(least))
            };
            format!("must be a duration with its unit{end}")
        })
    }
}

/// Reads a duration of at least `least`, or `off`.
pub(super) fn duration_or_off(least: Duration) -> impl Fn(&Node) -> Result<Option<Duration>, String> {
    or_off(duration(least))
}

/// Reads what `read` reads, or `off`.
pub(super) fn or_off<T>(
    read: impl Fn(&Node) -> Result<T, String>,
) -> impl Fn(&Node) -> Result<Option<T>, String> {
    move |node| match text(node) {
        Ok("off") => Ok(None),
        _ => read(node).map(Some).map_err(|error| format!("{error}, or off")),
    }
}

/// Reads one of several words.
pub(super) fn choice<T: Copy>(words: &[(&str, T)]) -> impl Fn(&Node) -> Result<T, String> {
    move |node| {
        let given = text(node).unwrap_or_default();
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == given) {
            return Ok(*value);
        }
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let near = nearest(given, known.iter().copied())
            .map_or(String::new(), |near| format!(" (did you mean {near:?}?)"));
        Err(format!("must be one of {}{near}", known.join(", ")))
    }
}
