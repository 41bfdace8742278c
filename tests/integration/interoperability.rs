//! Pointsman beside other programs: the PROXY protocol to and from HAProxy and nginx, TLS of OpenSSL and curl, and iperf3.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::backend::Backend;
use crate::support::{
    Lb, TIME_LIMIT, connect_to, end_child, eventually, free_port, http_get, output_of, skip, static_list,
};

/// Another program that serves from a folder of its own, until it is dropped.
pub(crate) struct Server {
    program: String,
    arguments: Vec<String>,
    child: Child,
    folder: TempDir,
}

impl Server {
    /// Starts `program` with a configuration file `conf` in its folder, and waits until it accepts at `ready`; `None` if
    /// it is not installed.
    pub(crate) fn start(
        program: &str,
        package: &str,
        arguments: &[&str],
        conf: &str,
        ready: SocketAddr,
    ) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("conf"), conf).unwrap();
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let child = match Self::spawn(program, &arguments, folder.path()) {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                skip(
                    "POINTSMAN_REQUIRE_TOOLS",
                    &format!("{program} is missing (`apt-get install {package}`)"),
                );
                return None;
            }
            Err(error) => panic!("{program}: {error}"),
        };
        let mut server = Self { program: program.to_owned(), arguments, child, folder };
        server.when_ready(ready);
        Some(server)
    }

    fn spawn(program: &str, arguments: &[String], folder: &Path) -> std::io::Result<Child> {
        let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log).spawn()
    }

    fn when_ready(&mut self, ready: SocketAddr) {
        eventually(&format!("{} accepts connections", self.program), || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} has ended: {status}\n{}", self.program, self.log());
            }
            connect_to(ready).ok()
        });
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        end_child(&mut self.child);
    }

    /// Starts it again in the same folder, and waits until it accepts at `ready`.
    pub(crate) fn restart(&mut self, ready: SocketAddr) {
        self.kill();
        self.child = Self::spawn(&self.program, &self.arguments, self.folder.path()).unwrap();
        self.when_ready(ready);
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        Lb::signal_to(self.child.id(), name);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end_child(&mut self.child);
        if std::thread::panicking() {
            eprintln!("--- the log of the server\n{}", self.log());
        }
    }
}

/// HAProxy with these frontends.
fn haproxy(sections: &str, ready: SocketAddr) -> Option<Server> {
    let conf = format!("defaults\n timeout client 20s\n timeout server 20s\n timeout connect 5s\n{sections}");
    Server::start("haproxy", "haproxy", &["-db", "-f", "conf"], &conf, ready)
}

/// nginx with its stream module, which Debian has as a file of its own.
fn nginx(sections: &str, ready: SocketAddr) -> Option<Server> {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    if !std::path::Path::new(module).exists() {
        skip("POINTSMAN_REQUIRE_TOOLS", "nginx has no stream module (`apt-get install libnginx-mod-stream`)");
        return None;
    }
    let conf = format!(
        "load_module {module};\ndaemon off; master_process off; error_log stderr; pid pid;\nevents {{}}\n{sections}"
    );
    Server::start("nginx", "nginx-light", &["-p", ".", "-c", "conf"], &conf, ready)
}

pub(crate) fn local_port() -> SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

/// Pointsman in front of one server.
fn balancer(backend: SocketAddr, listener: &str, pool: &str) -> Lb {
    Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p{listener}}}}}\npools: {{p: {{discover: {}{pool}}}}}\n",
        static_list(&[backend])
    ))
}

