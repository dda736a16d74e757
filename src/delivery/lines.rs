//! One line a message, a refused client, sender or recipient, a failed handshake: for whoever asks "your server bounced my mail, for
//! whom, from where?", and for fail2ban. Redacted like the store and as `log.redact` says; of a message only what its record has.
//!
//! At most 20 lines and 16 KiB a second, whatever a crowd does; then one line says how many were left out, and whose they were (`pace.rs`).

use super::pace::{LeftOut, MESSAGES, Pace, REFUSALS, Share};
use crate::config::{Config, LogMessages, LogRedact, Redact, Route};
use crate::log::written_len;
use crate::record::{Outcome, Record};
use crate::smtp::{Refused, What, reply};
use crate::stats::{Refusal, Stats, TlsFailure};
use arc_swap::ArcSwap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A text in a line, octets at the most, as they are written.
const TEXT_MAX: usize = 998;
/// What a line has beside its texts, roughly.
const LINE_OCTETS: usize = 200;

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
        if !self.may_write(ip, &MESSAGES, line.octets()) {
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
        {
            let text = if settings.shows_text() { &reply.0 } else { reply.codes() };
            let recipient = recipient.as_deref().map(short).filter(|_| !settings.log.recipients);
            let sender = sender.as_deref().map(short).filter(|_| !settings.log.sender);
            let greeting = Some(short(&greeting)).filter(|greeting| settings.shows_ip() && !greeting.is_empty());
            if self.may_write(ip, &REFUSALS, octets(&[Some(text), recipient, sender, greeting])) {
                let shown = settings.shows_ip().then(|| ip.to_string());
                tracing::info!(target: "mailsluice::mail", sender_ip = shown.as_deref(), reply = text, recipient, sender, greeting, "{words}");
            }
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
        if settings.messages != LogMessages::None && self.may_write(ip, &REFUSALS, octets(&[])) {
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

    /// At the end: nobody is left unnamed.
    pub(super) fn finish(&self) {
        loop {
            let left_out = self.pace.lock().unwrap_or_else(PoisonError::into_inner).left_out();
            if left_out.is_none() {
                return;
            }
            self.say_left_out(left_out);
        }
    }

    fn may_write(&self, ip: IpAddr, share: &Share, octets: usize) -> bool {
        let (left_out, may) = {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            (pace.turn(Instant::now()), pace.take(ip, share, octets))
        };
        self.say_left_out(left_out);
        may
    }

    fn say_left_out(&self, left_out: Option<LeftOut>) {
        let Some(left_out) = left_out else { return };
        // Lines about mail may have been turned off since.
        let settings = **self.settings.load();
        let named = settings.shows_ip().then(|| left_out.names()).filter(|names| !names.is_empty());
        tracing::info!(target: "mailsluice::mail", lines = left_out.lines, clients = named, "lines left out");
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

    fn octets(&self) -> usize {
        let options = [&self.ip, &self.reason, &self.message_id, &self.sender, &self.recipients, &self.subject];
        octets(&[Some(self.reply.as_str()), Some(self.route.as_str())]) + octets(&options.map(Option::as_deref))
    }
}

/// Of a line with these texts, roughly.
fn octets(texts: &[Option<&str>]) -> usize {
    LINE_OCTETS + texts.iter().flatten().flat_map(|text| text.chars()).map(written_len).sum::<usize>()
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
    let ends = text.char_indices().scan(0, |written, (at, c)| {
        *written += written_len(c);
        Some((at, *written))
    });
    let end = ends.take_while(|(_, written)| *written <= TEXT_MAX).last().map_or(0, |(at, _)| text.ceil_char_boundary(at + 1));
    text.get(..end).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_and_texts_are_cut() {
        let many: Vec<_> = (0..100).map(|n| format!("{n:03}@{}.test", "x".repeat(50))).collect();
        let line = listed(&many);
        assert!(line.len() < 1100 && line.ends_with(" +84"), "{line}");
        assert_eq!(short(&"ä".repeat(600)).len(), 998);
        assert_eq!(short("a"), "a");
        let hostile = "\u{1b}\u{202e}".repeat(600);
        let written = crate::log::escaped(short(&hostile)).len();
        assert!((980..=998).contains(&written), "as it is written: {written}");
        assert_eq!(listed(&["a".repeat(3000)]).len(), 998);
    }
}
