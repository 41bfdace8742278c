//! Two candidates drawn at random, each as likely as any other, and the better one of them.
//!
//! To compare two is enough: the fullest of n is then only about log log n above the average, where one drawn at
//! random would be log n / log log n (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001). And
//! as everybody draws other ones, nobody is overrun by all those who have seen at the same moment that it has least.

use super::{Ask, Candidate};

/// So often one is drawn again that may not be chosen; then it is the next one that may.
const DRAWS: usize = 16;

/// The first of the two, unless the second `beats` it.
pub(super) fn better_of_two(
    candidates: &[Candidate],
    ask: &Ask<'_>,
    beats: impl Fn(&Candidate, &Candidate) -> bool,
) -> Option<usize> {
    let mut dice = SplitMix(ask.random);
    let allowed = |index: usize| !ask.passed.contains(&candidates[index].key);
    let first = draw(candidates.len(), &mut dice, allowed)?;
    let Some(second) = draw(candidates.len(), &mut dice, |index| index != first && allowed(index)) else {
        return Some(first);
    };
    Some(if beats(&candidates[second], &candidates[first]) { second } else { first })
}

fn draw(n: usize, dice: &mut SplitMix, allowed: impl Fn(usize) -> bool) -> Option<usize> {
    let drawn = (0..DRAWS).map(|_| dice.below(n)).find(|&index| allowed(index));
    drawn.or_else(|| {
        let start = dice.below(n);
        (start..n).chain(0..start).find(|&index| allowed(index))
    })
}

/// Makes many random numbers of one (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `n`.
    fn below(&mut self, n: usize) -> usize {
        (u128::from(self.next()) * n as u128 >> 64) as usize
    }
}
