//! The pages `close-reasons.md` and `state-reasons.md` of the book, from the doc comments of the reasons.

use std::collections::BTreeSet;

use super::{CloseReason, state_reason};
use crate::testing::reference::{assert_current, capitalized, cell, variant_of, variants};

#[test]
fn the_reference_of_the_close_reasons_is_current() {
    let documented = variants(include_str!("close_reason.rs"), "CloseReason");
    let mut page = "# Close reasons\n\nWhy a connection ended: `reason` in its `closed` line, and in \
                    `pointsman_connections_closed_total`. Those in bold count as client-visible failures \
                    (`pointsman_client_visible_failures_total`).\n\n| reason | meaning | what to do |\n| --- | --- | --- |\n"
        .to_owned();
    for reason in CloseReason::ALL {
        let variant = variant_of(&documented, &reason);
        let remedy = variant.remedy.as_deref().unwrap_or_else(|| panic!("{reason:?} has no remedy"));
        let mark = if reason.is_failure() { "**" } else { "" };
        let (meaning, remedy) = (cell(&variant.meaning), cell(&capitalized(remedy)));
        page += &format!("| {mark}`{}`{mark} | {meaning} | {remedy} |\n", reason.name());
    }
    assert_eq!(documented.len(), CloseReason::ALL.len());
    assert_current("close-reasons.md", &page);
}

#[test]
fn the_reference_of_the_state_reasons_is_current() {
    let documented = variants(include_str!("state_reason.rs"), "StateReason");
    let mut page = "# State reasons\n\nWhy a backend is in its state: `reason` in the API and in the journal. Its text is \
                    the `cause` in the log, in `status`, in `why` and on the page.\n\n\
                    | reason | its text, such as | meaning | what to do |\n| --- | --- | --- | --- |\n"
        .to_owned();
    let (mut names, mut used) = (BTreeSet::new(), BTreeSet::new());
    for (reason, name, text) in state_reason::tests::all() {
        let variant = variant_of(&documented, &reason);
        let remedy = variant.remedy.as_deref().unwrap_or_else(|| panic!("{name} has no remedy"));
        used.insert(&variant.name);
        if names.insert(name) {
            page += &format!(
                "| `{name}` | {} | {} | {} |\n",
                cell(text),
                cell(&variant.meaning),
                cell(&capitalized(remedy))
            );
        }
    }
    assert_eq!(used.len(), documented.len(), "each variant has an example");
    assert_current("state-reasons.md", &page);
}
