//! `stats --watch` in a window: on the alternate screen, as wide and as high as that, until it is ended; over restarts of the daemon.

use super::{REFRESH, Rates, render, wrong};
use crate::cli::client::Client;
use crate::cli::table::within;
use crate::cli::terminal::{Paint, size};
use crate::cli::{Exit, Failure, print};
use serde_json::Value;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

/// The alternate screen without a cursor, and back: what stood in the window before stands there again.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Leaves the alternate screen, however it ends.
struct Screen;

impl Drop for Screen {
    fn drop(&mut self) {
        // Where the window has gone there is nothing to put right.
        drop(print(LEAVE));
    }
}

pub(super) fn run(client: &Client, sought: Option<&str>, paint: Paint) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| Failure::new(Exit::Io, format!("cannot watch: {error}; ask again without --watch"));
    // The first answer comes before the screen changes: what is wrong from the start is said as by any command.
    client.get("/stats")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    runtime.block_on(async {
        let mut ends = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal).into_iter();
        let (Some(Ok(mut interrupt)), Some(Ok(mut terminate)), Some(Ok(mut hangup))) = (ends.next(), ends.next(), ends.next()) else {
            return Err(cannot(std::io::Error::last_os_error()));
        };
        let _screen = Screen;
        print(ENTER)?;
        let mut rates = Rates::default();
        let mut seconds = tokio::time::interval(REFRESH);
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = hangup.recv() => return Ok(()),
                _ = seconds.tick() => show(client, sought, &mut rates, paint)?,
            }
        }
    })
}

fn show(client: &Client, sought: Option<&str>, rates: &mut Rates, paint: Paint) -> Result<(), Failure> {
    let text = match client.get("/stats") {
        Ok(answer) => {
            let stats: Value = serde_json::from_str(&answer).map_err(|error| client.broken(error))?;
            rates.take(&stats, Instant::now());
            render(&stats, &wrong::ask(client), sought, rates, paint)
        }
        Err(failure) if failure.exit == Exit::Unavailable => {
            format!("{}\n{}\n", paint.bad("waiting until the daemon is back"), failure.shown())
        }
        Err(failure) => return Err(failure),
    };
    let (columns, rows) = size().unwrap_or((80, 24));
    print(&format!("\x1b[H{}\x1b[J", fitted(&text, columns, rows)))
}

/// The first rows that there is room for, none wider than the window; what stood right of one goes. Colours take no room.
fn fitted(text: &str, columns: usize, rows: usize) -> String {
    let lines: Vec<_> = text.lines().take(rows).map(|line| within(line, Some(columns)) + "\x1b[K").collect();
    lines.join("\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_wider_or_higher_than_the_window() {
        let text = "\x1b[1mabcdef\x1b[0m\n\u{6f22}\u{5b57}\u{6f22}\nx\ny\n";
        assert_eq!(fitted(text, 5, 3), "\x1b[1mabcde\x1b[0m\x1b[K\r\n\u{6f22}\u{5b57}\x1b[K\r\nx\x1b[K");
    }
}
