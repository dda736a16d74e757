//! Every reply we send, one line each, and text made safe for a reply.

/// One SMTP reply line without its CRLF, at most 510 octets: `250 2.0.0 Ok`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply(pub std::borrow::Cow<'static, str>);

impl Reply {
    /// The three digits.
    pub fn code(&self) -> u16 { todo!() }
    /// `code enhanced text`, the text made safe: one line, printable ASCII (UTF-8 if `utf8`), controls replaced,
    /// an enhanced status code of its own taken off, cut so that the line stays under 512 octets with its CRLF.
    pub fn with_text(_code: u16, _enhanced: &str, _text: &str, _utf8: bool) -> Self { todo!() }
}
