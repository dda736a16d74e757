//! `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date in one of HTTP's three forms. Pure.

use jiff::Timestamp;
use std::time::Duration;

/// What it asks for at `now`; `None` where it says nothing that can be read.
#[must_use]
pub fn wait(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|octet| octet.is_ascii_digit()) {
        // What no number holds is long enough.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::from(u32::MAX))));
    }
    Some(Duration::try_from(date(value)?.duration_since(now)).unwrap_or_default())
}

/// A date as HTTP writes it, now or in former times (section 5.6.7), or with another zone, as mail does.
#[must_use]
pub fn date(value: &str) -> Option<Timestamp> {
    let value = value.trim();
    match httpdate::parse_http_date(value) {
        Ok(date) => date.try_into().ok(),
        Err(_) => jiff::fmt::rfc2822::parse(value).ok().map(|zoned| zoned.timestamp()),
    }
}

#[cfg(test)]
mod tests {
    use super::wait;
    use std::time::Duration;

    #[test]
    fn seconds_and_dates() {
        let now = "2026-11-30T06:00:00Z".parse().unwrap();
        let table = [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Mon, 30 Nov 2026 06:00:30 GMT", Some(30)),
            ("Mon, 30 Nov 2026 05:00:30 GMT", Some(0)),
            ("Monday, 30-Nov-26 06:02:00 GMT", Some(120)),
            ("Mon Nov 30 07:00:00 2026", Some(3600)),
            ("Mon, 30 Nov 2026 07:00:30 +0100", Some(30)),
            ("Mon, 31 Nov 2026 06:00:30 GMT", None),
            ("Mon, 30 Nov 2026", None),
            ("99999999999999999999", Some(u64::from(u32::MAX))),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ];
        for (value, seconds) in table {
            assert_eq!(wait(value, now), seconds.map(Duration::from_secs), "{value:?}");
        }
    }
}
