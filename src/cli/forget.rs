//! `mailsluice forget`: erases an address from every record; says from how many. With `--fleet` on all boxes and in their database.

use super::args::Forget;
use super::choice::Choice;
use super::client::Client;
use super::{Exit, Failure, print};
use crate::config::unit::{DURATIONS, parse_duration, show_duration};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// For boxes that are silent.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(300);

pub(super) fn run(config: &Choice, options: &Forget) -> Result<(), Failure> {
    let client = Client::new(config, &options.admin)?;
    if options.fleet {
        let wait =
            parse_duration(&options.wait).ok_or_else(|| Failure::new(Exit::Usage, format!("--wait {:?}: {DURATIONS}", options.wait)))?;
        return of_fleet(&client, &options.address, wait);
    }
    let answer = client.post("/forget", &json!({ "address": options.address }))?;
    let records = number(&client, &answer, "records")?;
    print(&format!("erased from {records} {}\n", if records == 1 { "record" } else { "records" }))
}

fn number(client: &Client, answer: &str, name: &str) -> Result<u64, Failure> {
    let answer: Value = serde_json::from_str(answer).map_err(|error| client.broken(error))?;
    answer.get(name).and_then(Value::as_u64).ok_or_else(|| client.broken(format_args!("it names no {name}")))
}

/// Returns when the address is in no file of any box and of no table, or names what is missing.
fn of_fleet(client: &Client, address: &str, wait: Duration) -> Result<(), Failure> {
    let id = number(client, &client.post("/forget", &json!({ "address": address, "fleet": true }))?, "erasure")?;
    let begun = Instant::now();
    loop {
        let answer = client.get(&format!("/fleet/erasures/{id}"));
        // What was asked for stands in the database, whatever becomes of who asked.
        let answer = answer
            .map_err(|failure| Failure::new(failure.exit, format!("erasure {id} is not done, and goes on by itself: {}", failure.line)))?;
        let state: Value = serde_json::from_str(&answer).map_err(|error| client.broken(error))?;
        if state.get("done") == Some(&Value::Bool(true)) {
            return print("erased on every box and from the fleet's database; what this does not reach stands in SECURITY.md\n");
        }
        if let Some(trouble) = state.get("trouble").and_then(Value::as_str) {
            let line = format!("erasure {id} is not done: {trouble}; it is tried again until it is");
            return Err(Failure::new(Exit::Unavailable, line));
        }
        let (silent, there) = missing(&state);
        let elapsed = begun.elapsed();
        if elapsed >= PATIENCE.min(wait) && !silent.is_empty() {
            let line = format!(
                "erasure {id} is not done: nothing is heard of {silent}; it goes on by itself when they are back, or strike them out with: mailsluice fleet remove"
            );
            return Err(Failure::new(Exit::Unavailable, line));
        }
        if elapsed >= wait {
            let what = if there.is_empty() {
                "every box has erased it, the database's tables are still being rewritten".to_owned()
            } else {
                format!("not signed by {there}, though heard of: look at the log there, or strike it out with: mailsluice fleet remove")
            };
            let line = format!(
                "erasure {id} is not done after {}: {what}; it goes on by itself, and the same command waits again",
                show_duration(wait)
            );
            return Err(Failure::new(Exit::Unavailable, line));
        }
        #[expect(clippy::disallowed_methods, reason = "a look now and then at something that takes its time on other machines")]
        std::thread::sleep(LOOK);
    }
}

/// Boxes that have not signed: those that nothing is heard of, and those that are there.
fn missing(state: &Value) -> (String, String) {
    let waiting = state.get("waiting").and_then(Value::as_array).into_iter().flatten();
    let (silent, there): (Vec<_>, Vec<_>) = waiting.partition(|one| one.get("silent") == Some(&Value::Bool(true)));
    let names = |boxes: Vec<&Value>| boxes.into_iter().filter_map(|one| one.get("box")?.as_str()).collect::<Vec<_>>().join(", ");
    (names(silent), names(there))
}
