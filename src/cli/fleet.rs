//! `mailsluice fleet`: every box, seen when, how far behind, what was lost; `init` prepares the database, `remove` strikes a box out.

use super::args::{Fleet, FleetCommand};
use super::choice::Choice;
use super::client::Client;
use super::table::{Align, Column, Table};
use super::terminal::{self, Paint};
use super::{Exit, Failure, complain, print};
use crate::config::Postgres;
use crate::fleet::{self, Trouble};
use serde_json::{Value, json};
use std::path::Path;

pub(super) fn run(config: &Choice, options: &Fleet) -> Result<(), Failure> {
    match &options.command {
        None => standing(&Client::new(config, &options.admin)?, options.json),
        Some(FleetCommand::Init { print: only_print, postgres_file }) => init(config, *only_print, postgres_file.as_deref()),
        Some(FleetCommand::Remove { name, admin }) => {
            Client::new(config, admin)?.post("/fleet/remove", &json!({ "box": name }))?;
            print(&format!("{name} is struck out: nobody waits for it any more; its records stay\n"))
        }
    }
}

fn init(config: &Choice, only_print: bool, owner: Option<&Path>) -> Result<(), Failure> {
    let config = config.load()?;
    if only_print {
        return print(&fleet::script(config.fleet.postgres.as_ref()));
    }
    let owner = owner.map(connection).transpose()?;
    if owner.is_none() && config.fleet.postgres.is_none() {
        return Err(Failure::new(Exit::Configuration, "fleet.postgres is empty; set it, or name a file with --postgres-file"));
    }
    let is_long = || {
        complain(
            "the database is still at it: an index over all records takes minutes where there are many millions. Records wait in the boxes \
             meanwhile, mail waits for nothing; all is made, or nothing",
        );
    };
    let said = fleet::init(&config.fleet, owner.as_ref(), is_long).map_err(|trouble| {
        let exit = if matches!(trouble, Trouble::Refused(_)) { Exit::NoPermission } else { Exit::Unavailable };
        Failure::new(exit, format!("the fleet's database: {trouble}"))
    })?;
    print(&format!("{said}\n"))
}

/// The connection string in a file.
fn connection(path: &Path) -> Result<Postgres, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(Failure::code_of(&error), format!("{}: {error}; name a file with a connection string", path.display()))
    })?;
    Postgres::parse(text.trim(), None).map_err(|wrong| {
        let mend = "write one line as in: host=/run/postgresql dbname=mail user=postgres";
        Failure::new(Exit::Configuration, format!("{}: {wrong}; {mend}", path.display()))
    })
}

/// What is known of all boxes.
pub(super) fn boxes(client: &Client) -> Result<Value, Failure> {
    serde_json::from_str(&client.get("/fleet")?).map_err(|error| client.broken(error))
}

fn standing(client: &Client, as_json: bool) -> Result<(), Failure> {
    let answer = boxes(client)?;
    let rows: Vec<_> = answer.get("boxes").and_then(Value::as_array).into_iter().flatten().collect();
    if as_json {
        print(&format!("{answer}\n"))?;
    } else {
        print(&table(&rows))?;
        if let Some(undelivered) = answer.get("undelivered").and_then(Value::as_u64) {
            print(&format!("{undelivered} undelivered on all boxes\n"))?;
        }
    }
    let late: Vec<_> = rows.iter().filter(|one| one.get("late") == Some(&Value::Bool(true))).map(|one| text(one, "name")).collect();
    if late.is_empty() {
        return Ok(());
    }
    let line =
        format!("an hour or more behind: {}; look at their logs, or strike out a dead one with: mailsluice fleet remove", late.join(", "));
    Err(Failure::new(Exit::Unavailable, line))
}

fn table(rows: &[&Value]) -> String {
    let right = |title| Column::new(title, Align::Right);
    let left = |title| Column::new(title, Align::Left);
    let mut table = Table::new(vec![
        left("BOX").at_least(6),
        right("SEEN"),
        right("BEHIND"),
        right("FOR"),
        right("LOST"),
        right("MENDED"),
        right("CLOCK"),
        left("VERSION"),
    ])
    .painted(Paint::of_stdout());
    for row in rows {
        let number = |name: &str| row.get(name).and_then(Value::as_i64).unwrap_or_default();
        let clock = number("clock_ahead_seconds");
        table.push(vec![
            text(row, "name"),
            format!("{} ago", duration(number("silent_seconds"))),
            number("behind_records").to_string(),
            duration(number("behind_seconds")),
            number("lost_records").to_string(),
            number("mended_records").to_string(),
            if clock.abs() < 2 { "right".to_owned() } else { format!("{clock:+} s") },
            text(row, "version"),
        ]);
    }
    table.fit(terminal::columns());
    table.header() + &table.take_rows()
}

fn text(row: &Value, name: &str) -> String {
    row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn duration(seconds: i64) -> String {
    match seconds {
        ..0 => "0 s".to_owned(),
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Says of each box that is behind how far it is, beside an answer of all.
pub(super) fn complain_of(boxes: Option<&Value>) {
    for row in boxes.and_then(Value::as_array).into_iter().flatten() {
        let number = |name: &str| row.get(name).and_then(Value::as_i64).unwrap_or_default();
        if number("behind_seconds") > 0 {
            let (name, records) = (text(row, "name"), number("behind_records"));
            let (seen, behind) = (duration(number("silent_seconds")), duration(number("behind_seconds")));
            complain(&crate::log::escaped(&format!("{name} is {behind} behind: {records} records, heard of {seen} ago")));
        }
    }
}
