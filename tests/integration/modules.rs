//! The order of the modules: each uses only those below it in the list of `ARCHITECTURE.md`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex_lite::Regex;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// The modules as ARCHITECTURE.md lists them, the highest first.
fn order() -> Vec<String> {
    let text = read("ARCHITECTURE.md");
    let paragraph = text.lines().skip_while(|line| !line.starts_with("Dependencies point down this list"));
    let list = paragraph.take_while(|line| !line.is_empty()).collect::<String>();
    Regex::new(r"`(\w+)`").unwrap().captures_iter(&list).map(|found| found[1].to_owned()).collect()
}

/// All source files below `folder`, without those that hold only tests.
fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            sources(&path, files);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") && name != "laws.rs" {
            files.push(path);
        }
    }
}

/// The top-level module of a source file.
fn module(file: &Path) -> String {
    let inside = file.strip_prefix(Path::new(ROOT).join("src")).unwrap();
    inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

#[test]
fn each_module_uses_only_those_below_it() {
    let order = order();
    let position = |name: &str| order.iter().position(|listed| listed == name);
    let used = Regex::new(r"\bcrate::(\w+)").unwrap();
    let mut files = Vec::new();
    sources(&Path::new(ROOT).join("src"), &mut files);

    let mut seen = BTreeSet::new();
    let mut upward = BTreeSet::new();
    for file in files {
        let name = module(&file);
        if ["main", "lib", "core"].contains(&&*name) {
            continue;
        }
        let text = read(&file);
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        for other in lines.flat_map(|line| used.captures_iter(line)).map(|found| found[1].to_owned()) {
            // A name that is not in the list is an item of `lib.rs` itself.
            if other != name && position(&other).is_some() && position(&other) <= position(&name) {
                upward.insert(format!("{} uses {other}", file.display()));
            }
        }
        seen.insert(name);
    }

    assert!(upward.is_empty(), "these uses point up the list of ARCHITECTURE.md: {upward:#?}");
    let unlisted: Vec<_> =
        seen.iter().filter(|name| position(name).is_none() && *name != "testing").collect();
    assert!(unlisted.is_empty(), "not in the list of ARCHITECTURE.md: {unlisted:?}");
    let gone: Vec<_> = order.iter().filter(|name| !seen.contains(*name)).collect();
    assert!(gone.is_empty(), "listed in ARCHITECTURE.md, but not in src: {gone:?}");
}

#[test]
fn the_front_page_lists_the_modules_in_the_same_order() {
    let row = Regex::new(r"(?m)^//! \| \[`(\w+)`\]").unwrap();
    let listed: Vec<_> = row.captures_iter(&read("src/lib.rs")).map(|found| found[1].to_owned()).collect();
    assert_eq!(listed, order());
}

#[test]
fn every_file_that_the_architecture_names_exists() {
    let text = read("ARCHITECTURE.md");
    let named =
        Regex::new(r"`((?:src|tests|conf|compose|benchmarks)/[\w./-]*|[\w/]+\.(?:rs|js|json))`").unwrap();
    let mut files = Vec::new();
    sources(&Path::new(ROOT).join("src"), &mut files);
    let missing: Vec<_> = named
        .captures_iter(&text)
        .map(|found| found[1].to_owned())
        .filter(|name| !Path::new(ROOT).join(name).exists())
        // Without its folder if the paragraph names the folder.
        .filter(|name| !files.iter().any(|file| file.ends_with(name)))
        .filter(|name| !Path::new(ROOT).join("src/admin/dashboard").join(name).exists())
        .collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names files that do not exist: {missing:?}");
}
