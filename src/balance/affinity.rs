//! What the algorithms have in common that send a client to the same backend each time: in which order they try the
//! others when that one is passed over or has enough, and that the order is the same for the same client, so that it
//! also has the same second choice.

use super::bound::Bound;
use super::hash::{again, by_name};
use super::maglev::Maglev;
use super::ring_hash::RingHash;
use super::source_hash::SourceHash;
use super::{Ask, Candidate};
use crate::config::Hash;

/// So often a client is hashed again to find it another backend; then they are tried in the order of their names. Of a
/// set of which half is passed over, one client in four billion comes to that.
const REHASHES: u64 = 32;

#[derive(Debug)]
pub(super) struct Affinity {
    places: Places,
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

impl Affinity {
    pub(super) fn source_hash(candidates: &[Candidate], hash: &Hash) -> Self {
        Self::new(candidates, hash, Places::Source(SourceHash::new(&by_name(candidates))))
    }

    pub(super) fn ring_hash(candidates: &[Candidate], hash: &Hash) -> Self {
        Self::new(candidates, hash, Places::Ring(RingHash::new(&by_name(candidates), hash)))
    }

    pub(super) fn maglev(candidates: &[Candidate], hash: &Hash) -> Self {
        Self::new(candidates, hash, Places::Maglev(Maglev::new(&by_name(candidates))))
    }

    fn new(candidates: &[Candidate], hash: &Hash, places: Places) -> Self {
        Self {
            places,
            by_name: by_name(candidates).iter().map(|one| one.index as u32).collect(),
            bound: hash.load_factor.map(|factor| Bound::new(factor, candidates)),
        }
    }

    pub(super) fn choose(&self, candidates: &[Candidate], ask: &Ask<'_>) -> Option<usize> {
        let rehashed = || std::iter::once(ask.client).chain((1..=REHASHES).map(|nth| again(ask.client, nth)));
        match &self.places {
            Places::Source(places) => {
                self.first(candidates, ask, rehashed().filter_map(|hash| places.find(hash)))
            }
            Places::Ring(places) => self.first(candidates, ask, places.around(ask.client)),
            Places::Maglev(places) => {
                self.first(candidates, ask, rehashed().filter_map(|hash| places.find(hash)))
            }
        }
    }

    /// The first of `preferred`, and then of all, that is not passed over and within its bound; if nobody is within its
    /// bound, the first that is not passed over.
    fn first(
        &self,
        candidates: &[Candidate],
        ask: &Ask<'_>,
        preferred: impl Iterator<Item = usize>,
    ) -> Option<usize> {
        let room = self.bound.as_ref().map(|bound| bound.room(candidates, ask.passed));
        let n = candidates.len();
        let start = (ask.client % n.max(1) as u64) as usize;
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
            if !ask.passed.contains(&candidates[index].key) {
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
