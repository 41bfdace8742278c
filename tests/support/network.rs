//! Runs tests in a network namespace, with rules and kernel settings that would disturb other programs.

use std::ffi::OsStr;
use std::process::Command;

use super::deadlines::Limited;

/// A command that runs `program` in a new network namespace, which has a loopback interface only.
pub fn in_own_network(program: impl AsRef<OsStr>) -> Command {
    after("ip link set lo up", program.as_ref())
}

/// A command that runs `program` in a new network namespace, after the shell commands `prepare`.
fn after(prepare: &str, program: &OsStr) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--net", "sh", "-c", &format!("{prepare} && exec \"$0\" \"$@\"")])
        .arg(program);
    command
}

/// Set for the inner run of the test.
const INSIDE: &str = "POINTSMAN_TEST_INSIDE";

/// Whether this is the inner run, which does the test's work. Otherwise runs the test, given with the path of its module,
/// again in a new network namespace, after the shell commands `prepare`. The test passes if that run passes, and is
/// skipped, naming `tools`, if no such namespace can be created.
pub fn is_inside(test: &str, tools: &str, prepare: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let prepare = format!("ip link set lo up && {prepare}");
    match after(&prepare, "true".as_ref()).output_in_time() {
        Ok(output) if output.status.success() => {
            let mut command = after(&prepare, std::env::current_exe().unwrap().as_ref());
            command.args(["--exact", "--nocapture", test]).env(INSIDE, "1");
            let output = command.output_in_time().unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
            // A run without a matching test succeeds, too.
            assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}{stderr}");
        }
        _ => super::skip(
            "POINTSMAN_REQUIRE_TOOLS",
            &format!("no network namespace can be had (needs root and {tools})"),
        ),
    }
    false
}

/// Runs shell commands, which must succeed.
pub fn sh(commands: &str) {
    let output = Command::new("sh").args(["-ec", commands]).output_in_time().unwrap();
    assert!(output.status.success(), "{commands}: {}", String::from_utf8_lossy(&output.stderr));
}
