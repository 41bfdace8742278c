//! Networks of IPv6.

use super::*;

const BOTH_WAYS: &str = "
admin: {bind: 0.0.0.0:9900}
listeners:
  six: {bind: 0.0.0.0:8080, pool: six}
  whole: {bind: 0.0.0.0:8081, pool: whole}
pools:
  six: {discover: [{dns: backend:5000, family: 6}], health: {http: /health}}
  whole: {discover: [{dns: backend:5000, family: any}]}
";

/// Like [`SERVER`], but only on IPv6, and with the client's address.
const SERVER_OF_IPV6: &str = "
import http.server, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f'{socket.gethostname()} {self.client_address[0]}'.encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()
Server(('::', 5000), Handler).serve_forever()";

#[test]
fn backends_are_found_and_reached_over_ipv6() {
    let Some(_engine) = engine() else { return };
    // A unique local address (RFC 4193).
    let subnet = format!("fd00:6b1d:{:x}::/64", std::process::id() & 0xffff);
    let network = Network::create("six", &["--ipv6", "--subnet", &subnet]);
    let folder = configuration(BOTH_WAYS);
    let run = |_| {
        let network = ["--network", &network.0, "--network-alias", "backend"];
        let python = ["python:3.13-slim", "python", "-c", SERVER_OF_IPV6];
        Container::run("six", &[&network[..], &python].concat())
    };
    let backends: Vec<Container> = (0..2).map(run).collect();
    let sixth = |what: &str| -> IpAddr {
        let format = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}";
        inspect(what, format).parse().unwrap()
    };
    let lb = pointsman(&network, &folder);
    let address = ip(&lb.0);
    let found: BTreeSet<IpAddr> = when_up(address, 2).into_values().collect();
    assert_eq!(found, backends.iter().map(|backend| sixth(&backend.0)).collect());
    let answers: BTreeSet<String> = (0..2).map(|_| http_get((address, WEB).into(), "/").unwrap().1).collect();
    let ours = format!(" {}", sixth(&lb.0));
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert!(answers.iter().all(|answer| answer.ends_with(&ours)), "{answers:?} by way of {ours}");

    // A container with both families is one backend.
    let whole = eventually("both are known", || {
        let (_, status) = http_get((address, ADMIN).into(), "/api/v1/status").ok()?;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let pools = status["pools"].as_array().unwrap();
        let whole = pools.iter().find(|pool| pool["name"] == "whole").unwrap();
        let whole = whole["backends"].as_array().unwrap().clone();
        (whole.len() == 2 && whole.iter().all(|backend| backend["also"][0].is_string())).then_some(whole)
    });
    let also =
        |backend: &serde_json::Value| backend["also"][0].as_str().unwrap().parse::<SocketAddr>().unwrap();
    assert_eq!(whole.iter().map(|backend| also(backend).ip()).collect::<BTreeSet<_>>(), found);
}
