//! Checks for the role of a database server, against real servers. Except with the Compose files, Pointsman runs on the
//! host, which reaches the addresses of containers.

use std::path::Path;

use super::*;
use crate::engine::{bare_engine, image, try_docker};
use crate::support::{Lb, connect_to};

const REDIS: &str = "redis:7";
const REDIS_PORT: u16 = 6379;
const POSTGRES: &str = "postgres:15";
const POSTGRES_PORT: u16 = 5432;

/// The states of the backends of `pool`, by address, with the cause of each state and the last errors of checks.
fn states(lb: &Lb, pool: &str) -> BTreeMap<String, (String, String)> {
    let status = lb.status();
    let pools = status["pools"].as_array().unwrap();
    let backends = pools.iter().find(|one| one["name"] == pool).unwrap()["backends"].as_array().unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let words = |b: &serde_json::Value| {
        format!("{} {}", text(&b["cause"]), b["last_check"]["error"].as_str().unwrap_or(""))
    };
    backends.iter().map(|b| (text(&b["address"]), (text(&b["state"]), words(b)))).collect()
}

/// Waits until the backend has this state, with a cause or error that contains `words`.
fn when(lb: &Lb, pool: &str, backend: SocketAddr, state: &str, words: &str) {
    // A server may start, stop and recover slowly.
    let deadline = Instant::now() + 2 * TIME_LIMIT;
    loop {
        let (now, error) = states(lb, pool).remove(&backend.to_string()).unwrap();
        if now == state && error.contains(words) {
            return;
        }
        assert!(Instant::now() < deadline, "{backend} in {pool} is {now} ({error}), not {state} ({words})");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A connection through one of the balancer's listeners.
fn connect(lb: &Lb, listener: &str) -> TcpStream {
    connect_to(lb.address(listener)).unwrap()
}

/// Listeners and pools for the backends, by name, each with its check.
fn config(backends: &[SocketAddr], pools: &[(&str, &str)]) -> String {
    let discover = support::static_list(backends);
    let mut text = "listeners:\n".to_owned();
    for (name, _) in pools {
        text += &format!("  {name}: {{bind: 127.0.0.1:0, pool: {name}}}\n");
    }
    text += "pools:\n";
    for (name, check) in pools {
        text += &format!(
            "  {name}:\n    discover: {discover}\n    on_down: close\n    \
             health: {{{check}, every: 3s, timeout: 3s, fast_every: 100ms, fall: 2, rise: 1}}\n"
        );
    }
    text
}

fn redis_server() -> (Container, SocketAddr) {
    let server = ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""];
    let container = Container::run("redis", &[&[REDIS][..], &server].concat());
    let address = SocketAddr::new(ip(&container.0), REDIS_PORT);
    eventually("Redis answers", || {
        let answer = redis_command(&mut connect_to(address).ok()?, "PING").ok()?;
        (answer == "+PONG").then_some(())
    });
    (container, address)
}

/// Sends Redis a command; returns its reply of one line.
fn redis_command(stream: &mut TcpStream, command: &str) -> std::io::Result<String> {
    stream.set_read_timeout(Some(TIME_LIMIT))?;
    stream.write_all(format!("{command}\r\n").as_bytes())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&answer).trim_end().to_owned())
}

/// Sends Redis commands on a new connection; they must succeed.
fn redis_commands(address: SocketAddr, commands: &[&str]) {
    let mut stream = connect_to(address).unwrap();
    for command in commands {
        assert_eq!(redis_command(&mut stream, command).unwrap(), "+OK", "{command}");
    }
}

