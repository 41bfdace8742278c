//! What happens in the demo, and when: a script that repeats.

use std::time::Duration;

use super::stage::Event;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Seconds after the beginning of the script.
    pub(super) at: u64,
    /// To whom.
    pub(super) backend: &'static str,
    /// What.
    pub(super) event: Event,
    /// The same in words, with what to look at.
    pub(super) words: &'static str,
}

/// The script.
pub(super) const SCRIPT: [Step; 7] = [
    Step {
        at: 4,
        backend: "b",
        event: Event::Die,
        words: "b is killed: who was sent there gets another backend, and soon its checks take it out",
    },
    Step {
        at: 10,
        backend: "b",
        event: Event::Return,
        words: "b is started again: two good checks, and it takes its turns",
    },
    Step {
        at: 14,
        backend: "c",
        event: Event::Slow(Duration::from_millis(250)),
        words: "c slows down: round-robin does not care (try `demo --balance least-connections`)",
    },
    Step { at: 19, backend: "c", event: Event::Recover, words: "c is as fast as before" },
    Step {
        at: 21,
        backend: "d",
        event: Event::Join,
        words: "d is started and appears in DNS: one good check, and it takes its turns",
    },
    Step {
        at: 26,
        backend: "d",
        event: Event::Leave,
        words: "d vanishes from DNS: nothing new is sent there, what runs may finish",
    },
    Step { at: 29, backend: "d", event: Event::Die, words: "d is stopped; the story begins again" },
];

/// How long the script takes until it begins again.
pub(super) const LENGTH: Duration = Duration::from_secs(30);

/// Every step in its order, for ever, each with its time since the start of the demo.
pub(super) fn steps() -> impl Iterator<Item = (Duration, Step)> {
    (0_u32..).flat_map(|round| SCRIPT.map(|step| (LENGTH * round + Duration::from_secs(step.at), step)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_repeats_in_order() {
        let times: Vec<_> = steps().take(SCRIPT.len() * 3).map(|(at, _)| at).collect();
        assert!(times.is_sorted());
        assert_eq!(times[SCRIPT.len()] - times[0], LENGTH);
    }

    #[test]
    fn everyone_is_at_the_end_as_at_the_beginning() {
        for name in ["a", "b", "c", "d"] {
            let mut events = SCRIPT.iter().filter(|step| step.backend == name).map(|step| step.event);
            let undone = match (events.next(), events.next_back()) {
                (None, None) => true,
                (Some(first), Some(last)) => matches!(
                    (first, last),
                    (Event::Die, Event::Return)
                        | (Event::Slow(_), Event::Recover)
                        | (Event::Join, Event::Die)
                ),
                _ => false,
            };
            assert!(undone, "{name}");
        }
    }
}
