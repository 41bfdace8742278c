//! The sentences about the user's last action: what happens now, and what to watch.

use super::action::{CheckInterval, CheckPath, Clients, DemoAction};
use super::scene::Scene;

/// About an action, after which the scene is `scene`.
pub(super) fn caption(action: DemoAction, scene: &Scene) -> String {
    let checks = match scene.check.every {
        CheckInterval::Off => "without checks it stays in rotation",
        CheckInterval::Fast => "after three failures in a row it is down",
        CheckInterval::Slow => "checks every 5 s detect that late",
    };
    match action {
        DemoAction::Kill { backend } => format!(
            "{} is killed: its open connections break, new ones are refused and retried on another backend; {checks}",
            backend.name()
        ),
        DemoAction::Restart { backend } => {
            let until = match scene.check.every {
                CheckInterval::Off => "without checks it was never out of rotation",
                CheckInterval::Fast | CheckInterval::Slow => "after two passed checks it is back in rotation",
            };
            format!("{} is started again: {until}", backend.name())
        }
        DemoAction::Pause { backend } => format!(
            "{} is paused: it still accepts connections but never answers, so nothing can be retried; {checks}. \
             Watch the requests that wait",
            backend.name()
        ),
        DemoAction::Resume { backend } => {
            format!("{} resumes: it answers the waiting requests, and its checks pass again", backend.name())
        }
        DemoAction::SlowDown { backend } => format!(
            "{} answers in 250 ms: round-robin, weighted and the hash algorithms ignore that, the others send it fewer \
             connections",
            backend.name()
        ),
        DemoAction::Recover { backend } => format!("{} is as fast as before", backend.name()),
        DemoAction::Fail { backend } => match scene.check.path {
            CheckPath::Health => format!(
                "{} answers with errors, but its /health still passes: it stays up, and clients get errors",
                backend.name()
            ),
            CheckPath::Root => {
                format!("{} answers with errors, and the checks request what clients request: {checks}", backend.name())
            }
        },
        DemoAction::Repair { backend } => format!("{} answers without errors again", backend.name()),
        DemoAction::Flap { backend } => format!(
            "the address of {} vanishes from DNS and reappears every second: with `flap: 2s` it stays in rotation",
            backend.name()
        ),
        DemoAction::Settle { backend } => format!("the address of {} stays in DNS", backend.name()),
        DemoAction::Add => {
            "one more backend is started and appears in DNS: after one passed check it gets its share".to_owned()
        }
        DemoAction::Remove { backend } => format!(
            "{} is removed from DNS: two seconds later it gets no new connections; existing ones finish",
            backend.name()
        ),
        DemoAction::SwapAddresses => "two backends restart, each with the other's address: the name counts too, so \
                                      both old ones leave and two new ones join"
            .to_owned(),
        DemoAction::Balance { algorithm } => {
            format!("{} chooses from now on; open connections stay open", algorithm.name())
        }
        DemoAction::Compare { algorithm: Some(other) } => format!(
            "each request is sent twice, to two pools with identical backends: {} and {}. Compare shares, p90 and \
             failures",
            scene.balance.name(),
            other.name()
        ),
        DemoAction::Compare { algorithm: None } => "the comparison has ended: one pool, one algorithm".to_owned(),
        DemoAction::CheckEvery { every } => match every {
            CheckInterval::Fast => "backends are checked every 0.5 s: one that does not answer is down after about two seconds",
            CheckInterval::Slow => {
                "backends are checked every 5 s: pause one, and its clients wait until three checks have failed"
            }
            CheckInterval::Off => "there are no checks: every backend in DNS is up, whether it answers or not",
        }
        .to_owned(),
        DemoAction::CheckPath { path } => match path {
            CheckPath::Health => "the checks request /health, which only shows that the process is running",
            CheckPath::Root => "the checks request / as clients do: errors there take a backend down",
        }
        .to_owned(),
        DemoAction::Rate { per_second } => format!("{per_second} requests per second"),
        DemoAction::Clients { kind } => match kind {
            Clients::Many => "each request comes from another client",
            Clients::Few => {
                "eight clients connect again and again: with source-hash, ring-hash or maglev each keeps its backend"
            }
        }
        .to_owned(),
        DemoAction::Play { script } => script.script().text.to_owned(),
        DemoAction::Stop => "the script is stopped: you are in control now".to_owned(),
        DemoAction::Reset => "backends, checks and traffic are reset: you are in control now".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::action::Slot;
    use super::super::script::ScriptId;
    use super::*;
    use crate::domain::Algorithm;

    #[test]
    fn every_action_is_explained_in_a_sentence_or_two_that_name_the_backend() {
        let backend = Slot::B;
        let on_backend = [
            DemoAction::Kill { backend },
            DemoAction::Restart { backend },
            DemoAction::Pause { backend },
            DemoAction::Resume { backend },
            DemoAction::SlowDown { backend },
            DemoAction::Recover { backend },
            DemoAction::Fail { backend },
            DemoAction::Repair { backend },
            DemoAction::Flap { backend },
            DemoAction::Settle { backend },
            DemoAction::Remove { backend },
        ];
        let others = [
            DemoAction::Add,
            DemoAction::SwapAddresses,
            DemoAction::Balance { algorithm: Algorithm::Maglev },
            DemoAction::Compare { algorithm: Some(Algorithm::Maglev) },
            DemoAction::Compare { algorithm: None },
            DemoAction::Stop,
            DemoAction::Reset,
        ];
        let scripts = ScriptId::ALL.map(|script| DemoAction::Play { script });
        let mut scene = Scene::new(Algorithm::RoundRobin);
        for every in [CheckInterval::Fast, CheckInterval::Slow, CheckInterval::Off] {
            for path in [CheckPath::Health, CheckPath::Root] {
                (scene.check.every, scene.check.path) = (every, path);
                for action in on_backend {
                    let text = caption(action, &scene);
                    assert!(text.contains("b ") && (10..220).contains(&text.len()), "{action:?}: {text}");
                }
                for action in others.into_iter().chain(scripts) {
                    assert!((10..330).contains(&caption(action, &scene).len()), "{action:?}");
                }
            }
        }
    }
}
