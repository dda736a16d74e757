//! `records ID`: all of one record, and what other attempts at its message there were. The id may come in the reply that told it.

use super::super::client::Client;
use super::super::terminal::Paint;
use super::super::time::Zone;
use super::super::{Exit, Failure, print};
use crate::record::RecordId;
use serde_json::Value;

pub(super) fn run(client: &Client, words: &[String], json: bool, of_fleet: bool) -> Result<(), Failure> {
    let given = words.join(" ");
    let word = given.trim().rsplit([' ', ':']).next().unwrap_or_default();
    let id = Some(word).filter(|word| word.len() == 26).and_then(|word| word.parse::<RecordId>().ok());
    let Some(id) = id else {
        let line = format!("{given:?} is no record's id (26 letters and digits); look for other texts with --text");
        return Err(Failure::new(Exit::Data, line));
    };
    let fleet = if of_fleet { "?fleet=true" } else { "" };
    let record = client.get(&format!("/records/{id}{fleet}")).map_err(|failure| {
        if failure.exit != Exit::Data {
            return failure;
        }
        Failure::new(Exit::Data, format!("no record has the id {id}; it may be older than store.retention, or another box's"))
    })?;
    if json {
        return print(&format!("{}\n", record.trim_end()));
    }
    let attempts = client.get(&format!("/records/{id}/attempts{fleet}"))?;
    let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| client.broken(error));
    print(&text(&parse(&record)?, &parse(&attempts)?, &Zone::of_this_machine(), Paint::of_stdout()))
}

fn text(record: &Value, attempts: &Value, zone: &Zone, paint: Paint) -> String {
    let mut text = String::new();
    let mut line =
        |name: &str, value: &str| text.push_str(&format!("{}  {}\n", paint.bold(&format!("{name:<20}")), crate::log::escaped(value)));
    for (name, value) in record.as_object().into_iter().flatten() {
        match (name.as_str(), value) {
            ("date", Value::String(date)) => line(name, &format!("{} ({}), {date}", zone.show(date), zone.name())),
            ("recipients", Value::Array(all)) => {
                for (at, recipient) in all.iter().filter_map(Value::as_str).enumerate() {
                    line(if at == 0 { name } else { "" }, recipient);
                }
            }
            ("server_response", Value::Object(response)) => {
                for (part, value) in response {
                    line(&format!("response {part}"), &shown(value));
                }
            }
            (name, value) => line(name, &shown(value)),
        }
    }
    let attempts = attempts.get("records").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if attempts.len() > 1 {
        for (at, attempt) in attempts.iter().enumerate() {
            let of = |name: &str| attempt.get(name).and_then(Value::as_str).unwrap_or_default();
            let title = if at == 0 { "attempts" } else { "" };
            line(title, &format!("{}  {}  {}  {}", zone.show(of("date")), of("outcome"), of("id"), of("reply")));
        }
    }
    text
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    }
}
