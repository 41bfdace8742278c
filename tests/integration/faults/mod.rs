//! What clients see of faults of the network, of backends and of other clients, how long it takes until all is as before, and
//! that nothing is left of it. The book's page `faults.md` has the results as a table, and names the tests.

mod backends;
mod clients;
mod network;
mod scene;

use std::path::Path;

use regex_lite::Regex;

/// The files of this folder that have tests.
const FILES: [&str; 3] = ["network", "backends", "clients"];

/// The text of a file of the repository; empty if there is none.
fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_default()
}

#[test]
fn the_page_names_each_test_of_a_fault() {
    let page = read("docs/src/faults.md");
    let named = Regex::new(r"`([a-z_]+)::([a-z_0-9]+)`").unwrap();
    let named: Vec<_> =
        named.captures_iter(&page).map(|found| (found[1].to_owned(), found[2].to_owned())).collect();
    assert!(named.len() > 15, "{named:?}");
    let of_folder = FILES.map(|file| read(&format!("tests/integration/faults/{file}.rs"))).concat();
    for (module, test) in &named {
        let source = match module.as_str() {
            "faults" => of_folder.clone(),
            module => {
                ["integration", "docker"].map(|kind| read(&format!("tests/{kind}/{module}.rs"))).concat()
            }
        };
        assert!(source.contains(&format!("fn {test}()")), "there is no test {module}::{test}");
    }
    for found in Regex::new(r"#\[test\]\nfn ([a-z_0-9]+)\(\)").unwrap().captures_iter(&of_folder) {
        assert!(named.iter().any(|(_, test)| *test == found[1]), "the page does not name {}", &found[1]);
    }
}
