//! The daemon's answers, a page at a time.

use super::super::client::Client;
use super::super::{Failure, fleet};
use super::filters::Filters;
use serde_json::Value;

/// As many as the daemon gives at once.
const PAGE: u64 = 1000;

/// Up to `limit` records in pages, newest first, as long as `take` wants more; whether there may be more of them.
pub(super) fn pages(
    client: &Client,
    filters: &Filters,
    limit: u64,
    mut take: impl FnMut(Vec<Value>) -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    let mut left = limit;
    let mut cursor: Option<String> = None;
    loop {
        if left == 0 {
            return Ok(true);
        }
        let (records, next) = page(client, &filters.page(left.min(PAGE), cursor.as_deref()), "records")?;
        left = left.saturating_sub(records.len().try_into().unwrap_or(u64::MAX));
        if !take(records)? || next.is_none() {
            return Ok(false);
        }
        cursor = next;
    }
}

/// One answer of the daemon: a list by this name, and where the next one begins.
pub(super) fn page(client: &Client, path: &str, name: &str) -> Result<(Vec<Value>, Option<String>), Failure> {
    let answer: Value = serde_json::from_str(&client.get(path)?).map_err(|error| client.broken(error))?;
    let Value::Object(mut answer) = answer else { return Err(client.broken("it is no page of records")) };
    fleet::complain_of(answer.get("boxes"));
    let Some(Value::Array(list)) = answer.remove(name) else { return Err(client.broken("it is no page of records")) };
    match answer.remove("cursor") {
        Some(Value::String(next)) => Ok((list, Some(next))),
        _ => Ok((list, None)),
    }
}
