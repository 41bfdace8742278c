//! Who has least, without asking everybody: a tournament.
//!
//! The players stand side by side; the winners of each two meet, and so on up to the winner of all:
//!
//! ```text
//!   1 ▕                 b 1                          b has least
//!   2 ▕        b 1               c 2
//!   4 ▕   a 3       b 1     c 2       ·              · nobody: loses to everybody
//! ```
//!
//! When one player's cost changes, only the games above it are played again: 14 for 10,000 players. The array is the
//! tree: the two who meet at `node` are the winners of `2 × node` and `2 × node + 1`.

/// A player with what it costs.
#[derive(Clone, Copy, Debug)]
struct Player {
    index: u32,
    active: u32,
    /// 0 is out of the game: it divides `active` to more than anything.
    weight: u32,
}

impl Player {
    const NOBODY: Self = Self { index: 0, active: 1, weight: 0 };

    /// Whether active / weight is less than the other's, without dividing.
    fn beats(self, other: Self) -> bool {
        u64::from(self.active) * u64::from(other.weight) < u64::from(other.active) * u64::from(self.weight)
    }
}

/// Costs of the form active / weight, and who has the least.
#[derive(Debug)]
pub(super) struct Tournament {
    /// From the winner of all, at 1, to the players themselves, from the middle on.
    nodes: Box<[Player]>,
}

impl Tournament {
    /// Players with these pairs of active and weight.
    pub(super) fn new(costs: impl ExactSizeIterator<Item = (u32, u32)>) -> Self {
        let (players, leaves) = (costs.len(), costs.len().next_power_of_two());
        let mut new = Self { nodes: vec![Player::NOBODY; 2 * leaves].into_boxed_slice() };
        for (index, (active, weight)) in costs.enumerate() {
            new.put(index, active, weight);
        }
        new.play(0, players.saturating_sub(1));
        new
    }

    /// What was last put for the player.
    pub(super) fn active(&self, index: usize) -> u32 {
        self.nodes[self.leaf(index)].active
    }

    /// Sets one player's cost; `play` must follow.
    pub(super) fn put(&mut self, index: usize, active: u32, weight: u32) {
        let player = Player { index: index as u32, active, weight };
        self.nodes[self.leaf(index)] = player;
    }

    /// Takes one player out of the game; `play` must follow.
    pub(super) fn put_out(&mut self, index: usize) {
        self.nodes[self.leaf(index)] = Player::NOBODY;
    }

    /// Plays the games again that the players from `first` to `last` have part in.
    pub(super) fn play(&mut self, first: usize, last: usize) {
        let (mut first, mut last) = (self.leaf(first), self.leaf(last));
        while first > 1 {
            (first, last) = (first / 2, last / 2);
            for node in first..=last {
                let (left, right) = (self.nodes[2 * node], self.nodes[2 * node + 1]);
                self.nodes[node] = if right.beats(left) { right } else { left };
            }
        }
    }

    /// Who has least; of equals the first from `start` on, and then from the beginning. `None`: all are out.
    pub(super) fn winner(&self, start: usize) -> Option<usize> {
        // The best from `start` on: on the way up, whoever comes in from the right stands further on.
        let mut node = self.leaf(start);
        let mut best = self.nodes[node];
        while node > 1 {
            let right = self.nodes[node | 1];
            if node.is_multiple_of(2) && right.beats(best) {
                best = right;
            }
            node /= 2;
        }
        // Who beats that one stands before `start`, and of equals a game is won by the one on the left.
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

    /// The plain way to say it.
    fn first_least(costs: &[Option<(u32, u32)>], start: usize) -> Option<usize> {
        let mut best: Option<(usize, u64, u64)> = None;
        for index in (start..costs.len()).chain(0..start) {
            let Some((active, weight)) = costs[index] else { continue };
            let (active, weight) = (u64::from(active), u64::from(weight));
            if best.is_none_or(|(_, a, w)| active * w < a * weight) {
                best = Some((index, active, weight));
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
        fn the_winner_has_least_and_is_the_first_such_from_the_start(
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
                    Some((active, weight)) => tournament.put(index, active, weight),
                    None => tournament.put_out(index),
                }
                tournament.play(index, index);
            }
        }
    }

    #[test]
    fn all_out_is_nobody() {
        let mut tournament = Tournament::new([(0, 1), (u32::MAX, 256)].into_iter());
        tournament.put_out(0);
        tournament.play(0, 0);
        assert_eq!(tournament.winner(0), Some(1));
        tournament.put_out(1);
        tournament.play(0, 1);
        assert_eq!(tournament.winner(1), None);
    }
}