#[test]
fn an_exchange_with_a_real_redis_passes_while_it_answers_pong() {
    let Some(_engine) = bare_engine() else { return };
    if !image(REDIS) {
        return;
    }
    let (_server, address) = redis_server();
    let lb = Lb::start(&config(&[address], &[("redis", r#"exchange: {send: "PING\r\n", expect: "+PONG"}"#)]));
    when(&lb, "redis", address, "up", "");
    assert_eq!(redis_command(&mut connect(&lb, "redis"), "SET a 1").unwrap(), "+OK");
    redis_commands(address, &["CONFIG SET requirepass secret"]);
    when(&lb, "redis", address, "down", r#"answered "-NOAUTH Authentication required.\r\n""#);
    redis_commands(address, &["AUTH secret", "CONFIG SET requirepass \"\""]);
    when(&lb, "redis", address, "up", "");
}

#[test]
fn clients_of_a_redis_master_that_is_demoted_are_moved_to_the_new_one() {
    let Some(_engine) = bare_engine() else { return };
    if !image(REDIS) {
        return;
    }
    let ((_a, a), (b_server, b)) = (redis_server(), redis_server());
    let replica_of = |address: SocketAddr| format!("REPLICAOF {} {}", address.ip(), address.port());
    redis_commands(b, &[&replica_of(a)]);
    let lb = Lb::start(&config(&[a, b], &[("master", "redis: master"), ("replica", "redis: replica")]));
    when(&lb, "master", a, "up", "");
    when(&lb, "master", b, "down", "it is a replica, not the master");
    when(&lb, "replica", b, "up", "");
    when(&lb, "replica", a, "down", "it is the master, not a replica");
    let mut writer = connect(&lb, "master");
    assert_eq!(redis_command(&mut writer, "SET colour red").unwrap(), "+OK");
    let mut reader = connect(&lb, "replica");
    assert!(redis_command(&mut reader, "SET colour blue").unwrap().starts_with("-READONLY"));

    redis_commands(b, &["REPLICAOF NO ONE"]);
    redis_commands(a, &[&replica_of(b)]);
    assert_eq!(writer.read(&mut [0]).unwrap(), 0, "the old master's client is sent away");
    assert_eq!(reader.read(&mut [0]).unwrap(), 0, "the new master is no replica");
    when(&lb, "master", a, "down", "it is a replica");
    when(&lb, "master", b, "up", "");
    for _ in 0..4 {
        assert_eq!(redis_command(&mut connect(&lb, "master"), "SET colour green").unwrap(), "+OK");
    }
    when(&lb, "replica", a, "up", "");
    assert!(
        lb.when_logged("reason=backend_down").contains("pool=master") || lb.log().contains("pool=replica")
    );

    // A replica without a master is still a replica if it serves.
    docker(&["kill", &b_server.0]);
    when(&lb, "master", b, "down", "");
    eventually("the replica has lost its master", || {
        let mut stream = connect_to(a).unwrap();
        stream.write_all(b"INFO replication\r\nQUIT\r\n").unwrap();
        let mut info = String::new();
        stream.read_to_string(&mut info).unwrap();
        info.contains("master_link_status:down").then_some(())
    });
    let last_pass = || {
        let status = lb.status();
        let backends = status["pools"][1]["backends"].as_array().unwrap().clone();
        let check = backends.iter().find(|b| b["address"] == a.to_string()).unwrap()["last_check"].clone();
        assert_eq!(check["kind"], "redis");
        // A single one may time out on a busy machine.
        (check["passed"] == true).then(|| check["at"].as_f64().unwrap())
    };
    let now = eventually("a check passes", last_pass);
    eventually("more checks pass", || (last_pass()? > now + 1.0).then_some(()));
    when(&lb, "replica", a, "up", "");
    redis_commands(a, &["CONFIG SET replica-serve-stale-data no"]);
    when(&lb, "replica", a, "down", "PING is refused: \"MASTERDOWN Link with MASTER is down");
}

/// The result of a query for one value.
fn query(address: SocketAddr, query: &str) -> Result<String, String> {
    login(address, "secret", query)
}

/// The same with this password.
fn login(address: SocketAddr, password: &str, query: &str) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let session = async {
        let stream = tokio::net::TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let mut login = tokio_postgres::Config::new();
        login.user("postgres").dbname("postgres").password(password);
        let connected = login.connect_raw(stream, tokio_postgres::NoTls).await;
        let (client, connection) = connected.map_err(|error| format!("{error:?}"))?;
        let answer = async {
            let rows = client.simple_query(query).await.map_err(|error| format!("{error:?}"))?;
            drop(client);
            let row = rows.iter().find_map(|row| match row {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            row.map(str::to_owned).ok_or("no row".to_owned())
        };
        tokio::join!(answer, connection).0
    };
    runtime.block_on(async {
        let timeout = tokio::time::timeout(TIME_LIMIT, session).await;
        timeout.unwrap_or_else(|_| Err(format!("{address} does not answer within {TIME_LIMIT:?}")))
    })
}

/// PostgreSQL servers with these names, on a network of their own.
fn postgres_servers<const N: usize>(names: [&str; N]) -> (Network, [Container; N], [SocketAddr; N]) {
    let network = Network::create(names[0], &[]);
    let arguments = ["--network", &network.0, "-e", "POSTGRES_PASSWORD=secret", POSTGRES];
    let servers = names.map(|name| Container::run(name, &arguments));
    let addresses = servers.each_ref().map(|server| SocketAddr::new(ip(&server.0), POSTGRES_PORT));
    (network, servers, addresses)
}

/// The host's address on a network.
fn gateway(network: &Network) -> String {
    docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", &network.0])
}

#[test]
fn a_postgres_server_is_up_only_in_the_pool_of_its_role() {
    let Some(_engine) = bare_engine() else { return };
    if !image(POSTGRES) {
        return;
    }
    // On its own network it keeps its address.
    let (_network, [server], [address]) = postgres_servers(["postgres"]);
    let inside = |command: &str| docker(&["exec", "-u", "postgres", &server.0, "sh", "-c", command]);
    let check = |role: &str, file: &str| {
        format!("postgres: {{role: {role}, password_file: {file}, require_auth: [scram-sha-256, none]}}")
    };
    let pools = [
        ("primary", &check("primary", "secret")[..]),
        ("standby", &check("standby", "secret")),
        ("wrong", &check("any", "wrong")),
        ("trusted", "postgres: any"),
        ("strict", "postgres: {role: any, password_file: secret}"),
    ];
    let lb = Lb::start_in(&config(&[address], &pools), |folder: &Path| {
        std::fs::write(folder.join("secret"), "secret\n").unwrap();
        std::fs::write(folder.join("wrong"), "guess\n").unwrap();
    });
    when(&lb, "primary", address, "up", "");
    when(&lb, "standby", address, "down", "it is the primary, not a standby");
    when(
        &lb,
        "wrong",
        address,
        "down",
        "password authentication failed for user \"postgres\"; check the user and password_file",
    );
    when(&lb, "trusted", address, "down", "it requires a password, and the check has no password_file");
    answers("f", || query(lb.address("primary"), "SELECT pg_is_in_recovery()"));
    when(&lb, "strict", address, "up", "");
    inside(
        "echo 'local all all trust\nhost all all all trust' >\"$(psql -XAtc 'SHOW hba_file')\"; psql -c 'SELECT pg_reload_conf()'",
    );
    when(&lb, "trusted", address, "up", "");
    when(&lb, "strict", address, "down", "requires no password");
    when(&lb, "primary", address, "up", "");
    // A check sends Terminate, so that the server logs no broken connection.
    assert!(!logs(&server.0).contains("unexpected EOF on client connection"), "{}", logs(&server.0));

    inside("touch \"$(psql -XAtc 'SHOW data_directory')/standby.signal\"");
    let mut writer = connect(&lb, "primary");
    docker(&["restart", "-t", "30", &server.0]);
    assert_eq!(ip(&server.0), address.ip(), "it has come back where it was");
    assert_eq!(writer.read(&mut [0]).unwrap_or(0), 0);
    when(&lb, "standby", address, "up", "");
    when(&lb, "primary", address, "down", "it is a standby, not the primary");
    answers("t", || query(lb.address("standby"), "SELECT pg_is_in_recovery()"));

    // A promotion does not close connections; `on_down` does.
    let mut reader = connect(&lb, "standby");
    eventually("the reader is routed", || lb.logged(&["routed", "pool=standby"]).get(1).map(|_| ()));
    assert_eq!(query(address, "SELECT pg_promote()").as_deref(), Ok("t"));
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    when(&lb, "primary", address, "up", "");
    when(&lb, "standby", address, "down", "it is the primary, not a standby");
    lb.when_logged("reason=backend_down");
    answers("1", || query(lb.address("primary"), "SELECT 1"));
}

/// Repeats a query until it returns the wanted value: a cluster starts slowly.
fn answers(wanted: &str, query: impl Fn() -> Result<String, String>) {
    let deadline = Instant::now() + 2 * TIME_LIMIT;
    loop {
        let answer = query();
        if answer.as_deref() == Ok(wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{answer:?}, not {wanted}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_redis_demo_routes_by_role() {
    let Some(_engine) = engine() else { return };
    if !image(REDIS) {
        return;
    }
    let project = Project::new("compose/redis.yaml", 0);
    project.compose(&["up", "-d"]);
    let query = |port: &'static str, command: &'static str| {
        let address = project.published("pointsman", port);
        move || {
            let mut stream = connect_to(address).map_err(|error| error.to_string())?;
            redis_command(&mut stream, command).map_err(|error| error.to_string())
        }
    };
    answers("+OK", query("6379", "SET colour red"));
    answers("-READONLY You can't write against a read only replica.", query("6380", "SET colour blue"));
    let replicaof = |server: &str, words: &[&str]| {
        project.exec(server, &[&["redis-cli", "replicaof"], words].concat());
    };
    replicaof("redis-2", &["no", "one"]);
    replicaof("redis-1", &["redis-2", "6379"]);
    // From now on, only the new master replicates writes to the other server.
    let second = project.container("redis-2");
    redis_commands((ip(&second), REDIS_PORT).into(), &["SET who second"]);
    answers("$6", query("6380", "GET who"));
    answers("+OK", query("6379", "SET colour green"));
}

#[test]
fn the_postgres_demo_follows_a_failover() {
    let Some(_engine) = engine() else { return };
    if !image(POSTGRES) {
        return;
    }
    let project = Project::new("compose/postgres.yaml", 0);
    project.compose(&["up", "-d"]);
    let query = |port: &str| {
        let address = project.published("pointsman", port);
        move || login(address, "postgres", "SELECT pg_is_in_recovery()")
    };
    answers("f", query("5432"));
    answers("t", query("5433"));
    docker(&["kill", &project.container("postgres-1")]);
    project.exec("postgres-2", &["psql", "-U", "postgres", "-c", "SELECT pg_promote()"]);
    answers("f", query("5432"));
    // Not by the log: the standby may have been down before, because its checks timed out.
    let admin = project.published("pointsman", "9900");
    eventually("the promoted server leaves the standby pool", || {
        let status: serde_json::Value =
            serde_json::from_str(&http_get(admin, "/api/v1/status").ok()?.1).ok()?;
        let standby = status["pools"].as_array()?.iter().find(|pool| pool["name"] == "standby")?;
        let left = |backend: &serde_json::Value| {
            let error = backend["last_check"]["error"].as_str().unwrap_or_default();
            backend["state"] == "down" && error.contains("it is the primary, not a standby")
        };
        standby["backends"].as_array()?.iter().any(left).then_some(())
    });
}

#[test]
fn psql_reaches_the_server_that_it_names_over_tls() {
    let Some(_engine) = bare_engine() else { return };
    if !image(POSTGRES) {
        return;
    }
    let (network, [server], [address]) = postgres_servers(["postgres-tls"]);
    let gateway = gateway(&network);
    let lb = Lb::start(&format!(
        "listeners: {{db: {{bind: '0.0.0.0:0', sni: {{db.example.com: db}}, postgres: true}}}}\n\
         pools: {{db: {{discover: {}, health: {{tcp: {{}}, every: 200ms}}, connect: {{timeout: 5s}}}}}}\n",
        support::static_list(&[address])
    ));
    let inside = |command: &str| docker(&["exec", "-u", "postgres", &server.0, "sh", "-c", command]);
    // The server accepts local connections once it is initialized, and TLS once it has a certificate.
    answers("1", || query(address, "SELECT 1"));
    let certificate = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=db.example.com -keyout server.key \
                       -out server.crt 2>/dev/null && chmod 600 server.key";
    inside(&format!("cd \"$(psql -XAtc 'SHOW data_directory')\" && {certificate}"));
    inside("psql -qc 'ALTER SYSTEM SET ssl = on' && psql -qc 'SELECT pg_reload_conf()'");
    let psql = |name: &str, settings: &str| {
        let port = lb.address("db").port();
        let target = format!("host={name} hostaddr={gateway} port={port} user=postgres {settings}");
        let query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let command = format!("PGPASSWORD=secret psql -XAtw -d '{target}' -c '{query}' 2>&1 || true");
        inside(&command)
    };
    eventually("the server offers TLS", || (psql("db.example.com", "sslmode=require") == "t").then_some(()));
    let line = lb.when_logged("server_name=db.example.com");
    assert!(line.contains("rule=\"sni db.example.com\""), "{line}");
    let other = psql("other.example.com", "sslmode=require");
    assert!(other.contains("unrecognized name"), "{other}");
    let plain = psql("db.example.com", "sslmode=disable");
    assert!(plain.contains("server closed the connection") || plain.contains("reset"), "{plain}");
    lb.when_logged("the first bytes are not a TLS ClientHello");
}

#[test]
fn checks_verify_the_certificates_of_databases() {
    let Some(_engine) = bare_engine() else { return };
    if !image(POSTGRES) || !image(REDIS) {
        return;
    }
    let folder = configuration("");
    let file = |name: &str| folder.path().join(name);
    let (_network, [postgres], [address]) = postgres_servers(["checks-tls"]);
    let inside = |command: &str| docker(&["exec", "-u", "postgres", &postgres.0, "sh", "-c", command]);
    answers("1", || query(address, "SELECT 1"));
    let names = format!("subjectAltName=IP:{},DNS:redis.example.com", address.ip());
    let certificate = format!(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext {names} \
         -addext basicConstraints=critical,CA:FALSE -keyout server.key -out server.crt 2>/dev/null"
    );
    let data = "cd \"$(psql -XAtc 'SHOW data_directory')\"";
    inside(&format!("{data} && {certificate} && chmod 600 server.key"));
    for name in ["server.crt", "server.key"] {
        std::fs::write(file(name), inside(&format!("{data} && cat {name}"))).unwrap();
    }
    std::fs::write(file("secret"), "secret\n").unwrap();

    // Redis asks for a certificate too, unless it is configured otherwise.
    let mount = format!("{}:/tls:ro", folder.path().display());
    let tls = "redis-server --bind 0.0.0.0 --protected-mode no --save '' --port 0 --tls-port 6379 \
               --tls-cert-file /tls/server.crt --tls-key-file /tls/server.key --tls-ca-cert-file /tls/server.crt";
    let server: Vec<_> = tls.split_whitespace().map(|word| word.trim_matches('\'')).collect();
    let redis = Container::run("redis", &[&["-v", &mount, REDIS][..], &server].concat());
    let redis = SocketAddr::new(ip(&redis.0), REDIS_PORT);

    let [ca, key, secret] =
        ["server.crt", "server.key", "secret"].map(|name| file(name).display().to_string());
    let check = |check: &str, tls: &str| {
        format!("{{{check}, tls: {{{tls}}}, every: 3s, timeout: 3s, fast_every: 100ms, fall: 2, rise: 1}}")
    };
    let verified = format!("ca_file: {ca}");
    let identified = format!("{verified}, name: redis.example.com, cert_file: {ca}, key_file: {key}");
    let primary = format!("postgres: {{role: primary, password_file: {secret}}}");
    let pools = [
        ("postgres", address, check(&primary, &verified)),
        ("postgres-name", address, check(&primary, &format!("{verified}, name: other.example.com"))),
        ("redis", redis, check("redis: master", &identified)),
        ("redis-unknown", redis, check("redis: master", &format!("{verified}, name: redis.example.com"))),
        ("redis-plain", redis, "{redis: master, every: 1s}".to_owned()),
    ];
    let mut text = "listeners: {l: {bind: 127.0.0.1:0, pool: postgres}}\npools:\n".to_owned();
    for (name, address, check) in &pools {
        let discover = support::static_list(&[*address]);
        text += &format!("  {name}: {{discover: {discover}, health: {check}}}\n");
    }
    let lb = Lb::start(&text);
    when(&lb, "postgres", address, "down", "it offers no TLS");
    inside("psql -qc 'ALTER SYSTEM SET ssl = on' && psql -qc 'SELECT pg_reload_conf()'");
    when(&lb, "postgres", address, "up", "");
    when(&lb, "postgres-name", address, "down", "not valid for name");
    when(&lb, "redis", redis, "up", "");
    when(&lb, "redis-unknown", redis, "down", "CertificateRequired");
    when(&lb, "redis-plain", redis, "down", "");
}

#[test]
fn an_interrupt_of_psql_cancels_the_query_whichever_server_has_it() {
    let Some(_engine) = bare_engine() else { return };
    if !image(POSTGRES) {
        return;
    }
    let (network, servers, addresses) = postgres_servers(["cancel-1", "cancel-2"]);
    let gateway = gateway(&network);
    let config = format!(
        "listeners: {{db: {{bind: '0.0.0.0:0', pool: db}}}}\n\
         pools: {{db: {{discover: {}, health: {{postgres: {{role: any, password_file: secret}}, every: 1s}}}}}}\n",
        support::static_list(&addresses)
    );
    let lb =
        Lb::start_in(&config, |folder: &Path| std::fs::write(folder.join("secret"), "secret\n").unwrap());
    for address in addresses {
        when(&lb, "db", address, "up", "");
    }
    let target = format!("host={gateway} port={} user=postgres", lb.address("db").port());
    let client = &servers[0].0;
    // The request has a connection of its own, so the rotation sends it to the other server.
    for round in 0..4 {
        let query = format!("SELECT pg_sleep(600 + {round})");
        let psql = format!(
            "echo $$ >/tmp/pid; export PGPASSWORD=secret; exec psql -w -d '{target}' -c '{query}' 2>&1"
        );
        let active =
            format!("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '{query}'");
        let executes = |server: &Container| {
            docker(&["exec", "-u", "postgres", &server.0, "psql", "-XAtc", &active]) == "1"
        };
        let ended = std::thread::scope(|scope| {
            let session = scope.spawn(|| try_docker(&["exec", client, "sh", "-c", &psql]));
            eventually("a server executes the query", || servers.iter().any(executes).then_some(()));
            docker(&["exec", client, "sh", "-c", "kill -INT $(cat /tmp/pid)"]);
            session.join().unwrap()
        });
        assert!(ended.is_err(), "psql has a result: {ended:?}");
        let ours =
            |server: &Container| logs(&server.0).matches("canceling statement due to user request").count();
        eventually("the cancellation is logged", || {
            (servers.iter().map(ours).sum::<usize>() == round + 1).then_some(())
        });
    }
}
