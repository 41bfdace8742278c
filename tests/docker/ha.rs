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
        self.0.containers(&format!("{part}-{machine}")).remove(0)
    }

    /// Whether keepalived of this machine is in `state` now.
    fn is(&self, state: &str, machine: usize) -> bool {
        let log = logs(&self.container("keepalived", machine));
        let last = log.lines().rfind(|line| line.ends_with(" STATE"));
        last.is_some_and(|line| line.contains(&format!("Entering {state} ")))
    }

    fn when(&self, state: &str, machine: usize) {
        let what = format!("machine {machine} is {state}");
        eventually(&what, || self.is(state, machine).then_some(()));
    }
}

/// Waits until each client has been served some more; returns the longest time without service.
fn when_served(clients: &[Contained], before: &[usize]) -> Duration {
    const MORE: usize = 20;
    let gap = |(client, before): (&Contained, &usize)| {
        let served = eventually("a client is served again", || {
            Some(client.served()).filter(|served| served.len() > before + MORE)
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
    let first = eventually("one has the address", || [1, 2].into_iter().find(|one| pair.is("MASTER", *one)));
    let second = 3 - first;
    pair.when("BACKUP", second);

    let network = format!("{}_default", pair.0.name());
    let address = format!("{subnet}.0.200");
    let clients: Vec<_> = (0..6).map(|_| Contained::start(&network, &address, REQUEST, 1)).collect();
    when_served(&clients, &[1; 6]);
    let fail = |how: &str, active: usize, standby: usize, fault: &dyn Fn()| {
        let before: Vec<_> = clients.iter().map(|client| client.served().len()).collect();
        fault();
        pair.when("MASTER", standby);
        let gap = when_served(&clients, &before);
        eprintln!("machine {active} {how}: clients are served again after {gap:.2?}");
        assert!(gap < FAILOVER, "{how}: {gap:?}");
    };
    let pointsman = pair.container("pointsman", first);
    fail("without Pointsman", first, second, &|| drop(docker(&["kill", &pointsman])));
    docker(&["start", &pointsman]);
    pair.when("BACKUP", first);
    when_up(ip(&pair.container("machine", first)), BACKENDS as usize);
    let machine = pair.container("machine", second);
    fail("cut off", second, first, &|| drop(docker(&["network", "disconnect", &network, &machine])));

    let backends = |client: &Contained| client.served().into_iter().map(|(_, name)| name).collect();
    let chosen: Vec<BTreeSet<String>> = clients.iter().map(backends).collect();
    assert!(chosen.iter().all(|of_client| of_client.len() == 1), "{chosen:?}");
    assert!(chosen.iter().flatten().collect::<BTreeSet<_>>().len() > 1, "{chosen:?}");
}
