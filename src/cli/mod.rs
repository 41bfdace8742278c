//! The command line: one file per subcommand, each thin.

mod bench;
mod check;
mod completions;
mod connections;
pub(crate) mod demo;
mod doctor;
mod drain;
mod forward;
mod hand_over;
mod health;
mod init;
mod instance;
#[cfg(any(test, feature = "laws"))]
pub(crate) mod laws;
mod logs;
mod man;
mod operate;
mod preflight;
mod problem_lines;
mod run;
mod schema;
mod service_manager;
mod simulate;
mod status;
mod target;
mod terminal;
mod top;
mod why;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{self, Algorithm};
use crate::domain::SocketAddress;
use crate::{chart, remote, sanitize, supervisor, telemetry};

/// What to type first, as the list of commands is long.
const BEGIN: &str = "\
Begin with:
  pointsman demo                          see it work: its own backends, clients and a page
  pointsman forward :8080 HOST:PORT …     balance without a configuration file
  pointsman check -c FILE                 find the mistakes of a configuration
  pointsman run -c FILE                   run it
When something is wrong with a running instance:
  pointsman doctor                        problems, since when, and what to do
  pointsman story                         what happened lately
  pointsman why CLIENT or POOL/BACKEND    why connections went where they went";

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  the configuration or the arguments are invalid
  2  it could not start: a port is taken, an address is not this machine's …
  3  the drain reset connections at its time limit

Commands that talk to a running instance (status, top, drain, weight, logs …):
  1  the instance refused the request; 2  it cannot be reached

Signals:
  SIGTERM, SIGINT, SIGQUIT  drain: no new connections; existing ones finish; a second signal ends at once
  SIGHUP                    read the configuration again
  SIGUSR2                   start the program again, hand the listening sockets over to it, and drain

Without -c, the configuration is the first of $POINTSMAN_CONFIG, ./pointsman.yaml,
$XDG_CONFIG_HOME/pointsman/pointsman.yaml and /etc/pointsman/pointsman.yaml that exists.
$POINTSMAN_LOG (or $RUST_LOG) overrides log.level, for example POINTSMAN_LOG=debug.";

