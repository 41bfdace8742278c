use super::*;
use crate::problems::tests::picture;
use crate::socket_diag::AcceptQueue;
use proptest::prelude::*;

fn values(every: u64, used: &[u64]) -> VecDeque<(Instant, u64)> {
    let began = Instant::now();
    let at = |n: usize| began + Duration::from_secs(every * n as u64);
    used.iter().enumerate().map(|(n, used)| (at(n), *used)).collect()
}

#[test]
fn growth_is_extrapolated_only_over_enough_time_and_above_the_noise() {
    let line: Vec<u64> = (0..20).map(|n| 100 + 10 * n).collect();
    let per_second = growth(&values(5, &line), 1000).unwrap();
    assert!((per_second - 2.0).abs() < 1e-9, "{per_second}");
    assert_eq!(growth(&values(5, &line[..6]), 1000), None, "25 seconds");
    assert_eq!(growth(&values(5, &line), 1_000_000), None, "a fiftieth of a percent");
    assert_eq!(growth(&values(5, &[500; 20]), 1000), None);
    assert_eq!(growth(&values(5, &line.iter().rev().copied().collect::<Vec<_>>()), 1000), None);
    assert_eq!(growth(&VecDeque::new(), 1000), None);
    let step: Vec<u64> = (0..40).map(|n| if n < 10 { 0 } else { 800 }).collect();
    assert_eq!(growth(&values(5, &step), 1000), None, "it grew once, and grows no more");
}

proptest! {
    #[test]
    fn no_series_of_values_yields_nonsense(
        used in proptest::collection::vec(any::<u32>(), 0..70), every in 0u64..20, limit in any::<u64>(),
    ) {
        let used: Vec<u64> = used.into_iter().map(u64::from).collect();
        if let Some(per_second) = growth(&values(every, &used), limit) {
            prop_assert!(per_second.is_finite() && per_second > 0.0);
        }
    }
}

/// One measure at several times, five seconds apart.
fn trends(measure: &Measure, used: &[u64]) -> (Trends, Measure) {
    let (began, mut trends) = (Instant::now(), Trends::default());
    let mut last = measure.clone();
    for (n, used) in used.iter().enumerate() {
        last.used = *used;
        trends.take(began + Duration::from_secs(5 * n as u64), std::slice::from_ref(&last));
    }
    (trends, last)
}

fn measure(resource: Resource, used: u64, limit: u64) -> Measure {
    Measure { resource, subject: None, used, limit }
}

fn found(trends: &Trends, measure: &Measure) -> Vec<(Severity, String)> {
    let mut findings = Vec::new();
    trends.findings(std::slice::from_ref(measure), &mut findings);
    findings.into_iter().map(|finding| (finding.severity, finding.sentence)).collect()
}

#[test]
fn a_resource_is_scarce_from_its_threshold_on_and_no_longer_below_it() {
    let at = |used| found(&Trends::default(), &measure(Resource::OpenFiles, used, 1000));
    assert_eq!(at(799), []);
    let sentence = "80.0 % of the files that the process may open are in use (800 of 1000)";
    assert_eq!(at(800), [(Severity::Warning, sentence.to_owned())]);
    assert_eq!(at(950)[0].0, Severity::Critical);
    assert_eq!(found(&Trends::default(), &measure(Resource::OpenFiles, 5, 0)), [], "an unknown limit");
}

#[test]
fn a_disk_that_is_nearly_full_is_reported_before_log_lines_are_lost() {
    let kernel = KernelPicture { log_disk: Some([92 << 30, 100 << 30]), ..KernelPicture::default() };
    let all = measures(&picture(&[]), &kernel);
    let disk = all.iter().find(|measure| measure.resource == Resource::LogDisk).unwrap();
    let sentence = "92.0 % of the file system of the log directory is in use (92 GiB of 100 GiB)";
    assert_eq!(found(&Trends::default(), disk), [(Severity::Warning, sentence.to_owned())]);
}

