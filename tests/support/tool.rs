//! Tools from PyPI that some tests need.

use std::path::PathBuf;

use super::skip;

/// A tool of `tests/requirements.txt`: the one that an environment variable of its name points to, such as `SCHEMATHESIS`, or
/// one on the search path. Without it the test is skipped, or fails with `POINTSMAN_REQUIRE_TOOLS=1`.
pub fn python_tool(name: &str) -> Option<PathBuf> {
    let variable = name.to_uppercase().replace('-', "_");
    let named = std::env::var_os(&variable).map(PathBuf::from);
    let found = named.or_else(|| on_the_search_path(name));
    if found.is_none() {
        let missing = format!(
            "there is no {name} on the PATH (`pip install -r tests/requirements.txt`; {variable} names one elsewhere)"
        );
        skip("POINTSMAN_REQUIRE_TOOLS", &missing);
    }
    found
}

/// A program on the search path.
pub fn on_the_search_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|tool| tool.is_file())
}
