//! `mailsluice forget`: erases an address from every record; says from how many.

use super::args::Forget;
use super::choice::Choice;
use super::client::Client;
use super::{Failure, print};

pub(super) fn run(config: &Choice, options: &Forget) -> Result<(), Failure> {
    let client = Client::new(config, &options.admin)?;
    let answer = client.post("/forget", &serde_json::json!({ "address": options.address }))?;
    let answer: serde_json::Value = serde_json::from_str(&answer).map_err(|error| client.broken(error))?;
    let Some(records) = answer.get("records").and_then(serde_json::Value::as_u64) else {
        return Err(client.broken("it names no number of records"));
    };
    print(&format!("erased from {records} {}\n", if records == 1 { "record" } else { "records" }))
}
