//! Lines on their way to a thread of their own: whoever logs never waits for the one who reads. What does not fit any more is lost and
//! counted, and the thread says how many when it can write again.

use super::line::Line;
use super::sink::Sink;
use crossbeam_channel::{Receiver, Sender};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Octets of lines that may wait.
const OCTETS: usize = 1 << 20;
/// The same for lines that are all there is of a record (promise 3): other lines must not keep them out.
const OCTETS_OF_RECORDS: usize = 8 << 20;

enum Entry {
    Line(Line, usize),
    /// Answered when all before it is written.
    Flush(Sender<()>),
}

#[derive(Default)]
struct State {
    octets: AtomicUsize,
    lost: AtomicU64,
}

#[derive(Clone)]
pub(super) struct Queue {
    entries: Sender<Entry>,
    state: Arc<State>,
}

impl Queue {
    /// # Errors
    /// The machine has no thread left.
    pub(super) fn start(sink: Sink) -> io::Result<Self> {
        // Bounded by its octets.
        let (entries, lines) = crossbeam_channel::unbounded();
        let state = Arc::<State>::default();
        let queue = Self { entries, state: Arc::clone(&state) };
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write(&sink, &lines, &state))?;
        Ok(queue)
    }

    pub(super) fn push(&self, line: Line) {
        let octets = line.octets();
        let most = if line.is_record() { OCTETS_OF_RECORDS } else { OCTETS };
        let fits = self.state.octets.fetch_add(octets, Ordering::Relaxed).saturating_add(octets) <= most;
        if !fits || self.entries.send(Entry::Line(line, octets)).is_err() {
            self.state.octets.fetch_sub(octets, Ordering::Relaxed);
            self.state.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.state.lost.load(Ordering::Relaxed)
    }

    /// Waits until what was pushed before is written, but no longer than this.
    pub(super) fn flush(&self, patience: Duration) {
        let (done, flushed) = crossbeam_channel::bounded(1);
        if self.entries.send(Entry::Flush(done)).is_ok() {
            flushed.recv_deadline(Instant::now() + patience).unwrap_or(());
        }
    }
}

fn write(sink: &Sink, lines: &Receiver<Entry>, state: &State) {
    let mut said = 0;
    for entry in lines {
        match entry {
            Entry::Line(line, octets) => {
                if !sink.write(&line) {
                    state.lost.fetch_add(1, Ordering::Relaxed);
                }
                state.octets.fetch_sub(octets, Ordering::Relaxed);
            }
            // Who asked may have lost patience.
            Entry::Flush(done) => done.send(()).unwrap_or(()),
        }
        let lost = state.lost.load(Ordering::Relaxed);
        if lost > said && lines.is_empty() && sink.write(&Line::of_loss(lost.saturating_sub(said))) {
            said = lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    fn line(text: &str, record: bool) -> Line {
        let name = if record { "record" } else { "text" };
        Line { fields: vec![(name, text.into())], ..Line::of_loss(1) }
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = Queue::start(Sink::json(OwnedFd::from(writer).into())).unwrap();
        let text = "x".repeat(10_000);
        // The pipe takes 64 KiB, then the queue fills.
        for _ in 0..200 {
            queue.push(line(&text, false));
        }
        let lost = queue.lost();
        assert!(lost > 60 && lost < 110, "{lost}");
        // There is room for records.
        for _ in 0..600 {
            queue.push(line(&text, true));
        }
        assert_eq!(queue.lost(), lost);
        for _ in 0..1000 {
            queue.push(line(&text, true));
        }
        let lost = queue.lost();
        assert!(lost > 800, "{lost}");
        queue.flush(Duration::from_millis(1));

        // The reader comes back: what waited is written, and what was lost is said.
        let all = std::thread::spawn(move || {
            let mut all = String::new();
            reader.read_to_string(&mut all).unwrap();
            all
        });
        queue.flush(Duration::from_secs(60));
        queue.push(line("after", false));
        queue.flush(Duration::from_secs(60));
        assert_eq!(queue.lost(), lost);
        drop(queue);
        let all = all.join().unwrap();
        let said: u64 = all.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["lines"].as_u64()).sum();
        assert_eq!(said, lost);
        assert!(all.contains("\"after\""));
        assert_eq!(all.lines().filter(|line| line.contains("xxx")).count() as u64, 1800 - lost);
    }

    #[test]
    fn a_closed_log_counts_what_it_loses() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let queue = Queue::start(Sink::json(OwnedFd::from(writer).into())).unwrap();
        queue.push(line("one", false));
        queue.flush(Duration::from_secs(60));
        assert!(queue.lost() >= 1);
    }
}
