//! The links and pictures of the book: what they name exists.

use std::collections::BTreeSet;
use std::path::Path;

use regex_lite::Regex;

use super::{files, in_repository, pages};

/// The text without its code blocks.
fn prose(file: &Path) -> String {
    let mut inside = false;
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().filter(|line| {
        let is_fence = line.starts_with("```");
        inside ^= is_fence;
        !inside && !is_fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The anchors of a page's headings, as mdBook and GitHub make them.
fn anchors(file: &Path) -> BTreeSet<String> {
    let prose = prose(file);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// The targets of the links and pictures of a page.
fn targets(file: &Path) -> Vec<String> {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    link.captures_iter(&prose(file)).map(|found| found[1].to_owned()).collect()
}

#[test]
fn links_lead_to_pages_and_headings_that_exist() {
    let book = in_repository("docs/src").canonicalize().unwrap();
    let mut broken = Vec::new();
    let mut links = 0;
    for page in pages() {
        for target in targets(&page) {
            if target.starts_with("http://") || target.starts_with("https://") {
                continue;
            }
            links += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            // Pages of the built book find only what is in its folder.
            let leaves = page.canonicalize().unwrap().starts_with(&book)
                && !file.canonicalize().is_ok_and(|file| file.starts_with(&book));
            let no_heading = !anchor.is_empty() && file.exists() && !anchors(&file).contains(anchor);
            if !file.exists() || leaves || no_heading {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(links > 50, "{links}");
}

#[test]
fn every_page_is_in_the_summary_and_every_picture_on_a_page() {
    let book = in_repository("docs/src");
    let summary: BTreeSet<_> =
        targets(&book.join("SUMMARY.md")).into_iter().map(|target| book.join(target)).collect();
    let pages_of_the_book = files(&book, ".md").into_iter().filter(|file| !file.ends_with("SUMMARY.md"));
    assert_eq!(pages_of_the_book.collect::<BTreeSet<_>>(), summary);
    let shown: BTreeSet<_> = pages()
        .iter()
        .flat_map(|page| targets(page).into_iter().map(|target| page.parent().unwrap().join(target)))
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    for picture in files(&book.join("images"), "") {
        assert!(shown.contains(&picture.canonicalize().unwrap()), "{} is on no page", picture.display());
    }
}
