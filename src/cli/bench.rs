//! `pointsman bench`: a load test.

use std::fmt;
use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use regex_lite::Regex;
use tokio::signal::unix::{SignalKind, signal};

use super::instance::block_on;
use super::{Exit, Failure, print, write_chart};
use crate::api::{self, PoolInfo, StatusReply};
use crate::bench::{
    self, BackendCounters, BackendCounts, BenchPlan, BenchProgress, BenchTarget, By, Meter, Querying,
    Request, TargetUrl, TcpExchange, TcpUntil, Until, header_field,
};
use crate::chart;
use crate::config::escape;
use crate::remote::{self, Remote};
use crate::sanitize;
use crate::simulate::{Intensity, notation};

/// The time limit to connect to the admin server, and again that of its response.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Ten thousand requests, a hundred at a time, and a chart of each backend's share:
  pointsman bench http://localhost:8080/ -n 10000 -c 100 --chart shares.png
The latency at 500 requests a second, however slowly the server answers:
  pointsman bench http://localhost:8080/ --rate 500/s --duration 30s
Each backend's share, by the response body, or by the balancer's counters:
  pointsman bench http://localhost:8080/home --by 'body:Server: (\\w+)'
  pointsman bench http://localhost:8080/ --by admin --admin 127.0.0.1:9900
New connections, and round trips, of a service that does not speak HTTP:
  pointsman bench tcp://localhost:6379 -n 5000
  pointsman bench tcp://localhost:6379 --send 'PING\\r\\n' --by 'body:(PONG)'

An http:// request succeeds with a complete response of a status below 400. A
tcp:// request succeeds when its connection opens; with --send, when the first byte
arrives. --wait-for changes that: connect, byte (of a server that sends first, such
as SSH), or close (by the server). Each request has its own connection, so a layer-4
balancer routes each one.

Without --rate this is a closed loop: each of the -c clients sends its next request
after its response. While the server stalls, so do the clients, and requests that
other users would have sent are not measured. With --rate, request k is due at
k / rate, and its latency counts from then, also when no client was free to send it:
there is no coordinated omission (Gil Tene, \"How NOT to Measure Latency\"). The
report shows latency since due and since sent, and how many requests were late. With
--duration no request starts after that time; those due and never sent are counted.

Percentiles cover successful requests: fast failures would improve them.

Exit codes: 0 done, even if some requests failed (the report and --json show them);
1 the arguments are wrong, or no request was answered; 2 it could not start.
Ctrl-C ends the test early, with a report.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[allow(rustdoc::broken_intra_doc_links, reason = "brackets are optional parts in the help")]
pub(super) struct BenchArgs {
    /// The target: http://HOST[:PORT][/PATH], or tcp://HOST:PORT
    #[arg(required_unless_present = "url", conflicts_with = "url")]
    target: Option<TargetUrl>,
    /// The target, as an option
    #[arg(short, long, value_name = "TARGET")]
    url: Option<TargetUrl>,
    /// The number of requests [default: 10000]
    #[arg(short, long, conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    number: Option<u64>,
    /// How long to send requests, instead of a number of them
    #[arg(short, long, value_name = "TIME", value_parser = notation::time)]
    duration: Option<Duration>,
    /// The number of clients, and so of concurrent requests; never more than -n requests
    #[arg(short, long, value_name = "CLIENTS", default_value = "100")]
    concurrent: NonZeroUsize,
    /// Requests per second, each due at a fixed time: 500/s, 600/m [default: as fast as responses come]
    #[arg(short, long, value_parser = notation::rate)]
    rate: Option<Intensity>,
    /// The time limit of a request
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = notation::time)]
    timeout: Duration,
    /// Reuse connections
    #[arg(short, long)]
    keep_alive: bool,
    /// A header field; can be repeated
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = header_field)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// The method [default: GET, or POST with a body]
    #[arg(short = 'X', long)]
    method: Option<Method>,
    /// The request body; @FILE reads it from a file
    #[arg(long, value_name = "TEXT|@FILE")]
    body: Option<String>,
    /// The data sent on a tcp:// connection, with escapes such as \r \n \t \0 \\ \x00
    #[arg(long, value_name = "TEXT", value_parser = unescaped)]
    send: Option<Bytes>,
    /// When a tcp:// request succeeds [default: byte with --send, else connect]
    #[arg(long, value_enum, value_name = "WHAT")]
    wait_for: Option<WaitFor>,
    /// How to attribute responses to backends: header:NAME, body:REGEX (its first group), admin (the balancer's counters), or auto: a
    /// header such as X-Backend or X-Server, or the whole body if it is short and repeats
    #[arg(long, default_value = "auto", value_name = "WHAT")]
    by: ByArgument,
    /// The admin address of the balancer, for --by admin: ADDRESS:PORT, NAME:PORT or unix:PATH
    #[arg(long, env = "POINTSMAN_ADMIN", value_name = "ADDRESS", value_parser = str::parse::<remote::Address>)]
    admin: Option<remote::Address>,
    /// Draw the share of each backend and the latencies, as SVG or PNG by the file's extension
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// The value of --wait-for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum WaitFor {
    /// The connection is open
    Connect,
    /// A byte has arrived
    Byte,
    /// The server has closed it
    Close,
}

