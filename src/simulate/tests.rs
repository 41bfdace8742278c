//! The results against queueing theory, and the laws of every run.

use std::time::Duration;

use proptest::prelude::*;

use super::report::{Figures, Spread};
use super::*;
use crate::config::{Algorithm, Factor, Hash};

/// A plan of these backends: 200 Poisson arrivals a second, 10 ms of service on average.
pub(super) fn plan(backends: &str) -> SimulationPlan {
    SimulationPlan {
        backends: backends.split(',').map(|backend| backend.parse().unwrap()).collect(),
        service: Vec::new(),
        servers: Vec::new(),
        intensity: Intensity::Load(0.5),
        arrivals: Arrivals::Poisson,
        clients: Clients { number: 1_000, exponent: 0.0 },
        until: Until::Connections(300_000),
        events: Vec::new(),
        hash: Hash::default(),
        seed: 1,
    }
}

/// One queue before this many servers, at this load.
fn queue(servers: u32, service: &str, load: f64) -> Figures {
    let plan = SimulationPlan {
        servers: vec![Setting { backend: None, value: Servers::Number(servers) }],
        service: vec![service.parse().unwrap()],
        intensity: Intensity::Load(load),
        ..plan("a")
    };
    SimulationReport::new(&plan.scenario().unwrap(), &[Algorithm::RoundRobin]).algorithms.remove(0)
}

fn run(plan: SimulationPlan, algorithm: Algorithm) -> Figures {
    SimulationReport::new(&plan.scenario().unwrap(), &[algorithm]).algorithms.remove(0)
}

fn waiting(figures: &Figures) -> Spread {
    figures.waiting_ms.unwrap()
}

fn assert_near(found: f64, wanted: f64, tolerance: f64) {
    assert!((found / wanted - 1.0).abs() < tolerance, "{found} is not near {wanted}");
}

/// Kleinrock, "Queueing Systems", volume 1, section 3.2: the mean wait is ρ / (μ − λ).
#[test]
fn one_server_with_poisson_arrivals_and_exponential_service_is_m_m_1() {
    for load in [0.5, 0.8] {
        let figures = queue(1, "exp:10ms", load);
        let wait = load / (100.0 - 100.0 * load) * 1000.0;
        assert_near(waiting(&figures).mean, wait, 0.05);
        assert_near(figures.response_ms.unwrap().mean, wait + 10.0, 0.05);
        assert_near(figures.backends[0].utilization.unwrap(), load, 0.02);
        // The response time is exponential too: its percentiles follow.
        assert_near(figures.response_ms.unwrap().p99, (wait + 10.0) * 100f64.ln(), 0.06);
    }
}

/// The Pollaczek–Khinchine formula: without variance in service times, half of the wait remains.
#[test]
fn a_fixed_service_time_halves_the_wait() {
    assert_near(waiting(&queue(1, "fixed:10ms", 0.8)).mean, 20.0, 0.05);
}

/// Erlang's C formula for two servers: the mean wait is ρ² / (μ (1 − ρ²)).
#[test]
fn two_servers_with_one_queue_are_m_m_2() {
    assert_near(waiting(&queue(2, "exp:10ms", 0.8)).mean, 0.64 / (100.0 * (1.0 - 0.64)) * 1000.0, 0.05);
}

/// With round robin each of two queues gets every other arrival, more even than Poisson, so the wait is below M/M/1;
/// one queue before both servers is better than two.
#[test]
fn two_queues_are_worse_than_one_and_better_than_random() {
    let two = |algorithm| {
        let servers = vec!["1".parse().unwrap()];
        waiting(&run(SimulationPlan { servers, intensity: Intensity::Load(0.8), ..plan("a,b") }, algorithm))
            .mean
    };
    let (turns, least) = (two(Algorithm::RoundRobin), two(Algorithm::LeastConnections));
    assert!(17.8 < least && least < turns && turns < 40.0, "{least}, {turns}");
}

#[test]
fn with_unlimited_servers_no_connection_waits_and_littles_law_holds() {
    let plan = SimulationPlan {
        servers: vec![Setting { backend: None, value: Servers::Unlimited }],
        intensity: Intensity::Rate(1_000.0),
        until: Until::Connections(100_000),
        ..plan("a")
    };
    let figures = run(plan, Algorithm::RoundRobin);
    assert_eq!((waiting(&figures).max, figures.backends[0].utilization), (0.0, None));
    assert_near(figures.response_ms.unwrap().mean, 10.0, 0.02);
    assert!((15..60).contains(&figures.backends[0].most)); // Little's law: 10 on average
}

#[test]
fn shares_follow_weights() {
    for algorithm in [Algorithm::Weighted, Algorithm::LeastConnections] {
        let figures = run(SimulationPlan { until: Until::Connections(100_000), ..plan("a*3,b") }, algorithm);
        assert_near(figures.backends[0].promised, 0.75, 1e-9);
        assert_near(figures.backends[0].share, 0.75, 0.05);
    }
    let turns =
        run(SimulationPlan { until: Until::Connections(100_000), ..plan("a*3,b") }, Algorithm::RoundRobin);
    assert_eq!((turns.backends[0].share, turns.imbalance.variation), (0.5, 0.5));
}

