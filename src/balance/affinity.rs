//! What the algorithms have in common that send a client to the same backend each time: in which order they try the
//! others when that one is passed over or has enough, and that the order is the same for the same client, so that it
//! also has the same second choice.

use std::sync::Arc;

use super::bound::{Bound, Room};
use super::hash::{Named, again, by_name};
use super::maglev::Maglev;
use super::ring_hash::RingHash;
use super::source_hash::SourceHash;
use super::{Candidate, PickArgs};
use crate::config::{Algorithm, Hash};

/// So often a client is hashed again to find it another backend; then they are tried in the order of their names. Of a
/// set of which half is passed over, one client in four billion comes to that.
const REHASHES: u64 = 32;

#[derive(Debug)]
pub(super) struct Affinity {
    /// Shared with the pickers before and after it, as long as they are made of the same.
    places: Arc<Places>,
    made_of: MadeOf,
    /// The candidates in the order of their names, which is how `places` knows them.
    by_name: Box<[u32]>,
    bound: Option<Bound>,
}

/// How a client's hash becomes a backend.
#[derive(Debug)]
enum Places {
    Source(SourceHash),
    Ring(RingHash),
    Maglev(Maglev),
}

/// What decides how the places are: nothing of it changes when a backend is only checked, or comes back at another
/// address.
#[derive(Debug, PartialEq, Eq)]
struct MadeOf {
    algorithm: Algorithm,
    hash: Hash,
    /// Names and weights.
    candidates: Box<[(Arc<str>, u32)]>,
}

impl Affinity {
    pub(super) fn source_hash(candidates: &[Candidate], hash: &Hash, previous: Option<&Self>) -> Self {
        let places = |named: &[Named<'_>]| Places::Source(SourceHash::new(named));
        Self::new(Algorithm::SourceHash, candidates, hash, previous, places)
    }

    pub(super) fn ring_hash(candidates: &[Candidate], hash: &Hash, previous: Option<&Self>) -> Self {
        let places = |named: &[Named<'_>]| Places::Ring(RingHash::new(named, hash));
        Self::new(Algorithm::RingHash, candidates, hash, previous, places)
    }

    pub(super) fn maglev(candidates: &[Candidate], hash: &Hash, previous: Option<&Self>) -> Self {
        let places = |named: &[Named<'_>]| Places::Maglev(Maglev::new(named));
        Self::new(Algorithm::Maglev, candidates, hash, previous, places)
    }

    fn new(
        algorithm: Algorithm,
        candidates: &[Candidate],
        hash: &Hash,
        previous: Option<&Self>,
        places: impl FnOnce(&[Named<'_>]) -> Places,
    ) -> Self {
        let named = by_name(candidates);
        let known_as = |one: &Named<'_>| (Arc::clone(&candidates[one.index].name), one.weight);
        let made_of = MadeOf { algorithm, hash: *hash, candidates: named.iter().map(known_as).collect() };
        Self {
            places: match previous {
                Some(previous) if previous.made_of == made_of => Arc::clone(&previous.places),
                _ => Arc::new(places(&named)),
            },
            made_of,
            by_name: named.iter().map(|one| one.index as u32).collect(),
            bound: hash.load_factor.map(|factor| Bound::new(factor, candidates)),
        }
    }

    pub(super) fn choose(&self, candidates: &[Candidate], args: &PickArgs<'_>) -> Option<usize> {
        self.walk(candidates, args, self.bound.as_ref().map(|bound| bound.room(candidates, args.excluded)))
    }

    /// Whom the client would have got without a bound; `None` if there is none.
    pub(super) fn unbounded(&self, candidates: &[Candidate], args: &PickArgs<'_>) -> Option<usize> {
        self.bound.as_ref().and_then(|_| self.walk(candidates, args, None))
    }

    fn walk(&self, candidates: &[Candidate], args: &PickArgs<'_>, room: Option<Room>) -> Option<usize> {
        let rehashed =
            || std::iter::once(args.client).chain((1..=REHASHES).map(|nth| again(args.client, nth)));
        match &*self.places {
            Places::Source(places) => {
                self.first(candidates, args, room, rehashed().filter_map(|hash| places.find(hash)))
            }
            Places::Ring(places) => self.first(candidates, args, room, places.around(args.client)),
            Places::Maglev(places) => {
                self.first(candidates, args, room, rehashed().filter_map(|hash| places.find(hash)))
            }
        }
    }

    /// The first of `preferred`, and then of all, that is not passed over and within its bound; if nobody is within its
    /// bound, the first that is not passed over.
    fn first(
        &self,
        candidates: &[Candidate],
        args: &PickArgs<'_>,
        room: Option<Room>,
        preferred: impl Iterator<Item = usize>,
    ) -> Option<usize> {
        let n = candidates.len();
        let start = (args.client % n.max(1) as u64) as usize;
        let all = (start..n).chain(0..start);
        // Most choices end at the first one: nothing is allocated for those.
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
                if room.is_none_or(|room| room.at(&candidates[index])) {
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
    fn places_are_found_anew_only_if_names_weights_or_settings_change() {
        let (mut set, hash) = (candidates(&[1, 2]), Hash::default());
        let first = Affinity::ring_hash(&set, &hash, None);
        set.reverse();
        let again = Affinity::ring_hash(&set, &hash, Some(&first));
        assert!(Arc::ptr_eq(&first.places, &again.places));
        set[0].weight += 1;
        let heavier = Affinity::ring_hash(&set, &hash, Some(&again));
        assert!(!Arc::ptr_eq(&again.places, &heavier.places));
        let maglev = Affinity::maglev(&set, &hash, Some(&heavier));
        assert!(matches!(&*maglev.places, Places::Maglev(_)));
    }
}
