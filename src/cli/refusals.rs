//! `mailsluice refusals`: who was refused before a record was made, and why; with `--follow` on and on, over restarts of the daemon.

use super::args::Refusals;
use super::choice::Choice;
use super::client::{Client, with_query};
use super::table::{Align, Column, Table};
use super::time::Zone;
use super::{Exit, Failure, complain, print};
use serde_json::Value;
use std::time::Duration;

const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

pub(super) fn run(config: &Choice, options: &Refusals) -> Result<(), Failure> {
    let client = Client::new(config, &options.admin)?;
    let mut shown = Shown { json: options.json, zone: Zone::of_this_machine(), header_is_due: true };
    let mut last = shown.rows_after(&client, 0)?;
    if last == 0 && !options.json {
        complain("nobody has been refused since the daemon started (records, not refusals, have what an endpoint or the daemon refused)");
    }
    if !options.follow {
        return Ok(());
    }
    loop {
        #[expect(clippy::disallowed_methods, reason = "the list is asked for again and again")]
        std::thread::sleep(BETWEEN_LOOKS);
        match shown.rows_after(&client, last) {
            Ok(0) => {}
            Ok(newest) => last = newest,
            Err(failure) if failure.exit == Exit::Unavailable => {
                complain(&format!("{}; waiting until it is back", failure.shown()));
                wait(&client)?;
                complain("the daemon is back");
                // Its rows are numbered anew.
                last = 0;
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn wait(client: &Client) -> Result<(), Failure> {
    loop {
        #[expect(clippy::disallowed_methods, reason = "nothing tells when a daemon comes back")]
        std::thread::sleep(BETWEEN_LOOKS);
        match client.get("/refusals") {
            Ok(_) => return Ok(()),
            Err(failure) if failure.exit == Exit::Unavailable => {}
            Err(failure) => return Err(failure),
        }
    }
}

struct Shown {
    json: bool,
    zone: Zone,
    header_is_due: bool,
}

impl Shown {
    /// Prints what is newer, the newest at the end; its number, or 0 where there is nothing.
    fn rows_after(&mut self, client: &Client, number: u64) -> Result<u64, Failure> {
        let answer = client.get(&with_query("/refusals", &[("after", &number.to_string())]))?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| client.broken(error))?;
        let Some(rows) = answer.get("refusals").and_then(Value::as_array) else { return Err(client.broken("it has no refusals")) };
        let newest = rows.first().and_then(|row| row.get("number")).and_then(Value::as_u64).unwrap_or(0);
        let rows = rows.iter().rev();
        if self.json {
            print(&rows.map(|row| format!("{row}\n")).collect::<String>())?;
        } else if newest > 0 {
            print(&self.table(rows))?;
        }
        Ok(newest)
    }

    fn table<'a>(&mut self, rows: impl Iterator<Item = &'a Value>) -> String {
        let when = if self.header_is_due { self.zone.title() } else { String::new() };
        let mut table = Table::new(vec![
            Column::new(when, Align::Left),
            Column::new("FROM", Align::Left).at_least(8),
            Column::new("SENDER", Align::Left).at_least(8),
            Column::new("RECIPIENT", Align::Left).at_least(9),
            Column::new("REPLY", Align::Left).at_least(7),
        ]);
        for row in rows {
            let text = |name: &str| row.get(name).and_then(Value::as_str);
            let path = |name: &str| text(name).map(|path| if path.is_empty() { "<>" } else { path }).unwrap_or("-").to_owned();
            let left_out = row.get("left_out").and_then(Value::as_u64).map(|n| format!(" ({n} older ones left out)"));
            table.push(vec![
                self.zone.show(text("time").unwrap_or_default()),
                text("address").or(text("greeting")).unwrap_or("-").to_owned(),
                path("sender"),
                path("recipient"),
                text("reply").unwrap_or_default().to_owned() + &left_out.unwrap_or_default(),
            ]);
        }
        table.fit(super::terminal::columns());
        let header = if std::mem::take(&mut self.header_is_due) { table.header() } else { String::new() };
        header + &table.take_rows()
    }
}
