//! Shared by the hashing algorithms: the order in which a client tries the candidates. It is the same each time, so
//! that a client whose first choice is excluded or full also has a stable second choice.

use std::sync::Arc;

use super::bound::{LoadBound, LoadLimit};
use super::hash::{NamedCandidate, by_name, rehash};
use super::maglev::Maglev;
use super::ring_hash::RingHash;
use super::source_hash::SourceHash;
use super::{Candidate, PickArgs};
use crate::config::{Algorithm, Hash};

/// Rehashes of a client before the candidates are tried in the order of their names. With half of a set excluded, one
/// client in four billion gets that far.
const REHASHES: u64 = 32;

#[derive(Debug)]
pub(super) struct Affinity {
    /// Shared with the pickers before and after this one as long as `built_from` is equal.
    lookup: Arc<HashLookup>,
    built_from: LookupInputs,
    /// The candidates in the order of their names, which `lookup` indexes.
    by_name: Box<[u32]>,
    bound: Option<LoadBound>,
}

/// How a client's hash becomes a backend.
#[derive(Debug)]
enum HashLookup {
    Source(SourceHash),
    Ring(RingHash),
    Maglev(Maglev),
}

/// What determines the lookup. None of it changes with a health check, or when a backend returns at another address.
#[derive(Debug, PartialEq, Eq)]
struct LookupInputs {
    algorithm: Algorithm,
    hash: Hash,
    /// Names and weights.
    candidates: Box<[(Arc<str>, u32)]>,
}

impl Affinity {
    pub(super) fn source_hash(candidates: &[Candidate], hash: &Hash, previous: Option<&Self>) -> Self {
        let lookup = |named: &[NamedCandidate<'_>]| HashLookup::Source(SourceHash::new(named));
        Self::new(Algorithm::SourceHash, candidates, hash, previous, lookup)
    }

    pub(super) fn ring_hash(candidates: &[Candidate], hash: &Hash, previous: Option<&Self>) -> Self {
        let lookup = |named: &[NamedCandidate<'_>]| HashLookup::Ring(RingHash::new(named, hash));
        Self::new(Algorithm::RingHash, candidates, hash, previous, lookup)
    }

    pub(super) fn maglev(candidates: &[Candidate], hash: &Hash, previous: Option<&Self>) -> Self {
        let lookup = |named: &[NamedCandidate<'_>]| HashLookup::Maglev(Maglev::new(named));
        Self::new(Algorithm::Maglev, candidates, hash, previous, lookup)
    }

    fn new(
        algorithm: Algorithm,
        candidates: &[Candidate],
        hash: &Hash,
        previous: Option<&Self>,
        lookup: impl FnOnce(&[NamedCandidate<'_>]) -> HashLookup,
    ) -> Self {
        let named = by_name(candidates);
        let inputs = |one: &NamedCandidate<'_>| (Arc::clone(&candidates[one.index].name), one.weight);
        let built_from =
            LookupInputs { algorithm, hash: *hash, candidates: named.iter().map(inputs).collect() };
        Self {
            lookup: match previous {
                Some(previous) if previous.built_from == built_from => Arc::clone(&previous.lookup),
                _ => Arc::new(lookup(&named)),
            },
            built_from,
            by_name: named.iter().map(|one| one.index as u32).collect(),
            bound: hash.load_factor.map(|factor| LoadBound::new(factor, candidates)),
        }
    }

    /// The lookup as a table: the index of the candidate of each slot, which [`hash::slot`](super::hash) finds; `None`: it
    /// is not one.
    pub(super) fn slots(&self) -> Option<Vec<u32>> {
        let index = |place: usize| self.by_name[place];
        match &*self.lookup {
            HashLookup::Source(lookup) => Some(lookup.owners().map(index).collect()),
            HashLookup::Maglev(lookup) => Some(lookup.owners().map(index).collect()),
            HashLookup::Ring(_) => None,
        }
    }

    pub(super) fn choose(&self, candidates: &[Candidate], args: &PickArgs<'_>) -> Option<usize> {
        self.walk(candidates, args, self.bound.as_ref().map(|bound| bound.limit(candidates, args.excluded)))
    }

    /// The choice without a bound; `None` if none is configured.
    pub(super) fn unbounded(&self, candidates: &[Candidate], args: &PickArgs<'_>) -> Option<usize> {
        self.bound.as_ref().and_then(|_| self.walk(candidates, args, None))
    }

    fn walk(&self, candidates: &[Candidate], args: &PickArgs<'_>, limit: Option<LoadLimit>) -> Option<usize> {
        let rehashed =
            || std::iter::once(args.client).chain((1..=REHASHES).map(|nth| rehash(args.client, nth)));
        match &*self.lookup {
            HashLookup::Source(lookup) => {
                self.first(candidates, args, limit, rehashed().filter_map(|hash| lookup.find(hash)))
            }
            HashLookup::Ring(lookup) => self.first(candidates, args, limit, lookup.from(args.client)),
            HashLookup::Maglev(lookup) => {
                self.first(candidates, args, limit, rehashed().filter_map(|hash| lookup.find(hash)))
            }
        }
    }

    /// The first of `preferred`, and then of all, that is neither excluded nor at its bound; if all are at their bound,
    /// the first that is not excluded.
    fn first(
        &self,
        candidates: &[Candidate],
        args: &PickArgs<'_>,
        limit: Option<LoadLimit>,
        preferred: impl Iterator<Item = usize>,
    ) -> Option<usize> {
        let n = candidates.len();
        let start = (args.client % n.max(1) as u64) as usize;
        let all = (start..n).chain(0..start);
        // Most choices end at the first candidate and allocate nothing.
        let (mut seen, mut unseen, mut full) = (Vec::new(), n, None);
        for place in preferred.chain(all) {
            if unseen == 0 {
                break;
            }
            if seen.get(place) == Some(&true) {
                continue;
            }
            let index = self.by_name[place] as usize;
            if !args.excludes(candidates[index].key) {
                if limit.is_none_or(|limit| limit.admits(&candidates[index])) {
                    return Some(index);
                }
                full = full.or(Some(index));
            }
            seen.resize(n, false);
            seen[place] = true;
            unseen -= 1;
        }
        full
    }
}

#[cfg(test)]
mod tests {
    use super::super::laws::candidates;
    use super::*;

    #[test]
    fn the_lookup_is_rebuilt_only_if_names_weights_or_settings_change() {
        let (mut set, hash) = (candidates(&[1, 2]), Hash::default());
        let first = Affinity::ring_hash(&set, &hash, None);
        set.reverse();
        let again = Affinity::ring_hash(&set, &hash, Some(&first));
        assert!(Arc::ptr_eq(&first.lookup, &again.lookup));
        set[0].weight += 1;
        let heavier = Affinity::ring_hash(&set, &hash, Some(&again));
        assert!(!Arc::ptr_eq(&again.lookup, &heavier.lookup));
        let maglev = Affinity::maglev(&set, &hash, Some(&heavier));
        assert!(matches!(&*maglev.lookup, HashLookup::Maglev(_)));
    }
}
