//! The account: what the log says of every connection, beside what the clients saw; and the resources of the process in
//! charge.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Reports;
use super::clients::{Kind, Visit};
use crate::support::{Lb, within};

/// The reasons that fit what happens here. All others are faults.
const REASONS: [&str; 6] =
    ["client_closed", "backend_closed", "client_reset", "backend_reset", "idle_timeout", "backend_down"];

/// What a process may use more at the end than at the beginning.
const MORE_FILES: usize = 16;
const MORE_KIB: u64 = 8 << 10;

pub(super) struct Account {
    log: PathBuf,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How far the log has been read.
    offset: u64,
    open: BTreeSet<u64>,
    closed: BTreeSet<u64>,
    reasons: BTreeMap<String, usize>,
    clients: HashMap<SocketAddr, Sums>,
    in_charge: u32,
    reloads: usize,
    hand_overs: usize,
    taken_over: usize,
    stopped: usize,
    /// Lines that must not be there.
    troubles: Vec<String>,
    samples: Vec<Sample>,
}

/// The connections of one client address, which later clients may have again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sums {
    connections: usize,
    bytes_in: u64,
    bytes_out: u64,
}

/// The resources of the process in charge.
struct Sample {
    at: Duration,
    process: u32,
    files: usize,
    kib: u64,
}

impl Account {
    pub(super) fn of(lb: &Lb) -> Self {
        let state = State { in_charge: lb.pid(), ..State::default() };
        Self { log: lb.folder().join("logs/pointsman.log"), began: Instant::now(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process that accepts connections.
    pub(super) fn in_charge(&self) -> u32 {
        self.state().in_charge
    }

    /// The reloads and the hand-overs so far.
    pub(super) fn changes(&self) -> (usize, usize) {
        let state = self.state();
        (state.reloads, state.hand_overs.min(state.taken_over))
    }

    /// Reads the log and takes samples until `done`.
    pub(super) fn follow(&self, done: &AtomicBool) {
        let mut sampled = None::<Instant>;
        while !done.load(Ordering::SeqCst) {
            self.read();
            if sampled.is_none_or(|at| at.elapsed() >= Duration::from_millis(500)) {
                sampled = Some(Instant::now());
                self.sample();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Reads the lines that are new in the log.
    fn read(&self) {
        let mut state = self.state();
        let mut text = String::new();
        let new = std::fs::File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(state.offset))?;
            file.read_to_string(&mut text)
        });
        // Half a line may end within a character.
        if new.is_err() {
            return;
        }
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            state.offset += line.len() as u64;
            state.take(line.trim_end());
        }
    }

    fn sample(&self) {
        let process = self.in_charge();
        let files = std::fs::read_dir(format!("/proc/{process}/fd")).map(Iterator::count);
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse().ok());
        // A process that has handed over may end meanwhile.
        if let (Ok(files), Some(kib)) = (files, kib) {
            self.state().samples.push(Sample { at: self.began.elapsed(), process, files, kib });
        }
    }

    /// Waits until all connections of the clients have ended in the log, and only the process in charge is left.
    pub(super) fn settle(&self, lb: &Lb, reports: &Reports, limit: Duration) {
        let connected = reports.visits().iter().filter(|visit| visit.client.is_some()).count();
        within(limit, "every connection has ended, and every process that has handed over", || {
            self.read();
            let state = self.state();
            (state.closed.len() >= connected && state.open.is_empty() && state.stopped == state.hand_overs)
                .then_some(())
        });
        lb.when_idle();
        self.sample();
    }

    /// Asserts that the account is right.
    pub(super) fn check(&self, reports: &Reports) {
        let state = self.state();
        assert!(
            state.troubles.is_empty(),
            "{} lines, such as {:#?}",
            state.troubles.len(),
            &state.troubles[..1]
        );
        let visits = reports.visits();
        let mut faults: Vec<String> = visits
            .iter()
            .filter(|visit| !reports.explains(visit))
            .map(|visit| format!("{visit:?}"))
            .collect();
        let strange = state.reasons.keys().filter(|reason| !REASONS.contains(&&***reason));
        faults.extend(strange.map(|reason| format!("a connection has ended for the reason {reason}")));
        let idle = visits.iter().filter(|visit| visit.kind == Kind::Idle).count();
        if state.reasons.get("idle_timeout") != Some(&idle) {
            faults.push(format!(
                "{:?} connections were closed as idle, not {idle}",
                state.reasons.get("idle_timeout")
            ));
        }
        faults.extend(state.differences(&visits));
        faults.extend(self.growth(&state));
        assert!(
            faults.is_empty(),
            "{} faults: {:#?}\n{}",
            faults.len(),
            &faults[..faults.len().min(9)],
            state.reasons()
        );
    }

    /// What a process uses more than before.
    fn growth(&self, state: &State) -> Option<String> {
        let (first, last) = (state.samples.first()?, state.samples.last()?);
        if last.files > first.files + MORE_FILES {
            return Some(format!(
                "{} files are open at the end, {} at the beginning",
                last.files, first.files
            ));
        }
        let mean = |from: f64, to: f64| {
            let part = state.samples.iter().filter(|sample| {
                let share = sample.at.as_secs_f64() / last.at.as_secs_f64();
                sample.process == last.process && (from..to).contains(&share)
            });
            let kib: Vec<u64> = part.map(|sample| sample.kib).collect();
            (kib.len() > 20).then(|| kib.iter().sum::<u64>() / kib.len() as u64)
        };
        // The last process has been in charge since the half. It first fills what it keeps: history, records, buffers.
        let (before, after) = (mean(0.6, 0.8)?, mean(0.8, 1.1)?);
        (after > before + before / 4 + MORE_KIB).then(|| format!("{before} KiB have grown to {after}"))
    }

    /// The account in a few lines.
    pub(super) fn summary(&self, time: Duration, reports: &Reports) -> String {
        let state = self.state();
        let visits = reports.visits();
        let cut = visits
            .iter()
            .filter(|visit| visit.end.is_err() && !matches!(visit.kind, Kind::Idle | Kind::Aborted))
            .count();
        let sum = |count: fn(&Sums) -> u64| state.clients.values().map(count).sum::<u64>() >> 20;
        let mut text = format!(
            "{} s: {} connections, {} reloads, {} hand-overs, {} kills of backends that cut {cut} connections\n",
            time.as_secs(),
            visits.len(),
            state.reloads,
            state.hand_overs,
            reports.kills().len(),
        );
        let _ =
            writeln!(text, "{} MiB in, {} MiB out", sum(|sums| sums.bytes_in), sum(|sums| sums.bytes_out));
        text.push_str(&state.reasons());
        if let (Some(first), Some(last)) = (state.samples.first(), state.samples.last()) {
            let _ = write!(
                text,
                "open files {} → {}, memory {} → {} KiB",
                first.files, last.files, first.kib, last.kib
            );
        }
        text
    }
}

impl State {
    /// Takes in a line of the log.
    fn take(&mut self, line: &str) {
        let field = |name: &str| {
            let (_, rest) = line.split_once(&format!(" {name}="))?;
            Some(rest.split(' ').next().unwrap_or_default())
        };
        let number = |name: &str| field(name).and_then(|text| text.parse::<u64>().ok());
        let says = |words: &str| line.contains(words);
        if says(" INFO routed conn=") {
            self.open.extend(number("conn"));
        } else if says(" INFO closed conn=") {
            let parts = (|| {
                Some((
                    number("conn")?,
                    field("client")?.parse().ok()?,
                    number("bytes_in")?,
                    number("bytes_out")?,
                ))
            })();
            let Some((conn, client, bytes_in, bytes_out)) = parts else {
                return self.troubles.push(line.to_owned());
            };
            if !self.closed.insert(conn) {
                self.troubles.push(format!("closed twice: {line}"));
            }
            self.open.remove(&conn);
            *self.reasons.entry(field("reason").unwrap_or_default().to_owned()).or_default() += 1;
            let sums = self.clients.entry(client).or_default();
            sums.connections += 1;
            sums.bytes_in += bytes_in;
            sums.bytes_out += bytes_out;
        } else if says(" reload applied") {
            self.reloads += 1;
        } else if says(" hand-over done") {
            self.hand_overs += 1;
            self.in_charge =
                number("process").and_then(|pid| u32::try_from(pid).ok()).unwrap_or(self.in_charge);
        } else if says(" took over ") {
            self.taken_over += 1;
        } else if line.ends_with(" INFO stopped") || says(" INFO stopped ") {
            self.stopped += 1;
        } else if [" ERROR ", " panicked ", "no backend conn=", "dropped", "hand-over failed"]
            .iter()
            .any(|words| says(words))
        {
            self.troubles.push(line.to_owned());
        }
    }