/// A layer-4 TCP load balancer.
///
/// Pointsman accepts TCP connections and relays each to one of several backends, which it discovers, checks and
/// balances. It follows containers as they come and go, tries another backend when one fails, and says
/// in its log why each connection went where it went.
#[derive(Debug, Parser)]
#[command(
    name = "pointsman",
    version,
    help_template = "{about-with-newline}\n{usage-heading} {usage}\n\n{before-help}{all-args}{after-help}",
    before_help = BEGIN,
    after_help = EXIT_CODES,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the balancer
    Run(RunArgs),
    /// Check a configuration: report all its problems at once, and start nothing
    Check(CheckArgs),
    /// Try it out: small backends, the balancer, traffic and a live view, in one process
    Demo(DemoArgs),
    /// Balance without a configuration file
    ///
    /// For example: pointsman forward 127.0.0.1:8080 127.0.0.1:9001 127.0.0.1:9002
    Forward(ForwardArgs),
    /// Query whether a running instance is ready, for the HEALTHCHECK of a container
    Health(instance::AdminArgs),
    /// Show the status of a running instance: listeners, pools, backends and the causes of their states
    ///
    /// Exit codes: 0 every pool has a backend up; 1 a pool has none; 2 the instance cannot be reached.
    Status(instance::RemoteArgs),
    /// Show what is wrong with a running instance, since when, what to do, and which resources run short
    ///
    /// Exit codes: 0 no problems; 1 there are problems; 2 the instance could not be queried.
    Doctor(doctor::DoctorArgs),
    /// Watch a running instance live in the terminal: sort, drain, set weights
    ///
    /// Press ? to see the keys. With --json, it prints one status object a second, one per line.
    Top(top::TopArgs),
    /// Explain why a client's connections went where they went, or why a backend is in its state
    Why(why::WhyArgs),
    /// Summarize the recent events of a running instance
    Story(why::StoryArgs),
    /// Drain a backend, a pool or a listener of a running instance, or all of it: no new connections; existing ones finish
    ///
    /// `up` takes it back. Without POOL/BACKEND or --listener, the instance drains and stops, as after SIGTERM.
    /// --forecast tells how long it would take.
    Drain(drain::DrainArgs),
    /// Put a backend of a running instance in maintenance: no new connections and no checks, until `up`
    Maintenance(operate::MaintenanceArgs),
    /// Put a drained backend or listener, or a backend in maintenance, back in service
    Up(operate::UpArgs),
    /// Set the weight of a backend of a running instance, until it leaves
    Weight(operate::WeightArgs),
    /// Check backends of a running instance now
    Recheck(operate::RecheckArgs),
    /// Reload the configuration of a running instance: apply all of it, or nothing, and print the errors
    Reload(operate::ReloadArgs),
    /// Print the last lines of a running instance's log, and follow it
    Logs(logs::LogsArgs),
    /// List the open connections of a running instance
    Connections(connections::ConnectionsArgs),
    /// Close an open connection of a running instance
    Close(connections::CloseArgs),
    /// Load-test a service: latencies, failures, and the share of each backend
    ///
    /// For example: pointsman bench http://127.0.0.1:8080/ -n 10000 -c 100 --chart shares.png
    Bench(Box<bench::BenchArgs>),
    /// Simulate algorithms in virtual time: shares, waiting times, and clients that move
    Simulate(Box<simulate::SimulateArgs>),
    /// Print the JSON Schema of the configuration, for editors
    Schema {
        /// Print a configuration with every key, its meaning and its default instead
        #[arg(long)]
        example: bool,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all pages into a directory
    Man {
        /// Where to write the pages
        directory: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct FileArgs {
    /// The configuration file; - is standard input
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl FileArgs {
    fn path(&self) -> Result<PathBuf, Failure> {
        self.config.clone().or_else(config::find).ok_or_else(|| {
            Failure::Invalid(
                "there is no configuration file: name one with -c FILE, or try `pointsman demo`".to_owned(),
            )
        })
    }
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Print the effective configuration, with every default
    #[arg(long, value_enum, value_name = "FORM", num_args = 0..=1, default_missing_value = "yaml")]
    print: Option<Form>,
}

/// How a configuration is printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    Yaml,
    Json,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Only check the configuration, as `check` does
    #[arg(long)]
    check: bool,
    /// Take over from the process that runs at the configuration's admin address: its listening sockets are passed on, and
    /// it drains; if none runs, start as usual
    #[arg(long, conflicts_with = "check")]
    take_over: bool,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Exit after this time
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    exit_after: Option<Duration>,
    /// How a backend is chosen
    #[arg(long, value_parser = one_of(&Algorithm::ALL, algorithm), value_name = "ALGORITHM", default_value = Algorithm::RoundRobin.name())]
    balance: Algorithm,
    /// Where the balancer listens; by default on port 8080, or another one if that is taken
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<SocketAddr>,
    /// Where the admin server listens; by default on port 9900, or another one if that is taken
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
}

#[derive(Debug, Args)]
struct ForwardArgs {
    /// Where to listen: ADDRESS:PORT, :PORT or unix:PATH
    #[arg(value_parser = config::bind_address)]
    listen: SocketAddress,
    /// The backends: ADDRESS:PORT, unix:PATH, or NAME:PORT for a name that is resolved periodically
    #[arg(required = true, value_name = "BACKEND")]
    backends: Vec<String>,
    /// How a backend is chosen
    #[arg(long, value_parser = one_of(&Algorithm::ALL, algorithm), value_name = "ALGORITHM", default_value = Algorithm::RoundRobin.name())]
    balance: Algorithm,
    /// Check the backends: by TCP, or by GET of a path
    #[arg(long, value_name = "tcp|/PATH")]
    health: Option<String>,
    /// Where the admin server listens; absent: no admin server
    #[arg(long, value_parser = config::bind_address, value_name = "ADDRESS")]
    admin: Option<SocketAddress>,
}

/// An algorithm on the command line.
fn algorithm(algorithm: &Algorithm) -> PossibleValue {
    PossibleValue::new(algorithm.name()).help(match algorithm {
        Algorithm::RoundRobin => "Each in turn",
        Algorithm::Weighted => "Each in turn, in proportion to its weight",
        Algorithm::LeastConnections => "The backend with the fewest connections for its weight",
        Algorithm::Random => "One drawn at random, in proportion to its weight",
        Algorithm::RandomTwo => "Of two drawn at random, the one with fewer connections for its weight",
        Algorithm::SourceHash => "By the client's address; most clients move when the backends change",
        Algorithm::RingHash => {
            "By the client's address, on a ring; only the clients of a backend that leaves move"
        }
        Algorithm::Maglev => "By the client's address, in a table; more even, a few more clients move",
        Algorithm::Ewma => "Of two drawn at random, the one that answers sooner for its load",
    })
}

/// Reads one of `all`, each by the name that `value` gives it.
fn one_of<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    value: fn(&T) -> PossibleValue,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.iter().map(value)).try_map(move |name| {
        let named = all.iter().find(|one| value(one).get_name() == name);
        named.copied().ok_or_else(|| format!("{name:?} is unknown"))
    })
}

