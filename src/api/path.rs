//! The paths of the API that its clients use.

/// The whole program at a glance.
pub(crate) const STATUS: &str = "/api/v1/status";
/// What is wrong now, and the capacity.
pub(crate) const PROBLEMS: &str = "/api/v1/problems";
/// The stream of events.
pub(crate) const EVENTS: &str = "/api/v1/events";
/// The last events.
pub(crate) const JOURNAL: &str = "/api/v1/journal";
/// The last minutes in figures.
pub(crate) const HISTORY: &str = "/api/v1/history";
/// The open connections.
pub(crate) const CONNECTIONS: &str = "/api/v1/connections";
/// The last routing decisions.
pub(crate) const DECISIONS: &str = "/api/v1/decisions";
/// The lines of the log.
pub(crate) const LOGS: &str = "/api/v1/logs";
/// Why a connection or a backend is as it is.
pub(crate) const WHY: &str = "/api/v1/why";
/// What happened lately.
pub(crate) const STORY: &str = "/api/v1/story";
/// Checks at once.
pub(crate) const CHECK: &str = "/api/v1/check";
/// Reads the configuration again.
pub(crate) const RELOAD: &str = "/api/v1/reload";
/// Shows what a reload would change.
pub(crate) const RELOAD_PLAN: &str = "/api/v1/reload/plan";
/// Applies the configuration before the last reload again.
pub(crate) const RELOAD_UNDO: &str = "/api/v1/reload/undo";
/// Hands over to another process.
pub(crate) const HAND_OVER: &str = "/api/v1/hand-over";
/// Ends the process in an orderly way.
pub(crate) const DRAIN: &str = "/api/v1/drain";