#[test]
fn promised_shares_count_only_the_time_in_the_pool() {
    let events = vec![
        PlannedEvent { at: Duration::from_secs(25), changes: notation::changes("leave=b").unwrap() },
        PlannedEvent {
            at: Duration::from_secs(50),
            changes: notation::changes("join=c,weight=a*3").unwrap(),
        },
    ];
    let until = Until::Time(Duration::from_secs(100));
    let arrivals = Arrivals::Steady;
    let figures = run(SimulationPlan { events, until, arrivals, ..plan("a,b") }, Algorithm::Weighted);
    let promised: Vec<_> = figures.backends.iter().map(|backend| backend.promised).collect();
    for (found, wanted) in promised.into_iter().zip([0.125 + 0.25 + 0.375, 0.125, 0.125]) {
        assert!((found - wanted).abs() < 1e-3, "{figures:?}");
    }
    assert!(figures.imbalance.variation < 0.001);
}

#[test]
fn a_failed_backend_closes_its_connections_and_gets_none_until_it_is_back() {
    let at = |seconds, what| PlannedEvent {
        at: Duration::from_secs(seconds),
        changes: notation::changes(what).unwrap(),
    };
    let events = vec![at(10, "down=a"), at(20, "down=b"), at(30, "up=a,up=b")];
    let until = Until::Time(Duration::from_secs(40));
    let intensity = Intensity::Load(0.9);
    let figures = run(SimulationPlan { events, until, intensity, ..plan("a,b") }, Algorithm::RoundRobin);
    let [first, second, third] = &figures.events[..] else { panic!("{figures:?}") };
    assert!(first.cut > 0 && second.cut > 1_000, "b had twice its load: {figures:?}");
    assert_eq!((third.cut, first.ideal, second.ideal), (0, 0.5, 1.0));
    assert_near(figures.refused as f64, 720.0 * 10.0, 0.05);
    assert_eq!(
        (figures.cut, figures.served + figures.cut + figures.refused),
        (first.cut + second.cut, figures.connections)
    );
}

#[test]
fn equal_seeds_give_equal_bytes_and_other_seeds_do_not() {
    let json = |seed| {
        let plan = SimulationPlan { seed, until: Until::Connections(5_000), ..plan("a*2,b,c") };
        SimulationReport::new(&plan.scenario().unwrap(), &Algorithm::ALL).json().unwrap()
    };
    assert_eq!(json(7), json(7));
    assert_ne!(json(7), json(8));
}

fn algorithm() -> impl Strategy<Value = Algorithm> {
    proptest::sample::select(&Algorithm::ALL[..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_connection_is_served_cut_or_refused(
        algorithm in algorithm(),
        weights in proptest::collection::vec(1u32..5, 2..6),
        load in 0.1f64..1.5,
        burst in 1u32..200,
        pareto in any::<bool>(),
        factor in proptest::option::of(101u32..300),
        fall in 0u64..900, back in 0u64..900, seed in any::<u64>(),
    ) {
        let names: Vec<_> = weights.iter().enumerate().map(|(n, weight)| format!("b{n}*{weight}")).collect();
        let at = |at, what| PlannedEvent { at: Duration::from_millis(at), changes: notation::changes(what).unwrap() };
        let plan = SimulationPlan {
            intensity: Intensity::Load(load),
            arrivals: Arrivals::Bursts(burst),
            service: vec![if pareto { "pareto:5ms" } else { "fixed:5ms" }.parse().unwrap()],
            events: vec![at(fall, "down=b0"), at(fall + back, "up=b0,leave=b1"), at(fall + back, "join=c")],
            until: Until::Time(Duration::from_secs(2)),
            hash: Hash { load_factor: factor.map(Factor), ..Hash::default() },
            seed,
            ..plan(&names.join(","))
        };
        let figures = run(plan, algorithm);
        prop_assert_eq!(figures.connections, figures.served + figures.cut + figures.refused);
        let sent: u64 = figures.backends.iter().map(|backend| backend.connections).sum();
        prop_assert_eq!(figures.connections, sent + figures.refused);
        prop_assert_eq!(figures.refused, 0);
        let promised: f64 = figures.backends.iter().map(|backend| backend.promised).sum();
        prop_assert!(figures.connections == 0 || (promised - 1.0).abs() < 1e-4);
        prop_assert!(figures.events.iter().all(|event| event.keys.is_some() == algorithm.hashes()));
        if let (Some(waiting), Some(response)) = (figures.waiting_ms, figures.response_ms) {
            prop_assert!(waiting.p50 <= waiting.p99 && waiting.p99 <= waiting.max && waiting.max <= response.max);
        }
        if let Some(average) = figures.imbalance.average {
            prop_assert!(average >= 0.999_999);
        }
    }
}
