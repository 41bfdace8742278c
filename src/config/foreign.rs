//! Configurations of other programs: a file in their format is recognized, and their words lead to ours.

use super::problem::{FilePosition, Problem};

/// A program whose configuration may be taken for ours.
struct Program {
    name: &'static str,
    /// Whether a line, which is neither empty nor a comment, can only be from a file of this program. `first`: it is the
    /// first such line.
    has: fn(line: &str, first: bool) -> bool,
    /// How its parts are called here.
    here: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "HAProxy",
        has: |line, first| {
            let section =
                ["global", "defaults", "frontend", "backend", "listen", "resolvers", "peers", "userlist"];
            first && line.split_whitespace().next().is_some_and(|word| section.contains(&word))
        },
        here: "a `frontend` is a listener; a `backend` with its `server` lines is a pool, and `check` is `health`",
    },
    Program {
        name: "nginx",
        has: |line, first| {
            // A key of YAML, whose value may begin with a brace, ends with a colon.
            let directive = line.split_whitespace().next().is_some_and(|word| !word.ends_with(':'));
            first && directive && line.ends_with(['{', ';']) && !line.starts_with(['{', '['])
        },
        here: "a `server` with `listen` is a listener, an `upstream` is a pool",
    },
    Program {
        name: "Envoy",
        has: |line, _| ["static_resources:", "dynamic_resources:"].iter().any(|key| line.starts_with(key)),
        here: "a listener with its filter chain is a listener, a cluster is a pool",
    },
    Program {
        name: "Traefik",
        has: |line, _| ["entryPoints:", "[entryPoints", "[tcp."].iter().any(|start| line.starts_with(start)),
        here: "an entry point with its router is a listener, a service is a pool",
    },
    Program {
        name: "Docker Compose",
        has: |line, _| line == "services:",
        here: "Pointsman finds the containers of a service by its name: `discover: [{dns: SERVICE:PORT}]`",
    },
];

/// The problem of a file in the format of another program; `None`: it is in no such format.
pub(super) fn recognize(text: &str) -> Option<Problem> {
    // Only lines that are not indented: the same words may be names of listeners and pools.
    let outer = |line: &&str| !line.starts_with([' ', '\t', '#']) && !line.trim().is_empty();
    let first = text.lines().position(|line| outer(&line));
    let mut lines = text.lines().map(str::trim_end).enumerate().filter(|(_, line)| outer(line));
    let (index, program) = lines.find_map(|(index, line)| {
        let program = PROGRAMS.iter().find(|program| (program.has)(line, Some(index) == first))?;
        Some((index, program))
    })?;
    let message = format!(
        "this is a configuration of {}, not of Pointsman: {}; `pointsman schema --example` prints a file with all keys",
        program.name, program.here
    );
    Some(Problem { at: Some(FilePosition { line: index + 1, column: 1 }), message })
}

