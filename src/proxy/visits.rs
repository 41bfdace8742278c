//! When the tick visits each connection: an idle connection is left alone until one of its time limits is near.
//!
//! The list is dense, so that a tick over a hundred thousand idle connections reads less than a megabyte in order, instead of
//! the state of each connection.

use std::cell::RefCell;

use super::clock::Moment;

/// When each connection of a worker is visited next, by its key in the worker's table.
#[derive(Debug, Default)]
pub(super) struct Visits(RefCell<Vec<Visit>>);

/// When a connection is visited next, in order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Visit {
    /// At the next tick.
    Next,
    /// At the first tick from this moment on.
    At(Moment),
}

impl Visit {
    /// Not before something happens to it.
    pub(super) const NEVER: Self = Self::At(Moment::LAST);
}

impl Visits {
    /// Sets when the connection is visited next.
    pub(super) fn set(&self, key: usize, visit: Visit) {
        let mut visits = self.0.borrow_mut();
        if key >= visits.len() {
            visits.resize(key + 1, Visit::NEVER);
        }
        visits[key] = visit;
    }

    /// The keys of the connections that a tick at `now` visits.
    pub(super) fn due(&self, now: Moment) -> Vec<usize> {
        let visits = self.0.borrow();
        let is_due = |visit: &Visit| *visit <= Visit::At(now);
        visits.iter().enumerate().filter(|(_, visit)| is_due(visit)).map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn connections_are_due_from_their_moment_on() {
        let (visits, now) = (Visits::default(), Moment::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        visits.set(3, Visit::Next);
        visits.set(1, Visit::At(at(5)));
        visits.set(0, Visit::NEVER);
        assert_eq!([at(4), at(5), at(9)].map(|now| visits.due(now)), [vec![3], vec![1, 3], vec![1, 3]]);
        visits.set(3, Visit::NEVER);
        assert_eq!(visits.due(at(9)), [1]);
    }

    #[test]
    fn a_visit_takes_as_much_memory_as_its_moment() {
        assert_eq!(size_of::<Visit>(), size_of::<Moment>());
    }
}
