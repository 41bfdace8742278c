//! Runs tests in a network namespace, with rules and kernel settings that would disturb other programs.

use std::process::Command;

use super::deadlines::Limited;

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
    let run = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "sh", "-c", script]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "--nocapture", test]).env(INSIDE, "1");
        command.output_in_time()
    };
    match run(&prepare) {
        Ok(output) if output.status.success() => {
            let output = run(&format!("{prepare} && exec \"$0\" \"$@\"")).unwrap();
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
