//! The log files on a disk that is full for a while, and their size.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::backend::Backend;
use crate::support::{Lb, eventually, http_get, static_list};

const DROPPED: &str = "pointsman_log_lines_dropped_total";

fn config(log: &str, backend: &Backend) -> String {
    let discover = static_list(&[backend.address]);
    format!(
        "log: {{directory: logs, {log}}}\nlisteners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {discover}}}}}\n"
    )
}

/// Whether this process may mount a file system, which needs root.
fn can_mount() -> bool {
    let mount = ["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"];
    Command::new("unshare").args(mount).output().is_ok_and(|out| out.status.success())
}

#[test]
fn lines_lost_on_a_full_disk_are_counted_reported_and_never_torn() {
    if !can_mount() {
        return crate::support::skip(
            "",
            "mounting a small file system takes root and `unshare` of util-linux",
        );
    }
    let backend = Backend::http("a");
    // A disk of 256 KiB: twice the bytes that may wait, and more.
    let lb = Lb::start_after(
        &["unshare", "-m"],
        "mount -t tmpfs -o size=256k tmpfs logs",
        &config("keep: 3", &backend),
        |folder| fs::create_dir(folder.join("logs")).unwrap(),
    );
    let root = PathBuf::from(format!("/proc/{}/root", lb.pid()));
    let logs = root.join(lb.folder().strip_prefix("/").unwrap()).join("logs");
    let file = logs.join("pointsman.log");
    eventually("the file is begun", || file.exists().then_some(()));
    fs::write(logs.join("filler"), vec![0; 230 * 1024]).unwrap();
    let address = lb.address("l");
    eventually("lines are lost", || {
        for _ in 0..20 {
            http_get(address, "/").unwrap();
        }
        (lb.metric(DROPPED) >= 20.0).then_some(())
    });
    let lines = lb.when_logged_times(1, &["log cannot be written"]);
    assert!(lines[0].contains("log=\"logs\" error=\"No space left on device"), "{lines:?}");
    eventually("it is a problem", || {
        let problems = lb.get("/api/v1/problems").1;
        problems
            .contains("of the file system of the log directory is in use (256 KiB of 256 KiB")
            .then_some(())
    });
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.ends_with('\n'), "its last line is torn: {:?}", text.lines().last());
    // Only free space makes it continue.
    fs::remove_file(logs.join("filler")).unwrap();
    let works = lb.when_logged("log is written again: lines are missing");
    let (_, lost) = works.rsplit_once("lost=").unwrap();
    let lost: usize = lost.trim().parse().unwrap();
    assert_eq!(lb.metric(DROPPED), lost as f64);
    assert_eq!(lb.logged(&["log cannot be written"]).len(), 1);
    // The file has all lines of standard error except these.
    eventually("the file is complete", || {
        let (text, log) = (fs::read_to_string(&file).unwrap(), lb.log());
        (text.lines().count() + lost == log.lines().count()).then_some(())
    });
    let (text, log) = (fs::read_to_string(&file).unwrap(), lb.log());
    let logged: HashSet<&str> = log.lines().collect();
    let torn: Vec<_> = text.lines().filter(|line| !logged.contains(line)).collect();
    assert!(torn.is_empty(), "{torn:#?}");
}

/// The sizes of the log files, without the link.
fn sizes(logs: &Path) -> Vec<u64> {
    let entries = fs::read_dir(logs).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| !entry.file_type().unwrap().is_symlink());
    files.filter_map(|entry| Some(entry.metadata().ok()?.len())).collect()
}

#[test]
fn files_grow_to_their_limit_and_a_limited_number_is_kept() {
    let backend = Backend::http("a");
    let lb = Lb::start(&config("max_size: 64KiB, keep: 2", &backend));
    let (address, logs) = (lb.address("l"), lb.folder().join("logs"));
    let third = |entry: fs::DirEntry| entry.file_name().into_string().unwrap().ends_with(".2.log");
    eventually("the third file is begun", || {
        for _ in 0..50 {
            http_get(address, "/").unwrap();
        }
        fs::read_dir(&logs).unwrap().map(Result::unwrap).any(third).then_some(())
    });
    eventually("two files are kept", || (sizes(&logs).len() == 2).then_some(()));
    assert!(sizes(&logs).iter().all(|size| *size <= 64 * 1024), "{:?}", sizes(&logs));
    assert_eq!(lb.metric(DROPPED), 0.0);
}
