//! Discovery of a service that is scaled, or has many replicas.

use super::*;

/// The time from a healthy container to its first request. Far below the records' time to live (600 s), but a check that
/// times out on a busy machine begins `rise` again.
const FOLLOWED: Duration = Duration::from_secs(10);

#[test]
fn scaling_up_and_down_fails_no_request() {
    let Some(_engine) = engine() else { return };
    let (project, lb, address) = demo();
    let clients = Clients::start(4, Duration::from_millis(50), (address, WEB).into());
    let before: BTreeSet<IpAddr> = up(address).into_values().collect();

    let mut healthy = BTreeMap::new();
    let mut taken_up = BTreeMap::new();
    std::thread::scope(|scope| {
        scope.spawn(|| project.scale(6));
        eventually("all six are up", || {
            for (_, ip) in up(address) {
                taken_up.entry(ip).or_insert_with(Instant::now);
            }
            // The network assigns addresses in order.
            for ip in neighbours(address).filter(|ip| !before.contains(ip) && *ip != address) {
                let answers = || http_get_quickly((ip, BACKEND).into()).is_some();
                if !healthy.contains_key(&ip) && answers() {
                    healthy.insert(ip, Instant::now());
                }
            }
            (taken_up.len() == 6 && healthy.len() == 3).then_some(())
        });
    });
    for (ip, healthy) in &healthy {
        let late = taken_up[ip].saturating_duration_since(*healthy);
        assert!(late < FOLLOWED, "{ip} was taken up {late:?} after it was healthy");
    }
    assert_eq!(healthy.len(), 3, "{healthy:?}");

    let mut stopped = BTreeMap::new();
    let mut taken_out = BTreeMap::new();
    std::thread::scope(|scope| {
        scope.spawn(|| project.scale(2));
        eventually("two are left", || {
            let now_up: BTreeSet<IpAddr> = up(address).into_values().collect();
            for ip in taken_up.keys() {
                if !now_up.contains(ip) {
                    taken_out.entry(*ip).or_insert_with(Instant::now);
                }
                match http_get_quickly((*ip, BACKEND).into()) {
                    // The connect before was only slow.
                    Some(()) => _ = stopped.remove(ip),
                    None => _ = stopped.entry(*ip).or_insert_with(Instant::now),
                }
            }
            (taken_out.len() == 4).then_some(())
        });
    });
    for (ip, out) in &taken_out {
        // A backend that left before its stop was noticed is not late.
        let late = stopped.get(ip).map_or(Duration::ZERO, |at| out.saturating_duration_since(*at));
        assert!(late < FOLLOWED, "{ip} was taken out {late:?} after it had stopped");
    }
    let requests = clients.stop();
    assert!(requests.len() > 100, "{}", requests.len());
    let failed = failures(&requests);
    assert!(failed.is_empty(), "{failed:?}\n{}", logs(&lb));
}

/// The first addresses of the network of `address`.
fn neighbours(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let IpAddr::V4(address) = address else { panic!("{address} is not an IPv4 address") };
    let [a, b, c, _] = address.octets();
    (2..12).map(move |last| [a, b, c, last].into())
}

/// Whether a backend is healthy, with a short timeout for unused addresses.
fn http_get_quickly(address: SocketAddr) -> Option<()> {
    TcpStream::connect_timeout(&address, Duration::from_millis(50)).ok()?;
    (http_get(address, "/health").ok()?.0 == 200).then_some(())
}

#[test]
fn replicas_whose_addresses_need_an_answer_over_tcp_all_get_traffic() {
    /// Docker repeats the name in each record (moby 28), so these are more than 5 kB; Pointsman accepts 4096 bytes by UDP.
    const REPLICAS: usize = 20;
    let Some(_engine) = engine() else { return };
    let name = ["a-label-so-long-that-few-records-of-the-name-fit-in-a-packet"; 4].join(".");
    let network = Network::create("many", &[]);
    let folder = configuration(&format!(
        "admin: {{bind: 0.0.0.0:9900}}
listeners: {{web: {{bind: 0.0.0.0:8080, pool: web}}}}
pools: {{web: {{discover: [{{dns: \"{name}:5000\", flap: 0s}}], health: {{http: /health}}}}}}"
    ));
    let run = |_| {
        let network = ["--network", &network.0, "--network-alias", &name];
        let python = ["python:3.13-slim", "python", "-c", SERVER];
        Container::run("one", &[&network[..], &python].concat())
    };
    // The engine starts a few at a time.
    let backends: Vec<Container> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|part| scope.spawn(move || (part..REPLICAS).step_by(4).map(run).collect::<Vec<_>>()))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(backends.len(), REPLICAS);
    let lb = pointsman(&network, &folder);
    let address = ip(&lb.0);
    when_up(address, REPLICAS);
    let answered: BTreeSet<String> =
        (0..REPLICAS).map(|_| http_get((address, WEB).into(), "/").unwrap().1).collect();
    assert_eq!(answered.len(), REPLICAS);
    remove(backends);
}
