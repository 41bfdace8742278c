//! What is simulated: a plan that holds together, with every backend there ever is and every event's backends found.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::plan::{Arrivals, Change, Clients, Intensity, Plan, Servers, Service, Setting, Share, Until};
use super::words::written;
use crate::config::Hash;

/// More connections than this are refused: each leaves 16 bytes of waiting and response time behind.
const MOST: u64 = 100_000_000;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// All backends there ever are: those of the beginning, and then those that join.
    pub(super) backends: Vec<Backend>,
    /// By time.
    pub(super) events: Vec<Happening>,
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
pub(super) struct Backend {
    pub(super) name: Arc<str>,
    /// At its beginning.
    pub(super) weight: u32,
    pub(super) servers: Servers,
    pub(super) service: Service,
    /// Whether it is there from the beginning.
    pub(super) founder: bool,
}

impl Backend {
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
pub(super) struct Happening {
    pub(super) at: Duration,
    pub(super) changes: Vec<Change<usize>>,
    /// As it was written.
    pub(super) label: String,
}

/// Why a plan does not hold together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Plan {
    /// The scenario, if the plan holds together.
    pub fn scenario(mut self) -> Result<Scenario, Error> {
        self.events.sort_by_key(|event| event.at); // stable: those of one instant stay in their order
        let backends = self.all_backends()?;
        self.check_settings(&backends)?;
        let rate = self.rate(&backends)?;
        self.check_length(rate)?;
        let events = self.happenings(&backends)?;
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

    fn all_backends(&self) -> Result<Vec<Backend>, Error> {
        if self.backends.iter().all(|share| share.weight == 0) {
            return Err(Error("no backend has a weight above 0: none would ever be chosen".to_owned()));
        }
        let changes = self.events.iter().flat_map(|event| &event.changes);
        let joining = changes.filter_map(|change| match change {
            Change::Join(name, weight) => Some(Share { name: Arc::clone(name), weight: *weight }),
            _ => None,
        });
        let founders = self.backends.iter().cloned().map(|share| (share, true));
        let mut all: Vec<Backend> = Vec::new();
        for (share, founder) in founders.chain(joining.map(|share| (share, false))) {
            if all.iter().any(|other| other.name == share.name) {
                let name = &share.name;
                return Err(Error(format!("there are two backends {name:?}: each needs a name of its own")));
            }
            all.push(Backend {
                servers: self.servers_of(&share),
                service: of(&self.service, &share.name).unwrap_or(DEFAULT_SERVICE),
                name: share.name,
                weight: share.weight,
                founder,
            });
        }
        Ok(all)
    }

    /// Without a number of its own a backend is as strong as its weight says.
    fn servers_of(&self, share: &Share) -> Servers {
        if let Some(own) = own(&self.servers, &share.name) {
            return own;
        }
        match common(&self.servers).unwrap_or(DEFAULT_SERVERS) {
            Servers::Number(servers) => Servers::Number(servers.saturating_mul(share.weight.max(1))),
            Servers::Unlimited => Servers::Unlimited,
        }
    }

    fn check_settings(&self, backends: &[Backend]) -> Result<(), Error> {
        let service =
            self.service.iter().filter_map(|setting| Some(("--service", setting.backend.as_ref()?)));
        let servers =
            self.servers.iter().filter_map(|setting| Some(("--servers", setting.backend.as_ref()?)));
        for (option, name) in service.chain(servers) {
            place(backends, name, option)?;
        }
        Ok(())
    }

    fn rate(&self, backends: &[Backend]) -> Result<f64, Error> {
        let load = match self.intensity {
            Intensity::Rate(rate) => return Ok(rate),
            Intensity::Load(load) => load,
        };
        let serving = backends.iter().filter(|backend| backend.founder && backend.weight > 0);
        let capacity: Option<f64> = serving.map(Backend::capacity).sum();
        let endless =
            "backends with unlimited servers can serve any load: give --rate, such as --rate 1000/s";
        capacity.map(|capacity| capacity * load).ok_or_else(|| Error(endless.to_owned()))
    }

    fn check_length(&self, rate: f64) -> Result<(), Error> {
        let (connections, time) = match self.until {
            Until::Connections(connections) => (connections as f64, connections as f64 / rate),
            Until::Time(time) => (time.as_secs_f64() * rate, time.as_secs_f64()),
        };
        if connections > MOST as f64 {
            let fewer = format!(
                "more than {MOST} connections are too many: fewer --connections, a shorter --duration"
            );
            return Err(Error(fewer));
        }
        match self.events.last() {
            Some(event) if event.at.as_secs_f64() > time => Err(Error(format!(
                "--at {}: connections arrive for {} only; give --duration, or more --connections",
                written(event.at),
                written(Duration::from_millis((time * 1000.0) as u64)),
            ))),
            _ => Ok(()),
        }
    }

    /// Goes through the events as they will happen: what is down cannot go down.
    fn happenings(&self, backends: &[Backend]) -> Result<Vec<Happening>, Error> {
        let mut here: BTreeSet<usize> = (0..self.backends.len()).collect();
        let mut down = BTreeSet::new();
        let mut happenings = Vec::new();
        for event in &self.events {
            let mut changes = Vec::new();
            for change in &event.changes {
                let at = format!("--at {} {change}", written(event.at));
                let backend = place(backends, change.backend(), &at)?;
                let possible = match change {
                    Change::Join(..) => here.insert(backend),
                    Change::Down(_) => here.contains(&backend) && down.insert(backend),
                    Change::Up(_) => here.contains(&backend) && down.remove(&backend),
                    Change::Leave(_) => here.remove(&backend),
                    Change::Weight(..) => here.contains(&backend),
                };
                if !possible {
                    let state = match (here.contains(&backend), down.contains(&backend)) {
                        (false, _) => "not there",
                        (true, true) => "down already",
                        (true, false) => "up already",
                    };
                    return Err(Error(format!("{at}: at that time {:?} is {state}", change.backend())));
                }
                changes.push(change.of(backend));
            }
            let written: Vec<_> = event.changes.iter().map(ToString::to_string).collect();
            happenings.push(Happening { at: event.at, changes, label: written.join(",") });
        }
        Ok(happenings)
    }
}

/// What a backend does about whom nothing is said.
const DEFAULT_SERVICE: Service = Service::Exponential(Duration::from_millis(10));
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

fn place(backends: &[Backend], name: &str, who: &str) -> Result<usize, Error> {
    backends.iter().position(|backend| &*backend.name == name).ok_or_else(|| {
        let known: Vec<_> = backends.iter().map(|backend| &*backend.name).collect();
        Error(format!("{who}: there is no backend {name:?}; there are {}", known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::super::plan::Event;
    use super::super::tests::plan;
    use super::*;

    fn refused(plan: Plan) -> String {
        plan.scenario().unwrap_err().to_string()
    }

    fn with_events(events: &[(u64, &str)]) -> Plan {
        let event = |&(at, what): &(u64, &str)| Event {
            at: Duration::from_secs(at),
            changes: super::super::words::changes(what).unwrap(),
        };
        Plan {
            events: events.iter().map(event).collect(),
            until: Until::Time(Duration::from_secs(60)),
            ..plan("a,b")
        }
    }

    #[test]
    fn without_a_word_about_it_a_backend_is_as_strong_as_its_weight() {
        let mut plan = plan("a*3,b,c*0");
        plan.servers.push("b=7".parse().unwrap());
        let servers: Vec<_> = plan.scenario().unwrap().backends.iter().map(|b| b.servers).collect();
        assert_eq!(servers, [Servers::Number(12), Servers::Number(7), Servers::Number(4)]);
    }

    #[test]
    fn the_load_is_a_part_of_what_all_can_serve() {
        let mut plan = plan("a*3,b,c*0"); // 16 servers that serve 100 a second each; c gets nothing
        plan.intensity = Intensity::Load(0.5);
        assert!((plan.scenario().unwrap().rate - 800.0).abs() < 1e-6);
    }

    #[test]
    fn what_does_not_hold_together_is_refused_with_what_is_wrong() {
        assert_eq!(refused(plan("a,b,a")), r#"there are two backends "a": each needs a name of its own"#);
        assert!(refused(plan("a*0")).starts_with("no backend has a weight above 0"));
        let stranger = Plan { service: vec!["c=exp:1s".parse().unwrap()], ..plan("a,b") };
        assert_eq!(refused(stranger), r#"--service: there is no backend "c"; there are a, b"#);
        let endless = Plan { servers: vec!["unlimited".parse().unwrap()], ..plan("a,b") };
        assert!(refused(endless).contains("--rate 1000/s"));
        let long = Plan { until: Until::Time(Duration::from_secs(1_000_000)), ..plan("a,b") };
        assert!(refused(long).contains("too many"));
        let late = Plan { until: Until::Time(Duration::from_secs(5)), ..with_events(&[(10, "down=a")]) };
        assert_eq!(
            refused(late),
            "--at 10s: connections arrive for 5s only; give --duration, or more --connections"
        );
    }

    #[test]
    fn events_are_checked_in_the_order_in_which_they_happen() {
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
