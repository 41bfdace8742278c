//! A validated plan, with all backends, joining ones included, and the backends of each event resolved.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::notation::format_time;
use super::plan::{
    Arrivals, BackendChange, BackendSpec, Clients, Intensity, Servers, ServiceTime, Setting, SimulationPlan,
    Until,
};
use crate::config::Hash;

/// The most connections of a run: each needs 16 bytes for its waiting and response time.
const MAX_CONNECTIONS: u64 = 100_000_000;

/// A validated plan.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// All backends: the initial ones, then those that join.
    pub(super) backends: Vec<ScenarioBackend>,
    /// In the order of time.
    pub(super) events: Vec<ScenarioEvent>,
    /// Connections a second.
    pub(super) rate: f64,
    pub(super) arrivals: Arrivals,
    pub(super) clients: Clients,
    pub(super) until: Until,
    pub(super) hash: Hash,
    pub(super) seed: u64,
}

/// A backend of a scenario.
#[derive(Clone, Debug)]
pub(super) struct ScenarioBackend {
    pub(super) name: Arc<str>,
    /// The weight when it joins.
    pub(super) weight: u32,
    pub(super) servers: Servers,
    pub(super) service: ServiceTime,
    /// Whether it is there from the start.
    pub(super) initial: bool,
}

impl ScenarioBackend {
    /// Connections a second that it can serve; `None`: any number.
    fn capacity(&self) -> Option<f64> {
        match self.servers {
            Servers::Number(servers) => Some(f64::from(servers) / self.service.mean().as_secs_f64()),
            Servers::Unlimited => None,
        }
    }
}

/// An event of a scenario.
#[derive(Clone, Debug)]
pub(super) struct ScenarioEvent {
    pub(super) at: Duration,
    pub(super) changes: Vec<BackendChange<usize>>,
    /// As the user wrote it.
    pub(super) label: String,
}

