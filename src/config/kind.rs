//! Kinds of values: how a value is read, written and described, and how kinds are put together.

use std::sync::Arc;

use litemap::LiteMap;
use serde_json::{Value, json};

use super::decode::{FoundValue, nearest};
use super::foreign;
use super::keys::{ConfigKeys, WordEnum};
use super::outline::{Map, Outline};
use super::shape::ValueShape;
use super::yaml::{YamlNode, YamlValue};

type Read<T> = dyn Fn(&FoundValue<'_>) -> Result<T, Misread>;
type Write<T> = dyn Fn(&T) -> Option<Outline>;

/// How values of one kind are read, written and described.
pub(super) struct Kind<T> {
    read: Box<Read<T>>,
    write: Box<Write<T>>,
    shape: Box<dyn Fn() -> ValueShape>,
    /// The allowed values, if they are words.
    pub(super) words: Vec<&'static str>,
}

/// Why a value could not be read.
enum Misread {
    /// What it must be, as in "must be a number".
    Must(String),
    /// The problem was reported.
    Reported,
}

impl<T: 'static> Kind<T> {
    /// A kind of single values. An error of `parse` states what the value must be.
    pub(super) fn scalar(
        parse: impl Fn(&YamlNode) -> Result<T, String> + 'static,
        print: impl Fn(&T) -> Outline + 'static,
        schema: impl Fn() -> Value + 'static,
    ) -> Self {
        Self {
            read: Box::new(move |found| parse(found.node).map_err(Misread::Must)),
            write: Box::new(move |value| Some(print(value))),
            shape: Box::new(move || ValueShape::Scalar { forms: vec![schema()], range: String::new() }),
            words: Vec::new(),
        }
    }

    /// A kind of any values; `read` reports its problems itself.
    pub(super) fn new(
        read: impl Fn(&FoundValue<'_>) -> Option<T> + 'static,
        write: impl Fn(&T) -> Option<Outline> + 'static,
        shape: impl Fn() -> ValueShape + 'static,
    ) -> Self {
        Self {
            read: Box::new(move |found| read(found).ok_or(Misread::Reported)),
            write: Box::new(write),
            shape: Box::new(shape),
            words: Vec::new(),
        }
    }

    /// Reads a value; `None`: its problem was reported.
    pub(super) fn read(&self, found: &FoundValue<'_>) -> Option<T> {
        match (self.read)(found) {
            Ok(value) => return Some(value),
            Err(Misread::Must(error)) => found.wrong(&error),
            Err(Misread::Reported) => {}
        }
        None
    }

    /// Writes a value; `None`: the key is left out.
    pub(super) fn write(&self, value: &T) -> Option<Outline> {
        (self.write)(value)
    }

    pub(super) fn shape(&self) -> ValueShape {
        (self.shape)()
    }

    /// The same values as another type.
    pub(super) fn map<U: 'static>(
        self,
        to: impl Fn(T) -> U + 'static,
        from: impl Fn(&U) -> T + 'static,
    ) -> Kind<U> {
        Kind {
            read: Box::new(move |found| (self.read)(found).map(&to)),
            write: Box::new(move |value| (self.write)(&from(value))),
            shape: self.shape,
            words: self.words,
        }
    }

    /// Adds a description of the range, for what a JSON Schema cannot express.
    pub(super) fn with_range(self, text: String) -> Self {
        let shape = self.shape;
        let shape = Box::new(move || match shape() {
            ValueShape::Scalar { forms, .. } => ValueShape::Scalar { forms, range: text.clone() },
            other => other,
        });
        Self { shape, ..self }
    }

    /// Also accepts `word`, for no value.
    fn or_word(self, word: &'static str) -> Kind<Option<T>> {
        let Self { read, write, shape, words } = self;
        Kind {
            read: Box::new(move |found| match &found.node.value {
                YamlValue::Scalar(text) if text == word => Ok(None),
                _ => read(found).map(Some).map_err(|misread| match misread {
                    Misread::Must(error) => Misread::Must(format!("{error}, or {word}")),
                    Misread::Reported => Misread::Reported,
                }),
            }),
            write: Box::new(move |value| value.as_ref().map_or(Some(Outline::text(word)), &write)),
            shape: Box::new(move || match shape() {
                ValueShape::Scalar { mut forms, range } => {
                    forms.push(json!({"const": word}));
                    ValueShape::Scalar { forms, range }
                }
                other => other,
            }),
            words,
        }
    }
}

/// A value or `off`.
pub(super) fn or_off<T: 'static>(kind: Kind<T>) -> Kind<Option<T>> {
    kind.or_word("off")
}

