//! The program `nft`, which changes the kernel's rules, and what it needs.

use std::io::{self, Read, Write};
use std::process::{Output, Stdio};
use std::time::Duration;

use socket2::Socket;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::netlink::{self, Request};

/// `CAP_NET_ADMIN` (capabilities(7)).
const CAP_NET_ADMIN: u32 = 12;

/// A limit for a fault: the kernel replies at once.
const ANSWER: Duration = Duration::from_secs(2);

/// The most slots of a listener. The 262,147 of `maglev` with up to 2,621 backends take seconds to load, and a change of them more
/// than one, as `nft` reads the whole table before each transaction.
pub const MOST_SLOTS: usize = 300_000;

/// Time for one transaction: the largest tables take half a second.
const LIMIT: Duration = Duration::from_secs(10);

/// Why the kernel cannot forward connections.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The capability is missing.
    #[error(
        "the process may not change the kernel's rules: it needs CAP_NET_ADMIN (in Compose `cap_add: [NET_ADMIN]` and \
         `user: \"0\"`, under systemd `AmbientCapabilities=CAP_NET_ADMIN`)"
    )]
    Capability,
    /// The program is missing.
    #[error("the program nft cannot be run: {0}; install the package nftables")]
    Program(io::Error),
    /// It has refused a script.
    #[error("nft: {0}")]
    Refused(String),
    /// The kernel forwards no packets.
    #[error(
        "{0} is 0, so the kernel forwards no packets: set it with `sysctl -w {0}=1`, or in Compose with `sysctls: \
         [{0}=1]`"
    )]
    Forwarding(&'static str),
    /// The kernel plane has stopped, after a fault in this program.
    #[error("the task of the kernel plane has stopped: report this, with the log")]
    Stopped,
    /// It does not end.
    #[error("nft has not ended within {} s", LIMIT.as_secs())]
    Hangs,
    /// The socket that marks the owner of the table cannot be opened.
    #[error("the socket that marks the owner of the kernel's rules cannot be opened: {0}")]
    Ownership(io::Error),
    /// Another process owns the table.
    #[error(
        "another Pointsman in this network namespace lets the kernel forward its connections: only one can"
    )]
    InUse,
    /// Its table would be too large.
    #[error(
        "its table would have {0} slots, of which the kernel gets {MOST_SLOTS} at most: with so many backends use \
         `balance: source-hash` or one that takes turns"
    )]
    TooManySlots(usize),
    /// The events of connections cannot be read.
    #[error("conntrack: {0}")]
    Conntrack(io::Error),
}

/// Whether the kernel can forward connections of these families.
pub async fn check(v4: bool, v6: bool) -> Result<(), Error> {
    if !has_capability() {
        return Err(Error::Capability);
    }
    run(&["list", "tables"], "").await?;
    let needed = [(v4, "net.ipv4.ip_forward"), (v6, "net.ipv6.conf.all.forwarding")];
    match needed.into_iter().find(|(needed, name)| *needed && sysctl(name).as_deref() == Some("0")) {
        Some((_, name)) => Err(Error::Forwarding(name)),
        None => Ok(()),
    }
}

/// Whether the effective capabilities include CAP_NET_ADMIN (proc(5), `CapEff`).
fn has_capability() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return false };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_some_and(|set| set & 1 << CAP_NET_ADMIN != 0)
}

fn sysctl_path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

/// The value of a setting of the kernel; `None`: there is none.
pub fn sysctl(name: &str) -> Option<String> {
    std::fs::read_to_string(sysctl_path(name)).ok().map(|value| value.trim().to_owned())
}

/// Sets a setting of the kernel to 1, if it is not.
pub fn turn_on(name: &str) -> io::Result<()> {
    if sysctl(name).as_deref() == Some("1") { Ok(()) } else { std::fs::write(sysctl_path(name), "1") }
}

/// Carries out a script in one transaction: all of it or nothing.
pub async fn apply(script: &str) -> Result<(), Error> {
    run(&["-f", "-"], script).await.map(drop)
}

/// The rules of a table without the elements of its maps and sets, as text; to be compared only with another answer of the same
/// program.
pub async fn list(table: &str) -> Result<String, Error> {
    run(&["--terse", "list", "table", "inet", table], "").await
}

/// Whether there is a chain of that name.
pub async fn has_chain(table: &str, chain: &str) -> bool {
    run(&["list", "chain", "inet", table, chain], "").await.is_ok()
}

/// Whether there is a table of that name and of the family `inet`. It asks the kernel itself, as `nft` may not be installed.
pub fn has_table(name: &str) -> bool {
    /// `NFNL_SUBSYS_NFTABLES`, with the kind `NFT_MSG_GETTABLE`.
    const REQUEST: u16 = 10 << 8 | 1;
    /// `NFTA_TABLE_NAME`.
    const NAME: u16 = 1;
    /// `NFPROTO_INET`.
    const INET: u8 = 1;
    let has_table = || -> io::Result<bool> {
        let mut socket = netlink::open(libc::NETLINK_NETFILTER)?;
        socket.set_read_timeout(Some(ANSWER))?;
        let mut request = Request::new(REQUEST, 0, 0);
        request.put(&[INET, 0, 0, 0]);
        request.attribute(NAME, &[name.as_bytes(), &[0]].concat());
        socket.write_all(&request.finish())?;
        let mut reply = [0; 4096];
        let length = socket.read(&mut reply)?;
        let reply = netlink::split(&reply[..length]).map(|(message, _)| message.kind);
        Ok(reply.is_some_and(|kind| i32::from(kind) != libc::NLMSG_ERROR))
    };
    has_table().unwrap_or(false)
}

/// Asks for the number of the last change of any rule.
#[derive(Debug)]
pub struct Generation(Socket);

impl Generation {
    /// `NFNL_SUBSYS_NFTABLES`, with the kind `NFT_MSG_GETGEN`.
    const REQUEST: u16 = 10 << 8 | 16;
    /// `NFTA_GEN_ID`.
    const ID: u16 = 1;

    /// Opens a socket for it.
    pub fn open() -> io::Result<Self> {
        let socket = netlink::open(libc::NETLINK_NETFILTER)?;
        socket.set_read_timeout(Some(ANSWER))?;
        Ok(Self(socket))
    }

    /// The number.
    pub fn read(&mut self) -> io::Result<u32> {
        let mut request = Request::new(Self::REQUEST, 0, 0);
        request.put(&[libc::AF_UNSPEC as u8, 0, 0, 0]);
        self.0.write_all(&request.finish())?;
        let mut reply = [0; 1024];
        let length = self.0.read(&mut reply)?;
        let number = || {
            let (message, _) = netlink::split(&reply[..length])?;
            netlink::attribute(message.body.get(4..)?, Self::ID)?.try_into().ok().map(u32::from_be_bytes)
        };
        number().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

async fn run(arguments: &[&str], input: &str) -> Result<String, Error> {
    let output = tokio::time::timeout(LIMIT, spawn(arguments, input)).await;
    let Output { status, stdout, stderr } = output.map_err(|_| Error::Hangs)?.map_err(Error::Program)?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    // The first line tells what and where; the next ones repeat the script.
    let error = String::from_utf8_lossy(&stderr);
    Err(Error::Refused(error.lines().next().unwrap_or("it failed without a reason").to_owned()))
}

/// Runs the program; it is killed if the future is dropped.
async fn spawn(arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut command = Command::new("nft");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it has ended early, its error tells more than this one.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    child.wait_with_output().await
}
