//! What is wrong with a file that is not YAML, in words that need no knowledge of YAML's grammar.

use super::problem::FilePosition;

/// A parser's message about `text`, with what to do.
pub(super) fn explain(message: &str, text: &str, at: Option<FilePosition>) -> String {
    if let Some((_, rest)) = message.split_once("duplicate mapping key: ") {
        let key = rest.split(", set ").next().unwrap_or(rest);
        return format!("the key {key:?} is there twice");
    }
    if message.starts_with("tabs ") {
        return "a tab, where YAML wants spaces".to_owned();
    }
    if message.starts_with("invalid indentation in multiline quoted scalar") {
        return "a quote before this line is not closed".to_owned();
    }
    let lines = NumberedLines { text };
    let here = at.and_then(|at| lines.get(at.line));
    if message.contains("flow") || message.starts_with("unclosed bracket") {
        return match here {
            Some(line) if line.text.contains("${") => "inside { } or [ ], put a ${…} in quotes".to_owned(),
            _ => "a { or [ is not closed, or a comma is missing before this place".to_owned(),
        };
    }
    // The parser's words for a line that is indented wrongly, or follows one that is.
    let indentation = ["mapping values are not allowed", "while parsing a block", "did not find expected"];
    let advice = here
        .filter(|_| indentation.iter().any(|words| message.starts_with(words)))
        .and_then(|line| indentation_advice(&lines, line));
    advice.unwrap_or_else(|| message.to_owned())
}

/// The text as numbered lines.
struct NumberedLines<'t> {
    text: &'t str,
}

/// A line that is neither empty nor a comment.
#[derive(Clone, Copy)]
struct Line<'t> {
    /// The first line has 1.
    number: usize,
    /// The number of spaces before the text.
    indent: usize,
    text: &'t str,
}

impl<'t> NumberedLines<'t> {
    fn all(&self) -> impl DoubleEndedIterator<Item = Line<'t>> + use<'t> {
        let lines: Vec<_> = self.text.lines().collect();
        lines.into_iter().enumerate().filter_map(|(index, line)| {
            let text = line.trim_start_matches(' ');
            let line = Line { number: index + 1, indent: line.len() - text.len(), text: text.trim_end() };
            (!line.text.is_empty() && !line.text.starts_with('#')).then_some(line)
        })
    }

    fn get(&self, number: usize) -> Option<Line<'t>> {
        self.all().find(|line| line.number == number)
    }

    /// The lines before this one, the nearest first.
    fn before(&self, line: Line<'t>) -> impl Iterator<Item = Line<'t>> + use<'t> {
        self.all().rev().skip_while(move |before| before.number >= line.number)
    }
}

impl<'t> Line<'t> {
    /// Its key, if it is `key:` or `key: value`, with the value.
    fn pair(self) -> Option<(&'t str, &'t str)> {
        let text = self.text.strip_prefix("- ").unwrap_or(self.text).trim_start();
        let (key, value) = match text.split_once(": ") {
            Some(pair) => pair,
            None => (text.strip_suffix(':')?, ""),
        };
        Some((key, value.trim()))
    }

    fn is_item(self) -> bool {
        self.text == "-" || self.text.starts_with("- ")
    }

    /// Where its key begins, which is after the `-` of an item.
    fn key_indent(self) -> usize {
        let after = self.text.strip_prefix('-').map_or(0, |rest| 1 + rest.len() - rest.trim_start().len());
        self.indent + after
    }
}

