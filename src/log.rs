//! Log lines: to the journal under systemd, as text on a terminal, else as JSON; the only place that writes them.
//!
//! Whatever a field holds, a line stays one line: control characters (and those that turn the writing direction) are
//! written as escapes in every format. Where a line cannot be written it is lost; mail goes on.

use crate::config::{Log, LogFormat, LogLevel};
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::net::UnixDatagram;
use std::sync::Once;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::{Layer, Registry, reload};

const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// Changes the level of a running log.
#[derive(Clone)]
pub struct Handle(reload::Handle<LevelFilter, Registry>);

impl Handle {
    pub fn set_level(&self, level: LogLevel) {
        // Fails only if the log is gone, in tests that made a second one.
        drop(self.0.modify(|filter| *filter = filter_of(level)));
    }
}

/// Starts the log of this process; a second call changes nothing.
pub fn init(config: &Log) -> Handle {
    let (filter, handle) = reload::Layer::new(filter_of(config.level));
    let (sink, refused) = Sink::open(config.format);
    let subscriber = tracing_subscriber::registry().with(filter).with(Lines { sink });
    if tracing::subscriber::set_global_default(subscriber).is_ok()
        && let Some(error) = refused
    {
        tracing::warn!(%error, socket = JOURNAL_SOCKET, "the journal cannot be reached, so the log is JSON on stderr; set log.format");
    }
    log_panics();
    Handle(handle)
}

/// A panic is a bug of ours and one line. Its message is left out: the standard library's own ones quote the text at
/// hand, which may be a message's (promise 2).
fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(thread = thread.name().unwrap_or_default(), place, "panic; please report this bug with this line");
        }));
    });
}

fn filter_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Where lines go, and so how they look.
enum Sink {
    Journal(UnixDatagram),
    Text { colours: bool },
    Json,
}

impl Sink {
    fn open(format: LogFormat) -> (Self, Option<std::io::Error>) {
        let terminal = std::io::stderr().is_terminal();
        match format {
            LogFormat::Auto if stderr_is_the_journal() => Self::journal(),
            LogFormat::Journald => Self::journal(),
            LogFormat::Auto if terminal => (Self::Text { colours: std::env::var_os("NO_COLOR").is_none() }, None),
            LogFormat::Text => (Self::Text { colours: terminal && std::env::var_os("NO_COLOR").is_none() }, None),
            LogFormat::Auto | LogFormat::Json => (Self::Json, None),
        }
    }

    fn journal() -> (Self, Option<std::io::Error>) {
        let connected = UnixDatagram::unbound().and_then(|socket| {
            socket.connect(JOURNAL_SOCKET)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => (Self::Journal(socket), None),
            Err(error) => (Self::Json, Some(error)),
        }
    }

    fn write(&self, line: &Line) {
        let written = match self {
            // What is too long for a datagram goes the way of plain output, which the journal cuts into pieces but keeps.
            Self::Journal(socket) => socket
                .send(line.journal().as_bytes())
                .map(drop)
                .or_else(|_| std::io::stderr().lock().write_all(line.text(false).as_bytes())),
            Self::Text { colours } => std::io::stderr().lock().write_all(line.text(*colours).as_bytes()),
            Self::Json => std::io::stderr().lock().write_all(line.json().as_bytes()),
        };
        // There is nowhere left to say it.
        drop(written);
    }
}

/// systemd.exec(5): `JOURNAL_STREAM` names the device and inode of the stream; another process may have inherited the variable
/// but not the stream.
fn stderr_is_the_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = nix::sys::stat::fstat(std::io::stderr()) else { return false };
    named == format!("{}:{}", stat.st_dev, stat.st_ino)
}

struct Lines {
    sink: Sink,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut line = Line {
            time: jiff::Timestamp::now(),
            level: *metadata.level(),
            target: metadata.target(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut line);
        self.sink.write(&line);
    }
}

/// One event.
struct Line {
    time: jiff::Timestamp,
    level: Level,
    target: &'static str,
    message: String,
    fields: Vec<(&'static str, serde_json::Value)>,
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
    /// `2026-11-24T21:31:21.123Z INFO  message key=value key="a text"`.
    fn text(&self, colours: bool) -> String {
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

    fn json(&self) -> String {
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
    fn journal(&self) -> String {
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
        if c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Keeps each event in all three forms.
    struct Kept(Arc<Mutex<Vec<[String; 3]>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let metadata = event.metadata();
            let time = "2026-11-24T21:31:21.123456Z".parse().expect("a time");
            let (level, target) = (*metadata.level(), metadata.target());
            let mut line = Line { time, level, target, message: String::new(), fields: Vec::new() };
            event.record(&mut line);
            self.0.lock().expect("one thread").push([line.text(false), line.json(), line.journal()]);
        }
    }

    fn lines(log: impl FnOnce(&Handle)) -> Vec<[String; 3]> {
        let kept = Arc::default();
        let (filter, handle) = reload::Layer::new(filter_of(LogLevel::Info));
        let subscriber = tracing_subscriber::registry().with(filter).with(Kept(Arc::clone(&kept)));
        tracing::subscriber::with_default(subscriber, || log(&Handle(handle)));
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
        let evil = "x\r\nPRIORITY=0\u{1b}[2J\u{7f}\u{9b}\u{2028}\u{202e}\0";
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
                assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}' || c == '\u{2028}'), "{line:?}");
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
            handle.set_level(LogLevel::Debug);
            tracing::debug!("seen");
            handle.set_level(LogLevel::Error);
            tracing::warn!("unseen");
        });
        assert_eq!(got.len(), 1, "{got:?}");
        assert!(got.iter().all(|[text, ..]| text.contains(" DEBUG seen")), "{got:?}");
    }
}
