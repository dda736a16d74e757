//! `records --follow`: new records as they are committed, over restarts of the daemon as well. What is committed while the stream is
//! broken is read from the log afterwards, so that nothing is left out and nothing is shown twice.

use super::super::client::Client;
use super::super::{Exit, Failure, complain};
use super::filters::Filters;
use super::paging::pages;
use super::table::Output;
use crate::record::RecordId;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read};
use std::time::Duration;

const BETWEEN_TRIES: Duration = Duration::from_millis(500);
/// A record gets its id before its endpoint is asked, which may take a route's `timeout` of at most five minutes: so much, and room,
/// can a new record be older by its id than those that were committed before.
const LATE: u128 = (10 * 60 * 1000) << 80;

/// The latest records as they are in the log, then new ones for ever.
pub(super) fn run(client: &Client, filters: &Filters, limit: u64, output: &mut Output) -> Result<(), Failure> {
    // The live stream is opened first, so that no record falls between it and the pages.
    let mut live = open(client)?;
    let mut past = Vec::new();
    pages(client, filters, limit, |records| {
        past.extend(records);
        Ok(true)
    })?;
    let more = u64::try_from(past.len()).is_ok_and(|len| len >= limit);
    let floor = past.last().and_then(id).filter(|_| more);
    // As a log that goes on is read: the newest at the end.
    past.reverse();
    output.print(&past)?;
    let mut follower = Follower { client, filters, output, floor, shown: past.iter().filter_map(id).collect() };
    loop {
        let failure = match follower.listen(live) {
            Ok(()) => client.broken("the daemon has ended"),
            Err(failure) if failure.exit == Exit::Unavailable => failure,
            Err(failure) => return Err(failure),
        };
        complain(&format!("{}; waiting until it is back", failure.shown()));
        live = follower.reconnected()?;
        complain("the daemon is back");
    }
}

type Live = BufReader<Box<dyn Read>>;

fn open(client: &Client) -> Result<Live, Failure> {
    let mut live: Live = BufReader::new(Box::new(client.stream("/records/live")?));
    // The stream starts with a line once it is connected.
    match live.read_line(&mut String::new()) {
        Ok(0) => Err(client.broken("the daemon has ended")),
        Ok(_) => Ok(live),
        Err(error) => Err(client.broken(error)),
    }
}

fn id(record: &Value) -> Option<u128> {
    record.get("id").and_then(Value::as_str).and_then(|id| id.parse().ok()).map(|id: RecordId| id.0)
}

struct Follower<'a> {
    client: &'a Client,
    filters: &'a Filters,
    output: &'a mut Output,
    /// Up to here the log was not asked for.
    floor: Option<u128>,
    /// Of late.
    shown: BTreeSet<u128>,
}

impl Follower<'_> {
    fn show(&mut self, record: Value) -> Result<(), Failure> {
        let id = id(&record);
        if id.is_some_and(|id| self.shown.contains(&id)) {
            return Ok(());
        }
        self.output.print(&[record])?;
        self.shown.extend(id);
        let oldest = self.shown.last().map_or(0, |newest| newest.saturating_sub(LATE));
        while self.shown.first().is_some_and(|id| *id < oldest) {
            self.shown.pop_first();
        }
        Ok(())
    }

    /// Server-sent events (HTML standard, 9.2.6): `event` and `data` lines, an empty line ends one. Until the stream ends.
    fn listen(&mut self, live: Live) -> Result<(), Failure> {
        let mut event = String::new();
        let mut data = String::new();
        for line in live.lines() {
            let line = line.map_err(|error| self.client.broken(error))?;
            if let Some(name) = line.strip_prefix("event:") {
                name.trim().clone_into(&mut event);
            } else if let Some(text) = line.strip_prefix("data:") {
                data.push_str(text.trim_start());
            } else if line.is_empty() {
                match event.as_str() {
                    // A record is an event without a name.
                    "" if !data.is_empty() => {
                        let record: Value = serde_json::from_str(&data).map_err(|error| self.client.broken(error))?;
                        if self.filters.takes(&record) {
                            self.show(record)?;
                        }
                    }
                    "skipped" => {
                        complain("records were left out, since they came faster than they could be shown; ask again without --follow");
                    }
                    _ => {}
                }
                event.clear();
                data.clear();
            }
        }
        Ok(())
    }

    /// Tries until the daemon answers, and shows what it has recorded meanwhile.
    fn reconnected(&mut self) -> Result<Live, Failure> {
        loop {
            #[expect(clippy::disallowed_methods, reason = "nothing tells when a daemon comes back")]
            std::thread::sleep(BETWEEN_TRIES);
            match open(self.client).and_then(|live| self.catch_up().map(|()| live)) {
                Err(failure) if failure.exit == Exit::Unavailable => {}
                other => return other,
            }
        }
    }

    fn catch_up(&mut self) -> Result<(), Failure> {
        let low = self.floor.max(self.shown.last().map(|newest| newest.saturating_sub(LATE)));
        let mut missed = Vec::new();
        pages(self.client, self.filters, u64::MAX, |records| {
            let more = records.last().and_then(id) > low;
            missed.extend(records.into_iter().filter(|record| id(record) > low));
            Ok(more)
        })?;
        missed.into_iter().rev().try_for_each(|record| self.show(record))
    }
}
