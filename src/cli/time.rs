//! Times as people write and read them on the command line: the machine's local time, and its zone named once.

use super::{Exit, Failure};
use crate::config::unit::parse_duration;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// The local time.
#[derive(Clone)]
pub(super) struct Zone(TimeZone);

impl Zone {
    pub(super) fn of_this_machine() -> Self {
        Self(TimeZone::system())
    }

    /// For a column of times: `DATE (CET, +01:00)`.
    pub(super) fn title(&self) -> String {
        format!("DATE ({})", self.name())
    }

    pub(super) fn name(&self) -> String {
        let now = Timestamp::now().to_zoned_datetime(self.0.clone());
        let name = now.strftime("%Z").to_string();
        let offset = now.strftime("%:z").to_string();
        if name == "UTC" || name.starts_with(['+', '-']) { name } else { format!("{name} {offset}") }
    }

    /// Seconds are enough to read. What is no time stays as it is.
    pub(super) fn show(&self, rfc3339: &str) -> String {
        match rfc3339.parse::<Timestamp>() {
            Ok(moment) => self.0.to_datetime(moment).strftime("%F %T").to_string(),
            Err(_) => rfc3339.to_owned(),
        }
    }

    /// A time ago, a moment, or a day; without a zone it is local.
    pub(super) fn moment(&self, option: &str, text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
        let text = text.trim();
        let ago = parse_duration(text).and_then(|ago| SignedDuration::try_from(ago).ok()).and_then(|ago| now.checked_sub(ago).ok());
        let moment = || text.parse::<Timestamp>().ok();
        // A date with a time parses as a date too, and loses the time: so the longer form comes first, and the shorter has to be one.
        let local = || {
            let civil = match text.parse::<Date>() {
                Ok(day) if !text.contains([':', 'T', 't', ' ']) => day.to_datetime(jiff::civil::Time::midnight()),
                _ => text.parse::<DateTime>().ok()?,
            };
            // Within a gap of the clock, the moment after it.
            self.0.to_ambiguous_timestamp(civil).compatible().ok()
        };
        ago.or_else(moment).or_else(local).ok_or_else(|| {
            let line =
                format!("{option} {text:?} is no time; write 1h, 2d, 2026-01-31, 2026-01-31T12:00 (local time) or 2026-01-31T12:00:00Z");
            Failure::new(Exit::Usage, line)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().expect("a time");
        let zone = Zone(TimeZone::get("Europe/Berlin").expect("a zone"));
        let table = [
            ("1h", Some("2026-11-24T11:00:00Z")),
            ("2d", Some("2026-11-22T12:00:00Z")),
            ("1h30m", Some("2026-11-24T10:30:00Z")),
            ("2026-01-31T12:00:00+01:00", Some("2026-01-31T11:00:00Z")),
            ("2026-01-31T12:00:00Z", Some("2026-01-31T12:00:00Z")),
            ("2026-01-31", Some("2026-01-30T23:00:00Z")),
            ("2026-11-30T12:00", Some("2026-11-30T11:00:00Z")),
            ("2026-11-30 12:00:30", Some("2026-11-30T11:00:30Z")),
            ("2026-07-30T12:00", Some("2026-07-30T10:00:00Z")),
            ("2026-03-29T02:30", Some("2026-03-29T01:30:00Z")),
            ("yesterday", None),
            ("1", None),
            ("12:00", None),
            ("2026-11-30Tnoon", None),
            ("99999999w", None),
        ];
        for (text, expected) in table {
            assert_eq!(zone.moment("--since", text, now).ok().map(|moment| moment.to_string()).as_deref(), expected, "{text}");
        }
        assert_eq!(zone.show("2026-07-30T10:00:00.123456Z"), "2026-07-30 12:00:00");
        assert_eq!(zone.show("then"), "then");
        assert_eq!(Zone(TimeZone::UTC).title(), "DATE (UTC)");
        assert!(zone.title().starts_with("DATE (CE") && zone.title().contains(" +0"), "{}", zone.title());
    }
}
