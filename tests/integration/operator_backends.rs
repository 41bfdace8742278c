//! Backends that operators add and remove.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::api::{balancer, event, get, names, refused, send};
use crate::support::backend::Backend;
use crate::support::peers::connect;
use crate::support::{Lb, eventually, static_list};

#[test]
fn a_backend_that_an_operator_adds_is_checked_serves_and_leaves_again() {
    let (a, mut b) = (Backend::http("a"), Backend::http("b"));
    b.kill();
    let config = balancer(&static_list(&[a.address]), ", health: {tcp: {}, every: 100ms, timeout: 100ms}");
    let lb = Lb::start(&config);
    let body = json!({"address": b.address.to_string(), "name": "b"}).to_string();
    let (status, added) = send(&lb, "POST", "/api/v1/pools/p/backends", &body);
    assert_eq!((status, &added["name"], &added["sources"]), (201, &json!("b"), &json!(["operator"])));
    assert_ne!(added["state"], "up", "it has not been checked");
    eventually("its check fails", || {
        (get(&lb, "/api/v1/pools/p/backends/b")["state"] == "down").then_some(())
    });
    assert_eq!(names(&lb, 4), ["a"; 4]);
    b.revive();
    lb.when_up(vec!["b".into(), a.address.to_string()]);
    assert_eq!(names(&lb, 4), ["a", "a", "b", "b"]);
    // A reload leaves it alone, whatever it changes.
    assert!(lb.reload(&config.replace("every: 100ms", "every: 150ms")).contains("reload applied"));
    assert_eq!(names(&lb, 4), ["a", "a", "b", "b"]);
    let (status, gone) = send(&lb, "DELETE", "/api/v1/pools/p/backends/b", "");
    assert_eq!((status, &gone["cause"]), (200, &json!("removed by an operator at 127.0.0.1")), "{gone}");
    assert_eq!(refused(&lb, "GET", "/api/v1/pools/p/backends/b", ""), (404, "no_such_backend".into()));
    assert_eq!(names(&lb, 4), ["a"; 4]);
    assert_eq!(event(&lb, "backend_added")["by"], "an operator at 127.0.0.1");
    assert_eq!(event(&lb, "backend_removed")["backend"], "b");
}

#[test]
fn a_backup_that_an_operator_adds_serves_when_no_primary_is_up() {
    let (mut a, b) = (Backend::http("a"), Backend::http("b"));
    let lb = Lb::start(&balancer(&static_list(&[a.address]), ""));
    let body = json!({"address": b.address.to_string(), "name": "b", "backup": true}).to_string();
    let (status, added) = send(&lb, "POST", "/api/v1/pools/p/backends", &body);
    assert_eq!((status, &added["tier"]), (201, &json!(1)), "{added}");
    assert_eq!(names(&lb, 4), ["a"; 4]);
    a.kill();
    assert_eq!(names(&lb, 4), ["b"; 4]);
}

#[test]
fn an_address_selects_its_backend_whatever_other_names_are() {
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    let lb = Lb::start(&balancer(&format!("[{{static: [{{address: {}, name: a}}]}}]", a.address), ""));
    let body = json!({"address": b.address.to_string(), "name": a.address.to_string()}).to_string();
    assert_eq!(send(&lb, "POST", "/api/v1/pools/p/backends", &body).0, 201);
    for (address, name) in [(a.address, "a".to_owned()), (b.address, a.address.to_string())] {
        assert_eq!(get(&lb, &format!("/api/v1/pools/p/backends/{address}"))["name"], name);
    }
}

#[test]
fn connections_of_a_removed_backend_follow_on_leave() {
    let (a, echo) = (Backend::http("a"), Backend::echo());
    let lb = Lb::start(&balancer(&static_list(&[a.address]), ", on_leave: keep"));
    let body = json!({"address": echo.address.to_string(), "name": "echo"}).to_string();
    assert_eq!(send(&lb, "POST", "/api/v1/pools/p/backends", &body).0, 201);
    let path = format!("/api/v1/pools/p/backends/{}", a.address);
    assert_eq!(send(&lb, "PATCH", &path, r#"{"state": "draining"}"#).0, 200);
    let mut client = connect(&lb);
    let mut exchange = || client.write_all(b"x").and_then(|()| client.read_exact(&mut [0]));
    exchange().unwrap();
    let (status, now) = send(&lb, "DELETE", "/api/v1/pools/p/backends/echo", "");
    assert_eq!((status, &now["state"], &now["active"]), (200, &json!("draining"), &json!(1)), "{now}");
    exchange().unwrap();
    drop(client);
    lb.when_logged("backend gone");
}

#[test]
fn an_impossible_addition_or_removal_is_refused_and_changes_nothing() {
    let a = Backend::http("a");
    let lb = Lb::start(&balancer(&format!("[{{static: [{{address: {}, name: a}}]}}]", a.address), ""));
    let list = "/api/v1/pools/p/backends";
    let add = |body: Value| refused(&lb, "POST", list, &body.to_string());
    for body in [
        json!({}),
        json!({"address": "10.0.0.1"}),
        json!({"address": "backend:80"}),
        json!({"address": "10.0.0.1:0"}),
        json!({"address": "0.0.0.0:80"}),
        json!({"address": "10.0.0.1:80", "name": ""}),
        json!({"address": "10.0.0.1:80", "name": "a/b"}),
        json!({"address": "10.0.0.1:80", "name": ".."}),
        json!(["10.0.0.1:80"]),
        json!({"address": "10.0.0.1:80", "name": null}),
        json!({"address": "10.0.0.1:80", "weight": 257}),
        json!({"address": "10.0.0.1:80", "wait": 1}),
    ] {
        let (status, code) = add(body.clone());
        assert!(matches!(status, 400 | 422) && code == "bad_request", "{body}: {status} {code}");
    }
    assert_eq!(add(json!({"address": a.address.to_string()})), (409, "address_taken".into()));
    assert_eq!(add(json!({"address": "10.0.0.1:80", "name": "a"})), (409, "name_taken".into()));
    assert_eq!(add(json!({"address": "10.0.0.1:80", "weight": 2})), (409, "weight_not_heeded".into()));
    assert_eq!(refused(&lb, "POST", "/api/v1/pools/q/backends", "{\"address\": \"10.0.0.1:80\"}").0, 404);
    assert_eq!(refused(&lb, "DELETE", &format!("{list}/a"), ""), (409, "still_known".into()));
    assert_eq!(refused(&lb, "DELETE", &format!("{list}/b"), ""), (404, "no_such_backend".into()));
    let own = lb.address("l").to_string();
    assert_eq!(add(json!({"address": own})), (409, "own_listener".into()));
    assert_eq!(get(&lb, list)["backends"].as_array().unwrap().len(), 1);
    assert_eq!(names(&lb, 2), ["a"; 2]);
}
