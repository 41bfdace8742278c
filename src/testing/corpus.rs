//! The inputs that the fuzzer begins with (`tests/fuzz/corpus`): all of them as they are, and with random changes.

use proptest::prelude::*;
use proptest::sample::Index;

/// Asserts laws for all inputs of a target of the fuzzer, and for some hundred variations.
pub fn hold(target: &str, laws: impl Fn(&[u8])) {
    let inputs = inputs(target);
    assert!(!inputs.is_empty(), "the fuzzer's target {target} has no inputs");
    inputs.iter().for_each(|input| laws(input));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(300));
    let result = runner.run(&varied(inputs), |input| {
        laws(&input);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

fn inputs(target: &str) -> Vec<Vec<u8>> {
    let folder = super::repository().join("tests/fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// A change of an input at a place.
#[derive(Clone, Debug)]
enum Change {
    Replace(u8),
    Insert(u8),
    /// So many bytes.
    Remove(usize),
    /// The rest of another input follows.
    Join(Index, Index),
}

fn varied(inputs: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = prop_oneof![
        any::<u8>().prop_map(Change::Replace),
        any::<u8>().prop_map(Change::Insert),
        (1..20_usize).prop_map(Change::Remove),
        any::<(Index, Index)>().prop_map(|(other, from)| Change::Join(other, from)),
    ];
    let changes = prop::collection::vec((any::<Index>(), change), 1..6);
    (any::<Index>(), changes).prop_map(move |(first, changes)| {
        let mut input = first.get(&inputs).clone();
        for (place, change) in changes {
            let at = place.index(input.len() + 1);
            match change {
                Change::Replace(byte) => input.iter_mut().skip(at).take(1).for_each(|old| *old = byte),
                Change::Insert(byte) => input.insert(at, byte),
                Change::Remove(length) => drop(input.drain(at..(at + length).min(input.len()))),
                Change::Join(other, from) => {
                    let other = other.get(&inputs);
                    input.truncate(at);
                    input.extend(&other[from.index(other.len() + 1)..]);
                }
            }
        }
        input
    })
}
