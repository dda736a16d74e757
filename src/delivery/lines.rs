//! One line a message, a refused client, sender or recipient, a failed handshake: for whoever asks "your server bounced my mail, for
//! whom, from where?", and for fail2ban. Redacted like the store and as `log.redact` says; of a message only what its record has.
//!
//! At most 20 lines a second, whatever a crowd does; then one line says how many were left out, and whose they were.

use crate::config::{Config, LogMessages, LogRedact, Redact, Route};
use crate::record::{Outcome, Record};
use crate::smtp::{Refused, What, reply};
use crate::stats::{Refusal, Stats, TlsFailure};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines a second, the one with the count included.
const LINES: u32 = 20;
/// What refusals may take of them: a crowd that is refused does not hide what becomes of messages.
const LINES_OF_REFUSALS: u32 = 15;
/// Clients that the line with the count names; the others are named in the seconds that follow.
const CLIENTS_NAMED: usize = 50;
/// Clients that wait to be named. A crowd that is larger for long is not named whole.
const CLIENTS_WAITING: usize = 4096;
/// A text in a line, octets at the most.
const TEXT_MAX: usize = 998;

pub(super) struct Lines {
    stats: Arc<Stats>,
    settings: ArcSwap<Settings>,
    pace: Mutex<Pace>,
}

/// What a reload replaces.
#[derive(Clone, Copy)]
struct Settings {
    messages: LogMessages,
    log: LogRedact,
    store: Redact,
}

impl Settings {
    fn of(config: &Config) -> Self {
        Self { messages: config.log.messages, log: config.log.redact, store: config.store.redact }
    }

    fn shows_ip(self) -> bool {
        !self.log.sender_ip && !self.store.sender_ip
    }

    /// An application's text may quote what is not to be shown.
    fn shows_text(self) -> bool {
        !self.store.response_body && !self.log.sender && !self.log.recipients && !self.log.subject && !self.log.message_id
    }
}

/// A message's line, made before its record is given away.
pub(super) struct MessageLine {
    ip: Option<String>,
    outcome: Outcome,
    reply: String,
    /// Why there was no answer.
    reason: Option<String>,
    route: String,
    status: u16,
    id: String,
    message_id: Option<String>,
    sender: Option<String>,
    recipients: Option<String>,
    subject: Option<String>,
    size: u64,
}

impl Lines {
    pub(super) fn new(config: &Config, stats: &Arc<Stats>) -> Self {
        let settings = ArcSwap::from_pointee(Settings::of(config));
        Self { stats: Arc::clone(stats), settings, pace: Mutex::new(Pace::new(Instant::now())) }
    }

    pub(super) fn reload(&self, config: &Config) {
        self.settings.store(Arc::new(Settings::of(config)));
    }

    /// What there is to say about a message; `None` where nothing is to be said.
    pub(super) fn of_message(&self, record: &Record) -> Option<Box<MessageLine>> {
        let settings = **self.settings.load();
        let wanted = match settings.messages {
            LogMessages::All => true,
            LogMessages::Problems => record.outcome != Outcome::Delivered,
            LogMessages::None => false,
        };
        // Delivered mail is the rule, and costs nothing here.
        wanted.then(|| Box::new(MessageLine::new(record, settings)))
    }

    /// The line itself, when all is done.
    pub(super) fn message(&self, line: &MessageLine, ip: IpAddr, took: Duration) {
        if !self.may_write(ip, LINES) {
            return;
        }
        let MessageLine { ip, outcome, reply, reason, route, status, id, message_id, sender, recipients, subject, size } = line;
        let words = match outcome {
            Outcome::Delivered => "message delivered",
            Outcome::Rejected => "message rejected",
            Outcome::Deferred => "message deferred",
        };
        tracing::info!(
            target: "mailsluice::mail",
            sender_ip = ip.as_deref(),
            reply,
            reason = reason.as_deref(),
            route,
            status,
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            size,
            id,
            message_id = message_id.as_deref(),
            sender = sender.as_deref(),
            recipients = recipients.as_deref(),
            subject = subject.as_deref(),
            "{words}"
        );
    }