/// What to do about a line with a wrong indentation; `None` if the indentation is not the fault.
fn indentation_advice(lines: &NumberedLines<'_>, line: Line<'_>) -> Option<String> {
    let above = lines.before(line).next()?;
    let no_pair = |line: Line<'_>| {
        format!(
            "{} (line {}) is not a key with a value: write `key: value`, with a space after the colon",
            quoted(line.text),
            line.number
        )
    };
    // The parser reports a line without a colon only at the next one.
    match (above.pair(), line.pair()) {
        (None, _) if !above.is_item() => return Some(no_pair(above)),
        (_, None) if !line.is_item() => return Some(no_pair(line)),
        (Some((key, value)), _) if line.indent > above.key_indent() && !value.is_empty() => {
            return Some(format!(
                "this line is indented below line {}, which has a value already: to be beside {key:?}, it must be \
                 indented by {}",
                above.number,
                spaces(above.key_indent())
            ));
        }
        _ => {}
    }
    // The places where a line may begin here: those of the lines above that are not closed by a line further out.
    let mut outer = usize::MAX;
    let mut places: Vec<(usize, Line<'_>)> = Vec::new();
    for before in lines.before(line) {
        for indent in [before.key_indent(), before.indent] {
            if indent < outer {
                outer = indent;
                places.push((indent, before));
            }
        }
    }
    let same = places.iter().find(|(indent, _)| *indent == line.indent);
    if let Some((_, item)) = same
        && item.is_item()
        && !line.is_item()
    {
        return Some(format!(
            "this line is indented like the \"-\" in line {}: a key of that item is indented by {}",
            item.number,
            spaces(item.key_indent())
        ));
    }
    if same.is_some() {
        return None;
    }
    let place =
        |(indent, line): &(usize, Line<'_>)| format!("{} as in line {}", spaces(*indent), line.number);
    let inner = places.iter().rev().find(|(indent, _)| *indent > line.indent).map(place);
    let outer = places.iter().find(|(indent, _)| *indent < line.indent).map(place);
    let either: Vec<_> = inner.into_iter().chain(outer).collect();
    Some(format!(
        "this line is indented by {}, which matches no line above: use {}",
        spaces(line.indent),
        either.join(", or ")
    ))
}

fn spaces(number: usize) -> String {
    match number {
        0 => "no space".to_owned(),
        1 => "1 space".to_owned(),
        number => format!("{number} spaces"),
    }
}

/// The beginning of a line, in quotes.
fn quoted(text: &str) -> String {
    /// Longer lines are cut: the message names the line's number.
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}", format!("{}…", &text[..end])),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    fn first_line(text: &str) -> String {
        let report = parse("p.yaml", text, &|_| None).unwrap_err();
        report.line(&report.problems()[0])
    }

    const POOLS: &str = "pools:\n  web:\n    discover: [{static: ['10.0.0.1:1']}]\n";

    #[test]
    fn a_wrong_indentation_is_reported_with_the_right_one() {
        for (listeners, expected) in [
            (
                "listeners:\n  web:\n    bind: 127.0.0.1:1\n   pool: web\n",
                "p.yaml:4:4: this line is indented by 3 spaces, which matches no line above: use 4 spaces as in line 3, or \
                 2 spaces as in line 2",
            ),
            (
                "listeners:\n  web:\n    bind: 127.0.0.1:1\n      pool: web\n",
                "p.yaml:4:11: this line is indented below line 3, which has a value already: to be beside \"bind\", it must \
                 be indented by 4 spaces",
            ),
            (
                "listeners:\n  web: {bind: '127.0.0.1:1', pool: web}\n x-more: 1\n",
                "p.yaml:3:2: this line is indented by 1 space, which matches no line above: use 2 spaces as in line 2, or \
                 no space as in line 1",
            ),
            (
                "listeners:\n  web:\n    bind:\n      - 127.0.0.1:1\n      pool: web\n",
                "p.yaml:5:7: this line is indented like the \"-\" in line 4: a key of that item is indented by 8 spaces",
            ),
        ] {
            assert_eq!(first_line(&format!("{listeners}{POOLS}")), expected);
        }
    }

    #[test]
    fn a_key_that_was_not_indented_is_noticed() {
        let listener = format!("listeners:\nweb:\n  bind: 127.0.0.1:1\n  pool: web\n{POOLS}");
        let report = parse("p.yaml", &listener, &|_| None).unwrap_err();
        let expected = "unknown key \"web\" in the configuration; if it belongs to \"listeners\" in line 1, indent it below \
                        that line";
        assert!(report.problems().iter().any(|problem| problem.message == expected), "{report}");
        let key = format!("listeners:\n  web:\n  bind: 127.0.0.1:1\n  pool: web\n{POOLS}");
        let report = parse("p.yaml", &key, &|_| None).unwrap_err();
        let expected = "listener \"bind\" must be a map of keys and values; if it belongs to \"web\" in line 2, indent it \
                        below that line";
        assert!(report.problems().iter().any(|problem| problem.message == expected), "{report}");
    }

    #[test]
    fn a_line_without_a_value_is_named() {
        for line in ["bind 127.0.0.1:1", "bind:127.0.0.1:1"] {
            let text = format!("listeners:\n  web:\n    {line}\n    pool: web\n{POOLS}");
            let expected = format!(
                "p.yaml:4:9: \"{line}\" (line 3) is not a key with a value: write `key: value`, with a space after the colon"
            );
            assert_eq!(first_line(&text), expected);
        }
    }

    #[test]
    fn an_open_quote_or_bracket_is_reported() {
        let quote = format!("listeners:\n  web:\n    bind: 127.0.0.1:1\n    pool: \"web\n{POOLS}");
        assert_eq!(first_line(&quote), "p.yaml:5:1: a quote before this line is not closed");
        let bracket = format!("listeners:\n  web: {{bind: '127.0.0.1:1', pool: web\n{POOLS}");
        let expected = "p.yaml:3:6: a { or [ is not closed, or a comma is missing before this place";
        assert_eq!(first_line(&bracket), expected);
    }
}