/// The value of --by; the admin address is a separate option.
#[derive(Clone, Debug)]
enum ByArgument {
    Auto,
    Header(HeaderName),
    Body(Regex),
    Admin,
}

impl std::str::FromStr for ByArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "admin" => Ok(Self::Admin),
            Some(("header", name)) => match name.trim().parse() {
                Ok(name) => Ok(Self::Header(name)),
                Err(_) => Err(format!("{name:?} is not a header name")),
            },
            Some(("body", expression)) => match Regex::new(expression) {
                Ok(expression) => Ok(Self::Body(expression)),
                Err(error) => Err(format!("{expression:?} is not a regular expression: {error}")),
            },
            _ => Err(format!("expected auto, header:NAME, body:REGEX or admin, not {text:?}")),
        }
    }
}

/// The counters of a running instance, from its admin server.
#[derive(Debug)]
struct AdminCounters(remote::Address);

impl fmt::Display for AdminCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl BackendCounters for AdminCounters {
    fn query(&self) -> Querying<'_> {
        Box::pin(async {
            let Self(address) = self;
            let remote = Remote::new(address.clone()).within(ADMIN_TIMEOUT);
            match remote.get::<StatusReply>(api::path::STATUS).await {
                // A running Pointsman has an uptime above 0: this is the status of another program.
                Ok(status) if status.uptime_seconds <= 0.0 => {
                    Err(format!("the admin server {address} does not report the connections of each backend"))
                }
                Ok(status) => Ok(counts(status)),
                Err(error) => Err(format!(
                    "the admin server {address} does not report the connections of each backend: {}",
                    error.why()
                )),
            }
        })
    }
}

/// The connections of each backend in a status.
fn counts(status: StatusReply) -> BackendCounts {
    let of_pool = |pool: PoolInfo| {
        pool.backends.into_iter().map(move |backend| {
            ((pool.name.to_string(), backend.name.to_string(), backend.address), backend.connections)
        })
    };
    let backends = status.pools.into_iter().flat_map(of_pool).collect();
    BackendCounts { uptime: status.uptime_seconds, backends }
}

fn unescaped(text: &str) -> Result<Bytes, String> {
    let unknown = |escape| format!("{escape} is not an escape; known escapes: {}", escape::KNOWN);
    escape::unescape(text).map(Bytes::from).map_err(unknown)
}

/// The clients that have a request to send.
fn busy_clients(clients: NonZeroUsize, until: Until) -> NonZeroUsize {
    let requests = match until {
        Until::Number(requests) => usize::try_from(requests).ok().and_then(NonZeroUsize::new),
        Until::Time(_) => None,
    };
    requests.map_or(clients, |requests| clients.min(requests))
}

impl From<bench::Error> for Failure {
    fn from(error: bench::Error) -> Self {
        match error {
            bench::Error::Name { .. } | bench::Error::Admin(_) => Self::Invalid(error.to_string()),
            bench::Error::Files { .. } | bench::Error::Start(_) => Self::NotStarted(error.to_string()),
        }
    }
}

pub(super) fn run(args: &BenchArgs) -> Result<Exit, Failure> {
    let format = args.chart.as_deref().map(chart::ImageFormat::of).transpose().map_err(Failure::Invalid)?;
    let plan = args.plan()?;
    let report = block_on(test(&plan, args.json))?;
    if let Some((path, format)) = args.chart.as_ref().zip(format) {
        write_chart(path, report.chart(format))?;
    }
    if args.json {
        let json = report
            .json()
            .map_err(|error| Failure::NotStarted(format!("the report cannot be written as JSON: {error}")))?;
        print(&sanitize::json(&json))?;
    } else {
        print(&sanitize::lines(&report.table()))?;
    }
    report.unanswered().map_or(Ok(Exit::Done), |reason| Err(Failure::Invalid(reason)))
}

