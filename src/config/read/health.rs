//! Active checks: `health`. What is checked is in `check.rs`, when and how often is here.

use std::time::Duration;

use super::super::decode::Table;
use super::super::model::{Check, Health};
use super::super::scalar::{duration, number};
use super::{SHORTEST, check};

/// The checks of a pool: one, or a list of them.
pub(super) fn health(pool: &Table<'_>) -> Vec<Health> {
    let Some(node) = pool.get("health") else { return Vec::new() };
    let (what, d) = (format!("\"health\" in {}", pool.what), pool.decoder);
    if node.items().is_empty() {
        d.problem(node.at, format!("{what} is empty: leave it out to do without checks"));
    }
    let tables = node.items().iter().filter_map(|item| d.table(item, &what, ".pools.*.health"));
    tables.map(one).collect()
}

fn one(mut table: Table<'_>) -> Health {
    table.beside = &["every", "timeout", "fast_every", "rise", "fall", "port", "grace"];
    let check = check::check(&table).unwrap_or(Check::Tcp); // what is wrong with it has been told
    let mut health = Health::new(check);
    health.every = table.read("every", duration(SHORTEST)).unwrap_or(health.every);
    let timeout = table.read("timeout", duration(Duration::from_millis(1)));
    health.timeout = timeout.unwrap_or(health.timeout.min(health.every));
    health.fast_every = table.read("fast_every", duration(SHORTEST));
    health.rise = table.read("rise", number(1..=1000)).unwrap_or(health.rise);
    health.fall = table.read("fall", number(1..=1000)).unwrap_or(health.fall);
    health.port = table.read("port", number(1..=65535));
    health.grace = table.read("grace", duration(Duration::ZERO)).unwrap_or(health.grace);
    check_times(&health, &table);
    health
}

fn check_times(health: &Health, table: &Table<'_>) {
    let (what, d) = (&table.what, table.decoder);
    let every = humantime::format_duration(health.every);
    if health.timeout > health.every {
        let timeout = humantime::format_duration(health.timeout);
        let message = format!(
            "the timeout of {what} ({timeout}) is longer than its interval ({every}): a check must end before the next begins"
        );
        d.problem(table.place("timeout"), message);
    }
    if let Some(fast) = health.fast_every.filter(|fast| *fast >= health.every) {
        let fast = humantime::format_duration(fast);
        let message = format!("the fast_every of {what} ({fast}) is not shorter than its every ({every})");
        d.problem(table.place("fast_every"), message);
    }
}
