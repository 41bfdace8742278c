//! Decisions and events in words, in the demo and in `top`.

use std::time::Duration;

use serde_json::Value;

use crate::story::words::{count, time};

/// A routing decision.
pub(super) fn decision(
    conn: u64,
    client: &str,
    backend: Option<&str>,
    algorithm: &str,
    skipped: &str,
) -> String {
    let why = match algorithm {
        "round-robin" => "its turn",
        "weighted" => "its turn by weight",
        "least-connections" => "fewest connections for its weight",
        other => other,
    };
    let over = if skipped.is_empty() { String::new() } else { format!("; passed over {skipped}") };
    match backend {
        Some(backend) => format!("#{conn} {client} → {backend}: {why}{over}"),
        None => format!("#{conn} {client} got no backend{over}"),
    }
}

/// An event of the journal, as the API has it. One of a kind that is not known here is told by its fields.
pub(super) fn event(event: &Value) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let number = |name: &str, one: &str| count(event[name].as_u64().unwrap_or_default(), one);
    let (pool, backend, cause) = (text("pool"), text("backend"), text("cause"));
    match text("kind") {
        "state_changed" => format!("{pool}/{backend} is {}: {cause}", text("to")),
        "backend_named" => format!("{pool}/{backend} is the name of {}", text("address")),
        "weight_changed" => format!("{pool}/{backend} has weight {}", event["weight"]),
        "ejection_suppressed" => format!("{pool}/{backend} is not ejected, as too many are out: {cause}"),
        "serving_tier_changed" => match text("tier") {
            "none" => format!("{pool}: no backend is up, clients are turned away"),
            "all" => format!("{pool}: panic, too few are up and all are used"),
            "backups" => format!("{pool}: no primary is up, backups are used"),
            _ => format!("{pool}: primaries are used"),
        },
        "resolver_status_changed" => match event["trouble"]["reason"].as_str() {
            Some(reason) => format!("{pool}: {reason}"),
            None => format!("{pool}: {} finds backends again", text("source")),
        },
        "check_result_changed" if event["passed"] == true => {
            format!("{pool}/{backend}: its {} check passes", text("check"))
        }
        "check_result_changed" => {
            format!("{pool}/{backend}: its {} check fails: {}", text("check"), text("error"))
        }
        "endpoints_changed" => {
            let named = |what: &str| {
                let names =
                    event[what].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
                let names: Vec<_> = names.collect();
                if names.is_empty() { String::new() } else { format!("; {what}: {}", names.join(", ")) }
            };
            let (found, new, missing) = (number("backends", "backend"), named("new"), named("missing"));
            format!("{pool}: {} names {found}{new}{missing}", text("source"))
        }
        "backend_added" => format!("{} adds {pool}/{backend} at {}", text("by"), text("address")),
        "backend_removed" => format!("{} takes {pool}/{backend} away", text("by")),
        "connection_closed" => {
            format!("{} ends connection {} of {}", text("by"), event["conn"], text("client"))
        }
        "check_requested" => match (pool, backend) {
            ("", _) => format!("{} has all backends checked", text("by")),
            (_, "") => format!("{} has the backends of {pool} checked", text("by")),
            _ => format!("{} has {pool}/{backend} checked", text("by")),
        },
        "reload_applied" => format!("{} had {} read again: it is at work", text("by"), text("config")),
        "reload_refused" => {
            let first = event["problems"][0]["message"].as_str().unwrap_or("the log says why");
            format!("{} had {} read again: it was refused: {first}", text("by"), text("config"))
        }
        "drain_started" => format!("{} told it to end: {} open", text("by"), number("open", "connection")),
        "drain_progress" => format!("draining: {} open", number("open", "connection")),
        "drain_done" => match event["cut"].as_u64() {
            None => "drained: nobody was cut off".to_owned(),
            Some(_) => format!("drained: {} cut off", number("cut", "connection")),
        },
        "checks_late" => format!(
            "{pool}: checks run late, the first waited {} for its turn (runtime.max_checks limits them)",
            time(Duration::from_millis(event["waited_ms"].as_u64().unwrap_or_default()))
        ),
        "checks_on_time" => {
            format!("{pool}: checks are on time again, {} ran late", number("checks", "check"))
        }
        "check_inconclusive" => format!("{pool}/{backend} could not be checked: {}", text("error")),
        "operator_change" if !backend.is_empty() => {
            let state = event["state"].as_str().map(|state| format!(" {state}")).unwrap_or_default();
            let weight =
                event["weight"].as_u64().map(|weight| format!(" weight {weight}")).unwrap_or_default();
            format!("{} wants {pool}/{backend}{state}{weight}", text("by"))
        }
        kind => {
            let mut words = kind.replace('_', " ");
            for (name, value) in event.as_object().into_iter().flatten() {
                let known = ["kind", "id", "at"].contains(&&**name);
                match value {
                    Value::String(value) if !known => words.push_str(&format!(" {name}={value}")),
                    Value::Number(value) if !known => words.push_str(&format!(" {name}={value}")),
                    Value::Bool(value) if !known => words.push_str(&format!(" {name}={value}")),
                    _ => {}
                }
            }
            words
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BackendState, Endpoint, Event, ServingTier, Trouble};

    fn told(told: &Event) -> String {
        event(&serde_json::to_value(told).unwrap())
    }

    #[test]
    fn every_event_has_a_sentence() {
        let state = Event::StateChanged {
            pool: "web".into(),
            backend: "a".into(),
            address: "10.0.0.1:80".parse().unwrap(),
            from: BackendState::Up,
            to: BackendState::Down,
            cause: "3 failures in a row".into(),
        };
        assert_eq!(told(&state), "web/a is down: 3 failures in a row");
        let weight = Event::WeightChanged { pool: "web".into(), backend: "a".into(), weight: 3 };
        assert_eq!(told(&weight), "web/a has weight 3");
        let trouble = Trouble { result: "nxdomain", reason: "127.0.0.11 knows no name \"x\"".into() };
        let answers =
            |trouble| Event::ResolverStatusChanged { pool: "web".into(), source: "dns:x".into(), trouble };
        assert_eq!(told(&answers(Some(trouble))), "web: 127.0.0.11 knows no name \"x\"");
        assert_eq!(told(&answers(None)), "web: dns:x finds backends again");
        let nobody = Event::ServingTierChanged {
            pool: "web".into(),
            tier: ServingTier::None,
            before: None,
            up: 0,
            used: 0,
            panic: 0,
        };
        assert_eq!(told(&nobody), "web: no backend is up, clients are turned away");
        let check = |passed, error: Option<&str>| Event::CheckResultChanged {
            pool: "web".into(),
            backend: "a".into(),
            address: "10.0.0.1:80".parse().unwrap(),
            check: "http",
            passed,
            error: error.map(Into::into),
            took_ms: 0.3,
        };
        assert_eq!(told(&check(true, None)), "web/a: its http check passes");
        assert_eq!(told(&check(false, Some("status 503"))), "web/a: its http check fails: status 503");
        let endpoints: Vec<_> = ["b", "c"]
            .map(|name| Endpoint { name: name.into(), address: "10.0.0.1:80".parse().unwrap() })
            .into();
        let discovered = Event::EndpointsChanged {
            pool: "web".into(),
            source: "dns:x".into(),
            result: "found",
            backends: 2,
            new: endpoints,
            missing: Vec::new(),
        };
        assert_eq!(told(&discovered), "web: dns:x names 2 backends; new: b, c");
        let late = Event::ChecksLate { pool: "web".into(), waited_ms: 4200 };
        assert_eq!(
            told(&late),
            "web: checks run late, the first waited 4.2 s for its turn (runtime.max_checks limits them)"
        );
        let on_time = Event::ChecksOnTime { pool: "web".into(), after_ms: 9, checks: 2 };
        assert_eq!(told(&on_time), "web: checks are on time again, 2 checks ran late");
        let checked = |pool: Option<&str>, backend: Option<&str>| Event::CheckRequested {
            by: "somebody".into(),
            pool: pool.map(Into::into),
            backend: backend.map(Into::into),
        };
        assert_eq!(told(&checked(None, None)), "somebody has all backends checked");
        assert_eq!(told(&checked(Some("web"), Some("a"))), "somebody has web/a checked");
        assert_eq!(told(&Event::DrainDone { cut: None }), "drained: nobody was cut off");
        assert_eq!(told(&Event::DrainDone { cut: Some(1) }), "drained: 1 connection cut off");
        let later =
            serde_json::json!({"id": 1, "at": 2.0, "kind": "sun_rise", "pool": "web", "n": 3, "more": [1]});
        assert_eq!(event(&later), "sun rise n=3 pool=web");
    }

    #[test]
    fn a_decision_says_why_and_who_was_passed_over() {
        assert_eq!(
            decision(9, "127.0.0.1:4000", Some("a"), "round-robin", "b: down"),
            "#9 127.0.0.1:4000 → a: its turn; passed over b: down"
        );
        assert_eq!(decision(9, "unix", None, "maglev", ""), "#9 unix got no backend");
    }
}