/// Keys of other programs, the key here, and how it is written.
const KEYS: &[(&[&str], &str, &str)] = &[
    (
        &["frontend", "frontends", "server", "servers", "entrypoints", "listen"],
        "listeners",
        "listeners: {NAME: …}",
    ),
    (
        &["backend", "backends", "upstream", "upstreams", "cluster", "clusters", "services", "targets"],
        "pools",
        "pools: {NAME: …}",
    ),
    (&["logging"], "log", "log: {level: info}"),
    (&["global"], "runtime", "runtime: {workers: auto}"),
    (&["stats", "api", "dashboard"], "admin", "admin: {bind: 127.0.0.1:9900}"),
    (&["listen", "address", "addresses", "port", "socket_address"], "bind", "bind: 0.0.0.0:8080"),
    (
        &[
            "backend",
            "default_backend",
            "use_backend",
            "proxy_pass",
            "upstream",
            "cluster",
            "service",
            "target",
        ],
        "pool",
        "pool: web",
    ),
    (&["maxconn", "max_conns", "connection_limit"], "max_connections", "max_connections: 10000"),
    (
        &["accept-proxy", "accept_proxy", "proxyprotocol", "listener_filters"],
        "proxy_protocol",
        "proxy_protocol: {trust: [10.0.0.0/8]}",
    ),
    (
        &["rate_limit", "ratelimit", "limit_conn", "limit_req"],
        "per_client",
        "per_client: {connections: 100, rate: 10/s}",
    ),
    (
        &[
            "servers",
            "server",
            "backends",
            "upstream",
            "hosts",
            "endpoints",
            "targets",
            "load_assignment",
            "loadbalancer",
        ],
        "discover",
        "discover: [{static: [10.0.0.1:5000]}]",
    ),
    (
        &[
            "healthcheck",
            "health_check",
            "health_checks",
            "healthchecks",
            "check",
            "option httpchk",
            "httpchk",
        ],
        "health",
        "health: {http: /health}",
    ),
    (
        &["algorithm", "lb_policy", "lb_algorithm", "strategy", "load_balancing", "method"],
        "balance",
        "balance: round-robin",
    ),
    (
        &["sticky", "stick", "stick-table", "session_affinity", "persistence", "ip_hash"],
        "hash",
        "balance: maglev, and hash: {key: source-ip}",
    ),
    (
        &["outlier_detection", "max_fails", "circuit_breaker", "observe"],
        "eject",
        "eject: {failures: 5, for: 30s}",
    ),
    (&["retries", "max_connect_attempts", "proxy_next_upstream"], "connect", "connect: {attempts: 3}"),
    (&["connect_timeout", "proxy_connect_timeout"], "connect", "connect: {timeout: 1s}"),
    (&["timeout", "proxy_timeout", "idle_timeout"], "timeouts", "timeouts: {idle: 1h}"),
    (&["slowstart", "slow-start"], "slow_start", "slow_start: 30s"),
    (&["send-proxy", "send_proxy", "send-proxy-v2"], "send_proxy_protocol", "send_proxy_protocol: v2"),
    (
        &["maxconn", "max_conns", "max_connections", "circuit_breakers"],
        "limits",
        "limits: {connections: 100}",
    ),
    (&["interval", "inter", "period"], "every", "every: 2s"),
    (&["fastinter"], "fast_every", "fast_every: 500ms"),
    (&["unhealthy_threshold", "unhealthythreshold", "fails", "max_fails", "retries"], "fall", "fall: 3"),
    (&["healthy_threshold", "healthythreshold", "passes"], "rise", "rise: 2"),
    (&["uri", "url", "path", "http_health_check"], "http", "http: /health"),
    (&["resolver", "resolvers", "nameserver"], "server", "server: 127.0.0.11"),
];

/// How a key of another program is written here, if that key is one of `known`.
pub(super) fn translate(key: &str, known: &[&str]) -> Option<&'static str> {
    let key = key.to_lowercase();
    KEYS.iter()
        .find(|(theirs, ours, _)| theirs.contains(&&*key) && known.contains(ours))
        .map(|(.., written)| *written)
}

/// Algorithms as other programs call them.
const WORDS: &[(&[&str], &str)] = &[
    (&["rr", "roundrobin", "static-rr"], "round-robin"),
    (&["wrr", "weighted-round-robin"], "weighted"),
    (&["leastconn", "least-conn", "least-request", "lc", "wlc"], "least-connections"),
    (&["p2c", "power-of-two"], "random-two"),
    (&["source", "ip-hash", "hash", "sh"], "source-hash"),
    (&["consistent", "consistent-hash", "ketama"], "ring-hash"),
    (&["peak-ewma", "least-time", "latency"], "ewma"),
];

