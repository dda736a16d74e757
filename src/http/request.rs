//! A request, and its head (RFC 9112 sections 3 and 5), written in one go. Logs nothing; fails where a value would break out of its line.

use super::proxy::Proxy;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;
use url::{Position, Url};

/// A POST.
pub struct Request<'a> {
    pub url: &'a Url,
    pub headers: &'a [(&'a str, &'a str)],
    /// Octets of `body`.
    pub len: u64,
    pub body: &'a [&'a [u8]],
    pub deadline: Instant,
    /// The Unix socket that is asked instead of the URL's host.
    pub socket: Option<&'a Path>,
    /// To the origin that may see our certificate.
    pub at_home: bool,
    /// A redirect led here, to another origin than the configuration's.
    pub redirected: bool,
    /// Uses no connection to a loopback, link-local or private address.
    pub only_public: bool,
    pub wanted: Wanted,
}

/// What is wanted of the answer's body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The status line has been the answer: the body's start, as far as it comes soon.
    Start,
    /// The body of a 2xx is the answer: so many octets at the most, by the deadline.
    Body(usize),
}

const USER_AGENT: &str = concat!("mailsluice/", env!("CARGO_PKG_VERSION"));
/// Most headers need no more.
const OCTETS: usize = 1024;

/// # Errors
/// A name or a value that a header field cannot have: the configuration and the formats let none through.
pub(super) fn head(request: &Request<'_>, proxy: Option<&Proxy>) -> Result<Vec<u8>, String> {
    let mut head = Vec::with_capacity(OCTETS);
    head.extend_from_slice(b"POST ");
    if proxy.is_some() {
        // The absolute form (RFC 9112 section 3.2.2).
        head.extend_from_slice(request.url[..Position::BeforePath].as_bytes());
    }
    head.extend_from_slice(target(request.url).as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    // Scheme, userinfo and the scheme's own port are not in it (RFC 9110 section 7.2).
    field(&mut head, "host", &request.url[Position::BeforeHost..Position::AfterPort])?;
    field(&mut head, "user-agent", USER_AGENT)?;
    if let Some(proxy) = proxy {
        // Some proxies hand on all that follows on a connection, our credentials with it.
        field(&mut head, "connection", "close")?;
        if let Some(authorization) = &proxy.authorization {
            field(&mut head, "proxy-authorization", authorization)?;
        }
    }
    field(&mut head, "accept", "*/*")?;
    // Writing to a vector cannot fail.
    drop(write!(head, "content-length: {}\r\n", request.len));
    for (name, value) in request.headers {
        field(&mut head, name, value)?;
    }
    head.extend_from_slice(b"\r\n");
    Ok(head)
}

/// Path and query, never the fragment.
fn target(url: &Url) -> &str {
    &url[Position::BeforePath..Position::AfterQuery]
}

fn field(head: &mut Vec<u8>, name: &str, value: &str) -> Result<(), String> {
    // Without a branch for each octet.
    let is_name = name.bytes().fold(!name.is_empty(), |all, octet| all & matches!(octet, b'!'..=b'~') & (octet != b':'));
    let is_value = value.bytes().fold(true, |all, octet| all & !matches!(octet, b'\r' | b'\n' | b'\0'));
    if !(is_name && is_value) {
        return Err(format!("the header field {name:?} cannot be sent"));
    }
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value.as_bytes());
    head.extend_from_slice(b"\r\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Instant, Request, Wanted, head};

    fn of(url: &str, headers: &[(&str, &str)]) -> Result<String, String> {
        let url = url.parse().unwrap();
        let request = Request {
            url: &url,
            headers,
            len: 7,
            body: &[],
            deadline: Instant::now(),
            socket: None,
            at_home: true,
            redirected: false,
            only_public: false,
            wanted: Wanted::Start,
        };
        head(&request, None).map(|octets| String::from_utf8(octets).unwrap())
    }

    #[test]
    fn lines_and_targets() {
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            "POST /in?x=1 HTTP/1.1\r\nhost: app.example:8080\r\nuser-agent: mailsluice/{version}\r\naccept: */*\r\ncontent-length: 7\r\nx-tenant: 42\r\n\r\n"
        );
        assert_eq!(of("http://app.example:8080/in?x=1#y", &[("x-tenant", "42")]).unwrap(), expected);
        for (url, start) in [
            ("https://u:p@app.example:443", "POST / HTTP/1.1\r\nhost: app.example\r\n"),
            ("http://[::1]:80/?a b", "POST /?a%20b HTTP/1.1\r\nhost: [::1]\r\n"),
            ("http://xn--e1afmkfd.example/\u{e9}", "POST /%C3%A9 HTTP/1.1\r\nhost: xn--e1afmkfd.example\r\n"),
        ] {
            assert!(of(url, &[]).unwrap().starts_with(start), "{url}");
        }
    }

    #[test]
    fn nothing_breaks_out_of_its_line() {
        for field in [("x", "a\r\nb: c"), ("x", "a\nb"), ("x", "a\0b"), ("x y", "a"), ("x:", "a"), ("", "a"), ("x\r\ny", "a")] {
            assert!(of("http://a.example/", &[field]).is_err(), "{field:?}");
        }
    }
}
