//! One event, and how it looks as a line: as text, as JSON, in the journal's own protocol. Whatever a field holds, a line stays one line.

use std::fmt::Write as _;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// One event.
pub(super) struct Line {
    pub(super) time: jiff::Timestamp,
    pub(super) level: Level,
    pub(super) target: &'static str,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, serde_json::Value)>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
            return;
        }
        // A text given by `?` comes with quotes and escapes; without them it can be searched for.
        let text = serde_json::from_str::<String>(&text).unwrap_or(text);
        self.fields.push((field.name(), text.into()));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.fields.push((field.name(), value.into()));
        }
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.push((field.name(), value.into()));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.push((field.name(), value.into()));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.fields.push((field.name(), value.into()));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.push((field.name(), value.into()));
    }
}

impl Line {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let mut line = Self {
            time: jiff::Timestamp::now(),
            level: *metadata.level(),
            target: metadata.target(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut line);
        line
    }

    pub(super) fn of_loss(lines: u64) -> Self {
        Self {
            time: jiff::Timestamp::now(),
            level: Level::WARN,
            target: module_path!(),
            message: "log lines were lost: whoever reads the log is too slow".to_owned(),
            fields: vec![("lines", lines.into())],
        }
    }

    pub(super) fn of_left_out(lines: u64, like: String) -> Self {
        let message = "lines left out, more than 100 a minute".to_owned();
        Self { message, fields: vec![("lines", lines.into()), ("like", like.into())], ..Self::of_loss(lines) }
    }

    /// What it holds in memory, roughly.
    pub(super) fn octets(&self) -> usize {
        let fields = self.fields.iter().map(|(_, value)| size_of::<(&str, serde_json::Value)>() + value.as_str().map_or(0, str::len));
        size_of::<Self>() + self.message.len() + fields.sum::<usize>()
    }

    /// All there is of a record whose commit failed (promise 3).
    pub(super) fn is_record(&self) -> bool {
        self.fields.iter().any(|(name, _)| *name == "record")
    }

    /// `2026-11-24T21:31:21.123Z INFO  message key=value key="a text"`.
    pub(super) fn text(&self, colours: bool) -> String {
        let (on, off) = match self.level {
            _ if !colours => ("", ""),
            Level::ERROR => ("\x1b[31m", "\x1b[0m"),
            Level::WARN => ("\x1b[33m", "\x1b[0m"),
            Level::INFO => ("\x1b[32m", "\x1b[0m"),
            _ => ("\x1b[2m", "\x1b[0m"),
        };
        let mut line = format!("{:.3} {on}{:<5}{off} ", self.time, self.level);
        self.message_and_fields(&mut line);
        line.push('\n');
        line
    }

    pub(super) fn json(&self) -> String {
        let mut object = serde_json::Map::new();
        object.insert("time".to_owned(), self.time.to_string().into());
        object.insert("level".to_owned(), self.level.as_str().to_ascii_lowercase().into());
        object.insert("message".to_owned(), escaped(&self.message).into());
        object.insert("target".to_owned(), self.target.into());
        for (name, value) in &self.fields {
            let value = value.as_str().map_or_else(|| value.clone(), |text| escaped(text).into());
            object.insert((*name).to_owned(), value);
        }
        format!("{}\n", serde_json::Value::Object(object))
    }

    /// systemd's native protocol: `NAME=value` lines, which hold no line end here. The message has the fields too, since
    /// `journalctl` shows nothing else by itself.
    pub(super) fn journal(&self) -> String {
        // syslog(3): err, warning, info, debug.
        let priority = match self.level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let mut datagram = format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER=mailsluice\nTARGET={}\nMESSAGE=", self.target);
        self.message_and_fields(&mut datagram);
        for (name, value) in &self.fields {
            let name = name.to_ascii_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
            let value = value.as_str().map_or_else(|| value.to_string(), escaped);
            // Writing to a String cannot fail.
            _ = write!(datagram, "\nMAILSLUICE_{name}={value}");
        }
        datagram.push('\n');
        datagram
    }

    fn message_and_fields(&self, line: &mut String) {
        line.push_str(&escaped(&self.message));
        for (name, value) in &self.fields {
            // Writing to a String cannot fail.
            _ = match value.as_str() {
                Some(text) if text.is_empty() || text.contains([' ', '"', '=']) => {
                    write!(line, " {name}=\"{}\"", escaped(text).replace('"', "\\\""))
                }
                Some(text) => write!(line, " {name}={}", escaped(text)),
                None => write!(line, " {name}={value}"),
            };
        }
    }
}

