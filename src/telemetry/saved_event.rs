//! The events in the state directory: one line each, in the form of the API, but reasons have all their fields.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::value::Serializer;

use crate::domain::{EjectionReason, Event, StateReason, Timestamp};
use crate::state_directory::LineError;

/// Later times are not from a clock, and would overflow in calculations.
const LATEST: f64 = 253_402_300_799.0;

/// An event of the state directory.
#[derive(Debug, Serialize, Deserialize)]
struct SavedEvent<E> {
    id: u64,
    at: Timestamp,
    #[serde(flatten)]
    event: E,
}

/// The line of an event.
pub(super) fn line(id: u64, at: SystemTime, event: &Event) -> String {
    // Serializing these types cannot fail.
    let mut saved = serde_json::to_value(event).unwrap_or_default();
    match event {
        Event::StateChanged { reason, .. } => {
            saved["detail"] = StateReason::serialize(reason, Serializer).unwrap_or_default();
        }
        Event::EjectionSuppressed { reason, .. } => {
            saved["cause"] = EjectionReason::serialize(reason, Serializer).unwrap_or_default();
        }
        _ => {}
    }
    serde_json::to_string(&SavedEvent { id, at: at.into(), event: saved }).unwrap_or_default()
}

/// The event in a line.
pub(super) fn parse(line: &str) -> Result<(u64, SystemTime, Arc<Event>), LineError> {
    match serde_json::from_str::<SavedEvent<Event>>(line) {
        Ok(SavedEvent { id, at, event }) if (0.0..LATEST).contains(&at.0) && id < u64::MAX => {
            Ok((id, at.into(), Arc::new(event)))
        }
        Ok(_) => Err(LineError::Damaged),
        Err(_) => Err(LineError::of(line)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::state_reasons;
    use crate::telemetry::reference_tests::one_of_each_kind;

    fn at() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_566_859_123)
    }

    /// With the time as the API has it, in milliseconds.
    fn parsed(line: &str) -> Result<(u64, Timestamp, Event), LineError> {
        parse(line).map(|(id, at, event)| (id, at.into(), Arc::unwrap_or_clone(event)))
    }

    #[test]
    fn every_event_is_read_as_it_was_written() {
        let reasons = state_reasons().into_iter().map(|reason| Event::StateChanged {
            pool: "web".into(),
            backend: "a".into(),
            address: "unix:/run/a.sock".parse().unwrap(),
            from: crate::domain::BackendState::Up,
            to: crate::domain::BackendState::Down,
            reason,
        });
        for (id, event) in (1..).zip(one_of_each_kind().into_iter().chain(reasons)) {
            let line = line(id, at(), &event);
            assert_eq!(parsed(&line), Ok((id, at().into(), event)), "{line}");
            // The form of the API, for a reader of the file.
            let saved: serde_json::Value = serde_json::from_str(&line).unwrap();
            let shown = serde_json::to_value(&*parse(&line).unwrap().2).unwrap();
            for (key, value) in shown.as_object().unwrap().iter().filter(|(key, _)| *key != "cause") {
                assert_eq!(saved[key], *value, "{line}");
            }
        }
    }

    #[test]
    fn a_line_of_another_version_is_unknown_and_a_torn_one_is_damaged() {
        let event = Event::DrainDone { cut: None };
        let line = line(7, at(), &event);
        for (line, error) in [
            (line.replace("drain_done", "drain_considered"), LineError::Unknown),
            (line.replace("\"id\":7,", ""), LineError::Unknown),
            ("{}".to_owned(), LineError::Unknown),
            (line[..line.len() - 1].to_owned(), LineError::Damaged),
            (String::new(), LineError::Damaged),
            (line.replace("1795566859.123", "1e300"), LineError::Damaged),
            (line.replace("1795566859.123", "-1"), LineError::Damaged),
        ] {
            assert_eq!(parsed(&line), Err(error), "{line}");
        }
        // A later version may add fields.
        let more = line.replace("\"id\":7", "\"id\":7,\"more\":[1]");
        assert_eq!(parsed(&more), Ok((7, at().into(), event)));
    }

    proptest! {
        #[test]
        fn no_line_does_harm(line in ".{0,80}") {
            let _ = parse(&line);
        }

        #[test]
        fn any_text_is_read_as_it_was_written(pool in ".{0,20}", backend in ".{0,20}", weight: u32, id in 1..u64::MAX) {
            let event = Event::WeightChanged { pool: pool.into(), backend: backend.into(), weight };
            let line = line(id, at(), &event);
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(parsed(&line), Ok((id, at().into(), event)));
        }
    }
}
