//! The first process of a container after a hand-over: the container ends with it, so it stays for the process that took
//! over.

use std::time::Duration;

use rustix::process::{Pid, Signal as Number, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::Signal;
use tracing::info;

use super::hand_over::ProcessRole;
use super::run::Signals;
use super::{Exit, Failure};

/// How often it looks for children that have ended, besides SIGCHLD, of which several may merge.
const LOOK: Duration = Duration::from_secs(1);

/// Passes signals on to the process that took over, and returns when no child is left, with the exit code of the last one.
pub(super) async fn stay(
    signals: &mut Signals,
    reloads: &mut Signal,
    hand_overs: &mut Signal,
) -> Result<Exit, Failure> {
    info!("staying as the first process of the container");
    let mut ended = super::run::listen(tokio::signal::unix::SignalKind::child())?;
    let mut code = 0;
    loop {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((_, status))) => code = exit_code(status),
                Ok(None) => break,
                // No child is left.
                Err(_) => return Ok(Exit::Code(code)),
            }
        }
        let signal = tokio::select! {
            name = signals.end() => match name {
                "SIGINT" => Number::INT,
                "SIGQUIT" => Number::QUIT,
                _ => Number::TERM,
            },
            _ = reloads.recv() => Number::HUP,
            _ = hand_overs.recv() => Number::USR2,
            _ = ended.recv() => continue,
            () = tokio::time::sleep(LOOK) => continue,
        };
        if let Some(process) = in_charge() {
            // It may have ended in the meantime.
            let _ = kill_process(process, signal);
        }
    }
}

/// The exit code, as a shell reports it.
fn exit_code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Whether arguments, as proc(5) shows them, are those of `pointsman run`.
fn runs(arguments: &[u8]) -> bool {
    arguments.split(|byte| *byte == 0).nth(1) == Some(b"run")
}

/// The process in charge: the one with that name that started last. It is a child of the one before, until that one has
/// drained; with `run --take-over` it is no descendant of this process. The container's health check and the commands that
/// an operator runs in it have the same name, but other arguments.
fn in_charge() -> Option<Pid> {
    let processes = std::fs::read_dir("/proc").ok()?;
    let named = processes.flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name in parentheses may contain anything (proc(5)); the 22nd field is the time of the start.
        let (name, fields) = stat.split_once('(')?.1.rsplit_once(')')?;
        let started: u64 = fields.split_whitespace().nth(19)?.parse().ok()?;
        let in_charge = name == ProcessRole::InCharge.name() && runs(&arguments) && pid != 1;
        in_charge.then_some((started, pid))
    });
    Pid::from_raw(named.max()?.1)
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn a_health_check_is_not_in_charge() {
        assert!(runs(b"/pointsman\0run\0-c\0/etc/pointsman/pointsman.yaml\0"));
        assert!(runs(b"/pointsman\0run\0"));
        assert!(!runs(b"/pointsman\0health\0-c\0run\0"));
        assert!(!runs(b"/pointsman\0"));
        assert!(!runs(b""));
    }
}