/// A result without an error, and its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Success: 0.
    Done,
    /// Success, but a pool in the status has no backend up: 1.
    Unserved,
    /// Success, but there are problems: 1.
    Problems,
    /// The drain reset connections at its time limit: 3.
    Cut,
    /// The process that took over ended with this code.
    Code(u8),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The configuration or the arguments are wrong.
    #[error("{0}")]
    Invalid(String),
    /// The configuration has problems.
    #[error(transparent)]
    Config(#[from] config::ConfigErrors),
    /// The log cannot be set up.
    #[error(transparent)]
    Log(#[from] telemetry::log::Error),
    /// The balancer could not start.
    #[error(transparent)]
    Start(#[from] supervisor::Error),
    /// The balancer could not start, and the log on standard error already has the message.
    #[error(transparent)]
    Logged(Box<Self>),
    /// A request to a running instance failed.
    #[error(transparent)]
    Remote(#[from] remote::Error),
    /// A resource, such as a thread or the terminal, is not available.
    #[error("{0}")]
    NotStarted(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Invalid(_) | Self::Config(_) | Self::Log(telemetry::log::Error::Filter { .. }) => 1,
            Self::Log(_) | Self::Start(_) | Self::NotStarted(_) => 2,
            Self::Logged(failure) => failure.code(),
            Self::Remote(remote::Error::Refused { .. }) => 1,
            Self::Remote(_) => 2,
        }
    }
}

/// Runs the command given on the command line.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // clap reports --help and --version as errors, too.
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args.file, args.print),
        Command::Demo(args) => demo::run(&args),
        Command::Forward(args) => forward::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Why(args) => why::why(&args),
        Command::Story(args) => why::story(&args),
        Command::Drain(args) => drain::run(&args),
        Command::Maintenance(args) => operate::maintenance(&args),
        Command::Up(args) => operate::up(&args),
        Command::Weight(args) => operate::weight(&args),
        Command::Recheck(args) => operate::recheck(&args),
        Command::Reload(args) => operate::reload(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Connections(args) => connections::run(&args),
        Command::Close(args) => connections::close(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Schema { example } => schema::run(example),
        Command::Completions { shell } => completions::run(shell),
        Command::Man { directory } => man::run(directory.as_deref()),
    };
    match result {
        Ok(Exit::Done) => ExitCode::SUCCESS,
        Ok(Exit::Unserved | Exit::Problems) => ExitCode::from(1),
        Ok(Exit::Cut) => ExitCode::from(3),
        Ok(Exit::Code(code)) => ExitCode::from(code),
        Err(failure @ Failure::Logged(_)) => ExitCode::from(failure.code()),
        Err(failure) => {
            // The message may quote an instance, a file or a name server.
            eprintln!("{}", sanitize::lines(&failure.to_string()));
            ExitCode::from(failure.code())
        }
    }
}

/// Writes to standard output. It is no error if the reader has closed it.
fn print(text: &str) -> Result<Exit, Failure> {
    print_on(text).map(|_| Exit::Done)
}

/// Writes to standard output; returns whether the reader still has it open.
fn print_on(text: &str) -> Result<bool, Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::NotStarted(format!("cannot write to standard output: {error}"))),
    }
}

/// Writes an instance's JSON response to standard output, and escapes the control characters.
fn print_json(answer: &str) -> Result<Exit, Failure> {
    print(&format!("{}\n", sanitize::json(answer.trim_end())))
}

/// Writes a chart into a file.
fn write_chart(path: &Path, drawing: Result<Vec<u8>, chart::Error>) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::NotStarted(format!("the chart cannot be written to {}: {error}", path.display()))
    };
    let drawing = drawing.map_err(|error| failed(&error))?;
    std::fs::write(path, drawing).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use hyper::StatusCode;

    use super::{Failure, remote};

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn a_refusal_by_the_instance_is_exit_code_1() {
        let refused = remote::Error::Refused {
            status: StatusCode::NOT_FOUND,
            code: crate::api::ErrorDetail::NO_SUCH_BACKEND.into(),
            message: "no backend".to_owned(),
            hint: "".into(),
        };
        assert_eq!(Failure::from(refused).code(), 1);
    }
}
