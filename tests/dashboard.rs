//! The dashboard, in a real browser: `tests/browser`, run against the binary of this build.
//!
//! It takes Chromium and a Python that has `tests/browser/requirements.txt`: `python3`, or the one that
//! `POINTSMAN_BROWSER_PYTHON` names. Without them it is skipped, unless `POINTSMAN_REQUIRE_TOOLS=1` asks for it.

#![allow(missing_docs, clippy::unwrap_used)]

use std::process::{Command, Stdio};

fn python() -> Command {
    let path = std::env::var("POINTSMAN_BROWSER_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    Command::new(path)
}

/// Whether a command runs and succeeds.
fn works(command: &mut Command) -> bool {
    let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    silent.status().is_ok_and(|status| status.success())
}

/// What is missing on this machine.
fn missing() -> Option<&'static str> {
    if !works(Command::new("chromium").arg("--version")) {
        return Some("chromium");
    }
    (!works(python().args(["-c", "import playwright, pytest"])))
        .then_some("a Python with playwright and pytest (POINTSMAN_BROWSER_PYTHON names one)")
}

/// Runs one file of the browser's tests.
fn in_a_browser(file: &str) {
    if let Some(missing) = missing() {
        let required = std::env::var("POINTSMAN_REQUIRE_TOOLS").is_ok_and(|value| value == "1");
        assert!(!required, "there is no {missing}");
        return eprintln!("skipped: there is no {missing}");
    }
    let tests = format!("{}/tests/browser/{file}", env!("CARGO_MANIFEST_DIR"));
    let output = python()
        .args(["-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", &tests])
        .env("POINTSMAN", env!("CARGO_BIN_EXE_pointsman"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{said}");
}

#[test]
fn what_the_dashboard_shows_follows_what_happens_and_what_is_clicked_happens() {
    in_a_browser("test_live.py");
}

#[test]
fn the_page_tells_everybody_and_is_read_everywhere() {
    in_a_browser("test_page.py");
}
