//! `pointsman health`: asks a running instance whether it is ready. For a container's HEALTHCHECK: needs no shell,
//! ends with 0 or 1 only, and soon.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{Exit, Failure, HealthArgs, print};
use crate::config::{self, BindAddress};

/// Time for each step of the question.
const LIMIT: Duration = Duration::from_secs(2);
const REQUEST: &[u8] = b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

pub(super) fn run(args: &HealthArgs) -> Result<Exit, Failure> {
    let address = match &args.admin {
        Some(address) => address.clone(),
        None => {
            let config = config::load(&args.file.path()?)?;
            let none =
                || "the configuration has no admin section to ask: write `admin: {bind: 127.0.0.1:9900}`";
            config.admin.ok_or_else(|| Failure::Invalid(none().to_owned()))?.bind
        }
    };
    let answer = ask(&address).map_err(|error| Failure::Invalid(format!("not ready: {address}: {error}")))?;
    let status = answer.split_ascii_whitespace().nth(1).unwrap_or("no status");
    if status == "200" {
        return print("ready\n");
    }
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim());
    Err(Failure::Invalid(format!("not ready: {address} answered {status}: {body}")))
}

fn ask(address: &BindAddress) -> std::io::Result<String> {
    match address {
        BindAddress::Tcp(address) => {
            let mut stream = TcpStream::connect_timeout(&reachable(*address), LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
            exchange(&mut stream)
        }
        BindAddress::Unix(path) => {
            let mut stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
            exchange(&mut stream)
        }
    }
}

fn exchange(stream: &mut (impl Read + Write)) -> std::io::Result<String> {
    stream.write_all(REQUEST)?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Who listens on every address is reached over loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
