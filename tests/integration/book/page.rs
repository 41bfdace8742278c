//! The parts of a page that are tested.

use std::path::Path;

/// How a block is tested.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Test {
    /// A transcript; whether numbers must be the same.
    Run { exact: bool },
    /// A whole configuration, written to this file.
    Config(String),
    /// The keys of a pool.
    Pool,
    /// The keys of a listener.
    Listener,
    /// A configuration of HAProxy.
    Haproxy,
    /// A configuration of nginx.
    Nginx,
    /// Not at all.
    Illustration,
}

/// What a page consists of, for its test.
pub(super) enum Part {
    Block {
        at: String,
        test: Test,
        text: String,
    },
    /// A command that succeeds once the page may go on.
    Until {
        at: String,
        command: String,
    },
}

/// The parts of a page in their order. Fails for a block that does not say how it is tested.
pub(super) fn read(file: &Path) -> Vec<Part> {
    let text = std::fs::read_to_string(file).unwrap();
    let name = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string();
    let mut parts = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let at = format!("{name}:{}", index + 1);
        if let Some(info) = line.strip_prefix("```") {
            let block: Vec<&str> =
                lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            let is_reference = name.starts_with("docs/src/reference/");
            let test = test(info, is_reference).unwrap_or_else(|problem| panic!("{at}: {problem}: {info:?}"));
            parts.push(Part::Block { at, test, text: block.join("\n") + "\n" });
        } else if let Some(command) = line.strip_prefix("<!-- until: ") {
            let command =
                command.strip_suffix(" -->").unwrap_or_else(|| panic!("{at}: no end of the comment"));
            parts.push(Part::Until { at, command: command.to_owned() });
        } else {
            assert!(!line.trim_start().starts_with("```"), "{at}: an indented block is not tested");
        }
    }
    parts
}

fn test(info: &str, is_reference: bool) -> Result<Test, &'static str> {
    let words: Vec<&str> = info.split_whitespace().collect();
    Ok(match words[..] {
        ["console", "run"] => Test::Run { exact: false },
        ["console", "run", "exact"] => Test::Run { exact: true },
        ["yaml", "config"] => Test::Config("pointsman.yaml".to_owned()),
        ["yaml", "config", file] => Test::Config(file.to_owned()),
        ["yaml", "pool"] => Test::Pool,
        ["yaml", "listener"] => Test::Listener,
        ["haproxy", "check"] => Test::Haproxy,
        ["nginx", "check"] => Test::Nginx,
        ["text", "generated"] if is_reference => Test::Illustration,
        [_, "illustration"] => return Err("an illustration without a reason"),
        [_, "illustration", ..] => Test::Illustration,
        _ => return Err("a block that does not say how it is tested"),
    })
}

/// A command of a transcript, and the lines that it must print.
pub(super) struct Step {
    pub(super) command: String,
    pub(super) expected: Vec<String>,
}

/// The commands of a transcript. A line that ends with a backslash goes on in the next one.
pub(super) fn steps(at: &str, text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut continued = false;
    for line in text.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (_, Some(step)) if continued => step.command = format!("{}\n{line}", step.command),
            (Some(command), _) => steps.push(Step { command: command.to_owned(), expected: Vec::new() }),
            (None, Some(step)) => step.expected.push(line.to_owned()),
            (None, None) => panic!("{at}: a transcript begins with a command"),
        }
        continued = steps.last().is_some_and(|step| step.expected.is_empty() && line.ends_with('\\'));
    }
    steps
}

/// Whether the printed lines are the expected ones: `…` in a line is any text, and alone any lines.
pub(super) fn matches(expected: &[String], printed: &[String]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first.trim() == "…" => {
            (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..]))
        }
        Some((first, rest)) => printed
            .split_first()
            .is_some_and(|(line, others)| line_matches(first, line) && matches(rest, others)),
    }
}

fn line_matches(expected: &str, line: &str) -> bool {
    let Some((before, after)) = expected.split_once('…') else { return expected == line };
    let Some(rest) = line.strip_prefix(before) else { return false };
    rest.char_indices()
        .map(|(index, _)| index)
        .chain([rest.len()])
        .any(|from| line_matches(after, &rest[from..]))
}

/// A line in which numbers and the width of columns do not count.
pub(super) fn without_numbers(line: &str) -> String {
    let number = regex_lite::Regex::new(r"\d+(\.\d+)?").unwrap();
    let line = number.replace_all(line, "0");
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn transcripts_match_with_gaps() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    for (expected, printed, same) in [
        ("a", "a", true),
        ("a", "b", false),
        ("a\n…", "a\nb\nc", true),
        ("a\n…\nc", "a\nb\nc", true),
        ("…\nd", "a\nb\nc", false),
        ("a … c", "a b c", true),
        ("a … d", "a b c", false),
        ("a", "a\nb", false),
        ("", "", true),
    ] {
        assert_eq!(matches(&lines(expected), &lines(printed)), same, "{expected:?} {printed:?}");
    }
    assert_eq!(without_numbers("a   12.5 ms 3"), "a 0 ms 0");
    let steps = steps("here", "$ one \\\n  two\n$ three\nx\ny\n");
    let read: Vec<_> = steps.iter().map(|step| (&*step.command, step.expected.len())).collect();
    assert_eq!(read, [("one \\\n  two", 0), ("three", 2)]);
}

#[test]
fn a_block_says_how_it_is_tested() {
    assert_eq!(test("console run", false), Ok(Test::Run { exact: false }));
    assert_eq!(test("yaml config a.yaml", false), Ok(Test::Config("a.yaml".to_owned())));
    assert_eq!(test("sh illustration needs Docker", false), Ok(Test::Illustration));
    for info in ["", "yaml", "sh illustration", "text generated", "console runs"] {
        assert!(test(info, false).is_err(), "{info}");
    }
}
