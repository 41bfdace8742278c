//! TLS passthrough by the server's name, as in `compose/tls.yaml`.

use super::*;
use crate::engine::image;

#[test]
fn the_tls_demo_chooses_the_server_by_its_name() {
    let Some(_engine) = engine() else { return };
    if !image("nginx:1") {
        return;
    }
    let project = Project::new("compose/tls.yaml", 0);
    project.compose(&["up", "-d"]);
    let admin = project.published("pointsman", "9900");
    let up = |pool: usize, count: u64| {
        eventually(&format!("{count} servers of pool {pool} are up"), || {
            let status: serde_json::Value =
                serde_json::from_str(&http_get(admin, "/api/v1/status").ok()?.1).unwrap();
            (status["pools"][pool]["up"] == count).then_some(())
        });
    };
    up(0, 1);
    up(1, 1);
    // A request from a container that outlives this test's changes; the certificate's name, and what curl says.
    let get = |name: &str| {
        let script = format!(
            "curl -skv --connect-to ::pointsman:8443 https://{name}/ 2>&1 \
             | grep -aE '^\\*  subject:|asked for|alert' | tr '\\n' ' '"
        );
        project.exec("www", &["sh", "-c", &script])
    };
    let answer = get("api.example.com");
    assert!(
        answer.contains("CN=api.example.com") && answer.contains("asked for api.example.com"),
        "{answer}"
    );
    for name in ["www.example.com", "shop.example.com"] {
        let answer = get(name);
        assert!(
            answer.contains("CN=*.example.com") && answer.contains(&format!("asked for {name}")),
            "{answer}"
        );
    }
    let refused = get("example.net");
    assert!(refused.contains("unrecognized name") && !refused.contains("asked for"), "{refused}");
    let decisions = http_get(admin, "/api/v1/decisions").unwrap().1;
    assert!(decisions.contains("\"server_name\":\"shop.example.com\""), "{decisions}");
    // One server's end is not noticed by the clients of the other one.
    docker(&["kill", &project.containers("api")[0]]);
    up(0, 0);
    assert!(get("www.example.com").contains("asked for www.example.com"));
    assert!(!get("api.example.com").contains("asked for"));
}
