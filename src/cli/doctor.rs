//! `pointsman doctor`: what is wrong with a running instance, since when, what to do, and what will run short.

use std::time::Duration;

use clap::Args;
use ratatui::style::Color;

use super::instance::{RemoteArgs, block_on};
use super::status::{TextTable, colors, paint};
use super::{Exit, Failure, print, print_json, problem_lines, terminal};
use crate::api::{CapacityInfo, ProblemsReply, Timestamp, path};
use crate::http1::encode;
use crate::humanize;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The window in which failures are counted, at most 5m; after a change, a short one shows whether they continue
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    window: Duration,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// If the instance cannot be queried, nothing is known about it: that must not look like a problem of the instance (exit
/// code 1).
pub(super) fn run(args: &DoctorArgs) -> Result<Exit, Failure> {
    let (text, reply) = ask(args).map_err(|failure| Failure::NotStarted(failure.to_string()))?;
    if args.remote.json {
        print_json(&text)?;
    } else {
        print(&in_words(&reply, colors()))?;
    }
    Ok(if reply.problems.is_empty() { Exit::Done } else { Exit::Problems })
}

fn ask(args: &DoctorArgs) -> Result<(String, ProblemsReply), Failure> {
    let remote = args.remote.remote()?;
    let window = humantime::format_duration(args.window).to_string().replace(' ', "");
    let path = format!("{}?window={}", path::PROBLEMS, encode(&window));
    let text = block_on(async { Ok(remote.text(&path).await?) })?;
    let reply = remote.read(&text)?;
    Ok((text, reply))
}

fn in_words(reply: &ProblemsReply, colors: bool) -> String {
    let now = if reply.now == Timestamp::default() { Timestamp::now() } else { reply.now };
    let mut text = format!("{}\n", problem_lines::summary(&reply.problems));
    for problem in &reply.problems {
        let mut lines = problem_lines::explained(std::slice::from_ref(problem), now.0).into_iter();
        let first = lines.next().unwrap_or_default();
        text.push_str(&format!("\n{}\n", paint(&first, Some(problem_lines::mark(problem).1), colors)));
        lines.for_each(|line| text.push_str(&format!("{line}\n")));
    }
    if !reply.capacity.is_empty() {
        text.push('\n');
        let mut table =
            TextTable::new(&["CAPACITY", "OF", "<IN USE", "<LIMIT", "<SHARE", "<GROWTH", "<FULL IN"]);
        reply.capacity.iter().for_each(|one| table.row(row(one)));
        table.write(&mut text, colors);
    }
    text
}

fn row(one: &CapacityInfo) -> [(String, Option<Color>); 7] {
    let amount = |n: f64| match &*one.unit {
        "bytes" => humanize::bytes(n as u64),
        _ => format!("{n:.0}"),
    };
    let color = match one.share {
        ..0.8 => None,
        ..0.95 => Some(Color::Yellow),
        _ => Some(Color::Red),
    };
    let plain = |text: String| (text, None);
    let growth = one.growth_per_minute.map_or("-".to_owned(), |growth| format!("+{}/min", amount(growth)));
    let full = one.exhausted_in_seconds.map_or("-".to_owned(), terminal::age);
    [
        plain(one.resource.replace('_', " ")),
        plain(one.subject.as_deref().unwrap_or("-").to_owned()),
        plain(amount(one.used as f64)),
        plain(amount(one.limit as f64)),
        (humanize::percent(one.share), color),
        plain(growth),
        plain(full),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: &str = r#"{"now": 1000.0, "window_seconds": 300, "later": 1,
        "problems": [
            {"kind": "no_backend", "severity": "critical", "pool": "web", "since": 820.0,
             "sentence": "pool web has no eligible backend: a is down (refused)", "hint": "`pointsman why web/a` explains it"},
            {"kind": "open_files", "severity": "warning", "since": 990.0, "sentence": "85.0 % of the files are in use"}],
        "capacity": [
            {"resource": "open_files", "used": 870, "limit": 1024, "unit": "files", "share": 0.8496,
             "growth_per_minute": 12.4, "exhausted_in_seconds": 745.0},
            {"resource": "source_ports", "subject": "web/a", "used": 12, "limit": 28232, "unit": "ports", "share": 0.0004},
            {"resource": "memory", "used": 9437184, "limit": 2147483648, "unit": "bytes", "share": 0.0044}]}"#;

    #[test]
    fn problems_come_with_their_age_and_a_hint_and_capacity_as_a_table() {
        let reply: ProblemsReply = serde_json::from_str(REPLY).unwrap();
        let expected = "\
2 problems, 1 of them critical

✖  3m  pool web has no eligible backend: a is down (refused)
       → `pointsman why web/a` explains it

▲ 10s  85.0 % of the files are in use

CAPACITY      OF     IN USE  LIMIT   SHARE   GROWTH  FULL IN
open files    -         870   1024  85.0 %  +12/min      12m
source ports  web/a      12  28232   0.0 %        -        -
memory        -       9 MiB  2 GiB   0.4 %        -        -
";
        assert_eq!(in_words(&reply, false), expected);
        let colored = in_words(&reply, true);
        assert!(colored.contains("\x1b[31m✖  3m") && colored.contains("\x1b[33m85.0 %\x1b[0m"), "{colored}");
    }

    #[test]
    fn without_problems_it_says_so() {
        assert_eq!(in_words(&ProblemsReply::default(), false), "no problems\n");
    }
}
