//! The reference pages of the book, which tests render from the program and compare with the files in
//! `docs/src/reference`, so that no page is stale and none of it is part of the program.
//!
//! `POINTSMAN_WRITE_REFERENCE=1 cargo test reference` writes the files again.

/// A line at the head of each page, which only readers of the source see.
const GENERATED: &str =
    "<!-- Generated: POINTSMAN_WRITE_REFERENCE=1 cargo test reference. Edits here are overwritten. -->\n\n";

/// Asserts that a page in `docs/src/reference` has this text, or writes it.
#[track_caller]
pub fn assert_current(page: &str, text: &str) {
    let text = format!("{GENERATED}{text}");
    let path = super::repository().join("docs/src/reference").join(page);
    if std::env::var_os("POINTSMAN_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let current = std::fs::read_to_string(&path).is_ok_and(|current| current == text);
    assert!(current, "{} is stale: POINTSMAN_WRITE_REFERENCE=1 cargo test reference", path.display());
}

/// The text in a cell of a table.
pub fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

/// The text with a capital letter at its beginning.
pub fn capitalized(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

/// A variant of an enum, as its source file documents it.
pub struct Variant {
    /// Its name.
    pub name: String,
    /// The first paragraph of its documentation.
    pub meaning: String,
    /// The second one, which begins with "Remedy: ", without that word.
    pub remedy: Option<String>,
}

/// The variants of the enum of that name in a source file.
pub fn variants(source: &str, name: &str) -> Vec<Variant> {
    let begin = format!("pub enum {name} {{");
    let lines = source.lines().skip_while(|line| *line != begin).skip(1).take_while(|line| *line != "}");
    let mut variants = Vec::new();
    let mut paragraphs = vec![String::new()];
    // Fields are indented further.
    for line in lines.filter_map(|line| line.strip_prefix("    ")) {
        let paragraph = paragraphs.last_mut().unwrap();
        if line == "///" {
            paragraphs.push(String::new());
        } else if let Some(text) = line.strip_prefix("/// ") {
            *paragraph += if paragraph.is_empty() { "" } else { " " };
            *paragraph += text;
        } else if line.starts_with(char::is_uppercase) {
            let name = line.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned();
            let mut texts = std::mem::replace(&mut paragraphs, vec![String::new()]).into_iter();
            let meaning = texts.next().unwrap_or_default();
            let remedy = texts.next().map(|text| {
                let remedy = text.strip_prefix("Remedy: ");
                remedy.unwrap_or_else(|| panic!("{name}: {text} does not begin with Remedy")).to_owned()
            });
            variants.push(Variant { name, meaning, remedy });
        }
    }
    variants
}

/// The documentation of the variant of that value, whose `Debug` text begins with the variant's name.
#[track_caller]
pub fn variant_of<'v>(variants: &'v [Variant], value: &dyn std::fmt::Debug) -> &'v Variant {
    let text = format!("{value:?}");
    let name = text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let found = variants.iter().find(|variant| variant.name == name);
    found.unwrap_or_else(|| panic!("the source does not document {name}"))
}

#[test]
fn the_documentation_of_variants_is_read() {
    let source = "pub enum Other {\n    /// No.\n    A,\n}\n\npub enum Wanted {\n    /// One\n    /// text.\n    ///\n    \
                  /// Remedy: none.\n    #[attribute]\n    A {\n        /// A field.\n        B: u8,\n    },\n    /// Two.\n    \
                  C(D),\n}\n";
    let read: Vec<_> = variants(source, "Wanted")
        .into_iter()
        .map(|variant| (variant.name, variant.meaning, variant.remedy))
        .collect();
    let text = str::to_owned;
    assert_eq!(read, [(text("A"), text("One text."), Some(text("none."))), (text("C"), text("Two."), None)]);
}
