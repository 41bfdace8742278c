//! The command line: the output and the exit code of each command.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::backend::Backend;
use crate::support::{Lb, Limited, TIME_LIMIT, http_get, output_of, static_list};
use pointsman_core::config::Algorithm;

/// Runs a command in an empty folder, without a variable or file that could name a configuration.
fn pointsman(arguments: &[&str]) -> Output {
    pointsman_in(tempfile::tempdir().unwrap().path(), arguments)
}

fn pointsman_in(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(arguments).current_dir(folder).env_clear().env("HOME", folder).output_in_time().unwrap()
}

/// Exit code, standard output and standard error.
fn outcome(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

const GOOD: &str =
    "listeners: {web: {bind: 127.0.0.1:0, pool: web}}\npools: {web: {discover: [{dns: backend:5000}]}}\n";

#[test]
fn help_and_version_go_to_standard_output() {
    for argument in ["--help", "-h", "help"] {
        let (code, out, error) = outcome(&pointsman(&[argument]));
        assert_eq!((code, &*error), (0, ""));
        for word in [
            "run",
            "check",
            "demo",
            "forward",
            "health",
            "bench",
            "simulate",
            "schema",
            "completions",
            "man",
            "Exit codes",
        ] {
            assert!(out.contains(word), "{word} is not in\n{out}");
        }
    }
    let (code, out, _) = outcome(&pointsman(&["--version"]));
    assert_eq!((code, out), (0, format!("pointsman {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn help_and_completions_list_every_algorithm() {
    for arguments in [["demo", "--help"], ["forward", "--help"], ["completions", "bash"]] {
        let (code, out, _) = outcome(&pointsman(&arguments));
        assert_eq!(code, 0);
        for algorithm in Algorithm::ALL {
            assert!(out.contains(algorithm.name()), "{} is not in\n{out}", algorithm.name());
        }
    }
}

#[test]
fn wrong_arguments_are_exit_code_1_with_a_remedy() {
    for (arguments, word) in [
        (&["chekc"][..], "check"),
        (&["run", "--confg", "x"], "--config"),
        (&["forward", "127.0.0.1:0"], "BACKEND"),
        (&["forward", "nowhere", "127.0.0.1:1"], "0.0.0.0:8080"),
        (&["forward", "127.0.0.1:0", "127.0.0.1"], "ADDRESS:PORT, NAME:PORT or unix:PATH"),
        (&["forward", "127.0.0.1:0", "127.0.0.1:1", "127.0.0.1:1"], "listed twice"),
        (&["forward", "127.0.0.1:0", "127.0.0.1:1", "--balance", "fair"], "least-connections"),
        (&["forward", "127.0.0.1:0", "127.0.0.1:1", "--health", "ping"], "/health"),
        (&["demo", "--exit-after", "soon"], "--exit-after"),
        (&["completions", "cobol"], "bash"),
        (&["check"], "-c FILE"),
        (&["run"], "pointsman demo"),
        (&["check", "-c", "none.yaml"], "No such file"),
        (&["run", "-c", "none.yaml"], "none.yaml"),
    ] {
        let (code, out, error) = outcome(&pointsman(arguments));
        assert_eq!((code, &*out), (1, ""), "{arguments:?}: {error}");
        assert!(error.contains(word), "{arguments:?}: {word} is not in\n{error}");
    }
}

#[test]
fn check_reports_success_or_all_problems_and_reads_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pointsman.yaml"), GOOD).unwrap();
    let good = (0, "pointsman.yaml: good (1 listener, 1 pool)\n".to_owned(), String::new());
    // By name, or at its default path.
    for arguments in [&["check", "-c", "pointsman.yaml"][..], &["check"], &["run", "--check"]] {
        assert_eq!(outcome(&pointsman_in(folder.path(), arguments)), good, "{arguments:?}");
    }
    let input = std::fs::File::open(folder.path().join("pointsman.yaml")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(["check", "-c", "-"]).stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (code, out, _) = outcome(&output_of(command.spawn().unwrap(), TIME_LIMIT, "check -c -"));
    assert_eq!((code, &*out), (0, "-: good (1 listener, 1 pool)\n"));
    std::fs::write(folder.path().join("pointsman.yaml"), GOOD.replace("pool: web", "pol: web")).unwrap();
    let (code, out, error) = outcome(&pointsman_in(folder.path(), &["check"]));
    assert_eq!((code, &*out), (1, ""));
    assert!(error.starts_with("pointsman.yaml:1:"), "{error}");
}

#[test]
fn the_configuration_is_found_where_the_help_says() {
    let folder = tempfile::tempdir().unwrap();
    let check = |variable: Option<(&str, &str)>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        command.arg("check").current_dir(folder.path()).env_clear().env("HOME", folder.path()).envs(variable);
        outcome(&command.output_in_time().unwrap())
    };
    let write = |path: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, GOOD).unwrap();
    };
    write(".config/pointsman/pointsman.yaml");
    assert!(check(None).1.contains(".config/pointsman/pointsman.yaml: good"));
    write("xdg/pointsman/pointsman.yaml");
    let xdg = folder.path().join("xdg");
    assert!(
        check(Some(("XDG_CONFIG_HOME", xdg.to_str().unwrap())))
            .1
            .contains("xdg/pointsman/pointsman.yaml: good")
    );
    write("pointsman.yaml");
    assert!(check(None).1.starts_with("pointsman.yaml: good"));
    // A named file is used even if it is missing.
    let (code, _, error) = check(Some(("POINTSMAN_CONFIG", "other.yaml")));
    assert!(code == 1 && error.starts_with("other.yaml: "), "{error}");
}

#[test]
fn a_failed_start_is_exit_code_2_and_names_the_owner_of_the_port() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, error) = outcome(&pointsman(&["forward", &address, "127.0.0.1:1"]));
    assert_eq!(code, 2, "{error}");
    assert!(error.contains(&address) && error.contains("another program has it"), "{error}");
    // 192.0.2.0/24 is reserved (RFC 5737).
    let (code, _, error) = outcome(&pointsman(&["forward", "192.0.2.1:1", "127.0.0.1:1"]));
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("192.0.2.1:1"), "{error}");
    let admin = ["forward", "127.0.0.1:0", "127.0.0.1:1", "--admin", &address];
    let (code, _, error) = outcome(&pointsman(&admin));
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("the admin server cannot listen") && error.contains(&address), "{error}");
}

