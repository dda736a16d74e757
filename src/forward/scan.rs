//! Rspamd's verdict on a message: its own protocol, `checkv2`, beside the other checks of the sender. A result for the envelope and never a
//! decision: where there is none in time, there is none.
//!
//! Each address that is asked has a breaker of its own, whichever routes ask it. Logs when verdicts cease and when they come again.

use super::job::Job;
use super::lane::{Admission, Breaker};
use crate::config::{self, Route, Scan};
use crate::http::{Client, Request, Response, Wanted};
use crate::stats::Scans;
use arc_swap::ArcSwap;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// All in all, and no more than a quarter of the route's `timeout`.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Octets of an answer that are looked at: each symbol that fired has an object of its own. Behind them there is what a sender can make as long
/// as he likes, the addresses that his text links to.
const ANSWER_MAX: usize = 64 * 1024;
/// Octets of the symbols' names that are kept, and of the action.
const SYMBOLS_MAX: usize = 4 * 1024;
const ACTION_MAX: usize = 64;

/// All that are asked.
#[derive(Default)]
pub(super) struct Scanners(ArcSwap<HashMap<Scan, Arc<Scanner>>>);

struct Scanner {
    breaker: Mutex<Breaker>,
    /// The last one that was asked gave no verdict.
    silent: AtomicBool,
}

/// A question to a scanner. Dropped before its end it is as if it had not been asked.
struct Question<'a> {
    scanner: &'a Scanner,
    probe: bool,
    over: bool,
}

impl Scanners {
    /// Those of the routes. One that is asked already keeps what is known of it.
    pub(super) fn reload(&self, routes: &[Arc<Route>], breaker: config::Breaker) {
        let old = self.0.load();
        let mut new = HashMap::new();
        for scan in routes.iter().filter_map(|route| route.scan.as_ref()) {
            new.entry(scan.clone()).or_insert_with(|| match old.get(scan) {
                Some(scanner) => {
                    scanner.breaker().set_limits(breaker);
                    Arc::clone(scanner)
                }
                None => Arc::new(Scanner { breaker: Mutex::new(Breaker::new(breaker)), silent: AtomicBool::new(false) }),
            });
        }
        self.0.store(Arc::new(new));
    }

    /// `{score, required, action, symbols}`, if there is a verdict in time.
    pub(super) async fn ask(&self, client: &Client, job: &Job, counts: &Scans) -> Option<Value> {
        let scan = job.route.scan.as_ref()?;
        let scanner = self.0.load().get(scan).map(Arc::clone)?;
        let now = Instant::now();
        let Some(question) = scanner.begin(now) else {
            counts.not_asked.add(1);
            return None;
        };
        let deadline = job.deadline().min(now + TIMEOUT.min(job.route.timeout / 4));
        let ip = job.envelope.peer.ip.to_string();
        let (headers, body) = (headers(scan, job, &ip), [job.body.octets()]);
        let request = Request {
            url: &scan.url,
            headers: &headers,
            len: job.octets(),
            body: &body,
            wanted: Wanted::Body(ANSWER_MAX),
            deadline,
            socket: scan.socket.as_deref(),
            at_home: false,
            redirected: false,
            only_public: false,
        };
        match client.post(&request).await {
            Ok(answer) => {
                question.answered();
                let verdict = verdict(&answer.response);
                if verdict.is_some() { &counts.verdict } else { &counts.unreadable }.add(1);
                scanner
                    .says(&job.route, verdict.is_some(), || format!("an answer with status {} that is no verdict", answer.response.status));
                verdict
            }
            Err(none) => {
                question.not_answered();
                counts.no_answer.add(1);
                scanner.says(&job.route, false, || none.to_string());
                None
            }
        }
    }
}

impl Scanner {
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: its breaker is open.
    fn begin(&self, now: Instant) -> Option<Question<'_>> {
        let probe = match self.breaker().admit(now) {
            Admission::Yes => false,
            Admission::Probe => true,
            Admission::Open | Admission::Paused => return None,
        };
        Some(Question { scanner: self, probe, over: false })
    }

    fn says(&self, route: &Route, verdict: bool, why: impl Fn() -> String) {
        match (self.silent.swap(!verdict, Ordering::Relaxed), verdict) {
            (false, false) => tracing::warn!(route = route.name, why = why(), "scan: no verdict, mail goes on without one"),
            (true, true) => tracing::info!(route = route.name, "scan: verdicts again"),
            _ => {}
        }
    }
}

impl Question<'_> {
    fn answered(mut self) {
        self.over = true;
        self.scanner.breaker().answered(None, self.probe, Instant::now());
    }

    fn not_answered(mut self) {
        self.over = true;
        self.scanner.breaker().not_answered(self.probe, Instant::now());
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.scanner.breaker().not_asked(self.probe, Instant::now());
        }
    }
}

/// What Rspamd wants to know of the envelope.
fn headers<'a>(scan: &'a Scan, job: &'a Job, ip: &'a str) -> Vec<(&'static str, &'a str)> {
    let envelope = &job.envelope;
    let from = if envelope.reverse_path.is_empty() { "<>" } else { &envelope.reverse_path };
    let mut headers = vec![("queue-id", job.webhook_id.as_str()), ("ip", ip), ("helo", &envelope.helo), ("from", from)];
    headers.extend(envelope.recipients.iter().map(|recipient| ("rcpt", recipient.as_str())));
    if let Some((version, cipher)) = envelope.tls.as_deref().and_then(|tls| tls.split_once(' ')) {
        headers.extend([("tls-version", version), ("tls-cipher", cipher)]);
    }
    headers.extend(scan.authorization.as_ref().map(|authorization| ("authorization", authorization.expose())));
    headers
}