/// A value or `auto`.
pub(super) fn or_auto<T: 'static>(kind: Kind<T>) -> Kind<Option<T>> {
    kind.or_word("auto")
}

/// A value that is left out if there is none.
pub(super) fn optional<T: 'static>(kind: Kind<T>) -> Kind<Option<T>> {
    let Kind { read, write, shape, words } = kind;
    Kind {
        read: Box::new(move |found| read(found).map(Some)),
        write: Box::new(move |value| value.as_ref().and_then(&write)),
        shape,
        words,
    }
}

/// A list; messages call an item `each`. With `empty`, the list must not be empty: `empty` is the advice in the
/// message, and an empty list is not written.
pub(super) fn list<T: 'static>(
    kind: Kind<T>,
    each: &'static str,
    example: &'static str,
    empty: Option<&'static str>,
) -> Kind<Vec<T>> {
    many(kind, each, Some(example), empty)
}

/// One value or a list of them, which must not be empty: `empty` is the advice in the message.
pub(super) fn one_or_list<T: 'static>(kind: Kind<T>, empty: &'static str) -> Kind<Vec<T>> {
    many(kind, "", None, Some(empty))
}

fn many<T: 'static>(
    kind: Kind<T>,
    each: &'static str,
    example: Option<&'static str>,
    empty: Option<&'static str>,
) -> Kind<Vec<T>> {
    let kind = Arc::new(kind);
    let (writer, shaper) = (Arc::clone(&kind), Arc::clone(&kind));
    Kind::new(
        move |found| {
            let items = match (&found.node.value, example) {
                (YamlValue::List(items), _) => &items[..],
                (_, None) => std::slice::from_ref(found.node),
                (_, Some(example)) => {
                    found.wrong(&format!("must be a list, such as {example}"));
                    return None;
                }
            };
            if let (true, Some(empty)) = (items.is_empty(), empty) {
                found.problem(format!("{} is empty: {empty}", found.what));
            }
            let what = if each.is_empty() { found.what.clone() } else { format!("{each} in {}", found.what) };
            let read = |item| kind.read(&found.item(item, what.clone()));
            Some(items.iter().filter_map(read).collect())
        },
        move |values: &Vec<T>| {
            let items: Vec<_> = values.iter().filter_map(|value| writer.write(value)).collect();
            (empty.is_none() || !items.is_empty()).then_some(Outline::List(items))
        },
        move || {
            let list = ValueShape::List(Box::new(shaper.shape()), usize::from(empty.is_some()));
            if example.is_some() { list } else { ValueShape::Any(vec![shaper.shape(), list]) }
        },
    )
}

/// A map with the keys of `T`.
pub(super) fn table<T: ConfigKeys + 'static>() -> Kind<T> {
    table_beside(&[])
}

/// A map with the keys of `T`. Keys of `also`, which belong to a similar map, are not reported as unknown.
pub(super) fn table_beside<T: ConfigKeys + 'static>(also: &'static [&'static str]) -> Kind<T> {
    Kind::new(
        move |found| found.table(also),
        |value: &T| {
            let mut map = Map::new();
            value.write(&mut map);
            Some(map.into())
        },
        || {
            let mut keys = Vec::new();
            T::describe(&mut keys);
            ValueShape::Table { keys, needs: T::needs() }
        },
    )
}

/// A map, or a single value that stands for the whole map.
pub(super) fn shorthand<S: 'static, T: ConfigKeys + 'static>(
    short: Kind<S>,
    long: impl Fn(S) -> T + 'static,
) -> Kind<T> {
    let (short, table) = (Arc::new(short), Arc::new(table::<T>()));
    let (shaper, writer, reader) = (Arc::clone(&short), Arc::clone(&table), Arc::clone(&table));
    Kind::new(
        move |found| match found.node.value {
            YamlValue::Scalar(_) => short.read(found).map(&long),
            _ => reader.read(found),
        },
        move |value| writer.write(value),
        move || ValueShape::Any(vec![shaper.shape(), table.shape()]),
    )
}

