//! Checks the names that a source gives. DNS and engines pass on names from third parties: a name that breaks the rule
//! is replaced by one made from it. The log reports this once, and again if the name comes back. A zone that breaks the rule
//! counts as unknown.
//!
//! Different names get different replacements, so that an address that moves to another container is still noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::sync::{Arc, Mutex, PoisonError};

use siphasher::sip::SipHasher13;
use tracing::warn;

use super::{Observation, Outcome, Sink};
use crate::config::{BACKEND_NAME_RULE, SourceKey, is_backend_name};
use crate::sanitize;

/// The length of a refused name in the log and in its replacement, in characters.
const SHOWN: usize = 60;
/// The number of refused names of one answer in the log; an answer can have thousands.
const MOST_LOGGED: usize = 10;

/// Names that were refused, each with its replacement.
type RefusedNames = BTreeMap<Arc<str>, Arc<str>>;

/// A sink that passes only valid backend names on to `sink`.
pub(super) fn vetted(source: SourceKey, sink: Sink) -> Sink {
    let logged = Mutex::new(BTreeSet::new());
    Box::new(move |mut observation| {
        let refused = vet(&mut observation);
        if observation.outcome.seen().is_some() {
            let mut logged = logged.lock().unwrap_or_else(PoisonError::into_inner);
            log(&source, &refused, &logged);
            *logged = refused.into_keys().collect();
        }
        sink(observation);
    })
}

/// Replaces the invalid names, and returns them.
fn vet(observation: &mut Observation) -> RefusedNames {
    let found = match &mut observation.outcome {
        Outcome::Backends(found) => &mut found[..],
        _ => &mut [],
    };
    for one in &mut *found {
        one.zone.take_if(|zone| !is_backend_name(zone));
    }
    let names = found.iter_mut().map(|found| &mut found.name).chain(observation.owners.values_mut());
    let mut refused = RefusedNames::new();
    for name in names.filter(|name| !is_backend_name(name)) {
        let replacement = refused.entry(Arc::clone(name)).or_insert_with_key(|name| replacement(name));
        *name = Arc::clone(replacement);
    }
    refused
}

/// The name, or its replacement if it is invalid.
#[cfg(any(test, feature = "laws"))]
pub(super) fn valid_name(name: &str) -> Arc<str> {
    if is_backend_name(name) { name.into() } else { replacement(name) }
}

/// A valid name made from an invalid one. It is the same after a restart, as the hash algorithms spread clients by
/// backend names.
fn replacement(refused: &str) -> Arc<str> {
    let legible = |c: char| if c.is_ascii_alphanumeric() || "-_.:".contains(c) { c } else { '_' };
    let start: String = refused.chars().take(SHOWN).map(legible).collect();
    let mut hash = SipHasher13::new();
    hash.write(refused.as_bytes());
    format!("{start}-{:08x}", hash.finish() as u32).into()
}

fn log(source: &SourceKey, refused: &RefusedNames, logged: &BTreeSet<Arc<str>>) {
    let new = || refused.iter().filter(|(name, _)| !logged.contains(*name));
    for (name, replacement) in new().take(MOST_LOGGED) {
        // JSON leaves C1 and format characters as they are.
        let name = sanitize::shortened(name, SHOWN);
        warn!(%source, name = &*sanitize::line(&name), backend = %replacement, "backend name refused: a name has {BACKEND_NAME_RULE}");
    }
    let more = new().count().saturating_sub(MOST_LOGGED);
    if more > 0 {
        warn!(%source, more, "backend names refused");
    }
}

#[cfg(test)]
mod tests {
    use super::super::Found;
    use super::*;
    use std::collections::HashMap;
    use std::net::IpAddr;

    use proptest::prelude::*;

    #[test]
    fn a_refused_name_is_replaced_and_its_address_keeps_its_owner() {
        let found = |name: &str, address: &str| Found::new(name.into(), address.parse().unwrap());
        let evil = "web\nINFO closed";
        let mut observation = Observation {
            outcome: Outcome::Backends(vec![found("web-1", "10.0.0.1:80"), found(evil, "10.0.0.2:80")]),
            owners: HashMap::from([
                ("10.0.0.1".parse().unwrap(), "web-1".into()),
                ("10.0.0.2".parse().unwrap(), evil.into()),
            ]),
        };
        let refused = vet(&mut observation);
        let replacement = &refused[evil];
        assert!(replacement.starts_with("web_INFO_closed-"), "{replacement}");
        let expected = vec![found("web-1", "10.0.0.1:80"), found(replacement, "10.0.0.2:80")];
        assert_eq!(observation.outcome, Outcome::Backends(expected));
        let owners = ["10.0.0.1", "10.0.0.2"].map(|ip| &*observation.owners[&ip.parse::<IpAddr>().unwrap()]);
        assert_eq!(owners, ["web-1", &**replacement]);
    }

    proptest! {
        #[test]
        fn a_replacement_is_valid_and_distinct(a in r"(\PC|\p{C}|/){0,300}", b in r"(\PC|\p{C}|/){0,300}") {
            prop_assert!(is_backend_name(&replacement(&a)));
            prop_assert_eq!(replacement(&a) == replacement(&b), a == b);
        }
    }
}
