//! The known addresses over several rounds, with a name server in the test.

use super::*;
use crate::config::Family;
use crate::zone::{AnswerMode, DnsServer, Zone};

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
/// The name in the reverse lookup of [`ADDRESS`].
const REVERSE: &str = "1.0.0.10.in-addr.arpa";

struct Fixture {
    zone: Zone,
    source: DnsSource,
    resolver: Arc<Resolver>,
    _server: DnsServer,
}

impl Fixture {
    async fn start() -> Self {
        let zone = Zone::new();
        let server = DnsServer::start("127.0.0.1:0".parse().unwrap(), zone.clone()).await.unwrap();
        let mut settings = Dns::new("backend".into(), 5000);
        (settings.query.server, settings.query.family) = (Some(server.address), Family::V4);
        // Long enough for a busy machine: no test waits for this timeout.
        let resolver = Resolver::new(Some(server.address), Duration::from_secs(20)).unwrap();
        Self { zone, source: DnsSource::new(settings), resolver: Arc::new(resolver), _server: server }
    }

    /// One round: the names of the backends or the result, and the owners of the addresses.
    async fn round(&mut self) -> (Vec<String>, Vec<String>) {
        let Observation { outcome, owners } = self.source.round(&self.resolver).await;
        let found = match &outcome {
            Outcome::Backends(found) => found.iter().map(|one| one.name.to_string()).collect(),
            other => vec![other.result().name().to_owned()],
        };
        (found, owners.values().map(ToString::to_string).collect())
    }

    /// Advances the time until a missing address is forgotten.
    async fn pass_time(&self) {
        let query = &self.source.settings.query;
        tokio::time::pause();
        tokio::time::advance(query.flap + query.every * 3 + Duration::from_millis(1)).await;
        tokio::time::resume();
    }
}

fn result(found: &str, owner: &str) -> (Vec<String>, Vec<String>) {
    (vec![found.to_owned()], vec![owner.to_owned()])
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn names_are_kept_while_a_name_server_fails() {
    run(async {
        let mut fixture = Fixture::start().await;
        fixture.zone.set("backend", [ADDRESS]);
        fixture.zone.name_owner(ADDRESS, "web-1.net");
        assert_eq!(fixture.round().await, result("web-1.net", "web-1.net"));
        // Only the reverse lookup fails.
        fixture.zone.set_mode_of(REVERSE, AnswerMode::ServFail);
        assert_eq!(fixture.round().await, result("web-1.net", "web-1.net"));
        // Every lookup fails.
        fixture.zone.set_mode(AnswerMode::ServFail);
        for _ in 0..3 {
            fixture.pass_time().await;
            assert_eq!(fixture.round().await, result("server_failure", "web-1.net"));
        }
        // Addresses are answered again, names are not yet.
        fixture.zone.set_mode(AnswerMode::Answer);
        assert_eq!(fixture.round().await, result("web-1.net", "web-1.net"));
        // A departing container has an address but no name.
        fixture.zone.set_mode_of(REVERSE, AnswerMode::Answer);
        fixture.zone.forget_owner(ADDRESS);
        assert_eq!(fixture.round().await, result("web-1.net", "web-1.net"));
        // Another name is another backend.
        fixture.zone.name_owner(ADDRESS, "web-2.net");
        assert_eq!(fixture.round().await, result("web-2.net", "web-2.net"));
    });
}

#[test]
fn a_missing_address_is_forgotten_only_after_its_time() {
    run(async {
        let mut fixture = Fixture::start().await;
        fixture.zone.set("backend", [ADDRESS]);
        fixture.zone.name_owner(ADDRESS, "web-1.net");
        assert_eq!(fixture.round().await, result("web-1.net", "web-1.net"));
        fixture.zone.set("backend", []);
        assert_eq!(fixture.round().await, result("empty", "web-1.net"));
        fixture.pass_time().await;
        assert_eq!(fixture.round().await, (vec!["empty".to_owned()], vec![]));
        // The address is looked up again, and its old state is gone.
        fixture.zone.set("backend", [ADDRESS]);
        fixture.zone.set_mode_of(REVERSE, AnswerMode::ServFail);
        assert_eq!(fixture.round().await, (vec!["10.0.0.1:5000".to_owned()], vec![]));
    });
}

#[test]
fn names_are_looked_up_each_round_at_a_local_server_and_less_often_elsewhere() {
    run(async {
        let mut fixture = Fixture::start().await;
        fixture.zone.set("backend", [ADDRESS]);
        fixture.zone.name_owner(ADDRESS, "web-1.net");
        let queries = async |fixture: &mut Fixture| {
            let before = fixture.zone.queries().udp;
            let _ = fixture.round().await;
            fixture.zone.queries().udp - before
        };
        // A second answer confirms a new name: two times two queries.
        assert_eq!(queries(&mut fixture).await, 4);
        assert_eq!(queries(&mut fixture).await, 2);
        assert_eq!(queries(&mut fixture).await, 2);
        // While a name is known, a failed lookup is repeated every round.
        fixture.zone.set_mode_of(REVERSE, AnswerMode::ServFail);
        assert_eq!(queries(&mut fixture).await, 2);

        Arc::get_mut(&mut fixture.resolver).unwrap().local = false;
        assert_eq!(queries(&mut fixture).await, 1);
        tokio::time::pause();
        tokio::time::advance(NAMES_AGAIN).await;
        tokio::time::resume();
        assert_eq!(queries(&mut fixture).await, 2);
        assert_eq!(queries(&mut fixture).await, 1);
    });
}
