//! `stats --merge` and `stats --fleet`: latency added up over several daemons. Histograms add up, percentiles do not.

use super::super::args::{Admin, Stats};
use super::super::choice::Choice;
use super::super::client::{Client, with_query};
use super::super::terminal::Paint;
use super::super::time::Zone;
use super::super::{Exit, Failure, fleet, print};
use super::{STAGES, latency};
use crate::fleet::{StageLatency, summary};
use crate::stats::hdr;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a file's name does not tell.
const UNNAMED: &str = "total";

pub(super) fn of_fleet(client: &Client, options: &Stats) -> Result<(), Failure> {
    let since = Zone::of_this_machine().moment("--since", &options.since, jiff::Timestamp::now())?.to_string();
    let answer: Value =
        serde_json::from_str(&client.get(&with_query("/fleet/latency", &[("since", &since)]))?).map_err(|error| client.broken(error))?;
    fleet::complain_of(answer.get("boxes"));
    show(&answer, options)
}

pub(super) fn of_several(config: &Choice, options: &Stats) -> Result<(), Failure> {
    let mut sums = BTreeMap::<&'static str, Histogram<u64>>::new();
    for place in &options.merge {
        if place.starts_with("http://") || place.starts_with("unix:") {
            let client = Client::new(config, &Admin { admin: Some(place.clone()), token_file: options.admin.token_file.clone() })?;
            for stage in STAGES {
                let text = client.get(&format!("/histograms/{stage}?window=total&format=hdr"))?;
                add(&mut sums, stage, &text, place)?;
            }
        } else {
            let text = std::fs::read_to_string(place).map_err(|error| {
                Failure::new(
                    Failure::code_of(&error),
                    format!("{place}: {error}; name a file of /histograms/STAGE?format=hdr, or http://HOST:PORT"),
                )
            })?;
            // A stage's name in the file's name is that stage.
            let name = place.rsplit('/').next().unwrap_or_default();
            let stage = STAGES.into_iter().find(|stage| name.contains(stage)).unwrap_or(UNNAMED);
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                add(&mut sums, stage, line, place)?;
            }
        }
    }
    let stages: Vec<_> = STAGES.into_iter().filter_map(|stage| Some(StageLatency { stage, histogram: sums.remove(stage)? })).collect();
    show(&json!({ "latency": summary(&stages) }), options)
}

fn add(sums: &mut BTreeMap<&'static str, Histogram<u64>>, stage: &'static str, text: &str, place: &str) -> Result<(), Failure> {
    let wrong = |what: &str| Failure::new(Exit::Data, format!("{place}: {what}; get it by /histograms/{stage}?format=hdr"));
    let one = hdr::decode(text).ok_or_else(|| wrong("this is no HdrHistogram in its V2 encoding"))?;
    let new = || Histogram::new_with_bounds(1, 3_600_000_000, 3);
    let sum = match sums.entry(stage) {
        std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
        std::collections::btree_map::Entry::Vacant(entry) => entry.insert(new().map_err(|error| wrong(&error.to_string()))?),
    };
    sum.add(one).map_err(|error| wrong(&error.to_string()))
}

fn show(answer: &Value, options: &Stats) -> Result<(), Failure> {
    if options.json {
        return print(&format!("{answer}\n"));
    }
    let mut text = String::new();
    latency(&mut text, answer, Paint::of_stdout());
    print(text.trim_start())
}
