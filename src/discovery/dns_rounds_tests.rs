//! The state of addresses from round to round, with a name server in the test.

use super::*;
use crate::cli::demo::zone::{Mode, Server, Zone};
use crate::config::Family;

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
/// The name in the reverse lookup of [`ADDRESS`].
const REVERSE: &str = "1.0.0.10.in-addr.arpa";

struct Asking {
    zone: Zone,
    watcher: Watcher,
    resolver: Arc<Resolver>,
    _server: Server,
}

impl Asking {
    async fn start() -> Self {
        let zone = Zone::new();
        let server = Server::start("127.0.0.1:0".parse().unwrap(), zone.clone()).await.unwrap();
        let mut settings = Dns::new("backend".into(), 5000);
        (settings.query.server, settings.query.family) = (Some(server.address), Family::V4);
        // Long enough for a busy machine: no test here waits for a silent server.
        let resolver = Resolver::new(Some(server.address), Duration::from_secs(20)).unwrap();
        Self { zone, watcher: Watcher::new(settings), resolver: Arc::new(resolver), _server: server }
    }

    /// One round: its result, in a word or by name, and the owners of the addresses.
    async fn round(&mut self) -> (Vec<String>, Vec<String>) {
        let Observation { outcome, owners } = self.watcher.round(&self.resolver).await;
        let found = match &outcome {
            Outcome::Backends(found) => found.iter().map(|one| one.name.to_string()).collect(),
            other => vec![other.result().to_owned()],
        };
        (found, owners.values().map(ToString::to_string).collect())
    }

    /// Advances the time until a missing address is forgotten.
    async fn pass_time(&self) {
        let query = &self.watcher.settings.query;
        tokio::time::pause();
        tokio::time::advance(query.flap + query.every * 3 + Duration::from_millis(1)).await;
        tokio::time::resume();
    }
}

fn told(found: &str, owner: &str) -> (Vec<String>, Vec<String>) {
    (vec![found.to_owned()], vec![owner.to_owned()])
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn no_name_is_forgotten_while_a_name_server_fails() {
    run(async {
        let mut asking = Asking::start().await;
        asking.zone.set("backend", [ADDRESS]);
        asking.zone.name_owner(ADDRESS, "web-1.net");
        assert_eq!(asking.round().await, told("web-1.net", "web-1.net"));
        // Only the reverse lookup fails.
        asking.zone.set_mode_of(REVERSE, Mode::ServFail);
        assert_eq!(asking.round().await, told("web-1.net", "web-1.net"));
        // Every lookup fails.
        asking.zone.set_mode(Mode::ServFail);
        for _ in 0..3 {
            asking.pass_time().await;
            assert_eq!(asking.round().await, told("server_failure", "web-1.net"));
        }
        // The addresses are answered again, and their names are not yet.
        asking.zone.set_mode(Mode::Answer);
        assert_eq!(asking.round().await, told("web-1.net", "web-1.net"));
        // A departing container has an address but no name.
        asking.zone.set_mode_of(REVERSE, Mode::Answer);
        asking.zone.forget_owner(ADDRESS);
        assert_eq!(asking.round().await, told("web-1.net", "web-1.net"));
        // Another name is another backend.
        asking.zone.name_owner(ADDRESS, "web-2.net");
        assert_eq!(asking.round().await, told("web-2.net", "web-2.net"));
    });
}

#[test]
fn an_address_missing_from_answers_is_forgotten_after_its_time_and_no_sooner() {
    run(async {
        let mut asking = Asking::start().await;
        asking.zone.set("backend", [ADDRESS]);
        asking.zone.name_owner(ADDRESS, "web-1.net");
        assert_eq!(asking.round().await, told("web-1.net", "web-1.net"));
        asking.zone.set("backend", []);
        assert_eq!(asking.round().await, told("empty", "web-1.net"));
        asking.pass_time().await;
        assert_eq!(asking.round().await, (vec!["empty".to_owned()], vec![]));
        // The address is looked up again, and its old state is gone.
        asking.zone.set("backend", [ADDRESS]);
        asking.zone.set_mode_of(REVERSE, Mode::ServFail);
        assert_eq!(asking.round().await, (vec!["10.0.0.1:5000".to_owned()], vec![]));
    });
}

#[test]
fn a_nearby_server_is_asked_for_each_name_every_round_and_a_distant_one_seldom() {
    run(async {
        let mut asking = Asking::start().await;
        asking.zone.set("backend", [ADDRESS]);
        asking.zone.name_owner(ADDRESS, "web-1.net");
        let questions = async |asking: &mut Asking| {
            let before = asking.zone.queries().udp;
            let _ = asking.round().await;
            asking.zone.queries().udp - before
        };
        // A second answer confirms a new name: two times two questions.
        assert_eq!(questions(&mut asking).await, 4);
        assert_eq!(questions(&mut asking).await, 2);
        assert_eq!(questions(&mut asking).await, 2);
        // While a name is known, a server that has no answer for the address is asked every round.
        asking.zone.set_mode_of(REVERSE, Mode::ServFail);
        assert_eq!(questions(&mut asking).await, 2);

        Arc::get_mut(&mut asking.resolver).unwrap().nearby = false;
        assert_eq!(questions(&mut asking).await, 1);
        tokio::time::pause();
        tokio::time::advance(NAMES_AGAIN).await;
        tokio::time::resume();
        assert_eq!(questions(&mut asking).await, 2);
        assert_eq!(questions(&mut asking).await, 1);
    });
}
