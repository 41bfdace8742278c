use super::*;
use proptest::prelude::*;
use proptest::sample::subsequence;

fn record(priority: u16, weight: u16, port: u16, target: &str) -> SrvRecord {
    SrvRecord { target: target.into(), port, priority, weight }
}

/// The backends of records whose targets have these addresses.
fn found(records: &[SrvRecord], hosts: &[(&str, &[&str])]) -> Vec<Found> {
    let hosts: BTreeMap<&str, BTreeSet<IpAddr>> = hosts
        .iter()
        .map(|(name, addresses)| (*name, addresses.iter().map(|text| text.parse().unwrap()).collect()))
        .collect();
    backends(records, |name| hosts.get(name))
}

/// Name, address, weight and tier of each.
fn summary(found: &[Found]) -> Vec<String> {
    let line = |f: &Found| format!("{} {} {} {}", f.name, f.address, f.weight, f.tier);
    found.iter().map(line).collect()
}

fn converted(records: &[u64]) -> Vec<u32> {
    weights(records.iter().copied())
}

#[test]
fn port_weight_and_priority_come_from_the_record() {
    let records =
        [record(20, 5, 5002, "c.test"), record(10, 30, 5001, "b.test"), record(10, 10, 5000, "a.test")];
    let hosts: [(&str, &[&str]); 3] =
        [("a.test", &["10.0.0.1"]), ("b.test", &["10.0.0.2"]), ("c.test", &["fd00::3"])];
    assert_eq!(
        summary(&found(&records, &hosts)),
        [
            "a.test:5000 10.0.0.1:5000 10 0",
            "b.test:5001 10.0.0.2:5001 30 0",
            "c.test:5002 [fd00::3]:5002 5 1",
        ]
    );
}

#[test]
fn priorities_beyond_the_last_tier_share_it() {
    let records: Vec<_> = (0..1000).map(|n| record(n * 2, 1, 5000 + n, "a.test")).collect();
    let found = found(&records, &[("a.test", &["10.0.0.1"])]);
    let tiers: Vec<_> = found.iter().map(|backend| backend.tier).collect();
    assert_eq!(tiers, (0..1000).map(|n| n.min(15)).collect::<Vec<u16>>());
}

#[test]
fn instances_on_one_host_are_backends_with_stable_names() {
    let hosts: [(&str, &[&str]); 1] = [("host.test", &["10.0.0.1"])];
    let first = record(0, 1, 5000, "host.test");
    let alone = found(std::slice::from_ref(&first), &hosts);
    let both = found(&[record(0, 1, 5001, "host.test"), first], &hosts);
    assert_eq!(summary(&both), ["host.test:5000 10.0.0.1:5000 1 0", "host.test:5001 10.0.0.1:5001 1 0"]);
    assert_eq!(both[0], alone[0]);
}

#[test]
fn each_address_is_a_backend_but_an_ipv4_and_an_ipv6_address_are_one() {
    let records = [record(0, 7, 80, "many.test"), record(0, 7, 80, "both.test")];
    let hosts: [(&str, &[&str]); 2] =
        [("many.test", &["10.0.0.1", "10.0.0.2"]), ("both.test", &["10.0.0.3", "fd00::3"])];
    let found = found(&records, &hosts);
    assert_eq!(
        summary(&found),
        ["many.test:80 10.0.0.1:80 7 0", "many.test:80 10.0.0.2:80 7 0", "both.test:80 10.0.0.3:80 7 0"]
    );
    assert_eq!(found[2].also, ["[fd00::3]:80".parse().unwrap()]);
}

#[test]
fn an_address_with_two_records_is_one_backend() {
    let hosts: [(&str, &[&str]); 2] = [("a.test", &["10.0.0.1"]), ("b.test", &["10.0.0.1"])];
    // Weights of equal priorities are added; otherwise the lower priority counts.
    let equals = [record(1, 2, 80, "b.test"), record(1, 3, 80, "a.test")];
    assert_eq!(summary(&found(&equals, &hosts)), ["a.test:80 10.0.0.1:80 5 0"]);
    let others = [record(2, 2, 80, "a.test"), record(1, 3, 80, "b.test")];
    assert_eq!(summary(&found(&others, &hosts)), ["b.test:80 10.0.0.1:80 3 0"]);
}