/// Runs the test and shows its progress, until the test ends or a signal arrives.
async fn test(plan: &BenchPlan, json: bool) -> Result<bench::BenchReport, Failure> {
    let listen = |kind| {
        signal(kind)
            .map_err(|error| Failure::NotStarted(format!("signal handlers cannot be installed: {error}")))
    };
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let interrupted = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let mut to = std::io::stderr();
    let terminal = to.is_terminal();
    let mut meter = (terminal || !json).then(|| Meter::new(terminal));
    let watch = |progress: &BenchProgress| {
        if let Some(meter) = &mut meter {
            // Progress is optional: a closed standard error is no failure.
            let _ = meter.show(progress, &mut std::io::stderr());
        }
    };
    let report = bench::run(plan, watch, interrupted).await;
    if let Some(meter) = &mut meter {
        let _ = meter.clear(&mut to);
    }
    Ok(report?)
}

impl BenchArgs {
    fn plan(&self) -> Result<BenchPlan, Failure> {
        let address = self.target.as_ref().or(self.url.as_ref());
        let address = address.ok_or_else(|| Failure::Invalid("no target is given".to_owned()))?;
        let until = self.duration.map_or(Until::Number(self.number.unwrap_or(10_000)), Until::Time);
        Ok(BenchPlan {
            target: match address {
                TargetUrl::Http(host_port, path) => {
                    self.only_for(
                        "tcp://",
                        &[("--send", self.send.is_some()), ("--wait-for", self.wait_for.is_some())],
                    )?;
                    let body = self.body()?;
                    let usual = if body.is_some() { Method::POST } else { Method::GET };
                    let headers =
                        self.header.iter().cloned().fold(HeaderMap::new(), |mut all, (name, value)| {
                            all.append(name, value);
                            all
                        });
                    BenchTarget::Http(Request::new(
                        host_port.clone(),
                        path.clone(),
                        self.method.clone().unwrap_or(usual),
                        &headers,
                        body.unwrap_or_default(),
                    ))
                }
                TargetUrl::Tcp(host_port) => {
                    self.only_for(
                        "http://",
                        &[
                            ("--keep-alive", self.keep_alive),
                            ("-H", !self.header.is_empty()),
                            ("--method", self.method.is_some()),
                            ("--body", self.body.is_some()),
                            ("--by header", matches!(self.by, ByArgument::Header(_))),
                        ],
                    )?;
                    BenchTarget::Tcp(TcpExchange {
                        host_port: host_port.clone(),
                        send: self.send.clone().unwrap_or_default(),
                        until: match self.wait_for {
                            Some(WaitFor::Connect) => TcpUntil::Connected,
                            Some(WaitFor::Byte) => TcpUntil::Byte,
                            Some(WaitFor::Close) => TcpUntil::Closed,
                            None if self.send.is_some() => TcpUntil::Byte,
                            None => TcpUntil::Connected,
                        },
                    })
                }
            },
            until,
            concurrent: busy_clients(self.concurrent, until),
            rate: match self.rate {
                Some(Intensity::Rate(rate)) => Some(rate),
                _ => None,
            },
            timeout: self.timeout,
            keep_alive: self.keep_alive,
            by: self.by()?,
        })
    }

    fn only_for(&self, scheme: &str, options: &[(&str, bool)]) -> Result<(), Failure> {
        match options.iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(Failure::Invalid(format!("{option} is only for {scheme}"))),
            None => Ok(()),
        }
    }

    fn body(&self) -> Result<Option<Bytes>, Failure> {
        let Some(text) = &self.body else { return Ok(None) };
        let Some(path) = text.strip_prefix('@') else { return Ok(Some(Bytes::from(text.clone()))) };
        let content = std::fs::read(path);
        let content = content.map_err(|error| Failure::Invalid(format!("--body @{path}: {error}")))?;
        Ok(Some(Bytes::from(content)))
    }

    fn by(&self) -> Result<By, Failure> {
        Ok(match &self.by {
            ByArgument::Auto => By::Auto,
            ByArgument::Header(name) => By::Header(name.clone()),
            ByArgument::Body(expression) => By::Body(expression.clone()),
            ByArgument::Admin => match &self.admin {
                Some(address) => By::Admin(Arc::new(AdminCounters(address.clone()))),
                None => {
                    return Err(Failure::Invalid(
                        "--by admin needs the balancer's admin address: --admin 127.0.0.1:9900 or $POINTSMAN_ADMIN"
                            .to_owned(),
                    ));
                }
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_clients_than_requests() {
        let clients = |n| NonZeroUsize::new(n).unwrap();
        assert_eq!(busy_clients(clients(100), Until::Number(10)), clients(10));
        assert_eq!(busy_clients(clients(4), Until::Number(10)), clients(4));
        assert_eq!(busy_clients(clients(100), Until::Time(Duration::from_secs(1))), clients(100));
    }
}
