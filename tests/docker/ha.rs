//! Two Pointsmen with one virtual address, as in `compose/ha.yaml`.

use super::*;
use crate::clients::Contained;
use crate::subnet::free_subnet;

/// The time in which clients must be served again. keepalived moves the address in less than two seconds, of which a busy
/// machine may make several.
const FAILOVER: Duration = Duration::from_secs(10);
const BACKENDS: u32 = 4;
/// The time limit of a request's steps: nothing answers at an address that has moved.
const REQUEST: Duration = Duration::from_millis(300);

/// The project, with the names of its machines' parts.
struct Pair(Project);

impl Pair {
    fn container(&self, part: &str, machine: usize) -> String {
        self.0.container(&format!("{part}-{machine}"))
    }

    /// Whether keepalived of this machine is in `state` now.
    fn is(&self, state: &str, machine: usize) -> bool {
        let log = logs(&self.container("keepalived", machine));
        let last = log.lines().rfind(|line| line.ends_with(" STATE"));
        last.is_some_and(|line| line.contains(&format!("Entering {state} ")))
    }

    /// The machine that has the address, while the other one waits. keepalived of a busy machine may have moved it.
    fn active(&self) -> usize {
        eventually("one machine has the address, and the other one waits", || {
            [1, 2].into_iter().find(|one| self.is("MASTER", *one) && self.is("BACKUP", 3 - one))
        })
    }
}

/// Waits until each client is served some more; returns the longest time without service since it had been served so often.
fn when_served(clients: &[Contained], before: &[usize]) -> Duration {
    const MORE: usize = 20;
    let gap = |(client, before): (&Contained, &usize)| {
        let now = client.served().len();
        let served = eventually("a client is served", || {
            Some(client.served()).filter(|served| served.len() > now + MORE)
        });
        let gaps = served[before - 1..].windows(2).map(|pair| pair[1].0 - pair[0].0);
        gaps.fold(0.0, f64::max)
    };
    Duration::from_secs_f64(clients.iter().zip(before).map(gap).fold(0.0, f64::max))
}

#[test]
fn the_second_one_takes_over_the_address_and_chooses_the_same_backends() {
    let Some(_engine) = engine() else { return };
    let subnet = free_subnet();
    let pair = Pair(Project::new("compose/ha.yaml", BACKENDS).with("SUBNET", &subnet));
    pair.0.compose(&["build", "keepalived-1"]);
    pair.0.up();
    for machine in [1, 2] {
        when_up(ip(&pair.container("machine", machine)), BACKENDS as usize);
    }
    pair.active();

    let network = format!("{}_default", pair.0.name());
    let address = format!("{subnet}.0.200");
    let clients: Vec<_> = (0..4).map(|_| Contained::start(&network, &address, REQUEST, 1)).collect();
    when_served(&clients, &[1; 4]);
    let fail = |how: &str, part: &str, fault: &dyn Fn(&str)| {
        let before: Vec<_> = clients.iter().map(|client| client.served().len()).collect();
        let active = pair.active();
        let container = pair.container(part, active);
        fault(&container);
        eventually("the other machine has the address", || pair.is("MASTER", 3 - active).then_some(()));
        let gap = when_served(&clients, &before);
        eprintln!("{how}: clients are served again after {gap:.2?}");
        assert!(gap < FAILOVER, "{how}: {gap:?}");
        container
    };
    let killed = fail("Pointsman is killed", "pointsman", &|container| drop(docker(&["kill", container])));
    docker(&["start", &killed]);
    for machine in [1, 2] {
        when_up(ip(&pair.container("machine", machine)), BACKENDS as usize);
    }
    fail("the machine is cut off", "machine", &|container| {
        docker(&["network", "disconnect", &network, container]);
    });

    let backends = |client: &Contained| client.served().into_iter().map(|(_, name)| name).collect();
    let chosen: Vec<BTreeSet<String>> = clients.iter().map(backends).collect();
    assert!(chosen.iter().all(|of_client| of_client.len() == 1), "{chosen:?}");
}