#[test]
fn schema_completions_and_manual_are_complete() {
    let (code, schema, _) = outcome(&pointsman(&["schema"]));
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&schema).unwrap()["title"], "Pointsman");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, _) = outcome(&pointsman(&["completions", shell]));
        assert!(
            code == 0 && script.contains("forward") && script.contains("exit-after"),
            "{shell}: {script}"
        );
    }
    let (code, page, _) = outcome(&pointsman(&["man"]));
    assert!(code == 0 && page.contains(".TH pointsman 1"), "{page}");
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(outcome(&pointsman_in(folder.path(), &["man", "pages"])).0, 0);
    let pages = std::fs::read_dir(folder.path().join("pages")).unwrap().count();
    assert!(pages >= 9, "{pages} pages");
}

#[test]
fn forward_balances_without_a_file_and_health_succeeds() {
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    let (a, b) = (a.address.to_string(), b.address.to_string());
    let mut lb = Lb::with_arguments(&[
        "forward",
        "127.0.0.1:0",
        &a,
        &b,
        "--health",
        "/health",
        "--balance",
        "least-connections",
        "--admin",
        "127.0.0.1:0",
    ]);
    let address = lb.address("forward");
    lb.when_logged_times(2, &["backend up"]);
    let answers: Vec<_> = (0..4).map(|_| http_get(address, "/").unwrap().1).collect();
    assert!(answers.contains(&"a".to_owned()) && answers.contains(&"b".to_owned()), "{answers:?}");
    lb.when_logged("algorithm=least-connections");
    let admin = lb.admin().to_string();
    assert_eq!(outcome(&pointsman(&["health", "--admin", &admin])), (0, "ready\n".into(), String::new()));
    lb.signal("TERM");
    assert_eq!(lb.when_ended().code(), Some(0));
    let (code, _, error) = outcome(&pointsman(&["health", "--admin", &admin]));
    assert!(code == 1 && error.contains("not ready") && error.contains(&admin), "{error}");
}

#[test]
fn forward_accepts_names() {
    let backend = Backend::http("a");
    let lb =
        Lb::with_arguments(&["forward", "127.0.0.1:0", &format!("localhost:{}", backend.address.port())]);
    lb.when_logged("backend up");
    assert_eq!(http_get(lb.address("forward"), "/").unwrap().1, "a");
}

#[test]
fn health_fails_during_a_drain() {
    let backend = Backend::http("a");
    let discover = static_list(&[backend.address]);
    let mut lb = Lb::start(&format!(
        "runtime: {{drain: {{grace: 30s}}}}
listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}
pools: {{p: {{discover: {discover}}}}}"
    ));
    let admin = lb.admin().to_string();
    assert_eq!(outcome(&pointsman(&["health", "--admin", &admin])).0, 0);
    lb.signal("TERM");
    lb.when_logged("drain started");
    let (code, _, error) = outcome(&pointsman(&["health", "--admin", &admin]));
    assert!(code == 1 && error.contains("503"), "{error}");
    lb.signal("TERM");
    lb.when_ended();
}
