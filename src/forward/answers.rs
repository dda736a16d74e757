//! Answers of authorization callbacks that may be used again (RFC 9111), bounded in time, number and octets. Its time is handed in.

use super::question::Authorized;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// No answer is kept for longer.
const AGE_MAX: Duration = Duration::from_secs(60);
const ANSWERS_MAX: usize = 10_000;
const OCTETS_MAX: usize = 16 * 1024 * 1024;

/// Route, sender and recipient.
pub(super) type Key = (String, String, String);

#[derive(Default)]
pub(super) struct Answers {
    kept: HashMap<Key, Kept>,
    /// In the order in which they came; one that has been replaced since is passed over.
    order: VecDeque<(u64, Key)>,
    octets: usize,
    next: u64,
    /// Reloads so far: what was asked before one is not kept behind it.
    pub(super) generation: u64,
}

struct Kept {
    number: u64,
    until: Instant,
    octets: usize,
    answer: Authorized,
}

impl Answers {
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Authorized> {
        self.kept.get(key).filter(|kept| now < kept.until).map(|kept| kept.answer.clone())
    }

    /// `asked` is the generation in which it was asked for.
    pub(super) fn keep(&mut self, key: Key, answer: Authorized, age: Duration, asked: u64, now: Instant) {
        if asked != self.generation || age.is_zero() {
            return;
        }
        let octets = 256 + 2 * (key.0.len() + key.1.len() + key.2.len()) + answer.octets();
        self.drop_one(&key, None);
        while self.octets + octets > OCTETS_MAX || self.kept.len() >= ANSWERS_MAX || self.order.len() >= 2 * ANSWERS_MAX {
            let Some((number, oldest)) = self.order.pop_front() else { break };
            self.drop_one(&oldest, Some(number));
        }
        let number = self.next;
        self.next += 1;
        self.octets += octets;
        self.order.push_back((number, key.clone()));
        self.kept.insert(key, Kept { number, until: now + age.min(AGE_MAX), octets, answer });
    }

    fn drop_one(&mut self, key: &Key, number: Option<u64>) {
        if self.kept.get(key).is_some_and(|kept| number.is_none_or(|number| kept.number == number))
            && let Some(kept) = self.kept.remove(key)
        {
            self.octets -= kept.octets;
        }
    }

    /// What holds no longer: all of it.
    pub(super) fn forget(&mut self) {
        *self = Self { generation: self.generation + 1, ..Self::default() };
    }
}

/// For how long an answer may be used again: `max-age`, unless something else forbids it.
pub(super) fn age(cache_control: &str) -> Option<Duration> {
    let mut age: Option<u64> = None;
    for directive in cache_control.split(',') {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "private" | "no-store" | "no-cache" => return None,
            "max-age" => {
                let seconds = value.trim().trim_matches('"').parse().ok()?;
                age = Some(age.map_or(seconds, |age| age.min(seconds)));
            }
            _ => {}
        }
    }
    age.map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::{AGE_MAX, ANSWERS_MAX, Answers, Authorized, OCTETS_MAX, age};
    use std::time::{Duration, Instant};

    fn key(n: usize) -> super::Key {
        ("r".to_owned(), "from@x.test".to_owned(), format!("{n}@y.test"))
    }

    #[test]
    fn what_cache_control_says() {
        for (said, seconds) in [
            ("max-age=30", Some(30)),
            ("public, Max-Age=\"30\"", Some(30)),
            ("max-age=30,max-age=5", Some(5)),
            ("max-age=0", Some(0)),
            ("", None),
            ("public", None),
            ("max-age", None),
            ("max-age=-1", None),
            ("max-age=x", None),
            ("max-age=30, private", None),
            ("no-store, max-age=30", None),
            ("private=\"set-cookie\", max-age=30", None),
            ("no-cache, max-age=30", None),
        ] {
            assert_eq!(age(said).map(|age| age.as_secs()), seconds, "{said:?}");
        }
    }

    #[test]
    fn answers_end_with_their_time_or_a_reload() {
        let now = Instant::now();
        let mut answers = Answers::default();
        answers.keep(key(1), Authorized::Yes(None), Duration::from_secs(10), 0, now);
        answers.keep(key(2), Authorized::No(None), Duration::from_hours(1), 0, now);
        assert_eq!(answers.get(&key(1), now), Some(Authorized::Yes(None)));
        assert_eq!(answers.get(&key(3), now), None);
        assert_eq!(answers.get(&key(1), now + Duration::from_secs(10)), None);
        assert_eq!(answers.get(&key(2), now + Duration::from_secs(59)), Some(Authorized::No(None)));
        assert_eq!(answers.get(&key(2), now + AGE_MAX), None);
        answers.forget();
        assert_eq!(answers.get(&key(2), now), None);
        answers.keep(key(1), Authorized::Yes(None), Duration::from_secs(10), 0, now);
        assert_eq!(answers.get(&key(1), now), None, "asked for before the reload");
        answers.keep(key(1), Authorized::Yes(None), Duration::from_secs(10), 1, now);
        assert!(answers.get(&key(1), now).is_some());
    }

    #[test]
    fn bounded_in_number_and_octets() {
        let now = Instant::now();
        let minute = Duration::from_mins(1);
        let mut answers = Answers::default();
        for n in 0..ANSWERS_MAX + 500 {
            answers.keep(key(n), Authorized::Yes(None), minute, 0, now);
        }
        assert_eq!(answers.kept.len(), ANSWERS_MAX);
        assert!(answers.get(&key(499), now).is_none() && answers.get(&key(500), now).is_some());
        // The same one again and again is one.
        for _ in 0..3 * ANSWERS_MAX {
            answers.keep(key(ANSWERS_MAX + 499), Authorized::Yes(None), minute, 0, now);
        }
        assert!(answers.order.len() <= 2 * ANSWERS_MAX);
        assert!(answers.get(&key(ANSWERS_MAX + 499), now).is_some());
        for n in 0..ANSWERS_MAX {
            answers.keep(key(n), Authorized::No(Some("x".repeat(4000))), minute, 0, now);
            assert!(answers.octets <= OCTETS_MAX);
        }
        assert!(answers.kept.len() > 1000 && answers.get(&key(ANSWERS_MAX - 1), now).is_some());
    }
}
