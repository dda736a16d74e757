//! Histograms as HdrHistogram's own V2 encoding, compressed and in base64, as its other implementations read and write it; and the minutes
//! that wait to be brought to the fleet. Nothing here logs.

use super::Durations;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// What is kept of one sink's minutes while it is away: a day of all stages, some MiB.
const MINUTES_MAX: usize = 24 * 60 * 7;

#[must_use]
pub fn encode(histogram: &Histogram<u64>) -> String {
    let mut octets = Vec::new();
    // Writing to memory; the default settings fit any histogram.
    match V2DeflateSerializer::new().serialize(histogram, &mut octets) {
        Ok(_) => BASE64_STANDARD.encode(octets),
        Err(_) => String::new(),
    }
}

/// `None` for what is none.
#[must_use]
pub fn decode(text: &str) -> Option<Histogram<u64>> {
    let octets = BASE64_STANDARD.decode(text.trim()).ok()?;
    Deserializer::new().deserialize(&mut octets.as_slice()).ok()
}

/// One stage of one minute.
#[derive(Clone, Debug)]
pub struct Minute {
    pub end: jiff::Timestamp,
    pub stage: &'static str,
    pub histogram: String,
    pub sum_us: u64,
}

/// By who wants them; without a fleet nobody does.
#[derive(Default)]
pub struct Minutes(Mutex<BTreeMap<&'static str, VecDeque<Minute>>>);

impl Minutes {
    pub fn want(&self, sink: &'static str) {
        self.lock().entry(sink).or_default();
    }

    pub fn clear(&self) {
        self.lock().clear();
    }

    /// The oldest of them; they stay until they were taken.
    #[must_use]
    pub fn next(&self, sink: &str, most: usize) -> Vec<Minute> {
        self.lock().get(sink).map(|minutes| minutes.iter().take(most).cloned().collect()).unwrap_or_default()
    }

    pub fn taken(&self, sink: &str, count: usize) {
        if let Some(minutes) = self.lock().get_mut(sink) {
            minutes.drain(..count.min(minutes.len()));
        }
    }

    pub(super) fn push(&self, end: jiff::Timestamp, stage: &'static str, durations: &Durations<u64>) {
        let mut sinks = self.lock();
        if sinks.is_empty() || durations.histogram.is_empty() {
            return;
        }
        let minute = Minute { end, stage, histogram: encode(&durations.histogram), sum_us: durations.sum_us };
        for minutes in sinks.values_mut() {
            if minutes.len() >= MINUTES_MAX {
                minutes.pop_front();
            }
            minutes.push_back(minute.clone());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, VecDeque<Minute>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read_again_and_adds_up() {
        let mut one = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3).unwrap();
        let mut other = one.clone();
        (1..1000).for_each(|value| one.record(value * 7).unwrap());
        (1..1000).for_each(|value| other.record(value * 1000).unwrap());
        let mut merged = decode(&encode(&one)).unwrap();
        merged.add(decode(&encode(&other)).unwrap()).unwrap();
        one.add(other).unwrap();
        assert_eq!(merged, one);
        assert!(decode("").is_none() && decode("aGVsbG8=").is_none() && decode("ü").is_none());
    }

    #[test]
    fn minutes_wait_for_who_wants_them_and_no_longer_than_a_day() {
        let minutes = Minutes::default();
        let mut durations = Durations::new(3);
        durations.record(1000);
        minutes.push(jiff::Timestamp::UNIX_EPOCH, "total", &durations);
        minutes.want("a");
        assert!(minutes.next("a", 10).is_empty());
        for _ in 0..MINUTES_MAX + 5 {
            minutes.push(jiff::Timestamp::UNIX_EPOCH, "total", &durations);
        }
        assert_eq!(minutes.next("a", usize::MAX).len(), MINUTES_MAX);
        minutes.taken("a", MINUTES_MAX - 1);
        assert_eq!(minutes.next("a", 10).len(), 1);
        assert!(minutes.next("b", 10).is_empty());
    }
}
