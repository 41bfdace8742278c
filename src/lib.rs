//! Pointsman, a layer-4 TCP load balancer.
//!
//! It routes each TCP connection once, and then relays its bytes. Two planes share the work:
//!
//! - The **data plane** carries the connections: [`proxy::worker`] threads, each with its own runtime. A connection
//!   stays on the worker that accepted it. It reads immutable snapshots and atomic counters, and waits only for its two
//!   peers.
//! - The **control plane** is one more runtime: discovery, checks, replicas, reload, signals. For each pool one
//!   [`PoolState`](pool::state_machine::PoolState) owns the state of its backends and publishes it as a
//!   new [`pool::PoolSnapshot`]. The [`admin`] server has a separate thread, so that many requests delay no check.
//!
//! # The life of a connection
//!
//! [`proxy::connection`] reads in this order, top to bottom:
//!
//! 1. **accept**: [`proxy::accept`] takes it from the kernel, unless the process is at its limit;
//! 2. **admit**: its listener allows the client's address ([`proxy::access_list`]), which a PROXY header has if one is
//!    expected (`proxy/preface.rs`), and both are below their limits ([`proxy::client_limits`]);
//! 3. **preread**: the bytes that the client has already sent travel with the backend's handshake;
//! 4. **route** to a backend of the listener's pool ([`balance`]), waiting in [`pool::queue`] if all are full, and
//!    **connect** to it ([`proxy::connect`]), retrying on another one;
//! 5. **relay** bytes both ways ([`proxy::relay`]) until both sides are done, one fails, or a time limit expires
//!    ([`proxy::table`] checks the time limits);
//! 6. **record**: one line in the log for the decision, one for the end, and the counters.
//!
//! # The modules
//!
//! Each uses only those below it. Those from [`bench`](mod@bench) down are the crate [`pointsman_core`].
//!
//! | module | is for |
//! | --- | --- |
//! | [`cli`] | the command line, one file per subcommand |
//! | [`remote`] | the client of a running instance's admin server |
//! | [`supervisor`] | builds listeners and pools, applies a changed configuration, drains |
//! | [`admin`] | what an operator sees and changes: the HTTP API, metrics, events, the dashboard |
//! | [`hand_over`] | a new process takes the listening sockets of a running one |
//! | [`problems`] | what is wrong now and since when, and how near the limits are |
//! | [`overview`] | the state of the running process: the supervisor writes it, the admin server reads it |
//! | [`replicas`] | backends that Pointsman itself starts, as containers; autoscaling |
//! | [`api`] | the requests and replies of the HTTP API, as its server and its clients share them |
//! | [`story`] | events and decisions as sentences: pure |
//! | [`bench`](mod@bench) | a load tester: latency, failures, and the share of each backend |
//! | [`simulate`] | an algorithm in virtual time |
//! | [`chart`] | bar charts as SVG or PNG |
//! | [`kernel_plane`] | connections that the kernel forwards |
//! | [`proxy`] | the data plane |
//! | [`pool`] | backends, their states, and the pool state that owns them |
//! | [`discovery`] | where backends come from |
//! | [`health`] | active checks |
//! | [`balance`] | the algorithms: pure |
//! | [`outgoing`] | what connections to backends and those of checks have in common |
//! | [`telemetry`] | log, counters, decisions, the journal of events |
//! | [`state_directory`] | what outlives the process: operators' settings, events, the history |
//! | [`tls`] | TLS on connections to servers, and their certificates |
//! | [`config`] | the configuration: YAML, defaults, validation |
//! | [`backoff`] | the delays between attempts |
//! | [`own`] | the addresses that this process listens on, which are never backends |
//! | [`protocol`] | what may precede a connection's own bytes, such as a PROXY header: pure parsers |
//! | [`domain`] | the words of the domain as types: states and their reasons, events |
//! | [`http1`] | HTTP/1.1 over a connection to a server |
//! | [`text_file`] | files with a password, a token or certificates |
//! | [`humanize`] | numbers, times and lists as text |
//! | [`names`] | names in tables: their order, and how a long one is cut |
//! | [`sanitize`] | text from outside, made safe to show |
//! | [`socket_diag`] | what the kernel knows of TCP sockets |
//! | [`netlink`] | the messages in which the kernel tells of sockets and connections |
//! | [`socket_option`] | options of sockets that no library sets |
//! | [`sync`] | the atomics and locks of code whose interleavings are tested |
//! | [`zone`] | a DNS server on loopback that acts like Docker's, for the demo and for tests |
//! | [`task`] | tasks of the control plane |

mod admin;
mod api;
mod cli;
mod hand_over;
mod overview;
mod problems;
mod remote;
mod replicas;
mod story;
mod supervisor;

// The modules of the other crate have the same paths in this one.
use pointsman_core::*;

pub use cli::main;

/// The laws of what the admin server reads, which the fuzzer (`tests/fuzz`) asserts for any bytes; each panics if one does
/// not hold.
#[cfg(feature = "laws")]
pub mod laws {
    /// A request to the admin server: method and target in the first line, then the body.
    pub fn requests(bytes: &[u8]) {
        crate::cli::laws::check_request(bytes);
    }

    /// The bytes of a connection to the admin server.
    pub fn framings(bytes: &[u8]) {
        crate::cli::laws::check_framings(bytes);
    }
}