/// A map whose keys are names that the user chooses, each of a `thing`.
pub(super) fn named<T: ConfigKeys + 'static>(
    thing: &'static str,
    example: &'static str,
) -> Kind<LiteMap<Arc<str>, T>> {
    Kind::new(
        move |found| {
            let mut all = LiteMap::new();
            for (key, node) in found.pairs()? {
                // Names appear in log lines, metric labels, paths of the admin API, and as POOL/BACKEND on the command
                // line.
                let good = |c: char| c.is_alphanumeric() || "-_.".contains(c);
                if !key.text.chars().all(good) || key.text.chars().all(|c| c == '.') {
                    let problem = "must be letters, digits, '-', '_' and '.', and not dots alone";
                    found.decoder.problem(key.at, format!("the name {:?} {problem}", key.text));
                }
                let what = format!("{thing} {:?}", key.text);
                // Reported as a map of keys and values would not help: it may be a key of the map before it.
                if let (YamlValue::Scalar(_) | YamlValue::List(_), Some(advice)) =
                    (&node.value, found.unindented(key))
                {
                    found
                        .decoder
                        .problem(key.at, format!("{what} must be a map of keys and values; {advice}"));
                    continue;
                }
                if let Some(value) = found.named(&key.text, node, what).table(&[]) {
                    all.insert(key.text.as_str().into(), value);
                }
            }
            Some(all)
        },
        |all: &LiteMap<Arc<str>, T>| {
            let entry = |(name, value): (&Arc<str>, &T)| Some((name.to_string(), table().write(value)?));
            Some(Outline::Map(all.iter().filter_map(entry).collect()))
        },
        move || ValueShape::Named(Box::new(table::<T>().shape()), example),
    )
}

/// A map whose keys are read by `parse`, match `pattern`, and have values of one kind; `must` states what a key must be.
/// An empty map is not written.
pub(super) fn keyed<K: Ord + 'static, V: 'static>(
    parse: impl Fn(&str) -> Result<K, String> + 'static,
    print: impl Fn(&K) -> String + 'static,
    pattern: &'static str,
    value: Kind<V>,
    must: &'static str,
) -> Kind<LiteMap<K, V>> {
    let (value, print) = (Arc::new(value), Arc::new(print));
    let (writer, shaper, name_of) = (Arc::clone(&value), Arc::clone(&value), Arc::clone(&print));
    Kind::new(
        move |found| {
            let mut all = LiteMap::new();
            let pairs = found.pairs()?;
            if pairs.is_empty() {
                found.problem(format!("{} is empty: a key {must}", found.what));
            }
            for (key, node) in pairs {
                let name = match parse(&key.text) {
                    Ok(name) => name,
                    Err(error) => {
                        let problem = format!("the key {:?} in {} {error}", key.text, found.what);
                        found.decoder.problem(key.at, problem);
                        continue;
                    }
                };
                if all.contains_key(&name) {
                    let problem = format!("{} has {:?} twice", found.what, name_of(&name));
                    found.decoder.problem(key.at, problem);
                }
                let what = format!("{:?} in {}", key.text, found.what);
                if let Some(value) = value.read(&found.named(&key.text, node, what)) {
                    all.insert(name, value);
                }
            }
            Some(all)
        },
        move |all: &LiteMap<K, V>| {
            let entry = |(key, value)| Some((print(key), writer.write(value)?));
            (!all.is_empty()).then(|| Outline::Map(all.iter().filter_map(entry).collect()))
        },
        move || ValueShape::Keyed(Box::new(shaper.shape()), pattern),
    )
}

/// One of the words of a type.
pub(super) fn word<T: WordEnum>() -> Kind<T> {
    word_of(T::WORDS)
}

/// One of these words.
pub(super) fn word_of<T: Copy + PartialEq + 'static>(words: &'static [(&'static str, T)]) -> Kind<T> {
    let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
    let (parser, shaper) = (known.clone(), known.clone());
    let print = |value: &T| {
        let word = words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word);
        Outline::text(word)
    };
    let parse = move |node: &YamlNode| find_word(node, &parser).map(|index| words[index].1);
    Kind { words: known, ..Kind::scalar(parse, print, move || words_schema(&shaper)) }
}

/// The index of a word among the known ones.
fn find_word(node: &YamlNode, known: &[&'static str]) -> Result<usize, String> {
    let given = node.text().unwrap_or_default();
    let all = || known.iter().copied();
    all().position(|word| word == given).ok_or_else(|| {
        let near = nearest(given, all()).or_else(|| foreign::word(given, all()));
        let near = near.map_or(String::new(), |near| format!(" (did you mean {near:?}?)"));
        format!("must be one of {}{near}", known.join(", "))
    })
}

fn words_schema(words: &[&str]) -> Value {
    // YAML reads a word of digits as a number.
    let numbers = words.iter().filter_map(|word| word.parse::<u64>().ok()).map(Value::from);
    json!({"enum": words.iter().copied().map(Value::from).chain(numbers).collect::<Vec<_>>()})
}
