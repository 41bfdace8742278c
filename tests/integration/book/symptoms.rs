//! The chapter on troubleshooting: the log lines that it names exist, and it knows every alert.

use std::collections::BTreeSet;

use regex_lite::Regex;

use super::{files, in_repository};

fn page() -> String {
    std::fs::read_to_string(in_repository("docs/src/troubleshooting.md")).unwrap()
}

/// The source of the program.
fn source() -> String {
    let files = files(&in_repository("src"), ".rs");
    files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
}

/// The texts that the expression captures.
fn captured(pattern: &str, text: &str) -> BTreeSet<String> {
    Regex::new(pattern).unwrap().captures_iter(text).map(|found| found[1].to_owned()).collect()
}

#[test]
fn the_log_lines_of_the_symptoms_exist() {
    let page = page();
    let mut messages = BTreeSet::new();
    for (_, after) in page.match_indices("log: ").map(|(at, mark)| (at, &page[at + mark.len()..])) {
        // One message, or several with commas.
        let list = after.split('|').next().unwrap();
        let list = list.split("reason: ").next().unwrap();
        messages.extend(captured(r"`([^`=]{8,})`", list));
    }
    assert!(messages.len() > 20, "{messages:?}");
    let source = source();
    let unknown: Vec<_> =
        messages.iter().filter(|message| !source.contains(&format!("\"{message}\""))).collect();
    assert!(unknown.is_empty(), "the program does not log these: {unknown:#?}");
}

/// Texts of errors, in double quotes.
#[test]
fn the_errors_of_the_symptoms_exist() {
    // Made of parts.
    const MADE: [&str; 1] = ["status 503, not 2xx"];
    let rows: String = page().lines().filter(|line| line.starts_with('|')).collect();
    let errors = captured("\"([^\"]+)\"", &rows);
    assert!(errors.len() > 6, "{errors:?}");
    let source = source();
    let unknown: Vec<_> =
        errors.iter().filter(|error| !source.contains(&***error) && !MADE.contains(&&***error)).collect();
    assert!(unknown.is_empty(), "the program does not say these: {unknown:#?}");
}

#[test]
fn the_reasons_of_the_symptoms_exist() {
    let reference = std::fs::read_to_string(in_repository("docs/src/reference/close-reasons.md")).unwrap();
    let known = captured(r"(?m)^\| \**`(\w+)`", &reference);
    let page = page();
    let mut named = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| reason: ")) {
        named.extend(captured(r"`([a-z_]+)`", row.split(['|', ';']).nth(1).unwrap()));
    }
    assert!(named.is_subset(&known), "{:?}", named.difference(&known));
    // The other two need no remedy.
    let missing: Vec<_> = known.difference(&named).filter(|reason| !reason.ends_with("_closed")).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_alert_has_a_row() {
    let rules = files(&in_repository("compose/monitoring/prometheus/rules"), ".yaml");
    let rules: String = rules.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    assert_eq!(captured(r"(?m)^\| `(Pointsman\w+)` \|", &page()), captured(r"- alert: (\w+)", &rules));
}
