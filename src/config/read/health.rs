//! Active checks: `health`.

use std::time::Duration;

use super::super::decode::{Table, duration, number, text};
use super::super::model::{Check, Health, HttpCheck};
use super::super::tree::{Node, Value};
use super::SHORTEST;

pub(super) fn health(table: &Table<'_>) -> Option<Health> {
    let d = table.decoder;
    let http = table.get("http").and_then(|node| http_check(node, table));
    table.table("tcp"); // it has no keys
    let kinds = table.present(&["http", "tcp"]);
    if kinds.len() != 1 {
        let which = if kinds.is_empty() { "needs one of" } else { "can have only one of" };
        d.problem(table.at, format!("{} {which} `http: /health` and `tcp: {{}}`", table.what));
    }
    let mut health = Health::new(http.map_or(Check::Tcp, Check::Http));
    health.every = table.read("every", duration(SHORTEST)).unwrap_or(health.every);
    let timeout = table.read("timeout", duration(Duration::from_millis(1)));
    health.timeout = timeout.unwrap_or(health.timeout.min(health.every));
    if health.timeout > health.every {
        let time = |t| humantime::format_duration(t);
        d.problem(
            table.place("timeout"),
            format!(
                "the timeout of {} ({}) is longer than its interval ({}): a check must end before the next begins",
                table.what,
                time(health.timeout),
                time(health.every)
            ),
        );
    }
    let count = |key, default| {
        table.read(key, number(1..=1000)).and_then(|n| u32::try_from(n).ok()).unwrap_or(default)
    };
    health.rise = count("rise", health.rise);
    health.fall = count("fall", health.fall);
    health.port = table.read("port", number(1..=65535)).and_then(|n| u16::try_from(n).ok());
    Some(health)
}

fn http_check(node: &Node, parent: &Table<'_>) -> Option<HttpCheck> {
    let d = parent.decoder;
    let path = |node: &Node| match text(node) {
        Ok(path) if path.starts_with('/') && path.parse::<hyper::Uri>().is_ok() => Ok(path.to_owned()),
        _ => Err("must be a path that begins with /, such as /health".to_owned()),
    };
    if let Value::Scalar(_) = node.value {
        return parent.read("http", path).map(HttpCheck::new);
    }
    let table = d.table(node, &format!("\"http\" in {}", parent.what), &format!("{}.http", parent.path))?;
    let Some(path) = table.read("path", path) else {
        if table.present(&["path"]).is_empty() {
            d.problem(table.at, format!("{} needs a \"path\", such as /health", table.what));
        }
        return None;
    };
    let mut check = HttpCheck::new(path);
    check.host = table.read("host", |node| {
        let host = text(node)?;
        hyper::header::HeaderValue::from_str(host).map_err(|_| "must be a host name".to_owned())?;
        Ok(host.to_owned())
    });
    let status = table.read("status", number(100..=599)).and_then(|n| u16::try_from(n).ok());
    check.status = status.map_or(check.status, |code| vec![code..=code]);
    check.body = table.read("body", |node| text(node).map(str::to_owned));
    Some(check)
}