/// What a word of another program is called here, if that is one of `known`.
pub(super) fn word(given: &str, mut known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let given = given.to_lowercase().replace('_', "-");
    let translated = WORDS.iter().find(|(theirs, _)| theirs.contains(&&*given)).map(|(_, ours)| *ours);
    known.find(|word| Some(*word) == translated || *word == given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn problems(text: &str) -> Vec<String> {
        let report = parse("p.yaml", text, &|_| None).unwrap_err();
        report.problems().iter().map(|problem| report.line(problem)).collect()
    }

    #[test]
    fn files_of_other_programs_are_recognized() {
        for (text, program) in [
            ("# ours\nglobal\n    log stdout\n\nfrontend web\n    bind *:80\n", "HAProxy"),
            ("listen web\n  bind *:80\n  server a 10.0.0.1:80 check\n", "HAProxy"),
            ("stream {\n  upstream b { server 10.0.0.1:80; }\n}\n", "nginx"),
            ("worker_processes 1;\nevents {}\n", "nginx"),
            ("admin:\n  address: x\nstatic_resources:\n  listeners: []\n", "Envoy"),
            ("entryPoints:\n  web:\n    address: ':80'\n", "Traefik"),
            ("[entryPoints]\n  [entryPoints.web]\n    address = ':80'\n", "Traefik"),
            ("services:\n  web: {image: x}\n", "Docker Compose"),
        ] {
            let problems = problems(text);
            let [problem] = &problems[..] else { panic!("{problems:?}") };
            assert!(
                problem.contains(&format!("this is a configuration of {program}, not of Pointsman")),
                "{problem}"
            );
        }
    }

    #[test]
    fn names_of_our_own_are_not_taken_for_another_program() {
        for name in ["global", "services", "frontend", "stream"] {
            let text = format!(
                "{{listeners: {{{name}: {{bind: '127.0.0.1:1', pool: {name}}}}}, pools: {{{name}: {{discover: [{{dns: a:1}}]}}}}}}"
            );
            parse("p.yaml", &text, &|_| None).unwrap();
            assert_eq!(recognize(&text), None);
        }
    }

    #[test]
    fn a_map_in_braces_is_not_taken_for_nginx() {
        for text in ["listeners: {", "pools: {\n  web: {discover: [{dns: a:1}]},\n}\n"] {
            assert_eq!(recognize(text), None, "{text}");
        }
    }

    #[test]
    fn keys_of_other_programs_lead_to_ours() {
        let problems = problems(
            "listeners: {web: {listen: 80, backend: web, maxconn: 5}}\nbackends: {}\npools:\n  web: {servers: [a], healthcheck: /, algorithm: rr}\n",
        );
        let hint = |key: &str, place: &str, ours: &str| {
            let wanted = format!("unknown key {key:?} in {place}; here it is `{ours}`");
            assert!(problems.iter().any(|problem| problem.ends_with(&wanted)), "{wanted}: {problems:#?}");
        };
        hint("listen", "listener \"web\"", "bind: 0.0.0.0:8080");
        hint("backend", "listener \"web\"", "pool: web");
        hint("maxconn", "listener \"web\"", "max_connections: 10000");
        hint("backends", "the configuration", "pools: {NAME: …}");
        hint("servers", "pool \"web\"", "discover: [{static: [10.0.0.1:5000]}]");
        hint("healthcheck", "pool \"web\"", "health: {http: /health}");
        hint("algorithm", "pool \"web\"", "balance: round-robin");
    }

    #[test]
    fn each_translation_is_of_a_key_that_exists_and_is_not_a_key_itself() {
        let schema = crate::config::schema::schema().to_string();
        for (theirs, ours, written) in KEYS {
            assert!(schema.contains(&format!("\"{ours}\":")), "{ours}");
            assert!(written.contains(&format!("{ours}:")), "{written}");
            assert!(!theirs.contains(ours), "{ours}");
        }
    }

    #[test]
    fn algorithms_of_other_programs_lead_to_ours() {
        for (theirs, ours) in
            [("leastconn", "least-connections"), ("ROUND_ROBIN", "round-robin"), ("ip_hash", "source-hash")]
        {
            let text = format!(
                "listeners: {{l: {{bind: '127.0.0.1:1', pool: p}}}}\npools: {{p: {{balance: {theirs}, discover: [{{dns: a:1}}]}}}}"
            );
            let problem = problems(&text).remove(0);
            assert!(problem.contains(&format!("(did you mean {ours:?}?)")), "{problem}");
        }
    }
}
