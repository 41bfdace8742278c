//! Reading a tree key by key. Every problem is noted and reading goes on, so that all of them are told at once.

use std::cell::RefCell;

use super::report::{Place, Problem};
use super::tree::{Key, Node, Value};

/// Keys that the design knows and this version does not.
const LATER: &[&str] =
    &["send_proxy_protocol", "proxy_protocol", "sni", "default", "allow", "deny", "per_client"];

/// Collects the problems while a tree is read.
#[derive(Debug)]
pub(super) struct Decoder<'t> {
    /// What is read, as it is written.
    text: &'t str,
    problems: RefCell<Vec<Problem>>,
    /// Every key that was asked for, as a path: what the JSON Schema is compared with.
    pub(super) asked: RefCell<std::collections::BTreeSet<String>>,
}

impl<'t> Decoder<'t> {
    /// Reads a tree that stands in `text`.
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, problems: RefCell::default(), asked: RefCell::default() }
    }

    /// Notes a problem.
    pub(super) fn problem(&self, at: Place, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { at: Some(at), message: message.into() });
    }

    /// Whether a value is written in double quotes.
    pub(super) fn double_quoted(&self, node: &Node) -> bool {
        let line = node.at.line.checked_sub(1).and_then(|n| self.text.lines().nth(n)).unwrap_or_default();
        line.chars().nth(node.at.column.saturating_sub(1)) == Some('"')
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
            beside: &[],
            outside: &[],
            asked: RefCell::default(),
        })
    }
}

/// A map that is being read. Keys that nobody asked for are problems when it is dropped.
pub(super) struct Table<'a> {
    pub(super) decoder: &'a Decoder<'a>,
    pub(super) at: Place,
    pub(super) what: String,
    pub(super) path: String,
    pairs: &'a [(Key, Node)],
    /// Keys that one might look for in the maps below, and that belong here.
    pub(super) beside: &'static [&'static str],
    /// The same of the map that this one is in.
    outside: &'static [&'static str],
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Table<'a> {
    /// The value of `key`, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<&'a Node> {
        self.decoder.asked.borrow_mut().insert(format!("{}.{key}", self.path));
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
        }
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
        let mut table = self.decoder.table(node, &what, &format!("{}.{key}", self.path))?;
        table.outside = self.beside;
        Some(table)
    }

    /// All pairs of a map whose keys are names.
    pub(super) fn named(&self) -> &'a [(Key, Node)] {
        self.asked.borrow_mut().push(ANY);
        self.pairs
    }

    /// The keys that are there, of those given.
    pub(super) fn present(&self, keys: &[&str]) -> Vec<&'a str> {
        let found = self.pairs.iter().map(|(key, _)| &*key.text);
        found.filter(|key| keys.contains(key)).collect()
    }

    /// Which of `kinds` this is: just one of these keys must be there.
    pub(super) fn kind(&self, kinds: &[&'static str]) -> Option<&'static str> {
        for kind in kinds {
            self.get(kind);
        }
        let present = self.present(kinds);
        if let [one] = present[..] {
            return kinds.iter().copied().find(|kind| *kind == one);
        }
        let misspelled = |(key, _): &(Key, Node)| nearest(&key.text, kinds.iter().copied()).is_some();
        if !present.is_empty() {
            let items = present.iter().map(|kind| format!("{{{kind}: …}}")).collect::<Vec<_>>().join(", ");
            let message = format!("{} is of more than one kind: make it a list, as [{items}]", self.what);
            self.decoder.problem(self.at, message);
        } else if !self.pairs.iter().any(misspelled) {
            self.decoder.problem(self.at, format!("{} needs one of {}", self.what, kinds.join(", ")));
        }
        None
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
            } else if self.outside.contains(&text) {
                let key = self.path.rsplit('.').next().unwrap_or_default();
                format!("it belongs beside {key:?}, not into it")
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
