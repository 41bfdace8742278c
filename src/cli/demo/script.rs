//! The script of the demo: changes to backends at fixed times, repeated.

use std::time::Duration;

use super::environment::DemoChange;

/// One step of the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScriptStep {
    /// Seconds since the start of the script.
    pub(super) at: u64,
    /// The name of the backend.
    pub(super) backend: &'static str,
    pub(super) change: DemoChange,
    /// A sentence that explains what to watch.
    pub(super) text: &'static str,
}

/// The script.
pub(super) const SCRIPT: [ScriptStep; 7] = [
    ScriptStep {
        at: 4,
        backend: "b",
        change: DemoChange::Kill,
        text: "b is killed: its connections are retried on another backend, and soon its checks take it out",
    },
    ScriptStep {
        at: 10,
        backend: "b",
        change: DemoChange::Restart,
        text: "b is started again: after two passed checks it is back in rotation",
    },
    ScriptStep {
        at: 14,
        backend: "c",
        change: DemoChange::SlowDown(Duration::from_millis(250)),
        text: "c slows down: round-robin ignores that (try `demo --balance least-connections`)",
    },
    ScriptStep { at: 19, backend: "c", change: DemoChange::Recover, text: "c is as fast as before" },
    ScriptStep {
        at: 21,
        backend: "d",
        change: DemoChange::Join,
        text: "d is started and appears in DNS: after one passed check it is in rotation",
    },
    ScriptStep {
        at: 26,
        backend: "d",
        change: DemoChange::Leave,
        text: "d vanishes from DNS: no new connections; existing ones finish",
    },
    ScriptStep {
        at: 29,
        backend: "d",
        change: DemoChange::Kill,
        text: "d is stopped; the script starts over",
    },
];

/// The length of the script.
pub(super) const LENGTH: Duration = Duration::from_secs(30);

/// All steps of endless repetitions, each with its time since the start of the demo.
pub(super) fn steps() -> impl Iterator<Item = (Duration, ScriptStep)> {
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
    fn each_backend_ends_in_its_initial_state() {
        for name in ["a", "b", "c", "d"] {
            let mut changes = SCRIPT.iter().filter(|step| step.backend == name).map(|step| step.change);
            let undone = match (changes.next(), changes.next_back()) {
                (None, None) => true,
                (Some(first), Some(last)) => matches!(
                    (first, last),
                    (DemoChange::Kill, DemoChange::Restart)
                        | (DemoChange::SlowDown(_), DemoChange::Recover)
                        | (DemoChange::Join, DemoChange::Kill)
                ),
                _ => false,
            };
            assert!(undone, "{name}");
        }
    }
}
