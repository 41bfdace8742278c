//! Reads maps key by key. Reading continues after a problem, so that the user sees all of them at once.

use std::cell::RefCell;

use super::foreign;
use super::keys::{ConfigKeys, Got};
use super::kind::Kind;
use super::problem::{FilePosition, Problem};
use super::yaml::{YamlKey, YamlNode, YamlValue};

/// What messages call the file as a whole.
pub(super) const TOP: &str = "the configuration";

/// Collects the problems of one file.
#[derive(Debug)]
pub(super) struct Decoder<'t> {
    text: &'t str,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> Decoder<'t> {
    /// For a tree that was parsed from `text`.
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, problems: RefCell::default() }
    }

    pub(super) fn problem(&self, at: FilePosition, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { at: Some(at), message: message.into() });
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// A value that is being read.
pub(super) struct FoundValue<'a> {
    pub(super) node: &'a YamlNode,
    /// What messages call it: `"every" in "health" in pool "web"`.
    pub(super) what: String,
    /// The last key of its path.
    pub(super) key: &'a str,
    pub(super) decoder: &'a Decoder<'a>,
    /// The keys that the enclosing map takes.
    outer: &'a [&'static str],
}

impl<'a> FoundValue<'a> {
    /// The whole file.
    pub(super) fn root(node: &'a YamlNode, what: &str, decoder: &'a Decoder<'a>) -> Self {
        Self { node, what: what.to_owned(), key: "", decoder, outer: &[] }
    }

    /// An item of this list.
    pub(super) fn item(&self, node: &'a YamlNode, what: String) -> Self {
        Self { node, what, ..*self }
    }

    /// The value under a name that the user chose.
    pub(super) fn named(&self, name: &'a str, node: &'a YamlNode, what: String) -> Self {
        Self { node, what, key: name, outer: &[], ..*self }
    }

    pub(super) fn problem(&self, message: impl Into<String>) {
        self.decoder.problem(self.node.at, message);
    }

    /// Reports what the value must be, as in "must be a number".
    pub(super) fn wrong(&self, error: &str) {
        self.problem(format!("{} {error}, not {}", self.what, describe(self.node)));
    }

    /// Whether the value is written in double quotes.
    pub(super) fn double_quoted(&self) -> bool {
        let at = self.node.at;
        let line = at.line.checked_sub(1).and_then(|n| self.decoder.text.lines().nth(n)).unwrap_or_default();
        line.chars().nth(at.column.saturating_sub(1)) == Some('"')
    }

    /// Its keys and values; an empty value is an empty map.
    pub(super) fn pairs(&self) -> Option<&'a [(YamlKey, YamlNode)]> {
        match &self.node.value {
            YamlValue::Map(pairs) => Some(pairs),
            YamlValue::Null => Some(&[]),
            YamlValue::Scalar(_) | YamlValue::List(_) => {
                self.wrong("must be a map of keys and values");
                None
            }
        }
    }

    /// Reads it as a map with the keys of `T`. Keys of `also` are not reported as unknown.
    pub(super) fn table<T: ConfigKeys>(&self, also: &[&'static str]) -> Option<T> {
        let mut names = Vec::new();
        T::names(&mut names);
        let map = self.map([also, &names].concat())?;
        let value = T::read(&map);
        map.report_unknown(self.outer);
        value
    }

    /// Advice about a key or value that may belong to the key before it, which is empty: the user did not indent it.
    /// `None`: there is no such key before it.
    pub(super) fn unindented(&self, key: &YamlKey) -> Option<String> {
        let YamlValue::Map(pairs) = &self.node.value else { return None };
        let before = pairs.iter().rev().find(|(other, _)| other.at < key.at)?;
        let (empty, _) = Some(before).filter(|(_, node)| node.value == YamlValue::Null)?;
        Some(format!(
            "if it belongs to {:?} in line {}, indent it below that line",
            empty.text, empty.at.line
        ))
    }

    /// Starts reading it as a map with these keys.
    pub(super) fn map(&self, mut known: Vec<&'static str>) -> Option<MapReader<'_>> {
        let mut seen = Vec::new();
        known.retain(|key| {
            !seen.contains(key) && {
                seen.push(*key);
                true
            }
        });
        let misread = RefCell::default();
        Some(MapReader { found: self, pairs: self.pairs()?, known, misread })
    }
}

/// A map that is being read.
pub(super) struct MapReader<'a> {
    /// The map itself, as a value.
    pub(super) found: &'a FoundValue<'a>,
    pairs: &'a [(YamlKey, YamlNode)],
    known: Vec<&'static str>,
    /// Keys whose values had problems.
    misread: RefCell<Vec<&'static str>>,
}

