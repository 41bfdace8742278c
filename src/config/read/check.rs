//! What is done to check a backend: `http`, `tcp`, `exchange`, `postgres` and `redis` in `health`.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::super::decode::{self, Table};
use super::super::escape;
use super::super::model::{AuthMethod, Check, Exchange, HttpCheck, PostgresCheck, RedisCheck, Role};
use super::super::scalar::{choice, text};
use super::super::tree::{Node, Value};

const KINDS: [&str; 5] = ["http", "tcp", "exchange", "postgres", "redis"];

pub(super) fn check(health: &Table<'_>) -> Option<Check> {
    match health.kind(&KINDS)? {
        "http" => http(health).map(Check::Http),
        "tcp" => health.table("tcp").map(|_| Check::Tcp), // it has no keys
        "exchange" => exchange(&health.table("exchange")?).map(Check::Exchange),
        "postgres" => postgres(health).map(Check::Postgres),
        _ => redis(health).map(Check::Redis),
    }
}

fn http(health: &Table<'_>) -> Option<HttpCheck> {
    let path = |node: &Node| match text(node) {
        Ok(path) if path.starts_with('/') && path.parse::<hyper::Uri>().is_ok() => Ok(path.to_owned()),
        _ => Err("must be a path that begins with /, such as /health".to_owned()),
    };
    if let Value::Scalar(_) = health.get("http")?.value {
        return health.read("http", path).map(HttpCheck::new);
    }
    let table = health.table("http")?;
    let path = table.read("path", path);
    if table.present(&["path"]).is_empty() {
        table.decoder.problem(table.at, format!("{} needs a \"path\", such as /health", table.what));
    }
    let host = table.read("host", |node| {
        let host = text(node)?;
        hyper::header::HeaderValue::from_str(host).map_err(|_| "must be a host name".to_owned())?;
        Ok(host.to_owned())
    });
    let status = statuses(&table);
    let body = table.read("body", |node| text(node).map(str::to_owned));
    let mut check = HttpCheck { host, body, ..HttpCheck::new(path?) };
    check.status = status.unwrap_or(check.status);
    Some(check)
}

/// `status`: one, or a list of them.
fn statuses(table: &Table<'_>) -> Option<Vec<RangeInclusive<u16>>> {
    let node = table.get("status")?;
    let (what, d) = (format!("\"status\" in {}", table.what), table.decoder);
    if node.items().is_empty() {
        d.problem(node.at, format!("{what} is empty: at least one status is needed"));
    }
    let status = |item: &Node| {
        let status = text(item).ok().and_then(statuses_in);
        if status.is_none() {
            let found = decode::describe(item);
            let message = format!(
                "{what} must be from 100 to 599, as 200, 2xx, 200-299 or a list of these, not {found}"
            );
            d.problem(item.at, message);
        }
        status
    };
    Some(node.items().iter().filter_map(status).collect())
}

/// The statuses that `200`, `2xx` or `200-299` stands for.
fn statuses_in(text: &str) -> Option<RangeInclusive<u16>> {
    let code = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    if let Some(class) = text.strip_suffix("xx").or(text.strip_suffix("XX")) {
        let first = code(&format!("{class}00"))?;
        return Some(first..=first + 99);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (code(first)?, code(last)?);
    (first <= last).then_some(first..=last)
}

fn exchange(table: &Table<'_>) -> Option<Exchange> {
    let bytes = |node: &Node| {
        let text = text(node)?;
        // There YAML reads \xff as a character, which is two bytes.
        if !text.is_ascii() && table.decoder.double_quoted(node) {
            return Err("must be in single quotes, as double quotes have no bytes from \\x80 up".to_owned());
        }
        let only =
            |escape| format!("must have no other escapes than {} ({escape} is none of them)", escape::KNOWN);
        escape::unescape(text).map_err(only)
    };
    let send = table.read("send", bytes);
    let expect = table.read("expect", bytes);
    if table.present(&["expect"]).is_empty() {
        let message = format!("{} needs an \"expect\": what the answer must contain", table.what);
        table.decoder.problem(table.at, message);
    }
    Some(Exchange { send: send.unwrap_or_default(), expect: expect? })
}

fn postgres(health: &Table<'_>) -> Option<PostgresCheck> {
    let words = [("primary", Role::Primary), ("standby", Role::Replica), ("any", Role::Any)];
    let (role, table) = role(health, "postgres", &words);
    let Some(table) = table else { return role.map(PostgresCheck::new) };
    let user = table.read("user", word);
    let database = table.read("database", word);
    let password_file = table.read("password_file", |node| text(node).map(PathBuf::from));
    let mut check = PostgresCheck { password_file, ..PostgresCheck::new(role?) };
    check.user = user.unwrap_or(check.user);
    check.database = database.unwrap_or(check.database);
    check.require_auth = require_auth(&table).unwrap_or(check.require_auth);
    Some(check)
}

/// `require_auth`: one method, or a list of them.
fn require_auth(table: &Table<'_>) -> Option<BTreeSet<AuthMethod>> {
    let node = table.get("require_auth")?;
    let (what, d) = (format!("\"require_auth\" in {}", table.what), table.decoder);
    if node.items().is_empty() {
        d.problem(node.at, format!("{what} is empty: at least one method is needed"));
    }
    let words = AuthMethod::ALL.map(|method| (method.name(), method));
    let method = |item: &Node| match choice(&words)(item) {
        Ok(method) => Some(method),
        Err(error) => {
            d.problem(item.at, format!("{what} {error}, not {}", decode::describe(item)));
            None
        }
    };
    Some(node.items().iter().filter_map(method).collect())
}

fn redis(health: &Table<'_>) -> Option<RedisCheck> {
    let words = [("master", Role::Primary), ("replica", Role::Replica), ("any", Role::Any)];
    let (role, table) = role(health, "redis", &words);
    let Some(table) = table else { return role.map(RedisCheck::new) };
    let user = table.read("user", word);
    let password_file = table.read("password_file", |node| text(node).map(PathBuf::from));
    if user.is_some() && table.present(&["password_file"]).is_empty() {
        let message = format!("{} has a user and no \"password_file\" to log in with", table.what);
        table.decoder.problem(table.place("user"), message);
    }
    Some(RedisCheck { user, password_file, ..RedisCheck::new(role?) })
}

/// The role wanted, which is all that is written, or stands in a map with more.
fn role<'a>(
    health: &Table<'a>,
    kind: &'static str,
    words: &[(&str, Role)],
) -> (Option<Role>, Option<Table<'a>>) {
    if matches!(health.get(kind), Some(Node { value: Value::Scalar(_), .. })) {
        return (health.read(kind, choice(words)), None);
    }
    let Some(table) = health.table(kind) else { return (None, None) };
    let role = table.read("role", choice(words));
    if table.present(&["role"]).is_empty() {
        let known = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        table.decoder.problem(table.at, format!("{} needs a \"role\": one of {known}", table.what));
    }
    (role, Some(table))
}

/// A name that servers take, whose protocol ends it with a NUL.
fn word(node: &Node) -> Result<String, String> {
    match text(node) {
        Ok(word) if !word.contains('\0') => Ok(word.to_owned()),
        _ => Err("must be text".to_owned()),
    }
}
