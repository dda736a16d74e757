//! How long an endpoint has been taking lately: with less time left than that no POST is begun. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const SAMPLES: usize = 64;
/// With fewer the longest is what there is to go by.
const FEW: usize = 8;
/// With fewer it is not known how many are answered beside each other.
const FIRST: usize = 3;
const AGE_MAX: Duration = Duration::from_secs(60);
/// Age of what alone may keep a message out.
const AGE_DECISIVE: Duration = Duration::from_secs(10);
/// A message over this is long on its way, which says little about the endpoint.
pub(super) const LARGE: u64 = 256 * 1024;

/// What a POST is begun beside.
#[derive(Clone, Copy)]
pub(super) struct Beside {
    /// With it.
    pub(super) in_flight: usize,
    /// More at once have been taking no longer.
    pub(super) has_room: bool,
    /// More at once than that, on trial.
    pub(super) on_trial: bool,
    /// One worker, which answers one after the other.
    pub(super) serial: bool,
}

#[derive(Default)]
pub(super) struct Need {
    samples: VecDeque<Sample>,
    /// Octets a second of large messages, all in all.
    speed: Option<f64>,
    known: Option<Known>,
}

struct Sample {
    at: Instant,
    took: Duration,
    /// With it, when it was begun.
    in_flight: usize,
    large: bool,
    /// There was no answer in time.
    late: bool,
}

#[derive(Clone, Copy)]
struct Known {
    need: Duration,
    longest: Duration,
    /// Of one alone, if they were answered one after the other.
    alone: Duration,
    /// What it was learned beside.
    in_flight: f64,
    /// When its oldest sample is too old.
    until: Instant,
}

impl Need {
    pub(super) fn learn(&mut self, now: Instant, took: Duration, in_flight: usize, octets: u64) {
        self.samples.retain(|sample| !sample.late);
        let large = octets > LARGE;
        if large {
            let speed = octets as f64 / took.as_secs_f64().max(1e-6);
            self.speed = Some(self.speed.map_or(speed, |before| before + (speed - before) / 4.0));
            if self.samples.back().is_some_and(|sample| !sample.large) {
                return;
            }
        } else if self.samples.back().is_some_and(|sample| sample.large) {
            self.samples.clear();
        }
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at: now, took, in_flight, large, late: false });
        self.known = None;
    }

    /// There was none in time: that is how long it takes until it answers again.
    pub(super) fn learn_late(&mut self, now: Instant, timeout: Duration, in_flight: usize) {
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at: now, took: timeout, in_flight, large: false, late: true });
        self.known = None;
    }

    /// Messages of ordinary size are known.
    pub(super) fn knows_small(&self) -> bool {
        self.samples.back().is_some_and(|sample| !sample.large)
    }

    /// For a message of that size, in such company; `timeout` is the route's.
    pub(super) fn need(&mut self, now: Instant, octets: u64, beside: Beside, timeout: Duration) -> Duration {
        let known = match self.known {
            Some(known) if now < known.until => known,
            _ => {
                while self.samples.pop_front_if(|sample| sample.at + AGE_MAX <= now).is_some() {}
                let known = of(self.samples.iter(), now);
                self.known = Some(known);
                known
            }
        };
        self.scaled(known, octets, beside, timeout)
    }

    /// By what was seen in the last seconds alone.
    pub(super) fn decisive(&self, now: Instant, octets: u64, beside: Beside, timeout: Duration) -> Duration {
        let known = of(self.samples.iter().filter(|sample| now < sample.at + AGE_DECISIVE), now);
        self.scaled(known, octets, beside, timeout)
    }

    fn scaled(&self, known: Known, octets: u64, beside: Beside, timeout: Duration) -> Duration {
        // An endpoint that is given more at once than before may take longer by as much: less so while it shows no queue.
        let more = (beside.in_flight as f64 / known.in_flight).max(1.0);
        let more = match beside {
            _ if self.samples.len() < FIRST => 1.0,
            Beside { has_room: true, .. } => more.sqrt(),
            _ => more,
        };
        let way = match self.speed {
            Some(speed) if octets > LARGE => Duration::try_from_secs_f64(octets as f64 / speed).unwrap_or(timeout),
            _ => Duration::ZERO,
        };
        let need = match beside {
            Beside { on_trial: true, .. } => known.longest.mul_f64(if self.samples.len() < FEW { 1.25 } else { 1.1 }),
            Beside { serial: true, in_flight: 0 | 1, .. } => known.alone,
            _ => known.need.mul_f64(more),
        };
        (need + way).min(timeout.mul_f64(0.8))
    }
}

fn of<'s>(samples: impl Iterator<Item = &'s Sample> + Clone, now: Instant) -> Known {
    let until = samples.clone().next().map_or(now, |oldest| oldest.at) + AGE_MAX;
    let (count, sum) = samples.clone().fold((0.0, 0.0), |(count, sum), sample| (count + 1.0, sum + sample.in_flight as f64));
    let longest = samples.clone().map(|sample| sample.took).max().unwrap_or_default();
    let need = nearly_all(samples.clone().map(|sample| sample.took).collect());
    let alone = nearly_all(samples.map(|sample| sample.took.div_f64((sample.in_flight as f64).max(1.0))).collect());
    Known { need, longest, alone, in_flight: (sum / f64::max(count, 1.0)).max(1.0), until }
}

/// What nine in ten took, and some more.
fn nearly_all(mut took: Vec<Duration>) -> Duration {
    if took.len() < FEW {
        return took.into_iter().max().unwrap_or_default().mul_f64(1.5);
    }
    let at = took.len() * 9 / 10;
    took.select_nth_unstable(at).1.mul_f64(1.25)
}
