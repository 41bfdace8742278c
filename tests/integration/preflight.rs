//! `pointsman check` looks at what the configuration names outside itself.

use std::path::Path;
use std::process::{Command, Output};

/// The output of `pointsman check` for a configuration, in a folder with the files that `prepare` has made.
fn check(config: &str, prepare: impl FnOnce(&Path)) -> Output {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pointsman.yaml"), config).unwrap();
    prepare(folder.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    let output = command.args(["check", "-c", "pointsman.yaml"]).current_dir(folder.path()).output().unwrap();
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".pointsman")), "{left:?}");
    output
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

const LISTENER: &str = "listeners: {l: {bind: 127.0.0.1:0, pool: p}}\n";
const POOL: &str = "pools: {p: {discover: [{static: [192.0.2.1:1]}]}}\n";

#[test]
fn what_run_would_fail_for_is_an_error() {
    let config = format!(
        "admin: {{bind: 127.0.0.1:0, token_file: token}}\nlog: {{directory: occupied/logs}}\n{LISTENER}{POOL}"
    );
    let output = check(&config, |folder| std::fs::write(folder.join("occupied"), "a file").unwrap());
    assert_eq!(output.status.code(), Some(1));
    let [token, log] = &lines(&output.stderr)[..] else { panic!("{output:?}") };
    let reason =
        "pointsman.yaml: the token of the admin server cannot be read from token: No such file or directory";
    assert!(token.contains(reason), "{token}");
    assert!(
        log.contains("pointsman.yaml: the log cannot be written to occupied/logs (log.directory): "),
        "{log}"
    );

    let output = check(&config, |folder| std::fs::write(folder.join("token"), "0123456789abcdef").unwrap());
    assert_eq!((output.status.code(), lines(&output.stderr)), (Some(0), Vec::new()));
}

#[test]
fn what_would_not_work_is_a_warning() {
    let config = format!(
        "admin: {{bind: 0.0.0.0:0}}\n{LISTENER}\
         pools:\n  p:\n    discover: [{{file: backends.yaml}}, {{etcd: {{prefix: /a/, user: u, password_file: none}}}}, {{consul: {{service: web, endpoints: 'https://a:1', token_file: no, tls: {{ca_file: consul.pem}}}}}}]\n    health: [{{tcp: {{}}, tls: {{ca_file: ca.pem}}}}, {{redis: {{role: any, password_file: secret}}}}]\n  \
         spare: {{discover: [{{static: [192.0.2.1:1]}}]}}\n"
    );
    let output = check(&config, |_| ());
    assert!(output.status.success(), "{output:?}");
    let warnings = lines(&output.stderr);
    let expected = [
        "the admin server at 0.0.0.0:0 has no token (admin.token_file)",
        "no listener uses the pool \"spare\"",
        "pool \"p\" has no backends from its file: backends.yaml: No such file or directory",
        "a source of pool \"p\" cannot work: the password file none cannot be read",
        "a source of pool \"p\" cannot work: the token file no cannot be read",
        "a source of pool \"p\" cannot work: the ca_file consul.pem cannot be read",
        "a check of pool \"p\" cannot work: the ca_file ca.pem cannot be read",
        "a check of pool \"p\" cannot work: the password file secret cannot be read",
    ];
    assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
    for (warning, expected) in warnings.iter().zip(expected) {
        assert!(warning.starts_with(&format!("pointsman.yaml: warning: {expected}")), "{warning}");
    }

    let output = check(&config, |folder| {
        std::fs::write(folder.join("backends.yaml"), "- 192.0.2.1\n").unwrap();
        std::fs::write(folder.join("ca.pem"), "no certificate\n").unwrap();
    });
    let warnings = lines(&output.stderr).join("\n");
    assert!(warnings.contains("backends.yaml:1:3: "), "{warnings}");
    assert!(
        warnings.contains("a check of pool \"p\" cannot work: ") && warnings.contains("ca.pem"),
        "{warnings}"
    );
}
