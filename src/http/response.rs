//! What an endpoint said, as far as it is of interest. Pure.

use std::time::Duration;

/// A complete status line and header; the body as far as it came.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub content_type: Option<String>,
    pub retry_after: Option<String>,
    /// First 2 KiB, lossy UTF-8.
    pub body: String,
    /// A redirect that was not followed (count, scheme, address): the status is the redirect's own.
    pub redirect_refused: Option<String>,
}

/// A response, what only redirects look at, and how long it took.
pub struct Answer {
    pub response: Response,
    pub location: Option<String>,
    /// The connection went to an address of the open internet.
    pub from_public: bool,
    /// From the request's last octet to the status line.
    pub waited: Duration,
}
