//! Policies and shadows.

use std::time::Duration;

use serde_json::json;

use super::super::decode::FoundValue;
use super::super::keys::{WordEnum, settings};
use super::super::kind::{Kind, optional, table, word_of};
use super::super::model::{Algorithm, Policy};
use super::super::outline::{Map, Outline};
use super::super::scalar::time;
use super::super::shape::ValueShape;
use super::super::yaml::YamlValue;
use crate::domain::Ending;

const AT_ONCE: &[(&str, Policy)] =
    &[("keep", Policy::Keep), ("close", at_once(Ending::Close)), ("reset", at_once(Ending::Reset))];

const fn at_once(how: Ending) -> Policy {
    Policy::End { how, after: Duration::ZERO, over: Duration::ZERO }
}

settings! {
    /// A policy that takes time.
    struct SlowPolicy, needs ("oneOf", &["close", "reset"]) {
        /// An orderly close (FIN) of one connection after another, spread evenly over this time.
        close: Option<Duration> => optional(time()), absent None;
        /// A reset (RST) of one connection after another, spread evenly over this time.
        reset: Option<Duration> => optional(time()), absent None;
        /// Begin only so long after, instead of at once; a backend that is back by then keeps its connections.
        after: Option<Duration> => optional(time()), absent None;
    }
}

/// What happens to the connections of a backend.
pub(in crate::config) fn policy() -> Kind<Policy> {
    Kind::new(
        read_policy,
        |policy| Some(write_policy(*policy)),
        || ValueShape::Any(vec![word_of(AT_ONCE).shape(), table::<SlowPolicy>().shape()]),
    )
}

fn read_policy(found: &FoundValue<'_>) -> Option<Policy> {
    let YamlValue::Map(_) = found.node.value else {
        let word = found.node.text().and_then(|text| AT_ONCE.iter().find(|(word, _)| *word == text));
        if word.is_none() {
            found.wrong("must be one of keep, close, reset, or as {close: 30s}");
        }
        return word.map(|(_, policy)| *policy);
    };
    let SlowPolicy { close, reset, after } = found.table(&[])?;
    let (how, over) = match (close, reset) {
        (Some(over), None) => (Ending::Close, over),
        (None, Some(over)) => (Ending::Reset, over),
        (None, None) if ["close", "reset"].iter().any(|key| found.node.get(key).is_some()) => return None, // misread
        _ => {
            found.problem(format!("{} is either close or reset with a duration", found.what));
            return None;
        }
    };
    Some(Policy::End { how, after: after.unwrap_or_default(), over })
}

fn write_policy(policy: Policy) -> Outline {
    let Policy::End { how, after, over } = policy else { return Outline::text("keep") };
    let how = match how {
        Ending::Close => "close",
        Ending::Reset => "reset",
    };
    let mut map = Map::new();
    map.put(how, time().write(&over));
    map.put("after", time().write(&after));
    map.into()
}

/// The shadow algorithms: a list, or all that can be shadows.
pub(in crate::config) fn shadow() -> Kind<Vec<Algorithm>> {
    Kind::new(
        read_shadow,
        |shadow| {
            Some(match &shadow[..] {
                [] => Outline::Bool(false),
                some => Outline::List(some.iter().map(|algorithm| Outline::text(algorithm.name())).collect()),
            })
        },
        || {
            let all = SHADOWS.iter().map(|(name, _)| *name).collect::<Vec<_>>();
            let list = json!({"type": "array", "items": {"enum": all}});
            ValueShape::Scalar { forms: vec![list, json!({"type": "boolean"})], range: String::new() }
        },
    )
}

/// All but ewma, which chooses by the response times of the connections that it routes: a shadow routes none.
const SHADOWS: &[(&str, Algorithm)] = Algorithm::WORDS.split_last().expect("ewma is the last").1;

fn read_shadow(found: &FoundValue<'_>) -> Option<Vec<Algorithm>> {
    let YamlValue::List(items) = &found.node.value else {
        return match found.node.text() {
            Some("true") => Some(SHADOWS.iter().map(|(_, algorithm)| *algorithm).collect()),
            Some("false") => Some(Vec::new()),
            _ => {
                found.wrong("must be a list of algorithms, true for all of them, or false");
                None
            }
        };
    };
    let mut all: Vec<Algorithm> = Vec::new();
    for node in items {
        let item = found.item(node, format!("an algorithm in {}", found.what));
        if node.text() == Some(Algorithm::Ewma.name()) {
            item.problem("ewma chooses by the answers to what it routes: it cannot be a shadow");
        } else if let Some(algorithm) = word_of(SHADOWS).read(&item).filter(|a| !all.contains(a)) {
            all.push(algorithm);
        }
    }
    Some(all)
}