#[test]
fn the_root_as_target_is_no_backend() {
    assert_eq!(found(&[record(0, 0, 0, "")], &[("", &["10.0.0.1"])]), []);
}

#[test]
fn weights_stay_if_they_are_within_the_range() {
    assert!(converted(&[]).is_empty());
    assert_eq!(converted(&[1, 10, 256]), [1, 10, 256]);
    // With a common divisor.
    assert_eq!(converted(&[1000, 2000, 65_000]), [1, 2, 65]);
    // Without one.
    assert_eq!(converted(&[65_535, 32_768, 1]), [256, 128, 1]);
}

#[test]
fn weight_zero_has_a_small_chance_beside_others_and_an_equal_one_beside_zeros() {
    assert_eq!(converted(&[0, 0, 0]), [1, 1, 1]);
    assert_eq!(converted(&[0, 1, 3]), [1, 85, 255]);
    assert_eq!(converted(&[0, 65_535]), [1, 256]);
    assert_eq!(converted(&[0, 1000]), [1, 256]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn weights_stay_in_bounds_in_order_and_in_proportion(
        records in prop::collection::vec(prop_oneof![Just(0), 0u64..=300, 0u64..=65_535, (0u64..=65).prop_map(|n| n * 1000)], 1..40),
    ) {
        let ours = converted(&records);
        prop_assert!(ours.iter().all(|weight| (1..=256).contains(weight)), "{ours:?}");
        let greatest = records.iter().copied().max().unwrap();
        let heaviest = f64::from(*ours.iter().max().unwrap());
        for (theirs, weight) in records.iter().zip(&ours) {
            for (other, against) in records.iter().zip(&ours) {
                prop_assert!(theirs < other || weight >= against, "{records:?} {ours:?}");
            }
            // Each has its share relative to the largest, rounded to whole numbers.
            if *theirs > 0 {
                let share = *theirs as f64 / greatest as f64 * heaviest;
                prop_assert!((f64::from(*weight) - share.max(1.0)).abs() <= 0.5 + 1e-9, "{records:?} {ours:?}");
            }
        }
        if records.contains(&0) && greatest > 0 {
            prop_assert!(heaviest >= 128.0, "{records:?} {ours:?}");
        } else if (1..=256).contains(&greatest) {
            prop_assert!(records.iter().zip(&ours).all(|(theirs, weight)| *theirs == u64::from(*weight)));
        }
    }

    #[test]
    fn the_order_of_records_does_not_matter(
        records in prop::collection::vec(
            (0u16..4, 0u16..400, 5000u16..5003, "[a-d]\\.test").prop_map(|(p, w, port, t)| record(p, w, port, &t)),
            0..24,
        ).prop_shuffle(),
        addresses in prop::collection::vec(subsequence(vec!["10.0.0.1", "10.0.0.2", "fd00::1"], 0..=3), 4),
    ) {
        let hosts: Vec<(&str, &[&str])> =
            ["a.test", "b.test", "c.test", "d.test"].into_iter().zip(addresses.iter().map(Vec::as_slice)).collect();
        let backends = found(&records, &hosts);
        let mut sorted = records.clone();
        sorted.sort_by_key(|record| (record.weight, record.port, record.priority));
        prop_assert_eq!(&backends, &found(&sorted, &hosts));
        // No address twice; the tiers are the ranks of the priorities.
        let addresses: BTreeSet<_> = backends.iter().map(|one| &one.address).collect();
        prop_assert_eq!(addresses.len(), backends.len());
        let priorities: BTreeSet<u16> = records.iter().map(|record| record.priority).collect();
        for one in &backends {
            let priority = *priorities.iter().nth(usize::from(one.tier)).unwrap();
            let of_it = |record: &&SrvRecord| {
                record.priority == priority && *one.name == format!("{}:{}", record.target, record.port)
            };
            prop_assert!(records.iter().any(|record| of_it(&record)));
        }
    }
}