#[test]
fn haproxy_reads_our_headers_and_we_read_its() {
    // client → HAProxy → Pointsman → HAProxy, which answers.
    let (answering, front) = (local_port(), [local_port(), local_port(), local_port()]);
    let server = format!(
        "frontend answers\n mode http\n bind {answering} accept-proxy\n \
         http-request return content-type text/plain lf-string \"%[src]:%[src_port] %[dst]:%[dst_port] %[fc_pp_unique_id]\"\n"
    );
    let Some(_server) = haproxy(&server, answering) else { return };
    for version in ["v1", "v2"] {
        // Its checks pass with our header, also over HTTP.
        let health = format!(", send_proxy_protocol: {version}, health: {{http: /, every: 1s}}");
        let lb = balancer(answering, ", proxy_protocol: {trust: 127.0.0.1}", &health);
        lb.when_up(vec![answering.to_string()]);
        let to = lb.address("l");
        let sends = ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id,crc32c"];
        let sections = front.iter().zip(sends).map(|(address, send)| {
            format!(
                "listen in_{}\n mode tcp\n bind {address}\n unique-id-format id-%[src_port]\n server s {to} {send}\n",
                address.port()
            )
        });
        let Some(_front) = haproxy(&sections.collect::<String>(), front[2]) else { return };
        for (index, address) in front.into_iter().enumerate() {
            let stream = connect_to(address).unwrap();
            let client = stream.local_addr().unwrap();
            let (status, body) = crate::support::http_get_on(stream, "/").unwrap();
            let id =
                if version == "v2" && index == 2 { format!("id-{}", client.port()) } else { String::new() };
            assert_eq!((status, body), (200, format!("{client} {address} {id}")), "{version}");
            lb.when_logged(&format!("client={client} "));
        }
    }
}

#[test]
fn haproxy_reads_the_server_name_and_the_identifier_in_our_headers() {
    let folder = tempfile::tempdir().unwrap();
    if !make_certificate(folder.path(), "-subj /CN=api.example.com -keyout key -out certificate") {
        return;
    }
    let [key, certificate] = ["key", "certificate"].map(|name| folder.path().join(name));
    let both = [&certificate, &key].map(|file| std::fs::read_to_string(file).unwrap()).concat();
    let pem = folder.path().join("both.pem");
    std::fs::write(&pem, both).unwrap();
    let answering = local_port();
    let sections = format!(
        "frontend answers\n mode http\n bind {answering} accept-proxy ssl crt {}\n \
         http-request return content-type text/plain lf-string \"[%[fc_pp_authority]] [%[fc_pp_unique_id]]\"\n",
        pem.display()
    );
    let Some(_server) = haproxy(&sections, answering) else { return };
    let pool = ", send_proxy_protocol: {version: v2, authority: true, unique_id: true}";
    let lb = balancer(answering, "", pool);
    let to = lb.address("l");
    let ask = |url: &str| run("curl", "curl", &["-sk", "--connect-to", &format!("::{to}"), url]);
    // curl sends no server name for an address.
    let asked = [("https://api.example.com/", "api.example.com"), ("https://192.0.2.1/", "")];
    for (number, (url, name)) in asked.into_iter().enumerate() {
        let Some((success, text)) = ask(url) else { return };
        let answer = text.strip_prefix(&format!("[{name}] [")).and_then(|rest| rest.strip_suffix(']'));
        assert!(success && answer.is_some(), "{url}: {text}");
        let routed = lb.when_logged_times(number + 1, &["routed"]).pop().unwrap();
        let conn = routed.split_once(" conn=").unwrap().1.split(' ').next().unwrap();
        let (worker, connection) = answer.unwrap().split_once('-').unwrap();
        assert_eq!((worker.len(), connection), (16, conn), "{text}: {routed}");
    }
}

