//! A file with a list of backends, read again and again.
//!
//! It is read, not watched: inotify(7) does not see what others write to a network file system, and follows a file
//! rather than a path, which Kubernetes changes by moving a symbolic link two folders up. Its times and size are not
//! asked either, as a file can change within one tick of the clock; a list of backends is small.
//!
//! Whoever writes the file need not be done when it is read. So what it says counts once two looks in a row see the
//! same. That is good against editors and `cp`; who wants to be sure writes another file and renames it, as
//! rename(2) is atomic.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Found, Observation, Outcome, Sink};
use crate::config::{self, File};
use crate::domain::cause::{LONGEST, bounded};

/// A larger file is not a list of backends: with 100 bytes each it would be more than 40 000.
const LARGEST: u64 = 4 << 20;
/// Of more mistakes than these only the number is told, as they are one line of the log.
const MOST_TOLD: usize = 8;
/// Of a mistake this much is told, in characters.
const LONGEST_TOLD: usize = 500;
/// Between two looks at a file that has just changed.
const SETTLE: Duration = Duration::from_millis(50);
/// Looks that failed connections ask for are at least this far apart.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// What a look at the file finds: its contents, or why there are none.
type Look = Result<Vec<u8>, String>;

/// Looks every `settings.every`, and out of turn when notified, for ever. The first look is at once.
pub(super) async fn watch(settings: File, ask_now: Arc<Notify>, sink: Sink) {
    let mut watcher = Watcher::default();
    loop {
        let began = Instant::now();
        let path = settings.path.clone();
        // A network file system may keep a reader waiting for long.
        let Ok(look) = spawn_blocking(move || look(&path)).await else { return };
        if !watcher.settles(look) {
            sleep(SETTLE).await;
            continue;
        }
        if let Some(outcome) = watcher.news(&settings.path) {
            sink(Observation { outcome, owners: Default::default() });
        }
        let regular = (began + settings.every).max(Instant::now() + Duration::from_millis(1));
        tokio::select! {
            () = sleep_until(regular) => {}
            () = ask_now.notified() => sleep_until(regular.min(Instant::now() + BETWEEN_LOOKS)).await,
        }
    }
}

/// What was seen, and what it means.
#[derive(Debug, Default)]
struct Watcher {
    last: Option<Look>,
    /// What the last look but one and the last agree on: what they saw, and what that says.
    settled: Option<(Look, Outcome)>,
}

impl Watcher {
    /// Takes in a look; whether it sees the same as the one before.
    fn settles(&mut self, look: Look) -> bool {
        let same = self.last.as_ref() == Some(&look);
        self.last = Some(look);
        same
    }

    /// What the file says, as seen last, unless that was told already. Trouble is told each time, so that whoever counts
    /// it sees that it goes on.
    fn news(&mut self, path: &Path) -> Option<Outcome> {
        let look = self.last.as_ref()?;
        let changed = self.settled.as_ref().is_none_or(|(settled, _)| settled != look);
        if changed {
            self.settled = Some((look.clone(), understand(path, look)));
        }
        let (_, outcome) = self.settled.as_ref()?;
        (changed || matches!(outcome, Outcome::Invalid(_))).then(|| outcome.clone())
    }
}

fn understand(path: &Path, look: &Look) -> Outcome {
    let name = path.display().to_string();
    let bytes = match look {
        Ok(bytes) => bytes,
        Err(reason) => return Outcome::Invalid(format!("{name}: {reason}").into()),
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Outcome::Invalid(format!("{name}: it is not UTF-8 text").into());
    };
    match config::read_backends(&name, text) {
        Ok(backends) if backends.is_empty() => Outcome::Empty,
        Ok(backends) => Outcome::Backends(backends.iter().map(Found::from).collect()),
        Err(report) => {
            let problems = report.problems();
            // The value may be as long as the file.
            let lines = problems.iter().map(|problem| bounded(&report.line(problem), LONGEST_TOLD));
            Outcome::Invalid(in_one_line(lines).into())
        }
    }
}

/// The first mistakes that fit on one line, and the number of the rest: the log has one line for each event.
fn in_one_line(mistakes: impl ExactSizeIterator<Item = String>) -> String {
    let all = mistakes.len();
    let (mut line, mut room, mut told) = (String::new(), LONGEST - "; and 4000000 more".len(), 0);
    for mistake in mistakes.take(MOST_TOLD) {
        let separator = if told == 0 { "" } else { "; " };
        let Some(left) = room.checked_sub(separator.len() + mistake.chars().count()) else { break };
        (line, room, told) = (line + separator + &mistake, left, told + 1);
    }
    match all - told {
        0 => line,
        more => format!("{line}; and {more} more"),
    }
}

