//! A file with a list of backends, which is polled.
//!
//! inotify(7) would miss changes on a network file system, and follows a file rather than a path, which Kubernetes
//! changes by replacing a symbolic link two folders up. The modification time does not help either: a file can change
//! twice within one tick of the clock. A list of backends is small enough to read.
//!
//! A read may see a half-written file, so contents count when two consecutive reads agree. This covers editors and
//! `cp`; to be sure, write another file and rename it: rename(2) is atomic.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Found, Observation, Outcome, Sink};
use crate::config::{self, ConfigErrors, File};
use crate::domain::cause::{LONGEST, bounded};

/// The size limit: with 100 bytes for each backend, more than 40 000 backends.
const LARGEST: u64 = 4 << 20;
/// The number of mistakes in a log line; of more, only the count is logged.
const MOST_SHOWN: usize = 8;
/// The length of a mistake in the log, in characters.
const LONGEST_SHOWN: usize = 500;
/// The delay before a changed file is read again.
const SETTLE: Duration = Duration::from_millis(50);
/// The least interval between reads that failed connections trigger.
const BETWEEN_READS: Duration = Duration::from_millis(100);

/// The contents of the file, or why it cannot be read.
type FileContents = Result<Vec<u8>, String>;

/// Reads every `settings.every`, and on demand when notified, until dropped. The first read is at once.
pub(super) async fn watch(settings: File, query_now: Arc<Notify>, sink: Sink) {
    let mut source = FileSource::default();
    loop {
        let began = Instant::now();
        let path = settings.path.clone();
        // A network file system may block for long.
        let Ok(contents) = spawn_blocking(move || read(&path)).await else { return };
        if !source.settles(contents) {
            sleep(SETTLE).await;
            continue;
        }
        if let Some(outcome) = source.next_outcome(&settings.path) {
            sink(Observation { outcome, owners: Default::default() });
        }
        let regular = (began + settings.every).max(Instant::now() + Duration::from_millis(1));
        tokio::select! {
            () = sleep_until(regular) => {}
            () = query_now.notified() => sleep_until(regular.min(Instant::now() + BETWEEN_READS)).await,
        }
    }
}

/// The state between reads.
#[derive(Debug, Default)]
struct FileSource {
    last: Option<FileContents>,
    /// The last contents that two consecutive reads agreed on, and their meaning.
    settled: Option<(FileContents, Outcome)>,
}

impl FileSource {
    /// Takes in a read; whether it agrees with the one before.
    fn settles(&mut self, contents: FileContents) -> bool {
        let same = self.last.as_ref() == Some(&contents);
        self.last = Some(contents);
        same
    }

    /// The outcome of the last read if it is new. An error is repeated each time, so that its metric counts on.
    fn next_outcome(&mut self, path: &Path) -> Option<Outcome> {
        let contents = self.last.as_ref()?;
        let changed = self.settled.as_ref().is_none_or(|(settled, _)| settled != contents);
        if changed {
            self.settled = Some((contents.clone(), parse(path, contents)));
        }
        let (_, outcome) = self.settled.as_ref()?;
        (changed || matches!(outcome, Outcome::Invalid(_))).then(|| outcome.clone())
    }
}

fn parse(path: &Path, contents: &FileContents) -> Outcome {
    let name = path.display().to_string();
    let bytes = match contents {
        Ok(bytes) => bytes,
        Err(reason) => return Outcome::Invalid(format!("{name}: {reason}").into()),
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Outcome::Invalid(format!("{name}: it is not UTF-8 text").into());
    };
    match config::read_backends(&name, text) {
        Ok(backends) if backends.is_empty() => Outcome::Empty,
        Ok(backends) => Outcome::Backends(backends.iter().map(Found::from).collect()),
        Err(report) => Outcome::Invalid(explain(&report).into()),
    }
}

/// The mistakes in a text, in one line.
pub(super) fn explain(report: &ConfigErrors) -> String {
    // A value may be as long as the text.
    let lines = report.problems().iter().map(|problem| bounded(&report.line(problem), LONGEST_SHOWN));
    in_one_line(lines)
}

/// The first mistakes that fit into one line, and the number of the rest.
fn in_one_line(mistakes: impl ExactSizeIterator<Item = String>) -> String {
    let all = mistakes.len();
    let (mut line, mut room, mut shown) = (String::new(), LONGEST - "; and 4000000 more".len(), 0);
    for mistake in mistakes.take(MOST_SHOWN) {
        let separator = if shown == 0 { "" } else { "; " };
        let Some(left) = room.checked_sub(separator.len() + mistake.chars().count()) else { break };
        (line, room, shown) = (line + separator + &mistake, left, shown + 1);
    }
    match all - shown {
        0 => line,
        more => format!("{line}; and {more} more"),
    }
}

