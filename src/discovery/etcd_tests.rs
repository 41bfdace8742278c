//! Tests of what keys mean. `tests/integration/etcd.rs` has those with a real server.

use proptest::prelude::*;

use super::super::registry::InvalidEntry;
use super::*;

fn keys() -> EtcdKeys {
    EtcdSource::new(Etcd::new("/s/".to_owned())).keys
}

fn record(key: &str, value: &str) -> KeyRecord {
    KeyRecord { key: key.into(), value: value.into(), mod_revision: 1 }
}

/// Each backend as its name, address and weight; then the invalid keys.
fn shown(keys: &EtcdKeys) -> (Vec<String>, Vec<InvalidEntry>) {
    let Entries { found, invalid, .. } = keys.entries();
    let one = |found: Found| format!("{} {} {}", found.name, found.address, found.weight);
    (found.into_iter().map(one).collect(), invalid)
}

#[test]
fn a_value_is_an_address_or_an_object() {
    let mut keys = keys();
    let values = [
        ("/s/a", " 10.0.0.1:80\n", "a 10.0.0.1:80 1"),
        ("/s/b", "[::1]:80", "b [::1]:80 1"),
        ("/s/c", "unix:/run/c.sock", "c unix:/run/c.sock 1"),
        ("/s/d", r#"{"address": "10.0.0.4:80", "weight": 3}"#, "d 10.0.0.4:80 3"),
        ("/s/e", r#"{"address": "[::1]:81", "name": "own", "weight": 0}"#, "own [::1]:81 0"),
    ];
    assert!(keys.replace(values.iter().map(|(key, value, _)| record(key, value)).collect()));
    let (backends, invalid) = shown(&keys);
    assert_eq!((backends, invalid), (values.map(|(_, _, is)| is.to_owned()).to_vec(), Vec::new()));
}

#[test]
fn an_invalid_value_keeps_the_last_valid_one_and_concerns_no_other_key() {
    let mut keys = keys();
    assert!(keys.replace(vec![record("/s/a", "10.0.0.1:80"), record("/s/b", "10.0.0.2:80")]));
    assert!(!keys.replace(vec![record("/s/a", "10.0.0.1:80"), record("/s/b", "10.0.0.2:80")]));
    assert!(keys.apply([WatchedEvent::Put(record("/s/a", r#"{"adress": "10.0.0.9:80"}"#))].into_iter()));
    let (backends, invalid) = shown(&keys);
    assert_eq!(backends, ["a 10.0.0.1:80 1", "b 10.0.0.2:80 1"]);
    assert_eq!(invalid.len(), 1);
    assert!(
        invalid[0].entry == "/s/a" && invalid[0].reason.contains("did you mean \"address\"?"),
        "{invalid:?}"
    );
    // Reading all keys again keeps it too.
    assert!(keys.replace(vec![record("/s/a", "nonsense")]));
    let (backends, invalid) = shown(&keys);
    assert_eq!(backends, ["a 10.0.0.1:80 1"]);
    assert!(invalid[0].reason.contains("must be an address such as 10.0.0.1:5000"), "{invalid:?}");
    assert!(keys.apply([WatchedEvent::Delete(record("/s/a", ""))].into_iter()));
    assert_eq!(shown(&keys), (Vec::new(), Vec::new()));
}

#[test]
fn a_key_that_is_no_backend_has_its_reason() {
    let mut keys = keys();
    keys.replace(vec![
        record("/s/", "10.0.0.1:80"),
        record("/s/a", "10.0.0.2:80"),
        record("/s/b", "10.0.0.2:80"),
        record("/s/c", "${HOME}"),
        record("/s/d", r#"{"address": "10.0.0.3:80", "name": "${HOME}"}"#),
        KeyRecord { value: vec![0xff], ..record("/s/e", "") },
    ]);
    let (backends, invalid) = shown(&keys);
    assert_eq!(backends, ["a 10.0.0.2:80 1"]);
    let reasons: Vec<_> = invalid.iter().map(|one| (&*one.entry, &*one.reason)).collect();
    let expected = [
        ("/s/", "no name after the prefix"),
        ("/s/b", "another entry has its address 10.0.0.2:80 too"),
        ("/s/c", "must be an address"),
        ("/s/d", "variable"),
        ("/s/e", "not UTF-8"),
    ];
    for ((key, reason), (expected_key, expected)) in reasons.iter().zip(expected) {
        assert!(*key == expected_key && reason.contains(expected), "{reasons:?}");
    }
    assert_eq!(reasons.len(), expected.len(), "{reasons:?}");
}

#[test]
fn the_range_ends_after_the_last_key_with_the_prefix() {
    assert_eq!(keys().range(), (BASE64.encode("/s/"), BASE64.encode("/s0")));
}

/// Values of any kind, many of them nearly valid.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        "10\\.0\\.0\\.[1-3]:80",
        r#"\{"address": "10\.0\.0\.[1-3]:80", "weight": [0-9]\}"#,
        r#"[{}\[\]":,a-z0-9$ \n]{0,40}"#,
    ];
    prop_oneof![any::<Vec<u8>>(), text.prop_map(String::into_bytes)]
}

proptest! {
    #[test]
    fn every_key_is_a_backend_or_has_a_reason(
        records in prop::collection::btree_map(any::<Vec<u8>>(), value(), 0..9),
        later in prop::collection::vec((any::<Vec<u8>>(), prop::option::of(value())), 0..9),
    ) {
        let all = || records.iter().map(|(key, value)| KeyRecord { key: key.clone(), value: value.clone(), mod_revision: 0 });
        let mut keys = keys();
        prop_assert_eq!(keys.replace(all().collect()), !records.is_empty());
        prop_assert!(!keys.replace(all().collect()), "nothing has changed");
        keys.apply(later.into_iter().map(|(key, value)| match value {
            Some(value) => WatchedEvent::Put(KeyRecord { key, value, mod_revision: 1 }),
            None => WatchedEvent::Delete(KeyRecord { key, value: Vec::new(), mod_revision: 1 }),
        }));
        let Entries { found, invalid, .. } = keys.entries();
        prop_assert!(found.len() + invalid.len() >= keys.keys.len());
        let addresses: HashSet<_> = found.iter().map(|found| &found.address).collect();
        prop_assert_eq!(addresses.len(), found.len());
    }
}
