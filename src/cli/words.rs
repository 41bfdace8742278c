//! Decisions and facts as one would tell them, in the demo and in `top`.

use serde_json::Value;

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

/// A fact of the journal, as the API has it. One of a kind that is not known here is told by its fields.
pub(super) fn fact(fact: &Value) -> String {
    let text = |name: &str| fact[name].as_str().unwrap_or_default();
    let (pool, backend, cause) = (text("pool"), text("backend"), text("cause"));
    match text("kind") {
        "state" => format!("{pool}/{backend} is {}: {cause}", text("to")),
        "named" => format!("{pool}/{backend} is the name of {}", text("address")),
        "weight" => format!("{pool}/{backend} has weight {}", fact["weight"]),
        "spared" => format!("{pool}/{backend} is not ejected, as too many are out: {cause}"),
        "service" => match text("by") {
            "nobody" => format!("{pool}: no backend is up, clients are turned away"),
            "all" => format!("{pool}: panic, too few are up and all are used"),
            "backups" => format!("{pool}: no primary is up, backups are used"),
            _ => format!("{pool}: primaries are used"),
        },
        "answers" => match fact["trouble"]["reason"].as_str() {
            Some(reason) => format!("{pool}: {reason}"),
            None => format!("{pool}: {} finds backends again", text("source")),
        },
        "no_result" => format!("{pool}/{backend} could not be checked: {}", text("error")),
        "operator" if !backend.is_empty() => {
            let state = fact["state"].as_str().map(|state| format!(" {state}")).unwrap_or_default();
            let weight =
                fact["weight"].as_u64().map(|weight| format!(" weight {weight}")).unwrap_or_default();
            format!("{} wants {pool}/{backend}{state}{weight}", text("who"))
        }
        kind => {
            let mut words = kind.replace('_', " ");
            for (name, value) in fact.as_object().into_iter().flatten() {
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
    use crate::telemetry::fact::{Fact, Service, Trouble};

    fn told(told: &Fact) -> String {
        fact(&serde_json::to_value(told).unwrap())
    }

    #[test]
    fn every_fact_can_be_told() {
        let state = Fact::State {
            pool: "web".into(),
            backend: "a".into(),
            address: "10.0.0.1:80".parse().unwrap(),
            from: "up",
            to: "down",
            cause: "3 failures in a row".into(),
        };
        assert_eq!(told(&state), "web/a is down: 3 failures in a row");
        let weight = Fact::Weight { pool: "web".into(), backend: "a".into(), weight: 3 };
        assert_eq!(told(&weight), "web/a has weight 3");
        let trouble = Trouble { result: "nxdomain", reason: "127.0.0.11 knows no name \"x\"".into() };
        let answers = |trouble| Fact::Answers { pool: "web".into(), source: "dns:x".into(), trouble };
        assert_eq!(told(&answers(Some(trouble))), "web: 127.0.0.11 knows no name \"x\"");
        assert_eq!(told(&answers(None)), "web: dns:x finds backends again");
        let nobody =
            Fact::Service { pool: "web".into(), by: Service::Nobody, before: None, up: 0, used: 0, panic: 0 };
        assert_eq!(told(&nobody), "web: no backend is up, clients are turned away");
        let later =
            serde_json::json!({"id": 1, "at": 2.0, "kind": "sun_rise", "pool": "web", "n": 3, "more": [1]});
        assert_eq!(fact(&later), "sun rise n=3 pool=web");
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
