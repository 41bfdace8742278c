//! Active checks.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::super::escape;
use super::super::model::{AuthMethod, Check, Exchange, Health, HttpCheck, Role};
use super::{Map, Outline, duration, path};

pub(super) fn health(health: &Health) -> Outline {
    let check = match &health.check {
        Check::Tcp => Map::new(),
        Check::Http(check) => http(check),
        Check::Exchange(check) => exchange(check),
        Check::Postgres(check) => Map::new()
            .with("role", role(check.role, "primary", "standby"))
            .with("user", &*check.user)
            .with("database", &*check.database)
            .with_some("password_file", check.password_file.as_deref().map(path))
            .with("require_auth", require_auth(&check.require_auth)),
        Check::Redis(check) => Map::new()
            .with("role", role(check.role, "master", "replica"))
            .with_some("user", check.user.as_deref())
            .with_some("password_file", check.password_file.as_deref().map(path)),
    };
    Map::new()
        .with(health.check.kind(), check)
        .with("every", duration(health.every))
        .with_some("fast_every", health.fast_every.map(duration))
        .with("timeout", duration(health.timeout))
        .with("rise", health.rise)
        .with("fall", health.fall)
        .with_some("port", health.port)
        .with("grace", duration(health.grace))
        .into()
}

fn require_auth(methods: &BTreeSet<AuthMethod>) -> Outline {
    Outline::List(methods.iter().map(|method| Outline::text(method.name())).collect())
}

fn http(check: &HttpCheck) -> Map {
    let status = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
        (first, last) if first == last => Outline::from(*first),
        (first, last) => Outline::text(format!("{first}-{last}")),
    };
    Map::new()
        .with("path", &*check.path)
        .with_some("host", check.host.as_deref())
        .with("status", Outline::List(check.status.iter().map(status).collect()))
        .with_some("body", check.body.as_deref())
}

fn exchange(check: &Exchange) -> Map {
    let bytes = |bytes: &[u8]| Outline::text(escape::escape(bytes));
    Map::new()
        .with_some("send", (!check.send.is_empty()).then(|| bytes(&check.send)))
        .with("expect", bytes(&check.expect))
}

fn role(role: Role, primary: &'static str, replica: &'static str) -> &'static str {
    match role {
        Role::Any => "any",
        Role::Primary => primary,
        Role::Replica => replica,
    }
}
