//! Problems of a configuration: all of them at once, each with its line and column.

use std::fmt;

/// A position in a file; both numbers begin at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePosition {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it is; `None`: in the file as a whole.
    pub at: Option<FilePosition>,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    file: String,
    text: String,
    problems: Vec<Problem>,
}

impl ConfigErrors {
    /// The problems of `file`, with the contents `text`, sorted by position.
    pub(super) fn new(file: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.at);
        problems.dedup();
        Self { file: file.to_owned(), text: text.to_owned(), problems }
    }

    /// The problems, sorted by position.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// A problem on one line, with its position.
    pub fn line(&self, problem: &Problem) -> String {
        match problem.at {
            Some(at) => format!("{}:{}:{}: {}", self.file, at.line, at.column, problem.message),
            None => format!("{}: {}", self.file, problem.message),
        }
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.line(problem))?;
            let Some(at) = problem.at else { continue };
            if let Some(line) = at.line.checked_sub(1).and_then(|n| self.text.lines().nth(n)) {
                let number = at.line.to_string();
                // A tab before the caret keeps it below its column, however wide tabs are.
                let before = line.chars().take(at.column.saturating_sub(1));
                let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
                write!(f, "\n {number} | {line}\n {:width$} | {indent}^", "", width = number.len())?;
            }
        }
        Ok(())
    }
}
