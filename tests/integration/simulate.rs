//! `pointsman simulate`: its output, its errors, and the claims of its documentation.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Limited, TOOL};
use serde_json::Value;

fn simulate_in(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.arg("simulate").args(arguments.split_whitespace()).current_dir(folder).env_clear();
    command.output_within(TOOL).unwrap()
}

fn simulate(arguments: &str) -> Output {
    simulate_in(tempfile::tempdir().unwrap().path(), arguments)
}

fn printed(arguments: &str) -> String {
    let output = simulate(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The figures of each algorithm, by name.
fn figures(arguments: &str) -> impl Fn(&str) -> Value + use<> {
    let json: Value = serde_json::from_str(&printed(&format!("{arguments} --json"))).unwrap();
    let all = json["algorithms"].as_array().unwrap().clone();
    move |algorithm| all.iter().find(|figures| figures["algorithm"] == algorithm).unwrap().clone()
}

fn p99_wait(figures: &Value) -> f64 {
    figures["waiting_ms"]["p99"].as_f64().unwrap()
}

fn p99_response(figures: &Value) -> f64 {
    figures["response_ms"]["p99"].as_f64().unwrap()
}

fn moved(figures: &Value) -> f64 {
    figures["events"][0]["keys"]["share"].as_f64().unwrap()
}

#[test]
fn the_table_shows_shares_times_imbalance_and_events() {
    let table =
        printed("--backends a*3,b --balance weighted,ring-hash --duration 3s --at 1s down=b --at 2s up=b");
    for word in [
        "weighted",
        "ring-hash",
        "promised",
        "busy",
        "p99",
        "imbalance",
        "1 s down=b",
        "2 s up=b",
        "clients moved",
    ] {
        assert!(table.contains(word), "{word} is not in\n{table}");
    }
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
}

#[test]
fn equal_seeds_print_equal_bytes_and_other_seeds_do_not() {
    let json = |seed| {
        printed(&format!("--backends a*3,b,c --balance ewma,maglev --connections 5000 --json --seed {seed}"))
    };
    assert_eq!(json(7), json(7));
    assert_ne!(json(7), json(8));
}

#[test]
fn the_json_field_names_are_stable() {
    let json: Value =
        serde_json::from_str(&printed("--backends a --balance maglev --duration 2s --at 1s join=b --json"))
            .unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    let of = &json["algorithms"][0];
    assert_eq!(keys(&json), "algorithms scenario");
    assert_eq!(keys(&json["scenario"]), "arrivals backends clients duration_s rate seed");
    assert_eq!(keys(&json["scenario"]["backends"][0]), "name servers service weight");
    assert_eq!(
        keys(of),
        "algorithm backends connections cut events imbalance refused response_ms served waiting_ms"
    );
    assert_eq!(keys(&of["backends"][0]), "connections most name promised share utilization");
    assert_eq!(keys(&of["imbalance"]), "average peak variation");
    assert_eq!(keys(&of["waiting_ms"]), "max mean p50 p90 p99");
    assert_eq!(keys(&of["events"][0]), "at_s cut event ideal keys");
    assert_eq!(keys(&of["events"][0]["keys"]), "moved seen share");
}

#[test]
fn a_chart_is_an_svg_of_all_algorithms() {
    let folder = tempfile::tempdir().unwrap();
    let output = simulate_in(
        folder.path(),
        "--backends a*3,b --balance weighted,maglev --duration 2s --at 1s join=c --chart out.svg",
    );
    assert!(output.status.success() && !output.stdout.is_empty());
    let svg = std::fs::read_to_string(folder.path().join("out.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for word in ["weighted", "maglev", "waiting time", "1 s join=c"] {
        assert!(svg.contains(word), "{word} is not in the chart");
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
}

#[test]
fn wrong_arguments_are_exit_code_1_with_a_remedy() {
    for (arguments, word) in [
        ("", "--backends"),
        ("--backends a*x", "a*3"),
        ("--backends a --balance fair", "least-connections"),
        ("--backends a --service slow", "exp:10ms"),
        ("--backends a --service b=exp:1s", "there is no backend \"b\""),
        ("--backends a --servers 0", "unlimited"),
        ("--backends a --arrivals often", "poisson"),
        ("--backends a --clients few", "1000:zipf"),
        ("--backends a --rate fast", "1000/s"),
        ("--backends a --load 70", "70%"),
        ("--backends a --at 1s dwon=a", "down=NAME"),
        ("--backends a --at soon down=a", "10ms"),
        ("--backends a --at 1s", "2 values"),
        ("--backends a --duration 5s --at 10s down=a", "--duration"),
        ("--backends a --duration 5s --connections 5", "cannot be used with"),
        ("--backends a --load-factor 1", "1.25"),
        ("--backends a --load-factor 1.255", "two digits"),
        ("--backends a --slots 0", "--slots"),
        ("--backends a --hash-key name --balance maglev", "source-net"),
        ("--backends a --slots 5 --balance maglev,source-hash", "only ring-hash has a ring"),
        ("--backends a --virtual-nodes 5", "--virtual-nodes does nothing with --balance round-robin"),
        ("--backends a --load-factor 1.5 --balance round-robin,ewma", "source-hash, ring-hash and maglev"),
        ("--backends a --hash-key source-net", "--hash-key does nothing"),
        ("--backends a --chart out.gif", "such as out.svg"),
        ("--backends a --pool web", "--config"),
        ("-c none.yaml", "No such file"),
    ] {
        let output = simulate(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "{arguments}: {error}");
        assert!(error.contains(word), "{arguments}: {word} is not in\n{error}");
    }
}

#[test]
fn a_pool_of_a_configuration_is_simulated_if_its_backends_are_static() {
    let folder = tempfile::tempdir().unwrap();
    let backends =
        "{static: [{address: 127.0.0.1:1, name: big, weight: 3}, {address: 127.0.0.1:2, name: small}]}";
    let configuration = format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}\n\
         pools:\n  web: {{balance: maglev, discover: [{backends}]}}\n  \
         found: {{discover: [{{dns: backend:5000}}]}}\n"
    );
    std::fs::write(folder.path().join("p.yaml"), configuration).unwrap();
    let run = |arguments: &str| {
        let output = simulate_in(folder.path(), &format!("-c p.yaml --connections 1000 {arguments}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    let (code, json, error) = run("--pool web --json");
    assert_eq!((code, &*error), (0, ""));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["algorithms"][0]["algorithm"], "maglev");
    assert_eq!(
        (&json["scenario"]["backends"][0]["name"], &json["scenario"]["backends"][0]["weight"]),
        (&"big".into(), &3.into())
    );
    for (arguments, word) in [
        ("", "--pool found or web"),
        ("--pool wbe", "there is no pool \"wbe\""),
        ("--pool found", "by the name backend, which a simulation cannot"),
    ] {
        let (code, _, error) = run(arguments);
        assert!(code == 1 && error.contains(word), "{arguments}: {word} is not in\n{error}");
    }
    assert_eq!(run("--pool found --backends x,y").0, 0);
}

#[test]
fn backends_of_other_zones_are_left_out_of_a_pool_that_prefers_one() {
    let folder = tempfile::tempdir().unwrap();
    let backends = "{static: [{address: 127.0.0.1:1, name: a, zone: here}, {address: 127.0.0.1:2, name: b, zone: there}, \
                    {address: 127.0.0.1:3, name: c}, {address: 127.0.0.1:4, name: d, zone: there}]}";
    for (zone, left_out, names) in [
        ("here", "left out, as in other zones than here: b and d\n", &["a", "c"][..]),
        ("nowhere", "left out, as in other zones than nowhere: a, b and d\n", &["c"]),
    ] {
        let configuration = format!(
            "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}\n\
             pools:\n  web: {{zone: {zone}, discover: [{backends}]}}\n"
        );
        std::fs::write(folder.path().join("p.yaml"), configuration).unwrap();
        let output = simulate_in(folder.path(), "-c p.yaml --connections 1000 --json");
        assert_eq!(String::from_utf8_lossy(&output.stderr), left_out);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let simulated = json["scenario"]["backends"].as_array().unwrap();
        assert_eq!(simulated.iter().map(|one| one["name"].as_str().unwrap()).collect::<Vec<_>>(), names);
    }
}

// The following three are the commands and claims of the documentation of `pointsman::simulate`.

#[test]
fn round_robin_does_badly_when_connections_live_for_very_different_times() {
    let four = "--backends a,b,c,d --balance round-robin,least-connections --connections 50000";
    let of = figures(&format!("{four} --service pareto:10ms"));
    assert!(p99_wait(&of("round-robin")) > 5.0 * p99_wait(&of("least-connections")));
    let of = figures(&format!("{four} --service fixed:10ms --arrivals steady"));
    assert_eq!((p99_wait(&of("round-robin")), p99_wait(&of("least-connections"))), (0.0, 0.0));
}

#[test]
fn sticky_clients_cost_evenness_and_a_load_factor_recovers_most_of_it() {
    let four = "--backends a,b,c,d --clients 1000:zipf --duration 40s --at 20s down=b --balance";
    let of = figures(&format!("{four} least-connections,source-hash,ring-hash,maglev"));
    let least = p99_wait(&of("least-connections"));
    assert!(["source-hash", "ring-hash", "maglev"].iter().all(|name| p99_wait(&of(name)) > 10.0 * least));
    assert!(["ring-hash", "maglev"].iter().all(|name| (0.2..0.3).contains(&moved(&of(name)))));
    assert!(moved(&of("source-hash")) > 0.3);
    let bounded = figures(&format!("{four} ring-hash --load-factor 1.25"));
    assert!(p99_wait(&bounded("ring-hash")) < 2.0 * least);
}

#[test]
fn one_more_backend_does_not_always_help() {
    let balance = "--rate 500/s --balance round-robin,least-connections,ewma";
    let two = figures(&format!("--backends a,b {balance}"));
    let three = figures(&format!("--backends a,b,c --service c=exp:50ms {balance}"));
    assert!(p99_wait(&three("round-robin")) > 100.0 * p99_wait(&two("round-robin")));
    assert!(p99_wait(&three("least-connections")) < p99_wait(&two("least-connections")));
    assert!(p99_response(&three("least-connections")) > 1.5 * p99_response(&two("least-connections")));
    let slow = |algorithm| three(algorithm)["backends"][2]["share"].as_f64().unwrap();
    assert!(slow("ewma") < slow("least-connections") && slow("least-connections") < slow("round-robin"));
}

#[test]
fn a_chart_can_be_a_png() {
    let folder = tempfile::tempdir().unwrap();
    let output = simulate_in(folder.path(), "--backends a,b --connections 1000 --chart out.png");
    assert!(output.status.success(), "{output:?}");
    let file = std::fs::read(folder.path().join("out.png")).unwrap();
    assert!(file.starts_with(b"\x89PNG\r\n\x1a\n") && file.ends_with(b"IEND\xaeB`\x82"));
}