fn read(path: &Path) -> FileContents {
    let explain = |error: std::io::Error| format!("it cannot be read: {error}");
    // A pipe would block until it has a writer.
    if !fs::metadata(path).map_err(explain)?.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(explain)?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!("it is larger than {} MiB, the limit of a list of backends", LARGEST >> 20));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Outcome {
        parse(Path::new("backends.yaml"), &Ok(text.into()))
    }

    fn written(text: &str, path: &Path) -> FileContents {
        fs::write(path, text).unwrap();
        read(path)
    }

    #[test]
    fn a_list_gives_backends_and_an_empty_one_none() {
        let Outcome::Backends(found) = parsed(
            "- 10.0.0.1:80\n- {address: 10.0.0.2:80, name: b, weight: 3, backup: true, connections: 9, zone: z}\n",
        ) else {
            panic!("it is a list");
        };
        assert_eq!(found[0], Found::new("10.0.0.1:80".into(), "10.0.0.1:80".parse().unwrap()));
        let (b, connections) = (&found[1], found[1].connections.map(|n| n.get()));
        assert_eq!((&*b.name, b.weight, b.tier, connections), ("b", 3, 1, Some(9)));
        assert_eq!(b.zone.as_deref(), Some("z"));
        assert_eq!(parsed("[]\n"), Outcome::Empty);
    }

    #[test]
    fn mistakes_are_reported_with_their_place_in_one_line() {
        let Outcome::Invalid(reason) = parsed("- 10.0.0.1:80\n- {adress: 10.0.0.2:80}\n- nonsense\n") else {
            panic!("it is invalid");
        };
        assert!(reason.contains("backends.yaml:2:4: "), "{reason}");
        assert!(reason.contains("; backends.yaml:3:3: "), "{reason}");
        assert!(!reason.contains('\n'), "{reason}");
        // As while the file is being written.
        assert!(matches!(parsed(""), Outcome::Invalid(_)));
        let latin = parse(Path::new("f"), &Ok(vec![0xe9]));
        assert_eq!(latin, Outcome::Invalid("f: it is not UTF-8 text".into()));
    }

    #[test]
    fn any_number_of_mistakes_gives_a_readable_line() {
        let Outcome::Invalid(reason) = parsed(&"- nonsense\n".repeat(40_000)) else { panic!() };
        assert_eq!(reason.matches("backends.yaml:").count(), 8, "{reason}");
        assert!(reason.ends_with("; and 39992 more"), "{reason}");
        let Outcome::Invalid(reason) = parsed(&format!("- {}\n", "ä".repeat(1 << 20))) else { panic!() };
        assert!(reason.chars().count() <= 500, "{} characters", reason.len());
        let two = format!("- {0}\n- {0}\n- {0}\n", "ä".repeat(1 << 10));
        let Outcome::Invalid(reason) = parsed(&two) else { panic!() };
        assert!(
            reason.ends_with("…; and 1 more") && reason.matches("backends.yaml:").count() == 2,
            "{reason}"
        );
        let Outcome::Invalid(twice) = parsed(&"- 10.0.0.1:80\n".repeat(20_000)) else { panic!() };
        assert!(twice.ends_with("; and 19991 more"), "{twice}");
        let all: String = (0..20_000).map(|n| format!("- 10.0.{}.{}:80\n", n / 256, n % 256)).collect();
        assert!(matches!(parsed(&all), Outcome::Backends(found) if found.len() == 20_000));
    }

    #[test]
    fn no_file_or_too_large_a_file_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), Err("it is not a file".into()));
        let path = folder.path().join("f");
        assert!(read(&path).is_err_and(|reason| reason.contains("No such file")));
        assert_eq!(written("[]", &path), Ok(b"[]".into()));
        fs::File::create(&path).unwrap().set_len(LARGEST).unwrap();
        assert!(read(&path).is_ok());
        fs::File::create(&path).unwrap().set_len(LARGEST + 1).unwrap();
        assert!(read(&path).is_err_and(|reason| reason.contains("larger than 4 MiB")));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// For any reads during writes: only contents that two consecutive reads agree on count, and valid ones are
        /// reported once.
        #[test]
        fn only_contents_that_two_consecutive_reads_agree_on_count(cuts in proptest::collection::vec(0..4_usize, 1..30)) {
            let text = ["[]", "[10.0.0.1:80]", "[10.0.0.1:80, 10.0.0.2:80]", "[10.0.0.1:80, 10"];
            let mut source = FileSource::default();
            let (mut before, mut reported) = (None, None);
            for cut in cuts {
                let settled = source.settles(Ok(text[cut].into()));
                prop_assert_eq!(settled, before == Some(cut));
                if settled {
                    let invalid = cut == 3;
                    let expected = (invalid || reported != Some(cut)).then(|| parsed(text[cut]));
                    prop_assert_eq!(source.next_outcome(Path::new("backends.yaml")), expected);
                    reported = Some(cut);
                }
                before = Some(cut);
            }
        }
    }
}
