//! `mailsluice records`: the record log of the running daemon, as a table or as JSON lines, with `--follow` going on as records
//! come; with an id, one record whole.

mod filters;
mod follow;
mod one;
mod paging;
mod table;

use super::args::Records;
use super::choice::Choice;
use super::client::{Client, with_query};
use super::time::Zone;
use super::{Failure, complain};
use filters::Filters;
use jiff::Timestamp;
use paging::{page, pages};
use serde_json::Value;
use table::Output;

pub(super) fn run(config: &Choice, options: &Records) -> Result<(), Failure> {
    let client = Client::new(config, &options.admin)?;
    if !options.id.is_empty() {
        return one::run(&client, &options.id, options.json, options.fleet);
    }
    let zone = Zone::of_this_machine();
    let filters = Filters::new(options, &zone, Timestamp::now())?;
    let mut output = Output::new(options.json, zone);
    let limit = if options.limit == 0 { u64::MAX } else { options.limit };
    if options.follow {
        return follow::run(&client, &filters, limit, &mut output);
    }
    let show = |records: Vec<Value>| output.print(&records).map(|()| true);
    let more = if options.undelivered {
        undelivered(&client, &filters, limit, options.fleet, show)?
    } else {
        pages(&client, &filters, limit, show)?
    };
    if more {
        complain(&format!("these are the newest {limit}, there may be more: --limit 0 shows all"));
    }
    Ok(())
}

/// As [`pages`], of the messages that nobody has taken or refused, with the number of attempts and the first of them.
fn undelivered(
    client: &Client,
    filters: &Filters,
    limit: u64,
    of_fleet: bool,
    mut take: impl FnMut(Vec<Value>) -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    let mut left = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("limit", "1000")];
        query.extend(of_fleet.then_some(("fleet", "true")));
        query.extend(cursor.iter().map(|cursor| ("cursor", cursor.as_str())));
        let (messages, next) = page(client, &with_query("/undelivered", &query), "undelivered")?;
        let mut records: Vec<_> = messages.into_iter().filter_map(with_attempts).filter(|record| filters.takes(record)).collect();
        let more = records.len() > left;
        records.truncate(left);
        left -= records.len();
        take(records)?;
        if more || next.is_none() {
            return Ok(more);
        }
        cursor = next;
    }
}

/// The latest attempt's record, with what is known of all.
fn with_attempts(mut message: Value) -> Option<Value> {
    let message = message.as_object_mut()?;
    let mut record = message.remove("record")?;
    for name in ["attempts", "first_seen"] {
        record.as_object_mut()?.insert(name.to_owned(), message.remove(name)?);
    }
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::super::args::{Admin, Records};

    pub(super) fn options() -> Records {
        Records {
            id: Vec::new(),
            since: None,
            until: None,
            sender: None,
            recipient: None,
            message_id: None,
            webhook_id: None,
            outcome: None,
            status: None,
            route: None,
            ip: None,
            text: None,
            undelivered: false,
            fleet: false,
            limit: 50,
            follow: false,
            json: false,
            admin: Admin { admin: None, token_file: None },
        }
    }
}
