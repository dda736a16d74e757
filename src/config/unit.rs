//! Sizes (`25MiB`) and durations (`30s`) as people write them, both ways.

use std::time::Duration;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const TIB: u64 = 1 << 40;

const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", KIB),
    ("MiB", MIB),
    ("GiB", GIB),
    ("TiB", TIB),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// In milliseconds.
const DURATION_UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// How a size is written, for errors.
pub const SIZES: &str = "write a whole number and a unit (B, KiB, MiB, GiB, TiB; kB, MB, GB, TB), as in \"25MiB\"";
/// How a duration is written, for errors.
pub const DURATIONS: &str = "write a whole number and a unit (ms, s, m, h, d, w), as in \"30s\" or \"1h30m\"";

/// A whole number and a unit, a space between them allowed. `None` if it is no size.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let (_, octets) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*octets)
}

/// One or more whole numbers with a unit each: `30s`, `1h30m`. `None` if it is no duration.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut sum: u64 = 0;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (_, behind) = rest.split_at_checked(digits)?;
        let unit_end = behind.trim_start().find(|c: char| c.is_ascii_digit());
        let term_end = unit_end.map_or(rest.len(), |end| digits + (behind.len() - behind.trim_start().len()) + end);
        let (term, next) = rest.split_at_checked(term_end)?;
        let (number, unit) = split(term)?;
        let (_, milliseconds) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        sum = sum.checked_add(number.checked_mul(*milliseconds)?)?;
        rest = next;
        if rest.is_empty() {
            return Some(Duration::from_millis(sum));
        }
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

/// As it would be written, in the largest unit that leaves a whole number.
#[must_use]
pub fn show_size(octets: u64) -> String {
    for (name, unit) in [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)] {
        if octets >= unit && octets.is_multiple_of(unit) {
            return format!("{}{name}", octets / unit);
        }
    }
    format!("{octets}B")
}

/// As it would be written, in the largest unit that leaves a whole number.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    for (name, unit) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if milliseconds.is_multiple_of(unit) {
            return format!("{}{name}", milliseconds / unit);
        }
    }
    format!("{milliseconds}ms")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        let table = [
            ("0B", Some(0)),
            ("256B", Some(256)),
            ("256KiB", Some(256 << 10)),
            ("25MiB", Some(25 << 20)),
            ("25 mib", Some(25 << 20)),
            ("4GiB", Some(4 << 30)),
            ("1kB", Some(1000)),
            ("3MB", Some(3_000_000)),
            ("25", None),
            ("MiB", None),
            ("-1MiB", None),
            ("1.5MiB", None),
            ("25MiBs", None),
            ("", None),
            ("99999999999999TiB", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_size(text), expected, "{text:?}");
        }
    }

    #[test]
    fn durations() {
        let table = [
            ("30s", Some(30_000)),
            ("5m", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("1h 30m", Some(5_400_000)),
            ("30 s", Some(30_000)),
            ("250ms", Some(250)),
            ("30d", Some(2_592_000_000)),
            ("2w", Some(1_209_600_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("30", None),
            ("s", None),
            ("5M", None),
            ("-5m", None),
            ("1h30", None),
            ("5mm", None),
            ("", None),
            ("99999999999999999w", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_duration(text), expected.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn errors_list_every_unit() {
        for (units, text) in [(SIZE_UNITS, SIZES), (DURATION_UNITS, DURATIONS)] {
            let listed = text.split(['(', ')']).nth(1).expect("a list");
            let listed: Vec<_> = listed.split([',', ';']).map(str::trim).collect();
            for (unit, _) in units {
                assert!(listed.iter().any(|listed| listed.eq_ignore_ascii_case(unit)), "{unit}: {text}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(octets in any::<u64>(), milliseconds in 0..u64::MAX / 2) {
            prop_assert_eq!(parse_size(&show_size(octets)), Some(octets));
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }

        #[test]
        fn without_a_number_it_is_neither(text in ".*") {
            prop_assert!(parse_size(&text).is_none() || text.contains(|c: char| c.is_ascii_digit()));
            prop_assert!(parse_duration(&text).is_none() || text.contains(|c: char| c.is_ascii_digit()));
        }
    }
}