/// The verdict in the contract's words; `None`: it is none. What is cut off behind `ANSWER_MAX` says nothing else of it.
fn verdict(response: &Response) -> Option<Value> {
    if response.status != 200 {
        return None;
    }
    let mut verdict = Verdict::default();
    let mut answer = serde_json::Deserializer::from_str(&response.body);
    let read = answer.deserialize_map(&mut verdict).and_then(|()| answer.end());
    // A character that was cut in two is left out.
    let is_cut = response.body.len() >= ANSWER_MAX - 3;
    if read.is_err_and(|error| !(error.is_eof() && is_cut)) {
        return None;
    }
    let number = |value: Option<Value>| value.filter(Value::is_number);
    Some(serde_json::json!({
        "score": number(verdict.score)?,
        "required": number(verdict.required)?,
        "action": verdict.action?.as_str()?.chars().take(ACTION_MAX).collect::<String>(),
        "symbols": verdict.symbols.0,
    }))
}

/// What has come of an answer, whether or not the rest does.
#[derive(Default)]
struct Verdict {
    score: Option<Value>,
    required: Option<Value>,
    action: Option<Value>,
    symbols: Symbols,
}

/// The names that there is room for, and how many octets these have.
#[derive(Default)]
struct Symbols(Vec<String>, usize);

impl<'de> Visitor<'de> for &mut Verdict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a verdict")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut answer: A) -> Result<(), A::Error> {
        while let Some(name) = answer.next_key::<String>()? {
            match name.as_str() {
                "score" => self.score = Some(answer.next_value()?),
                "required_score" => self.required = Some(answer.next_value()?),
                "action" => self.action = Some(answer.next_value()?),
                "symbols" => answer.next_value_seed(&mut self.symbols)?,
                _ => _ = answer.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut Symbols {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, symbols: D) -> Result<(), D::Error> {
        symbols.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Symbols {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("symbols")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut symbols: A) -> Result<(), A::Error> {
        while let Some(name) = symbols.next_key::<String>()? {
            self.1 += name.len();
            if self.1 < SYMBOLS_MAX {
                self.0.push(name);
            }
            symbols.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, body: &str) -> Option<Value> {
        verdict(&Response {
            status,
            content_type: None,
            retry_after: None,
            challenges: false,
            body: body.to_owned(),
            is_coded: false,
            redirect_refused: None,
            lost_credentials: false,
        })
    }

    #[test]
    fn verdicts() {
        let body =
            r#"{"is_skipped":false,"score":-1.25,"required_score":15,"action":"no action","symbols":{"B":{"score":1},"A":{}},"x":1}"#;
        let expected = serde_json::json!({ "score": -1.25, "required": 15, "action": "no action", "symbols": ["A", "B"] });
        let sorted = |mut value: Value| {
            if let Some(symbols) = value["symbols"].as_array_mut() {
                symbols.sort_by_key(ToString::to_string);
            }
            value
        };
        assert_eq!(of(200, body).map(sorted), Some(expected));
        assert!(of(200, r#"{"score":1,"required_score":2,"action":"reject"}"#).is_some());
        for none in [
            "",
            "[]",
            "{",
            r#"{"score":"1","required_score":2,"action":"reject"}"#,
            r#"{"score":1,"action":"reject"}"#,
            r#"{"score":1,"required_score":2,"action":7}"#,
            r#"{"error":"no"}"#,
        ] {
            assert_eq!(of(200, none), None, "{none}");
        }
        assert_eq!(of(500, body), None);
        let many: Vec<_> = (0..2000).map(|n| format!("\"SYMBOL_{n}\":{{}}")).collect();
        let body = format!(r#"{{"score":1,"required_score":2,"action":"{}","symbols":{{{}}}}}"#, "x".repeat(500), many.join(","));
        let verdict = of(200, &body).unwrap();
        assert!(verdict.to_string().len() < 8 * 1024 && verdict["symbols"].as_array().unwrap().len() > 100);
        // A text with so many links makes the answer as long as it likes.
        let head = r#"{"score":7.5,"required_score":15,"action":"add header","symbols":{"A":{}},"urls":[""#;
        let long = format!("{head}{}", "x".repeat(ANSWER_MAX - head.len()));
        assert_eq!(of(200, &long), Some(serde_json::json!({ "score": 7.5, "required": 15, "action": "add header", "symbols": ["A"] })));
        assert_eq!(of(200, head), None, "it broke off");
        assert_eq!(of(200, &long.replace("[", "]")), None);
    }

    #[test]
    fn a_question_that_is_given_up_passes_its_turn_on() {
        let limits = config::Breaker { failures: 1, cooldown: Duration::ZERO };
        let scanner = Scanner { breaker: Mutex::new(Breaker::new(limits)), silent: AtomicBool::new(false) };
        scanner.begin(Instant::now()).unwrap().not_answered();
        drop(scanner.begin(Instant::now()).unwrap());
        scanner.begin(Instant::now()).unwrap().answered();
        assert!(scanner.begin(Instant::now()).is_some());
    }
}
