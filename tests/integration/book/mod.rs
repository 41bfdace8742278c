//! The book in `docs`, and README.md: what they show is true. The first words behind the three backticks of a block say how
//! it is tested:
//!
//! - `console run`: a transcript. Commands begin with `$ `, and the lines after each are its output, in which numbers may
//!   differ and `…` stands for any text, or alone on its line for any lines. With `exact`, numbers must be the same.
//! - `yaml config [FILE]`: a whole configuration, which is written to the file (`pointsman.yaml`) and checked. `yaml pool` and
//!   `yaml listener`: keys of one, to which the rest is added.
//! - `haproxy check`, `nginx check`: a configuration that the program itself must accept.
//! - `LANGUAGE illustration REASON`: not tested, for that reason.
//!
//! All blocks of a page are one session in an empty folder. `<!-- until: COMMAND -->`, which readers do not see, waits until
//! a command succeeds.

mod links;
mod page;
mod session;
mod symptoms;

use std::path::{Path, PathBuf};
use std::process::Command;

use page::{Part, Test};
use session::Session;

use crate::support::{Limited, TOOL, skip};

/// A path in the repository.
fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// All files below a folder of the book whose names end like this.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The pages: the README, and those of the book.
fn pages() -> Vec<PathBuf> {
    let mut pages = files(&in_repository("docs/src"), ".md");
    assert!(pages.len() > 20, "{pages:?}");
    pages.push(in_repository("README.md"));
    pages
}

/// Runs the blocks of the pages that are wanted.
fn follow(wanted: impl Fn(&str) -> bool) {
    for file in pages() {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        if !wanted(&name) {
            continue;
        }
        let page = page::read(&file);
        if let Some(missing) = session::missing_tools(&page) {
            skip("POINTSMAN_REQUIRE_TOOLS", &format!("the page {name} needs {missing} (apt-get install)"));
            continue;
        }
        let mut session = Session::new(&name);
        for part in &page {
            session.follow(part);
        }
    }
}

const TUTORIAL: &str = "tutorial";

#[test]
fn the_tutorial_can_be_followed() {
    follow(|name| name == TUTORIAL);
}

#[test]
fn what_the_other_pages_show_is_true() {
    follow(|name| name != TUTORIAL);
}

#[test]
fn every_block_is_tested_or_says_why_not() {
    let (mut tested, mut all) = (0, 0);
    for file in pages() {
        for part in page::read(&file) {
            if let Part::Block { test, .. } = part {
                all += 1;
                tested += usize::from(!matches!(test, Test::Illustration));
            }
        }
    }
    assert!(tested > 60 && tested > all / 2, "{tested} of {all} blocks are tested");
}

#[test]
fn the_pictures_can_be_drawn_again() {
    let folder = tempfile::tempdir().unwrap();
    let script = in_repository("docs/pictures");
    let mut command = Command::new("bash");
    command.arg(script).arg(folder.path()).env("POINTSMAN", env!("CARGO_BIN_EXE_pointsman"));
    let output = command.output_within(TOOL).unwrap();
    assert!(output.status.success(), "{output:?}");
    let names = |folder: &Path| -> Vec<String> {
        let files = files(folder, ".svg");
        files.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    let committed = in_repository("docs/src/images");
    assert_eq!(names(folder.path()), names(&committed), "run docs/pictures");
    // The words, which are equal on every machine; a logarithm may differ in its last digit.
    let words = |path: PathBuf| -> Vec<String> {
        let text = std::fs::read_to_string(&path).unwrap();
        let letters =
            text.split('>').filter_map(|part| part.split('<').next()).filter(|text| !text.trim().is_empty());
        letters.filter(|text| !text.contains(|c: char| c.is_ascii_digit())).map(str::to_owned).collect()
    };
    for name in names(&committed) {
        assert_eq!(
            words(folder.path().join(&name)),
            words(committed.join(&name)),
            "{name}: run docs/pictures"
        );
    }
}
