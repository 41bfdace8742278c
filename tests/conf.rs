//! The example configurations: each one runs as it stands, but for its addresses.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::path::Path;

use support::Lb;

/// Replaces what follows each `bind:` by an address that is free; the text and how many there were.
fn on_free_ports(text: &str) -> (String, usize) {
    let mut parts = text.split("bind: ");
    let mut changed = parts.next().unwrap().to_owned();
    let mut count = 0;
    for part in parts {
        let end = part.find([',', '}', '\n', ' ']).unwrap();
        changed += &format!("bind: 127.0.0.1:0{}", &part[end..]);
        count += 1;
    }
    (changed, count)
}

#[test]
fn every_example_runs_and_ends_well() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let mut examples: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    examples.sort();
    assert!(examples.len() >= 10, "{examples:?}");
    std::thread::scope(|scope| {
        for path in examples {
            scope.spawn(move || {
                // The harness reads the log as text.
                let text = std::fs::read_to_string(&path).unwrap().replace("format: json", "format: text");
                // Nothing is to be started at an engine that may be here.
                let text = text.replace("unix:///var/run/docker.sock", "unix:///there/is/none.sock");
                let (config, binds) = on_free_ports(&text);
                // The folder is the test's own, and has the secrets that must be there at the start.
                let config = config.replace("/run/secrets/pointsman_token", "token");
                let token = "0123456789abcdef\n";
                let mut lb =
                    Lb::start_in(&config, |folder| std::fs::write(folder.join("token"), token).unwrap());
                println!("{}", path.display());
                lb.when_logged_times(binds, &["listening"]);
                lb.signal("TERM");
                assert_eq!(lb.when_ended().code(), Some(0), "{}", path.display());
            });
        }
    });
}
