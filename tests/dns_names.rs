//! The names of backends found by DNS, while the name server fails: what is known stays.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::net::{IpAddr, TcpListener};

use pointsman::cli::demo::zone::Mode;
use support::dns::Dns;
use support::{Lb, eventually};

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 77, 201));
/// The name of the question for the name of [`ADDRESS`].
const REVERSE: &str = "201.77.0.127.in-addr.arpa";
/// So many rounds, each 80 ms or more, are longer than an address is remembered that has left the answers: its `flap`,
/// and three times `every`.
const ROUNDS: f64 = 8.0;

/// Waits until the name was asked for in some more rounds, with this result.
fn after_rounds(lb: &Lb, result: &str) {
    let series = format!("pointsman_resolutions_total{{pool=\"p\",result=\"{result}\"}}");
    let before = lb.metric(&series);
    eventually("some rounds", || (lb.metric(&series) >= before + ROUNDS).then_some(()));
}

#[test]
fn a_name_server_that_fails_makes_no_backend_lose_its_name() {
    let dns = Dns::start();
    dns.containers(&[("web-1.net", ADDRESS)]);
    let server = TcpListener::bind((ADDRESS, 0)).unwrap();
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p:\n    discover:\n      \
         - {{dns: \"backend:{}\", server: \"{}\", family: 4, every: 100ms, flap: 100ms, hold: 1h}}\n",
        server.local_addr().unwrap().port(),
        dns.server.address
    ));
    let has_its_name = |when: &str| {
        let names: Vec<_> = lb.backends().into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["web-1.net"], "{when}\n{}", lb.log());
        assert!(lb.logged(&["backend gone"]).is_empty(), "{when}\n{}", lb.log());
    };
    lb.when_up(vec!["web-1.net".into()]);

    for (mode, result) in [(Mode::ServFail, "server_failure"), (Mode::Silent, "timeout")] {
        dns.zone.set_mode_of(REVERSE, mode);
        after_rounds(&lb, "ok");
        has_its_name("while names are not told");
        dns.zone.set_mode(mode);
        after_rounds(&lb, result);
        has_its_name("while nothing is told");
        // The address is told again, and its name is not: it is that from before.
        dns.zone.set_mode(Mode::Answer);
        after_rounds(&lb, "ok");
        has_its_name("when addresses are told again");
    }

    dns.zone.set_mode_of(REVERSE, Mode::Answer);
    dns.zone.forget_owner(ADDRESS);
    after_rounds(&lb, "ok");
    has_its_name("while the address has no name");
    assert_eq!(lb.logged(&["backend joining"]).len(), 1, "{}", lb.log());
}