#[test]
fn the_checks_of_haproxy_pass_with_their_local_headers_and_not_without() {
    let (backend, front) = (Backend::http("a"), local_port());
    let lb = balancer(backend.address, ", proxy_protocol: {trust: 127.0.0.1}", "");
    let to = lb.address("l");
    let sections = format!(
        "global\n stats socket unix@stats\nlisten in\n mode tcp\n bind {front}\n option httpchk GET /health\n \
         timeout check 5s\n default-server check inter 1s fastinter 200ms\n \
         server with {to} send-proxy-v2\n server without {to}\n"
    );
    let Some(haproxy) = haproxy(&sections, front) else { return };
    // The status of a server and of its last check. A server counts as up until its first checks have failed.
    let status = |server: &str| {
        // HAProxy opens this socket a moment after its port.
        let socket = haproxy.folder.path().join("stats");
        let mut stats = eventually("its socket is there", || UnixStream::connect(&socket).ok());
        stats.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        stats.write_all(b"show stat\n").unwrap();
        let table = std::io::read_to_string(stats).unwrap();
        let mut rows = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let titles = rows.next().unwrap();
        let row = rows.find(|row| row[..2] == ["in", server]).unwrap();
        ["status", "check_status"]
            .map(|title| row[titles.iter().position(|name| *name == title).unwrap()].to_owned())
    };
    eventually("the checks that send a header pass, and those that send none fail", || {
        (status("with") == ["UP", "L7OK"] && status("without")[0] == "DOWN").then_some(())
    });
    assert_eq!(http_get(front, "/").unwrap(), (200, "a".to_owned()));
}

#[test]
fn nginx_reads_our_headers_and_we_read_its() {
    let (answering, front) = (local_port(), local_port());
    let backend = Backend::http("a");
    let reads = balancer(backend.address, ", proxy_protocol: {trust: 127.0.0.1}", "");
    let sections = format!(
        "http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; \
         uwsgi_temp_path uwsgi; scgi_temp_path scgi; server {{ listen {answering} proxy_protocol; location / {{ \
         return 200 \"$proxy_protocol_addr:$proxy_protocol_port\"; }} }} }}\n\
         stream {{ server {{ listen {front}; proxy_pass {}; proxy_protocol on; }} }}\n",
        reads.address("l")
    );
    let Some(_nginx) = nginx(&sections, front) else { return };
    let stream = connect_to(front).unwrap();
    let client = stream.local_addr().unwrap();
    assert_eq!(crate::support::http_get_on(stream, "/").unwrap(), (200, "a".to_owned()));
    reads.when_logged(&format!("client={client} "));
    for version in ["v1", "v2"] {
        let health = format!(", send_proxy_protocol: {version}, health: {{http: /, every: 1s}}");
        let lb = balancer(answering, "", &health);
        lb.when_up(vec![answering.to_string()]);
        let stream = connect_to(lb.address("l")).unwrap();
        let client = stream.local_addr().unwrap();
        assert_eq!(crate::support::http_get_on(stream, "/").unwrap(), (200, client.to_string()), "{version}");
        assert_eq!(http_get(lb.address("l"), "/").unwrap().0, 200);
    }
}

/// Makes a certificate and its key in `folder` with `openssl req`; `false` if OpenSSL is not installed.
pub(crate) fn make_certificate(folder: &Path, arguments: &str) -> bool {
    let mut command = Command::new("openssl");
    command.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '));
    command.args(arguments.split(' ')).current_dir(folder).stdin(Stdio::null());
    match command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn() {
        Ok(child) => {
            let output = output_of(child, TIME_LIMIT, "openssl req");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            skip("POINTSMAN_REQUIRE_TOOLS", "openssl is missing (`apt-get install openssl`)");
            false
        }
        Err(error) => panic!("openssl: {error}"),
    }
}