/// Why a plan is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl SimulationPlan {
    /// The scenario, if the plan is valid.
    pub fn scenario(mut self) -> Result<Scenario, Error> {
        self.events.sort_by_key(|event| event.at); // stable: those of one instant stay in their order
        let backends = self.all_backends()?;
        self.check_settings(&backends)?;
        let rate = self.rate(&backends)?;
        self.check_length(rate)?;
        let events = self.scenario_events(&backends)?;
        Ok(Scenario {
            backends,
            events,
            rate,
            arrivals: self.arrivals,
            clients: self.clients,
            until: self.until,
            hash: self.hash,
            seed: self.seed,
        })
    }

    fn all_backends(&self) -> Result<Vec<ScenarioBackend>, Error> {
        if self.backends.iter().all(|spec| spec.weight == 0) {
            return Err(Error("no backend has a weight above 0: none would ever be chosen".to_owned()));
        }
        let changes = self.events.iter().flat_map(|event| &event.changes);
        let joining = changes.filter_map(|change| match change {
            BackendChange::Join(name, weight) => {
                Some(BackendSpec { name: Arc::clone(name), weight: *weight })
            }
            _ => None,
        });
        let initial = self.backends.iter().cloned().map(|spec| (spec, true));
        let mut all: Vec<ScenarioBackend> = Vec::new();
        for (spec, initial) in initial.chain(joining.map(|spec| (spec, false))) {
            if all.iter().any(|other| other.name == spec.name) {
                let name = &spec.name;
                return Err(Error(format!("there are two backends {name:?}: each needs a name of its own")));
            }
            all.push(ScenarioBackend {
                servers: self.servers_of(&spec),
                service: of(&self.service, &spec.name).unwrap_or(DEFAULT_SERVICE),
                name: spec.name,
                weight: spec.weight,
                initial,
            });
        }
        Ok(all)
    }

    /// Without a setting, a backend has servers in proportion to its weight.
    fn servers_of(&self, spec: &BackendSpec) -> Servers {
        if let Some(own) = own(&self.servers, &spec.name) {
            return own;
        }
        match common(&self.servers).unwrap_or(DEFAULT_SERVERS) {
            Servers::Number(servers) => Servers::Number(servers.saturating_mul(spec.weight.max(1))),
            Servers::Unlimited => Servers::Unlimited,
        }
    }

    fn check_settings(&self, backends: &[ScenarioBackend]) -> Result<(), Error> {
        let service =
            self.service.iter().filter_map(|setting| Some(("--service", setting.backend.as_ref()?)));
        let servers =
            self.servers.iter().filter_map(|setting| Some(("--servers", setting.backend.as_ref()?)));
        for (option, name) in service.chain(servers) {
            index_of(backends, name, option)?;
        }
        Ok(())
    }

    fn rate(&self, backends: &[ScenarioBackend]) -> Result<f64, Error> {
        let load = match self.intensity {
            Intensity::Rate(rate) => return Ok(rate),
            Intensity::Load(load) => load,
        };
        let serving = backends.iter().filter(|backend| backend.initial && backend.weight > 0);
        let capacity: Option<f64> = serving.map(ScenarioBackend::capacity).sum();
        let endless =
            "backends with unlimited servers can serve any load: give --rate, such as --rate 1000/s";
        capacity.map(|capacity| capacity * load).ok_or_else(|| Error(endless.to_owned()))
    }

    fn check_length(&self, rate: f64) -> Result<(), Error> {
        let (connections, time) = match self.until {
            Until::Connections(connections) => (connections as f64, connections as f64 / rate),
            Until::Time(time) => (time.as_secs_f64() * rate, time.as_secs_f64()),
        };
        if connections > MAX_CONNECTIONS as f64 {
            let fewer = format!(
                "more than {MAX_CONNECTIONS} connections are too many: fewer --connections, a shorter --duration"
            );
            return Err(Error(fewer));
        }
        match self.events.last() {
            Some(event) if event.at.as_secs_f64() > time => Err(Error(format!(
                "--at {}: connections arrive for {} only; give --duration, or more --connections",
                format_time(event.at),
                format_time(Duration::from_millis((time * 1000.0) as u64)),
            ))),
            _ => Ok(()),
        }
    }

    /// Replays the events in order: a backend that is down cannot go down again.
    fn scenario_events(&self, backends: &[ScenarioBackend]) -> Result<Vec<ScenarioEvent>, Error> {
        let mut members: HashSet<usize> = (0..self.backends.len()).collect();
        let mut down = HashSet::new();
        let mut scenario_events = Vec::new();
        for event in &self.events {
            let mut changes = Vec::new();
            for change in &event.changes {
                let at = format!("--at {} {change}", format_time(event.at));
                let backend = index_of(backends, change.backend(), &at)?;
                let possible = match change {
                    BackendChange::Join(..) => members.insert(backend),
                    BackendChange::Down(_) => members.contains(&backend) && down.insert(backend),
                    BackendChange::Up(_) => members.contains(&backend) && down.remove(&backend),
                    BackendChange::Leave(_) => members.remove(&backend),
                    BackendChange::Weight(..) => members.contains(&backend),
                };
                if !possible {
                    let state = match (members.contains(&backend), down.contains(&backend)) {
                        (false, _) => "not there",
                        (true, true) => "down already",
                        (true, false) => "up already",
                    };
                    return Err(Error(format!("{at}: at that time {:?} is {state}", change.backend())));
                }
                changes.push(change.of(backend));
            }
            let written: Vec<_> = event.changes.iter().map(ToString::to_string).collect();
            scenario_events.push(ScenarioEvent { at: event.at, changes, label: written.join(",") });
        }
        Ok(scenario_events)
    }
}

/// The service time of a backend without a setting.
const DEFAULT_SERVICE: ServiceTime = ServiceTime::Exponential(Duration::from_millis(10));
const DEFAULT_SERVERS: Servers = Servers::Number(4);

fn own<T: Copy>(settings: &[Setting<T>], name: &str) -> Option<T> {
    settings
        .iter()
        .rev()
        .find(|setting| setting.backend.as_deref() == Some(name))
        .map(|setting| setting.value)
}

fn common<T: Copy>(settings: &[Setting<T>]) -> Option<T> {
    settings.iter().rev().find(|setting| setting.backend.is_none()).map(|setting| setting.value)
}

