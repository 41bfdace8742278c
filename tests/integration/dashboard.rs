//! The dashboard, in a real browser: `tests/browser`, run against the binary of this build.
//!
//! It takes Chromium and a Python that has `tests/browser/requirements.txt`: `python3`, or the one that
//! `POINTSMAN_BROWSER_PYTHON` names. Without them it is skipped, unless `POINTSMAN_REQUIRE_TOOLS=1`.

use std::process::Command;

use crate::support::network::in_own_network;
use crate::support::{Limited, TOOL, skip};

fn python() -> String {
    std::env::var("POINTSMAN_BROWSER_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// Whether a command runs and succeeds.
fn works(command: &mut Command) -> bool {
    command.output_in_time().is_ok_and(|output| output.status.success())
}

/// The missing tool, and how to install it.
fn missing() -> Option<&'static str> {
    if !works(Command::new("chromium").arg("--version")) {
        return Some("there is no Chromium (`apt-get install chromium`)");
    }
    (!works(Command::new(python()).args(["-c", "import playwright, pytest"]))).then_some(
        "python3 has no playwright or no pytest (`pip install -r tests/browser/requirements.txt`; \
         POINTSMAN_BROWSER_PYTHON names another Python)",
    )
}

/// Runs one file of the browser's tests.
fn in_a_browser(file: &str) {
    if let Some(missing) = missing() {
        return skip("POINTSMAN_REQUIRE_TOOLS", missing);
    }
    let tests = format!("{}/tests/browser/{file}", env!("CARGO_MANIFEST_DIR"));
    // Chromium drops what it loads when an interface of its network comes or goes, as with every container.
    let own_network = works(&mut in_own_network("true"));
    let mut command = if own_network { in_own_network(python()) } else { Command::new(python()) };
    let output = command
        .args(["-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", &tests])
        // pytest ends a test that takes longer than this, in seconds, and prints where it hangs.
        .args(["-o", "faulthandler_timeout=300", "-o", "faulthandler_exit_on_timeout=true"])
        .env("POINTSMAN", env!("CARGO_BIN_EXE_pointsman"))
        .output_within(TOOL)
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{report}");
}

#[test]
fn the_dashboard_shows_each_change_and_its_buttons_work() {
    in_a_browser("test_live.py");
}

#[test]
fn the_page_is_accessible_and_fits_every_screen() {
    in_a_browser("test_page.py");
}

#[test]
fn the_demo_can_be_played_with_on_the_page() {
    in_a_browser("test_playground.py");
}

#[test]
fn the_page_shows_problems_first_and_in_the_tab() {
    in_a_browser("test_problems.py");
}