fn look(path: &Path) -> Look {
    let told = |error: std::io::Error| format!("it cannot be read: {error}");
    // A pipe would have us wait for its writer.
    if !fs::metadata(path).map_err(told)?.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(told)?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!("it is larger than {} MiB, which no list of backends is", LARGEST >> 20));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn understood(text: &str) -> Outcome {
        understand(Path::new("backends.yaml"), &Ok(text.into()))
    }

    fn written(text: &str, path: &Path) -> Look {
        fs::write(path, text).unwrap();
        look(path)
    }

    #[test]
    fn a_list_is_the_backends_and_an_empty_one_is_none() {
        let Outcome::Backends(found) = understood(
            "- 10.0.0.1:80\n- {address: 10.0.0.2:80, name: b, weight: 3, backup: true, connections: 9}\n",
        ) else {
            panic!("it is a list");
        };
        assert_eq!(found[0], Found::new("10.0.0.1:80".into(), "10.0.0.1:80".parse().unwrap()));
        let (b, connections) = (&found[1], found[1].connections.map(|n| n.get()));
        assert_eq!((&*b.name, b.weight, b.tier, connections), ("b", 3, 1, Some(9)));
        assert_eq!(understood("[]\n"), Outcome::Empty);
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_place_in_one_line() {
        let Outcome::Invalid(reason) = understood("- 10.0.0.1:80\n- {adress: 10.0.0.2:80}\n- nonsense\n")
        else {
            panic!("it cannot be used");
        };
        assert!(reason.contains("backends.yaml:2:4: "), "{reason}");
        assert!(reason.contains("; backends.yaml:3:3: "), "{reason}");
        assert!(!reason.contains('\n'), "{reason}");
        // As a file looks that is just being written.
        assert!(matches!(understood(""), Outcome::Invalid(_)));
        let latin = understand(Path::new("f"), &Ok(vec![0xe9]));
        assert_eq!(latin, Outcome::Invalid("f: it is not UTF-8 text".into()));
    }

    #[test]
    fn however_many_and_long_the_mistakes_are_they_make_a_line_that_can_be_read() {
        let Outcome::Invalid(reason) = understood(&"- nonsense\n".repeat(40_000)) else { panic!() };
        assert_eq!(reason.matches("backends.yaml:").count(), 8, "{reason}");
        assert!(reason.ends_with("; and 39992 more"), "{reason}");
        let Outcome::Invalid(reason) = understood(&format!("- {}\n", "ä".repeat(1 << 20))) else { panic!() };
        assert!(reason.chars().count() <= 500, "{} characters", reason.len());
        let two = format!("- {0}\n- {0}\n- {0}\n", "ä".repeat(1 << 10));
        let Outcome::Invalid(reason) = understood(&two) else { panic!() };
        assert!(
            reason.ends_with("…; and 1 more") && reason.matches("backends.yaml:").count() == 2,
            "{reason}"
        );
        let Outcome::Invalid(twice) = understood(&"- 10.0.0.1:80\n".repeat(20_000)) else { panic!() };
        assert!(twice.ends_with("; and 19991 more"), "{twice}");
        let all: String = (0..20_000).map(|n| format!("- 10.0.{}.{}:80\n", n / 256, n % 256)).collect();
        assert!(matches!(understood(&all), Outcome::Backends(found) if found.len() == 20_000));
    }

    #[test]
    fn what_is_no_file_of_a_sane_size_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(look(folder.path()), Err("it is not a file".into()));
        let path = folder.path().join("f");
        assert!(look(&path).is_err_and(|reason| reason.contains("No such file")));
        assert_eq!(written("[]", &path), Ok(b"[]".into()));
        fs::File::create(&path).unwrap().set_len(LARGEST).unwrap();
        assert!(look(&path).is_ok());
        fs::File::create(&path).unwrap().set_len(LARGEST + 1).unwrap();
        assert!(look(&path).is_err_and(|reason| reason.contains("larger than 4 MiB")));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// However the looks fall while a file is being written: only what two in a row have seen is believed, and what
        /// makes sense is told once.
        #[test]
        fn only_what_two_looks_in_a_row_have_seen_counts(cuts in proptest::collection::vec(0..4_usize, 1..30)) {
            let text = ["[]", "[10.0.0.1:80]", "[10.0.0.1:80, 10.0.0.2:80]", "[10.0.0.1:80, 10"];
            let mut watcher = Watcher::default();
            let (mut before, mut told) = (None, None);
            for cut in cuts {
                let settled = watcher.settles(Ok(text[cut].into()));
                prop_assert_eq!(settled, before == Some(cut));
                if settled {
                    let invalid = cut == 3;
                    let expected = (invalid || told != Some(cut)).then(|| understood(text[cut]));
                    prop_assert_eq!(watcher.news(Path::new("backends.yaml")), expected);
                    told = Some(cut);
                }
                before = Some(cut);
            }
        }
    }
}