    /// A refusal that no record has: counted, kept in memory for a while, and logged if it kept mail out.
    pub(super) fn refused(&self, refused: Refused, route: Option<&Route>) {
        self.stats.refusals.count(refused.reply.code());
        // Nobody was refused: all are told when the daemon ends.
        if refused.reply == reply::SHUTTING_DOWN {
            return;
        }
        let settings = **self.settings.load();
        let Refused { what, ip, greeting, sender, recipient, reply } = refused;
        let words = match what {
            What::Connection => Some("client refused"),
            What::Client => Some("client cut off"),
            What::Sender => Some("sender refused"),
            What::Recipient => Some("recipient refused"),
            What::Message => Some("message refused"),
            What::Command => None,
        };
        if let Some(words) = words
            && settings.messages != LogMessages::None
            && self.may_write(ip, LINES_OF_REFUSALS)
        {
            let shown = settings.shows_ip().then(|| ip.to_string());
            let text = if settings.shows_text() { &reply.0 } else { reply.codes() };
            let recipient = recipient.as_deref().map(short).filter(|_| !settings.log.recipients);
            let sender = sender.as_deref().map(short).filter(|_| !settings.log.sender);
            let greeting = Some(greeting.as_str()).filter(|greeting| settings.shows_ip() && !greeting.is_empty());
            tracing::info!(target: "mailsluice::mail", sender_ip = shown.as_deref(), reply = text, recipient, sender, greeting, "{words}");
        }
        let reply = if settings.store.response_body { reply.codes().to_owned() } else { reply.0.into_owned() };
        let greeting = Some(greeting).filter(|greeting| !greeting.is_empty());
        let route = route.map(|route| route.name.clone());
        self.keep(ip, settings, Refusal { time: jiff::Timestamp::now(), address: None, greeting, sender, recipient, reply, route });
    }

    pub(super) fn handshake_failed(&self, ip: IpAddr, failure: TlsFailure) {
        self.stats.tls_failures.count(failure);
        let settings = **self.settings.load();
        let reason = failure.name();
        if settings.messages != LogMessages::None && self.may_write(ip, LINES_OF_REFUSALS) {
            let shown = settings.shows_ip().then(|| ip.to_string());
            tracing::info!(target: "mailsluice::mail", sender_ip = shown.as_deref(), reason, "TLS handshake failed");
        }
        let reply = format!("TLS handshake failed: {reason}");
        let time = jiff::Timestamp::now();
        self.keep(ip, settings, Refusal { time, address: None, greeting: None, sender: None, recipient: None, reply, route: None });
    }

    fn keep(&self, ip: IpAddr, settings: Settings, refusal: Refusal) {
        let address = (!settings.store.sender_ip).then(|| ip.to_string());
        self.stats.refusals.keep(ip, Refusal { address, ..refusal });
    }

    /// Each second, so that the count of what was left out comes also when nothing follows.
    pub(super) fn tick(&self) {
        let left_out = self.pace.lock().unwrap_or_else(PoisonError::into_inner).turn(Instant::now());
        self.say_left_out(left_out);
    }

    fn may_write(&self, ip: IpAddr, most: u32) -> bool {
        let (left_out, may) = {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            (pace.turn(Instant::now()), pace.take(ip, most))
        };
        self.say_left_out(left_out);
        may
    }

    fn say_left_out(&self, left_out: Option<LeftOut>) {
        let Some(LeftOut { lines, clients }) = left_out else { return };
        let settings = **self.settings.load();
        let named: Vec<_> = clients.iter().map(|(ip, n)| format!("{ip} ({n})")).collect();
        let named = settings.shows_ip().then(|| named.join(", "));
        tracing::info!(target: "mailsluice::mail", lines, clients = named.as_deref(), "lines left out, more than 20 a second");
    }
}

impl MessageLine {
    fn new(record: &Record, settings: Settings) -> Self {
        let Settings { log, store, .. } = settings;
        let no_answer = record.server_response.status == 0 && !record.server_response.body.is_empty();
        Self {
            ip: settings.shows_ip().then(|| record.sender_ip.clone()),
            outcome: record.outcome,
            reply: if settings.shows_text() { record.reply.clone() } else { crate::smtp::codes(&record.reply).to_owned() },
            reason: (no_answer && !store.response_body).then(|| short(&record.server_response.body).to_owned()),
            route: record.route.clone(),
            status: record.server_response.status,
            id: record.id.to_string(),
            message_id: record.message_id.as_deref().filter(|_| !log.message_id).map(|text| short(text).to_owned()),
            sender: (!log.sender).then(|| short(&record.sender).to_owned()),
            recipients: (!log.recipients).then(|| listed(&record.recipients)),
            subject: record.subject.as_deref().filter(|_| !log.subject && !store.subject).map(|text| short(text).to_owned()),
            size: record.size,
        }
    }
}

/// As many as there is room for, and how many more there are.
fn listed(recipients: &[String]) -> String {
    let mut line = String::new();
    for (at, recipient) in recipients.iter().enumerate() {
        if at > 0 && line.len() + recipient.len() > TEXT_MAX {
            line.push_str(&format!(" +{}", recipients.len() - at));
            break;
        }
        if at > 0 {
            line.push_str(", ");
        }
        line.push_str(short(recipient));
    }
    line
}

fn short(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_MAX)).unwrap_or(text)
}

/// How many lines this second has had.
struct Pace {
    second: Instant,
    written: u32,
    left_out: u64,
    clients: BTreeMap<IpAddr, u64>,
    /// Up to here they have had their turn.
    named: Option<IpAddr>,
}