fn of<T: Copy>(settings: &[Setting<T>], name: &str) -> Option<T> {
    own(settings, name).or_else(|| common(settings))
}

fn index_of(backends: &[ScenarioBackend], name: &str, option: &str) -> Result<usize, Error> {
    backends.iter().position(|backend| &*backend.name == name).ok_or_else(|| {
        let known: Vec<_> = backends.iter().map(|backend| &*backend.name).collect();
        Error(format!("{option}: there is no backend {name:?}; there are {}", known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::super::plan::PlannedEvent;
    use super::super::tests::plan;
    use super::*;

    fn refused(plan: SimulationPlan) -> String {
        plan.scenario().unwrap_err().to_string()
    }

    fn with_events(events: &[(u64, &str)]) -> SimulationPlan {
        let event = |&(at, what): &(u64, &str)| PlannedEvent {
            at: Duration::from_secs(at),
            changes: super::super::notation::changes(what).unwrap(),
        };
        SimulationPlan {
            events: events.iter().map(event).collect(),
            until: Until::Time(Duration::from_secs(60)),
            ..plan("a,b")
        }
    }

    #[test]
    fn by_default_servers_are_proportional_to_the_weight() {
        let mut plan = plan("a*3,b,c*0");
        plan.servers.push("b=7".parse().unwrap());
        let servers: Vec<_> = plan.scenario().unwrap().backends.iter().map(|b| b.servers).collect();
        assert_eq!(servers, [Servers::Number(12), Servers::Number(7), Servers::Number(4)]);
    }

    #[test]
    fn the_load_is_a_part_of_the_total_capacity() {
        let mut plan = plan("a*3,b,c*0"); // 16 servers that serve 100 a second each; c gets nothing
        plan.intensity = Intensity::Load(0.5);
        assert!((plan.scenario().unwrap().rate - 800.0).abs() < 1e-6);
    }

    #[test]
    fn an_invalid_plan_is_refused_with_a_reason() {
        assert_eq!(refused(plan("a,b,a")), r#"there are two backends "a": each needs a name of its own"#);
        assert!(refused(plan("a*0")).starts_with("no backend has a weight above 0"));
        let unknown = SimulationPlan { service: vec!["c=exp:1s".parse().unwrap()], ..plan("a,b") };
        assert_eq!(refused(unknown), r#"--service: there is no backend "c"; there are a, b"#);
        let endless = SimulationPlan { servers: vec!["unlimited".parse().unwrap()], ..plan("a,b") };
        assert!(refused(endless).contains("--rate 1000/s"));
        let long = SimulationPlan { until: Until::Time(Duration::from_secs(1_000_000)), ..plan("a,b") };
        assert!(refused(long).contains("too many"));
        let late =
            SimulationPlan { until: Until::Time(Duration::from_secs(5)), ..with_events(&[(10, "down=a")]) };
        assert_eq!(
            refused(late),
            "--at 10s: connections arrive for 5s only; give --duration, or more --connections"
        );
    }

    #[test]
    fn events_are_checked_in_the_order_of_time() {
        assert!(
            with_events(&[(2, "up=a"), (1, "down=a"), (3, "join=c*2"), (4, "leave=c")]).scenario().is_ok()
        );
        for (events, why) in [
            (&[(1, "up=a")][..], r#"--at 1s up=a: at that time "a" is up already"#),
            (&[(1, "down=a"), (2, "down=a")], r#"--at 2s down=a: at that time "a" is down already"#),
            (&[(1, "leave=a"), (2, "weight=a*2")], r#"--at 2s weight=a*2: at that time "a" is not there"#),
            (&[(1, "down=c"), (2, "join=c")], r#"--at 1s down=c: at that time "c" is not there"#),
            (&[(1, "down=d")], r#"--at 1s down=d: there is no backend "d"; there are a, b"#),
            (&[(1, "leave=a"), (2, "join=a")], r#"there are two backends "a": each needs a name of its own"#),
        ] {
            assert_eq!(refused(with_events(events)), why);
        }
    }
}
