//! What a header may be that goes to an endpoint, whether the file or an application's answer names it. Pure.

/// Request headers that the daemon or HTTP itself sets.
const OUR_HEADERS: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];

/// What is wrong with it, and how to mend that. `has_userinfo`: the URL has credentials.
#[must_use]
pub fn fault(name: &str, value: &str, has_userinfo: bool) -> Option<(String, &'static str)> {
    let lower = name.to_ascii_lowercase();
    // RFC 9110 5.6.2: a token.
    let token = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet);
    if name.is_empty() || !name.bytes().all(token) {
        return Some((format!("{name:?} is no header name"), "write letters, digits and hyphens, as in X-Tenant"));
    }
    if OUR_HEADERS.contains(&lower.as_str()) || lower.starts_with("mailsluice-") {
        return Some(("the daemon sets this header itself".to_owned(), "choose another name"));
    }
    if lower == "authorization" && has_userinfo {
        return Some(("the url has credentials as well".to_owned(), "keep one of the two"));
    }
    let visible = |octet: u8| octet == b'\t' || octet == b' ' || octet.is_ascii_graphic();
    if !value.bytes().all(visible) || value.trim() != value {
        return Some((
            "the value has characters that a header cannot carry".to_owned(),
            "write printable ASCII on one line, without space at its ends",
        ));
    }
    None
}