struct LeftOut {
    lines: u64,
    clients: BTreeMap<IpAddr, u64>,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { second: now, written: 0, left_out: 0, clients: BTreeMap::new(), named: None }
    }

    /// Begins a second when the last one is over; what was left out in that one is to be said now, and is a line of the new one.
    fn turn(&mut self, now: Instant) -> Option<LeftOut> {
        if now.saturating_duration_since(self.second) < Duration::from_secs(1) {
            return None;
        }
        self.second = now;
        let lines = std::mem::take(&mut self.left_out);
        // In turn, so that those who come again and again hide nobody.
        let behind = (self.named.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let before = (Bound::Unbounded, self.named.map_or(Bound::Unbounded, Bound::Included));
        let turn = self.clients.range(behind).chain(self.clients.range(before)).take(CLIENTS_NAMED);
        let clients: BTreeMap<_, _> = turn.map(|(ip, lines)| (*ip, *lines)).collect();
        self.named = self.clients.range(behind).map(|(ip, _)| *ip).take(CLIENTS_NAMED).last();
        self.clients.retain(|ip, _| !clients.contains_key(ip));
        let left_out = (lines > 0 || !clients.is_empty()).then_some(LeftOut { lines, clients });
        self.written = u32::from(left_out.is_some());
        left_out
    }

    fn take(&mut self, ip: IpAddr, most: u32) -> bool {
        if self.written < most {
            self.written += 1;
            return true;
        }
        self.left_out += 1;
        if self.clients.len() < CLIENTS_WAITING || self.clients.contains_key(&ip) {
            *self.clients.entry(ip).or_default() += 1;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_a_second_and_a_count_with_names() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let ip = |last: u8| IpAddr::from([192, 0, 2, last]);
        assert!(pace.turn(start).is_none());
        let refused = (0..200_u8).filter(|n| pace.take(ip(n % 100), LINES_OF_REFUSALS)).count();
        let messages = (0..100_u8).filter(|_| pace.take(ip(250), LINES)).count();
        assert_eq!((refused, messages), (15, 5), "a message's line finds room beside a crowd");
        let later = start + Duration::from_secs(1);
        let Some(LeftOut { lines, clients }) = pace.turn(later) else { panic!("nothing was left out") };
        assert_eq!((lines, clients.len()), (280, CLIENTS_NAMED));
        assert_eq!(clients.get(&ip(20)), Some(&2));
        assert_eq!((0..100).filter(|_| pace.take(ip(1), LINES)).count(), 19, "the count is a line too");
        // Who was not named yet is, and then there is nothing more to say.
        let mut named = clients;
        for second in 1..=3 {
            let left_out = pace.turn(later + Duration::from_secs(second));
            assert_eq!(left_out.is_some(), second < 3);
            named.extend(left_out.into_iter().flat_map(|left_out| left_out.clients));
        }
        assert_eq!(named.len(), 101);
        for n in 0..10_000_u16 {
            let [a, b] = n.to_be_bytes();
            pace.take(IpAddr::from([10, 0, a, b]), 0);
        }
        assert_eq!(pace.clients.len(), CLIENTS_WAITING);
    }

    /// Thirty clients that are new each second, each refused seven times, for an hour: so many lines at the most, and every client in one.
    #[test]
    fn an_hour_of_a_hostile_crowd_is_bounded_and_names_everybody() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let (mut lines, mut counted) = (0_u64, 0);
        let mut named = std::collections::BTreeSet::new();
        let mut said = |left_out: Option<LeftOut>, lines: &mut u64| {
            let Some(LeftOut { lines: left, clients }) = left_out else { return Vec::new() };
            *lines += 1;
            counted += left;
            clients.into_keys().collect()
        };
        for second in 0..3600_u32 {
            named.extend(said(pace.turn(start + Duration::from_secs(u64::from(second))), &mut lines));
            for attempt in 0..210 {
                let [_, a, b, c] = (second * 30 + attempt % 30).to_be_bytes();
                let ip = IpAddr::from([10, a, b, c]);
                if pace.take(ip, LINES_OF_REFUSALS) {
                    lines += 1;
                    named.insert(ip);
                }
            }
        }
        for second in 3600..3610 {
            named.extend(said(pace.turn(start + Duration::from_secs(second)), &mut lines));
        }
        assert_eq!(named.len(), 3600 * 30, "everybody is named");
        assert!(lines <= 3610 * u64::from(LINES), "{lines} lines");
        assert!(counted > 3600 * 190, "{counted} are a number");
    }

    #[test]
    fn long_lists_and_texts_are_cut() {
        let many: Vec<_> = (0..100).map(|n| format!("{n:03}@{}.test", "x".repeat(50))).collect();
        let line = listed(&many);
        assert!(line.len() < 1100 && line.ends_with(" +84"), "{line}");
        assert_eq!(short(&"ä".repeat(600)).len(), 998);
        assert_eq!(listed(&["a".repeat(3000)]).len(), 998);
    }
}