/// A text in which nothing can end a line, move a cursor or turn the writing direction.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Octets of a character in a line.
#[must_use]
pub fn written_len(c: char) -> usize {
    match c {
        _ if is_unsafe(c) => c.escape_default().len(),
        '"' => 2,
        _ => c.len_utf8(),
    }
}

/// Controls, what turns the writing direction, what cannot be seen. Not the joiners, which scripts and pictures need.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{3164}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}')
        || matches!(c, '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogLevel;
    use crate::log::filter_of;
    use std::sync::{Arc, Mutex};
    use tracing::Subscriber;
    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::layer::{Context, SubscriberExt as _};
    use tracing_subscriber::{Layer, Registry, reload};

    /// Keeps each event in all three forms.
    struct Kept(Arc<Mutex<Vec<[String; 3]>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let line = Line { time: "2026-11-24T21:31:21.123456Z".parse().expect("a time"), ..Line::of(event) };
            self.0.lock().expect("one thread").push([line.text(false), line.json(), line.journal()]);
        }
    }

    fn lines(log: impl FnOnce(&reload::Handle<LevelFilter, Registry>)) -> Vec<[String; 3]> {
        let kept = Arc::default();
        let (filter, handle) = reload::Layer::new(filter_of(LogLevel::Info));
        let subscriber = tracing_subscriber::registry().with(filter).with(Kept(Arc::clone(&kept)));
        tracing::subscriber::with_default(subscriber, || log(&handle));
        std::mem::take(&mut kept.lock().expect("one thread"))
    }

    #[test]
    fn the_three_forms() {
        let got = lines(
            |_| tracing::info!(target: "t", count = 3, ok = true, name = "two words", route = %"tickets", quoted = ?"a\"b", "message taken"),
        );
        let [[text, json, journal]] = got.as_slice() else { panic!("one line: {got:?}") };
        assert_eq!(
            text,
            "2026-11-24T21:31:21.123Z INFO  message taken count=3 ok=true name=\"two words\" route=tickets quoted=\"a\\\"b\"\n"
        );
        assert_eq!(
            json,
            "{\"time\":\"2026-11-24T21:31:21.123456Z\",\"level\":\"info\",\"message\":\"message taken\",\"target\":\"t\",\
             \"count\":3,\"ok\":true,\"name\":\"two words\",\"route\":\"tickets\",\"quoted\":\"a\\\"b\"}\n"
        );
        assert_eq!(
            journal,
            "PRIORITY=6\nSYSLOG_IDENTIFIER=mailsluice\nTARGET=t\nMESSAGE=message taken count=3 ok=true name=\"two words\" \
             route=tickets quoted=\"a\\\"b\"\nMAILSLUICE_COUNT=3\nMAILSLUICE_OK=true\nMAILSLUICE_NAME=two words\n\
             MAILSLUICE_ROUTE=tickets\nMAILSLUICE_QUOTED=a\"b\n"
        );
    }

    #[test]
    fn nothing_forges_a_line() {
        let evil = "x\r\nPRIORITY=0\u{1b}[2J\u{7f}\u{9b}\u{2028}\u{202e}\u{61c}\u{200b}\u{feff}\u{e0041}\0";
        let got = lines(|_| {
            tracing::warn!(evil, "text");
            tracing::warn!(evil = %evil, "display");
            tracing::warn!(evil = ?evil, "debug");
            tracing::warn!("{evil}");
        });
        assert_eq!(got.len(), 4);
        for [text, json, journal] in &got {
            for form in [text, json] {
                let line = form.strip_suffix('\n').expect("a line");
                assert!(
                    !line.contains(|c: char| c.is_control() || "\u{202e}\u{2028}\u{61c}\u{200b}\u{feff}\u{e0041}".contains(c)),
                    "{line:?}"
                );
            }
            for line in journal.trim_end_matches('\n').split('\n') {
                assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
                let name = line.split('=').next().unwrap_or_default();
                assert!(["PRIORITY", "SYSLOG_IDENTIFIER", "TARGET", "MESSAGE", "MAILSLUICE_EVIL"].contains(&name), "{line:?}");
            }
            assert_eq!(journal.matches("\nPRIORITY=").count() + usize::from(journal.starts_with("PRIORITY=")), 1, "{journal:?}");
        }
    }

    #[test]
    fn the_level_changes_while_it_runs() {
        let got = lines(|handle| {
            tracing::debug!("unseen");
            handle.modify(|filter| *filter = filter_of(LogLevel::Debug)).expect("it runs");
            tracing::debug!("seen");
            handle.modify(|filter| *filter = filter_of(LogLevel::Error)).expect("it runs");
            tracing::warn!("unseen");
        });
        assert_eq!(got.len(), 1, "{got:?}");
        assert!(got.iter().all(|[text, ..]| text.contains(" DEBUG seen")), "{got:?}");
    }
}
