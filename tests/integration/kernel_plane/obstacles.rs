//! What keeps the kernel from forwarding: the process does instead, and says why.

use std::net::SocketAddr;

use super::{Network, echo, is_router};
use crate::support::network::sh;
use crate::support::{Lb, eventually, static_list};

#[test]
fn a_table_that_is_too_large_is_refused_and_this_process_forwards() {
    if !is_router("obstacles::a_table_that_is_too_large_is_refused_and_this_process_forwards") {
        return;
    }
    let _network = Network::new();
    let many: Vec<_> = (0..2700).map(|n| SocketAddr::from(([10, 77, 2, 2], 20_000 + n))).collect();
    let with = |balance: &str| {
        format!(
            "listeners:\n  web: {{bind: 10.77.1.1:0, pool: web, plane: kernel}}\npools:\n  web: {{balance: {balance}, \
             discover: {}}}\n",
            static_list(&many)
        )
    };
    let lb = Lb::start(&with("maglev"));
    let web = &lb.status()["listeners"][0];
    assert_eq!(web["plane"], "user", "{web}");
    assert!(web["kernel_obstacle"].as_str().unwrap().contains("balance: source-hash"), "{web}");
    // With what the message names, the kernel forwards.
    lb.reload(&with("source-hash"));
    eventually("the kernel forwards", || (lb.status()["listeners"][0]["plane"] == "kernel").then_some(()));
    // Before, it was reported once, however often it was tried.
    assert_eq!(lb.logged(&["the kernel cannot forward"]).len(), 1, "{}", lb.log());
}

#[test]
fn a_pool_that_outgrows_the_kernel_is_relayed_and_its_connections_continue() {
    if !is_router("obstacles::a_pool_that_outgrows_the_kernel_is_relayed_and_its_connections_continue") {
        return;
    }
    let network = Network::new();
    let backends = |more: u16| {
        let [a, b] = network.addresses().map(|address| address.to_string());
        let more = (0..more).map(|n| format!("10.77.2.2:{}", 20_000 + n));
        [a, b].into_iter().chain(more).map(|address| format!("- {address}\n")).collect::<String>()
    };
    let config = "listeners:\n  web: {bind: 10.77.1.1:0, pool: web, plane: kernel}\n  other: {bind: 10.77.1.1:0, pool: other, \
                  plane: kernel}\npools:\n  web: {balance: maglev, discover: [{file: backends.yaml, every: 100ms}]}\n  \
                  other: {discover: [{file: other.yaml, every: 100ms}]}\n";
    let lb = Lb::start_in(config, |folder| {
        for file in ["backends.yaml", "other.yaml"] {
            std::fs::write(folder.join(file), backends(0)).unwrap();
        }
    });
    let write = |file: &str, text: &str| {
        std::fs::write(lb.folder().join("new"), text).unwrap();
        std::fs::rename(lb.folder().join("new"), lb.folder().join(file)).unwrap();
    };
    let planes = || {
        let status = lb.status();
        let plane = |name: &str| {
            let listeners = status["listeners"].as_array().unwrap();
            listeners.iter().find(|one| one["name"] == name).unwrap()["plane"].as_str().unwrap().to_owned()
        };
        ["web", "other"].map(plane)
    };
    let are = |wanted: [&str; 2]| eventually(&format!("{wanted:?}"), || (planes() == wanted).then_some(()));
    are(["kernel", "kernel"]);
    let (mut open, _) = network.connect(lb.address("web"));
    write("backends.yaml", &backends(2700));
    are(["user", "kernel"]);
    echo(&mut open).unwrap();
    let web = lb.when_logged("the kernel cannot forward its connections");
    assert!(web.contains("listener=web") && web.contains("balance: source-hash"), "{web}");
    // Another listener's rules follow its pool nevertheless.
    let [a, _] = network.addresses();
    write("other.yaml", &format!("- {a}\n"));
    eventually("its other backend has left the rules", || {
        let reached = (0..4).map(|_| network.connect(lb.address("other")).1);
        reached.into_iter().all(|name| name == 'a').then_some(())
    });
    write("backends.yaml", &backends(0));
    are(["kernel", "kernel"]);
    network.connect(lb.address("web"));
    echo(&mut open).unwrap();
    assert!(lb.logged(&["cannot change the kernel's rules"]).is_empty(), "{}", lb.log());
}

#[test]
fn what_is_missing_is_named_before_anything_starts() {
    if !is_router("obstacles::what_is_missing_is_named_before_anything_starts") {
        return;
    }
    let network = Network::new();
    sh("echo 0 >/proc/sys/net/ipv4/ip_forward");
    let mut lb = Lb::launch(&network.config("plane: kernel", ""));
    assert_eq!(lb.when_ended().code(), Some(2));
    let log = lb.log();
    assert!(
        log.contains("net.ipv4.ip_forward is 0") && log.contains("sysctl -w net.ipv4.ip_forward=1"),
        "{log}"
    );
    let lb = Lb::start(&network.config("plane: auto", ""));
    lb.when_logged("this process forwards its bytes: the kernel cannot");
    let web = &lb.status()["listeners"][0];
    assert_eq!(web["plane"], "user");
    assert!(web["kernel_obstacle"].as_str().unwrap().contains("net.ipv4.ip_forward is 0"), "{web}");
    sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    for (wrapper, commands, reason) in [
        (&["setpriv", "--bounding-set", "-net_admin"][..], ":", "it needs CAP_NET_ADMIN"),
        (&["env"], "export PATH=/nowhere", "install the package nftables"),
    ] {
        let lb = Lb::start_after(wrapper, commands, &network.config("plane: auto", ""), |_| ());
        let web = &lb.status()["listeners"][0];
        assert_eq!(web["plane"], "user");
        assert!(web["kernel_obstacle"].as_str().unwrap().contains(reason), "{web}");
        network.connect(lb.address("web"));
    }
    let _owner = Lb::start(&network.config("plane: kernel", ""));
    let second = Lb::start(&network.config("plane: kernel", ""));
    second.when_logged("only one can");
    let web = &second.status()["listeners"][0];
    assert_eq!(web["plane"], "user");
    assert!(web["kernel_obstacle"].as_str().unwrap().contains("only one can"), "{web}");
    eventually("it is a problem", || {
        second.get("/api/v1/problems").1.contains("not_forwarded").then_some(())
    });
    network.connect(second.address("web"));
}