#[test]
fn openssl_and_curl_reach_the_server_that_they_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut servers = Vec::new();
    for name in ["a.example.com", "b.example.com"] {
        if !make_certificate(folder.path(), &format!("-subj /CN={name} -keyout {name}.key -out {name}.pem")) {
            return;
        }
        let [cert, key] =
            ["pem", "key"].map(|kind| folder.path().join(format!("{name}.{kind}")).display().to_string());
        let address = local_port();
        let at = address.to_string();
        let arguments = ["s_server", "-accept", &at, "-cert", &cert, "-key", &key, "-alpn", "h2", "-www"];
        let Some(server) = Server::start("openssl", "openssl", &arguments, "", address) else { return };
        servers.push((address, server));
    }
    let [a, b] = [&servers[0].0, &servers[1].0].map(|address| static_list(&[*address]));
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, alpn: {{h2: b}}, sni: {{a.example.com: a, '*.example.com': b}}}}}}\n\
         pools: {{a: {{discover: {a}}}, b: {{discover: {b}}}}}\n"
    ));
    let to = lb.address("l").to_string();
    let client = |arguments: &[&str]| {
        run("openssl", "openssl", &[&["s_client", "-connect", &to], arguments].concat()).unwrap()
    };
    for (arguments, name) in [
        (&["-servername", "a.example.com"][..], "a.example.com"),
        (&["-servername", "A.Example.COM"], "a.example.com"),
        (&["-servername", "x.example.com"], "b.example.com"),
        (&["-servername", "a.example.com", "-alpn", "h2"], "b.example.com"),
        (&["-servername", "a.example.com", "-tls1_2"], "a.example.com"),
    ] {
        let (success, text) = client(arguments);
        assert!(success && text.contains(&format!("subject=CN = {name}")), "{arguments:?}\n{text}");
    }
    let (success, text) = client(&["-servername", "example.org"]);
    assert!(!success && text.contains("unrecognized name"), "{text}");
    let (success, text) = client(&["-noservername", "-alpn", "http/1.1"]);
    assert!(!success && text.contains("alert no application protocol"), "{text}");
    let (success, text) = client(&["-noservername"]);
    assert!(!success && text.contains("alert handshake failure"), "{text}");

    let connect_to = format!("::{to}");
    for (asked, name) in [("a.example.com", "a.example.com"), ("x.example.com", "b.example.com")] {
        let url = format!("https://{asked}/");
        let Some((success, text)) =
            run("curl", "curl", &["-skv", "--no-alpn", "--connect-to", &connect_to, &url])
        else {
            return;
        };
        assert!(success && text.contains(&format!("subject: CN={name}")), "{text}");
    }
}

/// Runs a client; whether it succeeded, and what it printed. `None`: it is not installed.
fn run(program: &str, package: &str, arguments: &[&str]) -> Option<(bool, String)> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            skip("POINTSMAN_REQUIRE_TOOLS", &format!("{program} is missing (`apt-get install {package}`)"));
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    let output = output_of(child, TIME_LIMIT, program);
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn iperf3_measures_every_direction() {
    let address = local_port();
    let port = address.port().to_string();
    let arguments = ["-s", "-B", "127.0.0.1", "-p", &port];
    let Some(_server) = Server::start("iperf3", "iperf3", &arguments, "", address) else { return };
    // It tells its streams apart by their order, which one worker keeps.
    let lb = Lb::start(&format!(
        "runtime: {{workers: 1}}\nlisteners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {}}}}}\n",
        static_list(&[address])
    ));
    let port = lb.address("l").port().to_string();
    for (direction, sums) in [
        (&[][..], &["sum_received"][..]),
        (&["--reverse"], &["sum_received"]),
        (&["--parallel", "4"], &["sum_received"]),
        (&["--bidir"], &["sum_received", "sum_received_bidir_reverse"]),
    ] {
        let arguments = [&["-c", "127.0.0.1", "-p", &port, "-t", "1", "-J"], direction].concat();
        // The server takes one client at a time, and is busy with the last one for a moment after that client's end.
        let (success, text, report) = eventually("the server is not busy", || {
            let (success, text) = run("iperf3", "iperf3", &arguments).unwrap();
            let report: serde_json::Value = serde_json::from_str(&text).unwrap();
            let busy = report["error"].as_str().is_some_and(|error| error.contains("busy"));
            (!busy).then_some((success, text, report))
        });
        for sum in sums {
            let bytes = report["end"][sum]["bytes"].as_u64();
            assert!(success && bytes > Some(0), "{direction:?}: {sum}\n{text}");
        }
    }
}
