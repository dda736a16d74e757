//! Service extensions (RFC 5321 section 4.1.1.1): what EHLO offers, and the parameters they give to MAIL. Logs nothing.

use super::reply;
use super::{Reply, Settings};

/// Parameters of MAIL.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct MailParameters {
    /// `SIZE=` (RFC 1870).
    pub(super) size: Option<u64>,
    /// `BODY=` (RFC 6152); octets are taken as they are whatever it says.
    body: bool,
    /// `SMTPUTF8` (RFC 6531).
    pub(super) smtputf8: bool,
}

/// The lines of a `250` to EHLO.
pub(super) fn write_offer(settings: &Settings, starttls: bool, out: &mut Vec<u8>) {
    let size = format!("SIZE {}", settings.max_message_size);
    let offers =
        [settings.hostname.as_str(), "PIPELINING", size.as_str(), "8BITMIME", "SMTPUTF8", "CHUNKING", "ENHANCEDSTATUSCODES", "STARTTLS"];
    let offered = if starttls { offers.len() } else { offers.len() - 1 };
    for (index, offer) in offers.iter().take(offered).enumerate() {
        out.extend_from_slice(if index + 1 == offered { b"250 " } else { b"250-" });
        out.extend_from_slice(offer.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

impl MailParameters {
    /// After HELO they are taken too: there are clients that use SIZE without having asked.
    pub(super) fn parse(text: &str) -> Result<Self, Reply> {
        let mut parameters = Self::default();
        for word in text.split_ascii_whitespace() {
            parameters.add(word)?;
        }
        Ok(parameters)
    }

    fn add(&mut self, word: &str) -> Result<(), Reply> {
        let (keyword, value) = match word.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (word, None),
        };
        if !is_keyword(keyword) || value == Some("") {
            return Err(reply::PARAMETER_SYNTAX);
        }
        match keyword.to_ascii_uppercase().as_str() {
            "SIZE" if self.size.is_none() => self.size = Some(value.and_then(size).ok_or(reply::PARAMETER_SYNTAX)?),
            "BODY" if !self.body => {
                let value = value.ok_or(reply::PARAMETER_SYNTAX)?;
                // RFC 3030 section 3: without an offer of BINARYMIME this is a parameter we do not know.
                if value.eq_ignore_ascii_case("BINARYMIME") {
                    return Err(reply::UNKNOWN_PARAMETER);
                }
                if !value.eq_ignore_ascii_case("7BIT") && !value.eq_ignore_ascii_case("8BITMIME") {
                    return Err(reply::PARAMETER_SYNTAX);
                }
                self.body = true;
            }
            "SMTPUTF8" if !self.smtputf8 && value.is_none() => self.smtputf8 = true,
            "SIZE" | "BODY" | "SMTPUTF8" => return Err(reply::PARAMETER_SYNTAX),
            _ => return Err(reply::UNKNOWN_PARAMETER),
        }
        Ok(())
    }
}

/// RCPT has no parameters here, so each is either unknown or no parameter at all.
pub(super) fn check_rcpt_parameters(text: &str) -> Result<(), Reply> {
    match text.split_ascii_whitespace().next() {
        None => Ok(()),
        Some(word) if is_keyword(word.split_once('=').map_or(word, |(keyword, _)| keyword)) => Err(reply::UNKNOWN_PARAMETER),
        Some(_) => Err(reply::PARAMETER_SYNTAX),
    }
}

fn is_keyword(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Up to 20 digits (RFC 1870 section 6); those that no `u64` holds are too large for any limit.
fn size(value: &str) -> Option<u64> {
    (value.len() <= 20 && value.bytes().all(|b| b.is_ascii_digit())).then(|| value.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_parameters() {
        let ok = |size, body, smtputf8| Ok(MailParameters { size, body, smtputf8 });
        for (text, expected) in [
            ("", ok(None, false, false)),
            (" SIZE=0", ok(Some(0), false, false)),
            (" size=100  body=8bitmime smtputf8", ok(Some(100), true, true)),
            (" BODY=7BIT", ok(None, true, false)),
            (" SIZE=99999999999999999999", ok(Some(u64::MAX), false, false)),
            (" SIZE=999999999999999999999", Err(reply::PARAMETER_SYNTAX)),
            (" SIZE", Err(reply::PARAMETER_SYNTAX)),
            (" SIZE=", Err(reply::PARAMETER_SYNTAX)),
            (" SIZE=+1", Err(reply::PARAMETER_SYNTAX)),
            (" SIZE=1 SIZE=1", Err(reply::PARAMETER_SYNTAX)),
            (" BODY", Err(reply::PARAMETER_SYNTAX)),
            (" BODY=9BIT", Err(reply::PARAMETER_SYNTAX)),
            (" BODY=7BIT BODY=7BIT", Err(reply::PARAMETER_SYNTAX)),
            (" BODY=BINARYMIME", Err(reply::UNKNOWN_PARAMETER)),
            (" SMTPUTF8=1", Err(reply::PARAMETER_SYNTAX)),
            (" SMTPUTF8 SMTPUTF8", Err(reply::PARAMETER_SYNTAX)),
            (" RET=HDRS", Err(reply::UNKNOWN_PARAMETER)),
            (" AUTH=<>", Err(reply::UNKNOWN_PARAMETER)),
            (" X", Err(reply::UNKNOWN_PARAMETER)),
            (" =x", Err(reply::PARAMETER_SYNTAX)),
            (" -x", Err(reply::PARAMETER_SYNTAX)),
            (" \u{e9}=x", Err(reply::PARAMETER_SYNTAX)),
        ] {
            assert_eq!(MailParameters::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn rcpt_parameters() {
        assert_eq!(check_rcpt_parameters("  "), Ok(()));
        assert_eq!(check_rcpt_parameters(" NOTIFY=NEVER"), Err(reply::UNKNOWN_PARAMETER));
        assert_eq!(check_rcpt_parameters(" <x>"), Err(reply::PARAMETER_SYNTAX));
    }
}
