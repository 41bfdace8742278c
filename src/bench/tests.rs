//! A sample report, and tests with a server in this process.

use std::future::pending;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::time::Duration;

use hyper::body::Bytes;

use super::report::{BackendShare, BackendShares, Percentiles};
use super::*;
use crate::testing::in_time;

pub(super) fn report(backends: &[(&str, u64)]) -> BenchReport {
    let total: u64 = backends.iter().map(|(_, requests)| requests).sum();
    let share = |(name, requests): &(&str, u64)| BackendShare {
        name: (*name).to_owned(),
        requests: *requests,
        share: *requests as f64 / total.max(1) as f64,
        failed: Some(0),
        mean_ms: Some(1.5),
    };
    BenchReport {
        target: "http://127.0.0.1:8080/".to_owned(),
        r#loop: "closed",
        concurrent: 3,
        rate: None,
        keep_alive: false,
        timeout_s: 10.0,
        duration_s: None,
        requests: Some(total),
        elapsed_s: 2.0,
        interrupted: false,
        done: total,
        succeeded: total,
        failed: 0,
        failures: Vec::new(),
        not_sent: 0,
        given_up: 0,
        late: None,
        connections: total,
        bytes: 10 * total,
        requests_per_second: total as f64 / 2.0,
        latency_ms: Some(Percentiles {
            min: 0.5,
            mean: 1.5,
            p50: 1.0,
            p90: 2.0,
            p99: 3.0,
            p999: 4.0,
            max: 5.0,
        }),
        service_ms: None,
        cpu_s: 0.5,
        cores: 2,
        backends: Some(BackendShares {
            by: "header x-backend".to_owned(),
            all: backends.iter().map(share).collect(),
            unknown: 0,
        }),
        backends_error: None,
    }
}

/// A server that sends this to each client and closes.
fn sending(words: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 1024];
            if !words.is_empty() {
                let _ = stream.write_all(words);
                // Unread data would turn the close into a reset.
                let _ = stream.shutdown(std::net::Shutdown::Write);
                while stream.read(&mut request).is_ok_and(|n| n > 0) {}
            }
        }
    });
    address
}

fn plan(target: &str) -> BenchPlan {
    let target = match target.parse().unwrap() {
        TargetUrl::Http(host_port, path) => BenchTarget::Http(Request::new(
            host_port,
            path,
            hyper::Method::GET,
            &hyper::HeaderMap::new(),
            Bytes::new(),
        )),
        TargetUrl::Tcp(host_port) => {
            BenchTarget::Tcp(TcpExchange { host_port, send: Bytes::new(), until: TcpUntil::Connected })
        }
    };
    BenchPlan {
        target,
        until: Until::Number(20),
        concurrent: NonZeroUsize::new(4).unwrap(),
        rate: None,
        timeout: Duration::from_secs(20),
        keep_alive: false,
        by: By::Auto,
    }
}

async fn ran(plan: &BenchPlan) -> BenchReport {
    in_time("a run of 20 requests", run(plan, |_| (), pending())).await.unwrap()
}

fn kinds(report: &BenchReport) -> Vec<(&str, u64)> {
    report.failures.iter().map(|failure| (failure.kind.as_str(), failure.count)).collect()
}

#[tokio::test]
async fn a_response_that_is_not_http_is_bad_and_a_partial_one_is_closed_early() {
    let at = sending(b"220 mail.example.com ESMTP\r\n\r\n");
    assert_eq!(kinds(&ran(&plan(&format!("http://{at}/"))).await), [("bad_answer", 20)]);
    // A response that arrives before its request counts.
    let at = sending(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!(kinds(&ran(&plan(&format!("http://{at}/"))).await), [("status_503", 20)]);
    for half in [&b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"[..], b"HTTP/1.1 200 O"] {
        let at = sending(half);
        assert_eq!(kinds(&ran(&plan(&format!("http://{at}/"))).await), [("closed_early", 20)]);
    }
}

#[tokio::test]
async fn a_greeting_is_a_first_byte_and_names_its_backend() {
    let at = sending(b"220 one ready\r\n");
    let mut plan = plan(&format!("tcp://{at}"));
    let BenchTarget::Tcp(exchange) = &mut plan.target else { unreachable!() };
    exchange.until = TcpUntil::Byte;
    plan.by = By::Body(regex_lite::Regex::new(r"^220 (\S+)").unwrap());
    let report = ran(&plan).await;
    assert_eq!((report.succeeded, report.failed, report.bytes), (20, 0, 20 * 15));
    let backends = report.backends.unwrap();
    assert_eq!((backends.all[0].name.as_str(), backends.all[0].requests), ("one", 20));
}

#[tokio::test]
async fn a_server_that_closes_at_once_has_connected_and_sent_no_byte() {
    let at = sending(b"");
    let mut plan = plan(&format!("tcp://{at}"));
    assert_eq!(ran(&plan).await.succeeded, 20);
    for (until, succeeded) in [(TcpUntil::Byte, 0), (TcpUntil::Closed, 20)] {
        let BenchTarget::Tcp(exchange) = &mut plan.target else { unreachable!() };
        exchange.until = until;
        let report = ran(&plan).await;
        assert_eq!((report.succeeded, report.done), (succeeded, 20), "{report:?}");
        assert!(report.unanswered().is_some_and(|words| words.contains("closed before")) || succeeded > 0);
    }
}

#[tokio::test]
async fn more_clients_than_open_files_are_refused_before_anything_is_sent() {
    let mut plan = plan("http://127.0.0.1:1/");
    plan.concurrent = NonZeroUsize::MAX;
    let error = run(&plan, |_| (), pending()).await.unwrap_err().to_string();
    assert!(error.contains("ulimit -n") && error.contains("-c"), "{error}");
}