#[test]
fn a_resource_that_will_soon_be_used_up_is_a_problem_before_it_is_scarce() {
    let growing: Vec<u64> = (0..20).map(|n| 400 + 10 * n).collect();
    let (trends, last) = trends(&measure(Resource::OpenFiles, 0, 1000), &growing);
    let info = &trends.capacity(std::slice::from_ref(&last))[0];
    assert_eq!((info.used, info.growth_per_minute.map(f64::round)), (590, Some(120.0)));
    assert_eq!(info.exhausted_in_seconds.map(f64::round), Some(205.0));
    let sentence = "59.0 % of the files that the process may open are in use (590 of 1000); at its current growth \
                    it is used up in 3m 25s";
    assert_eq!(found(&trends, &last), [(Severity::Warning, sentence.to_owned())]);
}

#[test]
fn a_growth_from_nothing_is_no_problem_yet() {
    let growing: Vec<u64> = (0..20).map(|n| 20 * n).collect();
    let (trends, last) = trends(&measure(Resource::OpenFiles, 0, 1000), &growing);
    assert!(trends.capacity(std::slice::from_ref(&last))[0].exhausted_in_seconds.unwrap() < SOON);
    assert_eq!(found(&trends, &last), []);
}

#[test]
fn values_older_than_five_minutes_and_vanished_resources_are_forgotten() {
    let mut used = vec![0; 100];
    used.extend([500; 70]);
    let (mut trends, last) = trends(&measure(Resource::Conntrack, 0, 1000), &used);
    assert_eq!(trends.capacity(std::slice::from_ref(&last))[0].growth_per_minute, None);
    trends.take(Instant::now(), &[]);
    assert!(trends.0.is_empty());
}

#[test]
fn ports_are_counted_by_backend_with_those_in_time_wait_and_for_each_source_address() {
    let mut picture = picture(&[("web", "a up, b up"), ("api", "a up")]);
    let address = |backend: &mut crate::problems::picture::BackendPicture, port: u16, open| {
        backend.address = Some(SocketAddr::from(([10, 0, 0, 1], port)));
        backend.open = open;
    };
    let web = picture.pools.get_mut("web").unwrap();
    address(&mut web.backends[0], 80, 100);
    address(&mut web.backends[1], 81, 5);
    web.source_addresses = 2;
    address(&mut picture.pools.get_mut("api").unwrap().backends[0], 80, 20);
    let mut kernel = KernelPicture { ports: Some(1000), ..KernelPicture::default() };
    kernel.time_wait.insert(SocketAddr::from(([10, 0, 0, 1], 80)), 30);
    let ports = |picture: &Picture| -> Vec<(String, u64, u64)> {
        let of_ports = source_ports(picture, &kernel).into_iter();
        of_ports.map(|one| (one.subject.unwrap().to_string(), one.used, one.limit)).collect()
    };
    // The same address in two pools is one; it is named by the first.
    assert_eq!(ports(&picture), [("api/a".into(), 150, 2000), ("web/b".into(), 5, 2000)]);
    // With transparent, the ports are the clients'.
    picture.pools.get_mut("web").unwrap().source_addresses = 0;
    assert_eq!(ports(&picture), [("api/a".into(), 50, 1000)]);
}

#[test]
fn only_the_queues_of_listeners_are_looked_at_and_the_fullest_of_each() {
    let mut picture = picture(&[("web", "a up")]);
    let own = SocketAddr::from(([127, 0, 0, 1], 8080));
    picture.listeners[0].addresses = vec![own];
    let queue = |port, waiting| AcceptQueue {
        address: SocketAddr::new(own.ip(), port),
        waiting,
        limit: 100,
        dropped: 0,
    };
    let kernel = KernelPicture {
        accept_queues: vec![queue(8080, 3), queue(8080, 60), queue(9999, 100)],
        ..KernelPicture::default()
    };
    let measures = accept_queues(&picture, &kernel);
    assert_eq!(measures.len(), 1);
    assert_eq!((measures[0].subject.as_deref(), measures[0].used), (Some("web"), 60));
    let found = found(&Trends::default(), &measures[0]);
    assert_eq!(found[0].1, "60.0 % of the accept queue of listener web is in use (60 of 100)");
}