    /// Where the log and the clients differ.
    fn differences(&self, visits: &[Visit]) -> Vec<String> {
        let mut seen: HashMap<SocketAddr, (Sums, bool)> = HashMap::new();
        for visit in visits {
            let Some(client) = visit.client else { continue };
            let (sums, is_exact) = seen.entry(client).or_insert((Sums::default(), true));
            sums.connections += 1;
            sums.bytes_in += visit.sent;
            sums.bytes_out += visit.received;
            *is_exact &= visit.end.is_ok();
        }
        let mut differences = Vec::new();
        for (client, (saw, is_exact)) in &seen {
            let logged = self.clients.get(client).cloned().unwrap_or_default();
            // A connection that was cut: the backend may not have got all, and the client may not have read all.
            let fits = logged == *saw
                || !is_exact
                    && logged.connections == saw.connections
                    && logged.bytes_in <= saw.bytes_in
                    && logged.bytes_out >= saw.bytes_out;
            if !fits {
                differences.push(format!("{client}: {saw:?}, but {logged:?} in the log"));
            }
        }
        let unknown = self.clients.keys().filter(|client| !seen.contains_key(*client));
        differences.extend(unknown.map(|client| format!("{client} is in the log only")));
        differences
    }

    fn reasons(&self) -> String {
        let each = self.reasons.iter().map(|(reason, count)| format!("{reason} {count}"));
        format!("closed: {}\n", each.collect::<Vec<_>>().join(", "))
    }
}