impl<'a> MapReader<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&'a YamlNode> {
        self.pairs.iter().find(|(k, _)| k.text == key).map(|(_, node)| node)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// What messages call the map.
    pub(super) fn what(&self) -> &str {
        &self.found.what
    }

    /// Whether the value of `key` had problems and must not be used.
    pub(super) fn misread(&self, key: &str) -> bool {
        self.misread.borrow().contains(&key)
    }

    /// Reads the value of `key`.
    pub(super) fn read<T: 'static>(&self, key: &'static str, kind: &Kind<T>) -> Got<T> {
        let Some(value) = self.value(key) else { return Got::Absent };
        let got = kind.read(&value).map_or(Got::Misread, Got::Value);
        if matches!(got, Got::Misread) {
            self.misread.borrow_mut().push(key);
        }
        got
    }

    /// The value of `key`. Apart from `read`, which is compiled for each type of value.
    fn value(&self, key: &'static str) -> Option<FoundValue<'_>> {
        let node = self.get(key)?;
        let within = self.what();
        let what = if within == TOP { format!("{key:?}") } else { format!("{key:?} in {within}") };
        Some(FoundValue { node, what, key, decoder: self.found.decoder, outer: &self.known })
    }

    /// Reports a problem with `key`, or with the map if the key is absent.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        let at = self.pairs.iter().find(|(k, _)| k.text == key).map_or(self.found.node.at, |(k, _)| k.at);
        self.found.decoder.problem(at, message);
    }

    /// Reports that `key` is missing; `end` completes the message with possible values.
    pub(super) fn needs(&self, key: &str, end: &str) {
        let article = if key.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        self.found.problem(format!("{} needs {article} {key:?}{end}", self.what()));
    }

    /// Which of `kinds` this is: exactly one of these keys must be present.
    pub(super) fn kind(&self, kinds: &[&'static str]) -> Option<&'static str> {
        let kind_of = |(key, _): &(YamlKey, YamlNode)| kinds.iter().copied().find(|kind| *kind == key.text);
        let present: Vec<_> = self.pairs.iter().filter_map(kind_of).collect();
        if let [one] = present[..] {
            return Some(one);
        }
        let misspelled = |(key, _): &(YamlKey, YamlNode)| nearest(&key.text, kinds.iter().copied()).is_some();
        if !present.is_empty() {
            let items = present.iter().map(|kind| format!("{{{kind}: …}}")).collect::<Vec<_>>().join(", ");
            let message = format!("{} is of more than one kind: make it a list, as [{items}]", self.what());
            self.found.problem(message);
        } else if !self.pairs.iter().any(misspelled) {
            self.found.problem(format!("{} needs one of {}", self.what(), kinds.join(", ")));
        }
        None
    }

    /// Reports unknown keys, each with a hint.
    pub(super) fn report_unknown(&self, outer: &[&'static str]) {
        for (key, _) in self.pairs {
            let text = &*key.text;
            if self.known.contains(&text) || (self.what() == TOP && text.starts_with("x-")) {
                continue;
            }
            let end = if let Some(advice) = self.found.unindented(key) {
                advice
            } else if outer.contains(&text) {
                format!("it belongs next to {:?}, not inside it", self.found.key)
            } else if let Some(written) = foreign::translate(text, &self.known) {
                format!("here it is `{written}`")
            } else if let Some(nearest) = nearest(text, self.known.iter().copied()) {
                format!("did you mean {nearest:?}?")
            } else {
                format!("known are {}", self.known.join(", "))
            };
            let message = format!("unknown key {text:?} in {}; {end}", self.what());
            self.found.decoder.problem(key.at, message);
        }
    }
}

/// The known word that is most similar to `word`, if one is similar.
pub(super) fn nearest<'w>(word: &str, known: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let close = |known: &&str| {
        let shorter = word.chars().count().min(known.chars().count());
        shorter > 1 && strsim::damerau_levenshtein(word, known) <= 1.max(shorter / 3)
    };
    known.into_iter().filter(close).min_by_key(|known| strsim::damerau_levenshtein(word, known))
}

/// A value in a message.
pub(super) fn describe(node: &YamlNode) -> String {
    match &node.value {
        YamlValue::Null => "nothing".to_owned(),
        YamlValue::Scalar(text) => format!("{text:?}"),
        YamlValue::List(_) => "a list".to_owned(),
        YamlValue::Map(_) => "a map".to_owned(),
    }
}
