//! The kinds of problems that an operator should know about, and their severity.

/// The severity of a problem, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Clients fail, or will soon.
    Critical,
    /// Something is wrong, but clients are served.
    Warning,
}

impl Severity {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Critical, Self::Warning];

    /// Its name in the API and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
        }
    }
}

/// A resource that has a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Connections of the whole process (`runtime.max_connections`).
    Connections,
    /// Connections of a listener (`max_connections`).
    ListenerConnections,
    /// Open files of the process.
    OpenFiles,
    /// Local ports for connections to a backend.
    SourcePorts,
    /// Connections that the kernel has completed and that a listener has not accepted yet.
    AcceptQueue,
    /// Entries of the kernel's connection tracking.
    Conntrack,
    /// Resident memory of the process.
    Memory,
    /// Space on the file system of the log directory.
    LogDisk,
}

impl Resource {
    /// All of them.
    #[cfg(any(test, feature = "testing"))]
    pub const ALL: [Self; 8] = [
        Self::Connections,
        Self::ListenerConnections,
        Self::OpenFiles,
        Self::SourcePorts,
        Self::AcceptQueue,
        Self::Conntrack,
        Self::Memory,
        Self::LogDisk,
    ];

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ListenerConnections => "listener_connections",
            Self::OpenFiles => "open_files",
            Self::SourcePorts => "source_ports",
            Self::AcceptQueue => "accept_queue",
            Self::Conntrack => "conntrack",
            Self::Memory => "memory",
            Self::LogDisk => "log_disk",
        }
    }
}

/// The kind of a problem. Of two problems of equal severity, the earlier kind comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// A pool has no eligible backend.
    NoBackend,
    /// Too few backends of a pool are up, so that all are used.
    Panic,
    /// No primary of a pool is up, and its backups serve.
    BackupsServe,
    /// Too few backends of a pool's zone are up, so that those of other zones are used too.
    ZoneShort,
    /// Less than half of a pool's backends are up.
    FewBackends,
    /// Some of a pool's backends are not up.
    BackendsDown,
    /// Client-visible failures within the window.
    ClientFailures,
    /// Connections ended without an answer within the window.
    WithoutAnswer,
    /// Backends answer much later than the others.
    SlowBackends,
    /// Clients wait in a pool's queue.
    Queue,
    /// Client connections cannot be accepted for lack of local resources.
    AcceptFailing,
    /// Connections to backends cannot be opened for lack of local resources.
    ConnectFailing,
    /// A resource is nearly used up.
    Scarce(Resource),
    /// Backends go down and come up again and again.
    Flapping,
    /// Backends of a pool are found and leave again and again.
    BackendsComeAndGo,
    /// A source of backends cannot be queried.
    SourceFailing,
    /// The engine that runs a pool's replicas does not answer.
    ReplicasFailing,
    /// Checks have no result because of a local error.
    ChecksWithoutResult,
    /// Checks begin late.
    ChecksLate,
    /// The configuration in the file is not the one in effect.
    ReloadRejected,
    /// A log cannot be written.
    LogFailing,
    /// Log lines were lost within the window.
    LogLinesDropped,
    /// The state directory cannot be written.
    StateFailing,
    /// The kernel does not forward a listener's connections, although it is configured to.
    NotForwarded,
    /// The kernel forgets a listener's idle connections too soon.
    IdleForgotten,
}

impl ProblemKind {
    /// All of them.
    #[cfg(any(test, feature = "testing"))]
    pub const ALL: [Self; 32] = {
        use Resource::{
            AcceptQueue, Connections, Conntrack, ListenerConnections, LogDisk, Memory, OpenFiles, SourcePorts,
        };
        [
            Self::NoBackend,
            Self::Panic,
            Self::BackupsServe,
            Self::ZoneShort,
            Self::FewBackends,
            Self::BackendsDown,
            Self::ClientFailures,
            Self::WithoutAnswer,
            Self::SlowBackends,
            Self::Queue,
            Self::AcceptFailing,
            Self::ConnectFailing,
            Self::Scarce(Connections),
            Self::Scarce(ListenerConnections),
            Self::Scarce(OpenFiles),
            Self::Scarce(SourcePorts),
            Self::Scarce(AcceptQueue),
            Self::Scarce(Conntrack),
            Self::Scarce(Memory),
            Self::Scarce(LogDisk),
            Self::Flapping,
            Self::BackendsComeAndGo,
            Self::SourceFailing,
            Self::ReplicasFailing,
            Self::ChecksWithoutResult,
            Self::ChecksLate,
            Self::ReloadRejected,
            Self::LogFailing,
            Self::LogLinesDropped,
            Self::StateFailing,
            Self::NotForwarded,
            Self::IdleForgotten,
        ]
    };

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoBackend => "no_backend",
            Self::Panic => "panic",
            Self::BackupsServe => "backups_serve",
            Self::ZoneShort => "zone_short",
            Self::FewBackends => "few_backends",
            Self::BackendsDown => "backends_down",
            Self::ClientFailures => "client_failures",
            Self::WithoutAnswer => "without_answer",
            Self::SlowBackends => "slow_backends",
            Self::Queue => "queue",
            Self::AcceptFailing => "accept_failing",
            Self::ConnectFailing => "connect_failing",
            Self::Scarce(resource) => resource.name(),
            Self::Flapping => "flapping",
            Self::BackendsComeAndGo => "backends_come_and_go",
            Self::SourceFailing => "source_failing",
            Self::ReplicasFailing => "replicas_failing",
            Self::ChecksWithoutResult => "checks_without_result",
            Self::ChecksLate => "checks_late",
            Self::ReloadRejected => "reload_rejected",
            Self::LogFailing => "log_failing",
            Self::LogLinesDropped => "log_lines_dropped",
            Self::StateFailing => "state_failing",
            Self::NotForwarded => "not_forwarded",
            Self::IdleForgotten => "idle_forgotten",
        }
    }
}
