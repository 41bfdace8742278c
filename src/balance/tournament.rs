//! The minimum of many loads, kept up to date without reading all: a tournament tree.
//!
//! Candidates are the leaves; each inner node holds the winner of its two children, up to the winner of all:
//!
//! ```text
//!   1 ▕                 b 1                          b has the least
//!   2 ▕        b 1               c 2
//!   4 ▕   a 3       b 1     c 2       ·              · absent: loses to all
//! ```
//!
//! When one leaf changes, only the nodes above it are compared again: 14 for 10,000 candidates. The tree is an array:
//! the children of `node` are `2 × node` and `2 × node + 1`.

/// A candidate and its cost, `load / weight`.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    index: u32,
    load: u32,
    /// 0: absent, which compares as the greatest cost of all.
    weight: u32,
}

impl Leaf {
    const ABSENT: Self = Self { index: 0, load: 1, weight: 0 };

    /// Whether load / weight is less than the other's, without a division.
    fn beats(self, other: Self) -> bool {
        u64::from(self.load) * u64::from(other.weight) < u64::from(other.load) * u64::from(self.weight)
    }
}

/// Costs of the form load / weight, and their minimum.
#[derive(Debug)]
pub(super) struct Tournament {
    /// The winner of all is at 1; the leaves fill the second half.
    nodes: Box<[Leaf]>,
}

impl Tournament {
    /// A tree of these pairs of load and weight.
    pub(super) fn new(costs: impl ExactSizeIterator<Item = (u32, u32)>) -> Self {
        let (candidates, leaves) = (costs.len(), costs.len().next_power_of_two());
        let mut new = Self { nodes: vec![Leaf::ABSENT; 2 * leaves].into_boxed_slice() };
        for (index, (load, weight)) in costs.enumerate() {
            new.set(index, load, weight);
        }
        new.replay(0, candidates.saturating_sub(1));
        new
    }

    /// The load that was last set for a candidate.
    pub(super) fn load(&self, index: usize) -> u32 {
        self.nodes[self.leaf(index)].load
    }

    /// Sets the cost of one candidate; `replay` must follow.
    pub(super) fn set(&mut self, index: usize, load: u32, weight: u32) {
        let leaf = Leaf { index: index as u32, load, weight };
        self.nodes[self.leaf(index)] = leaf;
    }

    /// Removes one candidate; `replay` must follow.
    pub(super) fn remove(&mut self, index: usize) {
        self.nodes[self.leaf(index)] = Leaf::ABSENT;
    }

    /// Compares all nodes above the leaves `first` to `last` again.
    pub(super) fn replay(&mut self, first: usize, last: usize) {
        let (mut first, mut last) = (self.leaf(first), self.leaf(last));
        while first > 1 {
            (first, last) = (first / 2, last / 2);
            for node in first..=last {
                let (left, right) = (self.nodes[2 * node], self.nodes[2 * node + 1]);
                self.nodes[node] = if right.beats(left) { right } else { left };
            }
        }
    }

    /// The candidate of the least cost; of equals the first from `start` on, once around. `None`: all are absent.
    pub(super) fn winner(&self, start: usize) -> Option<usize> {
        // The best from `start` on: on the way up, right siblings lie further on.
        let mut node = self.leaf(start);
        let mut best = self.nodes[node];
        while node > 1 {
            let right = self.nodes[node | 1];
            if node.is_multiple_of(2) && right.beats(best) {
                best = right;
            }
            node /= 2;
        }
        // A better one lies before `start`; of equals the left child wins.
        let all = self.nodes[1];
        let winner = if all.beats(best) { all } else { best };
        (winner.weight > 0).then_some(winner.index as usize)
    }

    fn leaf(&self, index: usize) -> usize {
        self.nodes.len() / 2 + index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The plain search that the tree replaces.
    fn first_least(costs: &[Option<(u32, u32)>], start: usize) -> Option<usize> {
        let mut best: Option<(usize, u64, u64)> = None;
        for index in (start..costs.len()).chain(0..start) {
            let Some((load, weight)) = costs[index] else { continue };
            let (load, weight) = (u64::from(load), u64::from(weight));
            if best.is_none_or(|(_, a, w)| load * w < a * weight) {
                best = Some((index, load, weight));
            }
        }
        best.map(|(index, ..)| index)
    }

    fn cost() -> impl Strategy<Value = (u32, u32)> {
        prop_oneof![(0u32..4, 1u32..4), (any::<u32>(), 1u32..=256)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_winner_is_the_first_minimum_from_the_start(
            costs in proptest::collection::vec(cost(), 1..200),
            changes in proptest::collection::vec((any::<usize>(), proptest::option::of(cost()), any::<usize>()), 1..60),
        ) {
            let n = costs.len();
            let mut tournament = Tournament::new(costs.iter().copied());
            let mut costs: Vec<_> = costs.into_iter().map(Some).collect();
            for (index, cost, start) in changes {
                let (index, start) = (index % n, start % n);
                prop_assert_eq!(tournament.winner(start), first_least(&costs, start));
                costs[index] = cost;
                match cost {
                    Some((load, weight)) => tournament.set(index, load, weight),
                    None => tournament.remove(index),
                }
                tournament.replay(index, index);
            }
        }
    }

    #[test]
    fn without_candidates_there_is_no_winner() {
        let mut tournament = Tournament::new([(0, 1), (u32::MAX, 256)].into_iter());
        tournament.remove(0);
        tournament.replay(0, 0);
        assert_eq!(tournament.winner(0), Some(1));
        tournament.remove(1);
        tournament.replay(0, 1);
        assert_eq!(tournament.winner(1), None);
    }
}
