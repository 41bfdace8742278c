//! The dashboard: one page and its files, part of the binary. It queries only the server that it came from, which its
//! Content-Security-Policy enforces.

use axum::Router;
use axum::http::HeaderName;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::routing::get;

/// Nothing from elsewhere, nothing inline, no frame around it, and no text that becomes markup: names of backends come
/// from DNS and from containers, and the page runs where changes are allowed.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The files: path, content type, content. Their paths to each other are relative, so that a proxy may serve them
/// below a prefix.
const FILES: [(&str, &str, &str); 27] = [
    ("/", HTML, include_str!("index.html")),
    ("/dashboard/style.css", CSS, include_str!("style.css")),
    ("/dashboard/playground.css", CSS, include_str!("playground.css")),
    ("/dashboard/icon.svg", SVG, include_str!("icon.svg")),
    ("/dashboard/icon-warning.svg", SVG, include_str!("icon-warning.svg")),
    ("/dashboard/icon-critical.svg", SVG, include_str!("icon-critical.svg")),
    ("/dashboard/main.js", SCRIPT, include_str!("main.js")),
    ("/dashboard/api.js", SCRIPT, include_str!("api.js")),
    ("/dashboard/chart.js", SCRIPT, include_str!("chart.js")),
    ("/dashboard/controls.js", SCRIPT, include_str!("controls.js")),
    ("/dashboard/dialogs.js", SCRIPT, include_str!("dialogs.js")),
    ("/dashboard/dom.js", SCRIPT, include_str!("dom.js")),
    ("/dashboard/format.js", SCRIPT, include_str!("format.js")),
    ("/dashboard/link.js", SCRIPT, include_str!("link.js")),
    ("/dashboard/lists.js", SCRIPT, include_str!("lists.js")),
    ("/dashboard/picture.js", SCRIPT, include_str!("picture.js")),
    ("/dashboard/playground.js", SCRIPT, include_str!("playground.js")),
    ("/dashboard/pool.js", SCRIPT, include_str!("pool.js")),
    ("/dashboard/problems.js", SCRIPT, include_str!("problems.js")),
    ("/dashboard/range.js", SCRIPT, include_str!("range.js")),
    ("/dashboard/scores.js", SCRIPT, include_str!("scores.js")),
    ("/dashboard/series.js", SCRIPT, include_str!("series.js")),
    ("/dashboard/store.js", SCRIPT, include_str!("store.js")),
    ("/dashboard/table.js", SCRIPT, include_str!("table.js")),
    ("/dashboard/tiles.js", SCRIPT, include_str!("tiles.js")),
    ("/dashboard/timeline.js", SCRIPT, include_str!("timeline.js")),
    ("/dashboard/states.js", SCRIPT, include_str!("states.js")),
];

/// The paths of the dashboard.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, content)| {
        let headers: [(HeaderName, &str); 4] = [
            (CONTENT_TYPE, kind),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "same-origin"),
        ];
        router.route(path, get(move || async move { (headers, content) }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_requests_only_its_own_files_and_all_of_them_exist() {
        let has = |path: &str| FILES.iter().any(|(known, ..)| *known == path);
        for (path, kind, content) in FILES {
            if kind == HTML {
                for (attribute, value) in content.split(' ').filter_map(|part| part.split_once("=\"")) {
                    let value = value.split('"').next().unwrap();
                    if attribute == "src" || attribute == "href" && value.starts_with("dashboard") {
                        assert!(has(&format!("/{value}")), "{path} asks for {value}");
                    }
                }
            } else if kind == SCRIPT {
                let modules =
                    content.lines().filter_map(|line| line.strip_prefix("import ")?.split("from './").nth(1));
                for module in modules {
                    let module = module.trim_end_matches("';");
                    assert!(has(&format!("/dashboard/{module}")), "{path} asks for {module}");
                }
                for call in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                    assert!(!content.contains(call), "{path} makes markup of text: {call}");
                }
            }
            let elsewhere =
                content.match_indices("://").filter(|(at, _)| !content[at + 3..].starts_with("www.w3.org"));
            assert_eq!(elsewhere.count(), 0, "{path} names an address elsewhere");
        }
    }
}
