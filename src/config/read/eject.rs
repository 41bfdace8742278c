//! What a pool does by itself about backends that fail live connections: `eject`.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::decode::Table;
use super::super::model::{Eject, Factor, Percent, Slow};
use super::super::scalar::{duration, factor, number, or_off, percent};
use super::{MOST, SHORTEST};

pub(super) fn eject(pool: &Table<'_>) -> Option<Eject> {
    let table = pool.table("eject")?;
    let mut eject = Eject::default();
    if let Some(failures) = table.read("failures", or_off(number(1..=MOST))) {
        eject.failures = failures.and_then(NonZeroU32::new);
    }
    eject.period = table.read("for", duration(SHORTEST)).unwrap_or(eject.period);
    eject.at_most = table.read("at_most", percent(Percent(1))).unwrap_or(eject.at_most);
    eject.slow = table.table("slow").map(|table| slow(&table));
    if eject.failures.is_none() && eject.slow.is_none() {
        let message = format!("{} has no reason left: give it failures, or slow", table.what);
        table.decoder.problem(table.place("failures"), message);
    }
    Some(eject)
}

fn slow(table: &Table<'_>) -> Slow {
    let mut slow = Slow::default();
    slow.factor = table.read("factor", factor(Factor::RANGE)).unwrap_or(slow.factor);
    slow.floor = table.read("floor", duration(Duration::ZERO)).unwrap_or(slow.floor);
    let answers = table.read("answers", number(1..=MOST)).and_then(NonZeroU32::new);
    slow.answers = answers.unwrap_or(slow.answers);
    slow.every = table.read("every", duration(SHORTEST)).unwrap_or(slow.every);
    slow
}
