//! `GET /`: the page, one answer with its style and script in it, allowed by their hashes alone. It asks nothing of any other
//! origin and holds nothing of any message: what it shows it fetches.

use aws_lc_rs::digest;
use axum::body::Bytes;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const HTML: &str = include_str!("page/index.html");
const CSS: &str = include_str!("page/page.css");
const JS: &[&str] = &[
    include_str!("page/dom.js"),
    include_str!("page/plot.js"),
    include_str!("page/fleet.js"),
    include_str!("page/routes.js"),
    include_str!("page/over_time.js"),
    include_str!("page/latency.js"),
    include_str!("page/report.js"),
    include_str!("page/refusals.js"),
    include_str!("page/records.js"),
    include_str!("page/record.js"),
    include_str!("page/forget.js"),
    include_str!("page/undelivered.js"),
    include_str!("page/state.js"),
    include_str!("page/inspector.js"),
    include_str!("page/page.js"),
];

/// The page's text and the policy every answer carries.
pub(super) struct Page {
    /// Without and with a token: shared by all answers, so that a crowd costs no copies.
    html: [Bytes; 2],
    pub(super) policy: HeaderValue,
}

impl Page {
    /// The page must know before its first request whether a token is asked for and whether there is an inspector, so that it makes no
    /// request that fails.
    pub(super) fn new(inspector: bool, host: &str) -> Self {
        let script = format!("\"use strict\";\n{}", JS.concat());
        let html = HTML.replace("/*style*/", CSS).replace("/*script*/", &script).replace("__VERSION__", env!("CARGO_PKG_VERSION"));
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
            hash(&script),
            hash(CSS),
        );
        // Hashes and words only. Were it no header value, the policy that allows nothing at all stands in its place.
        let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
        // A domain name: nothing in it has a meaning in HTML.
        let html = html.replace("__INSPECTOR__", bool_text(inspector)).replace("__HOST__", host);
        let html = [false, true].map(|token| Bytes::from(html.replace("__TOKEN__", bool_text(token))));
        Self { html, policy }
    }

    pub(super) fn answer(&self, asks_for_token: bool) -> Response {
        let [open, with_token] = &self.html;
        let html = if asks_for_token { with_token } else { open };
        ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html.clone()).into_response()
    }
}

fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(digest::digest(&digest::SHA256, text.as_bytes())))
}

fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_allows_exactly_what_the_page_holds() {
        let page = Page::new(true, "mx.example.com");
        let html = str::from_utf8(&page.html[0]).unwrap();
        let policy = page.policy.to_str().unwrap();
        let script = html.split_once("<script>").unwrap().1.split_once("</script>").unwrap().0;
        let style = html.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
        assert!(policy.contains(&format!("script-src '{}'", hash(script))));
        assert!(policy.contains(&format!("style-src '{}'", hash(style))));
        assert_eq!(html.matches("<script").count(), 1);
        assert_eq!(html.matches("<style").count(), 1);
        assert!(!policy.contains("unsafe"));
    }

    #[test]
    fn the_page_names_no_other_origin_and_sets_no_markup() {
        let page = Page::new(true, "mx.example.com");
        let html = str::from_utf8(&page.html[0]).unwrap();
        for other in
            ["https://", "src=\"http", "url(", "@import", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
        {
            assert!(!html.contains(other), "{other}");
        }
        // The one name it needs is no request: the namespace of its drawings.
        assert!(!html.replace("http://www.w3.org/2000/svg", "").contains("http://"));
    }
}
