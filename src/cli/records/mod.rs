//! `mailsluice records`: the record log of the running daemon, as a table or as JSON lines, with `--follow` going on as records
//! come.

mod follow;

use super::args::{Outcome, Records};
use super::choice::Choice;
use super::client::{Client, with_query};
use super::table::{Align, Column, Table, octets, time_us};
use super::{Exit, Failure, print};
use crate::config::unit::parse_duration;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// As many as the daemon gives at once.
const PAGE: u64 = 1000;
/// Cells longer than this are cut; `--json` has the whole text.
const CELL: usize = 40;

pub(super) fn run(config: &Choice, options: &Records) -> Result<(), Failure> {
    let client = Client::new(config, &options.admin)?;
    let filters = Filters::new(options, Timestamp::now())?;
    let mut output = Output::new(options.json);
    if !options.follow {
        return pages(&client, &filters, options.limit, |records| output.print(&records).map(|()| true));
    }
    follow::run(&client, &filters, options.limit, &mut output)
}

/// The filters as the admin listener takes them.
struct Filters {
    pairs: Vec<(&'static str, String)>,
}

impl Filters {
    fn new(options: &Records, now: Timestamp) -> Result<Self, Failure> {
        let mut pairs = Vec::new();
        if let Some(since) = &options.since {
            pairs.push(("since", moment("--since", since, now)?.to_string()));
        }
        if let Some(until) = &options.until {
            pairs.push(("until", moment("--until", until, now)?.to_string()));
        }
        for (name, value) in [("sender", &options.sender), ("recipient", &options.recipient), ("message_id", &options.message_id)] {
            pairs.extend(value.iter().map(|value| (name, value.clone())));
        }
        pairs.extend(options.outcome.map(|outcome: Outcome| ("outcome", outcome.name().to_owned())));
        if options.undelivered {
            pairs.push(("undelivered", "true".to_owned()));
        }
        Ok(Self { pairs })
    }

    fn page(&self, limit: u64, cursor: Option<&str>) -> String {
        let limit = limit.to_string();
        let mut pairs: Vec<_> = self.pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        pairs.push(("limit", &limit));
        pairs.extend(cursor.map(|cursor| ("cursor", cursor)));
        with_query("/records", &pairs)
    }

    /// Whether a new record belongs to what is followed. What has just failed is undelivered, whatever comes later.
    fn takes(&self, record: &Value) -> bool {
        let text = |name: &str| record.get(name).and_then(Value::as_str);
        self.pairs.iter().all(|(name, wanted)| match *name {
            "sender" => text("sender").is_some_and(|sender| sender.eq_ignore_ascii_case(wanted)),
            "recipient" => {
                let recipients = record.get("recipients").and_then(Value::as_array);
                recipients.is_some_and(|all| all.iter().filter_map(Value::as_str).any(|address| address.eq_ignore_ascii_case(wanted)))
            }
            "message_id" => text("message_id").is_some_and(|id| bare(id) == bare(wanted)),
            "outcome" => text("outcome") == Some(wanted),
            "undelivered" => text("outcome") == Some("deferred"),
            // A new record is newer than any time given; --until is not taken with --follow.
            _ => true,
        })
    }
}

/// A Message-ID with or without its brackets.
fn bare(id: &str) -> &str {
    id.trim_matches(['<', '>'])
}

/// A time ago, a moment, or a day.
fn moment(option: &str, text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let ago = parse_duration(text).and_then(|ago| SignedDuration::try_from(ago).ok()).and_then(|ago| now.checked_sub(ago).ok());
    let day = || text.parse::<jiff::civil::Date>().ok().and_then(|day| format!("{day}T00:00:00Z").parse().ok());
    ago.or_else(|| text.parse().ok())
        .or_else(day)
        .ok_or_else(|| Failure::new(Exit::Usage, format!("{option} {text:?} is no time; write 1h, 2d, 2026-01-31 or 2026-01-31T12:00:00Z")))
}

/// Up to `limit` records in pages, newest first, as long as `take` wants more.
fn pages(client: &Client, filters: &Filters, limit: u64, mut take: impl FnMut(Vec<Value>) -> Result<bool, Failure>) -> Result<(), Failure> {
    let mut left = limit;
    let mut cursor: Option<String> = None;
    while left > 0 {
        let answer = client.get(&filters.page(left.min(PAGE), cursor.as_deref()))?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| client.broken(error))?;
        let Value::Object(mut answer) = answer else { return Err(client.broken("it is no page of records")) };
        let Some(Value::Array(records)) = answer.remove("records") else { return Err(client.broken("it is no page of records")) };
        left = left.saturating_sub(records.len().try_into().unwrap_or(u64::MAX));
        if !take(records)? {
            break;
        }
        match answer.remove("cursor") {
            Some(Value::String(next)) => cursor = Some(next),
            _ => break,
        }
    }
    Ok(())
}

/// Prints records in one of the two forms.
struct Output {
    /// `None` for JSON.
    table: Option<Table>,
    header_is_due: bool,
}

impl Output {
    fn new(json: bool) -> Self {
        let columns = [
            ("DATE", Align::Left),
            ("OUTCOME", Align::Left),
            ("HTTP", Align::Right),
            ("TIME", Align::Right),
            ("SIZE", Align::Right),
            ("ROUTE", Align::Left),
            ("SENDER", Align::Left),
            ("RECIPIENTS", Align::Left),
            ("ID", Align::Left),
            ("SUBJECT", Align::Left),
        ];
        Self { table: (!json).then(|| Table::new(columns.map(|(title, align)| Column::new(title, align)).into())), header_is_due: true }
    }

    fn print(&mut self, records: &[Value]) -> Result<(), Failure> {
        let Some(table) = &mut self.table else {
            let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
            return print(&lines);
        };
        for record in records {
            table.push(cells(record));
        }
        let rows = table.take_rows();
        let header = if std::mem::take(&mut self.header_is_due) { table.header() } else { String::new() };
        print(&(header + &rows))
    }
}

fn cells(record: &Value) -> Vec<String> {
    let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| record.get(name).and_then(Value::as_u64).unwrap_or_default();
    let recipients: Vec<_> = record.get("recipients").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let recipients = match recipients.as_slice() {
        [] => String::new(),
        [only] => short(only),
        [first, rest @ ..] => format!("{} +{}", short(first), rest.len()),
    };
    let date = text("date");
    let status = record.pointer("/server_response/status").and_then(Value::as_u64).unwrap_or_default();
    vec![
        // Seconds are enough to read.
        date.split_once('.').map_or_else(|| date.to_owned(), |(seconds, _)| format!("{seconds}Z")),
        text("outcome").to_owned(),
        if status == 0 { "-".to_owned() } else { status.to_string() },
        time_us(number("processing_time_us")),
        octets(number("size")),
        text("route").to_owned(),
        if text("sender").is_empty() { "<>".to_owned() } else { short(text("sender")) },
        recipients,
        text("id").to_owned(),
        short(text("subject")),
    ]
}

fn short(text: &str) -> String {
    if text.chars().count() <= CELL {
        return text.to_owned();
    }
    text.chars().take(CELL - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::super::args::Admin;
    use super::*;
    use serde_json::json;

    fn options() -> Records {
        Records {
            since: None,
            until: None,
            sender: None,
            recipient: None,
            message_id: None,
            outcome: None,
            undelivered: false,
            limit: 50,
            follow: false,
            json: false,
            admin: Admin { admin: None, token_file: None },
        }
    }

    #[test]
    fn times() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().expect("a time");
        let table = [
            ("1h", Some("2026-11-24T11:00:00Z")),
            ("2d", Some("2026-11-22T12:00:00Z")),
            ("1h30m", Some("2026-11-24T10:30:00Z")),
            ("2026-01-31T12:00:00+01:00", Some("2026-01-31T11:00:00Z")),
            ("2026-01-31", Some("2026-01-31T00:00:00Z")),
            ("yesterday", None),
            ("1", None),
            ("99999999w", None),
        ];
        for (text, expected) in table {
            assert_eq!(moment("--since", text, now).ok().map(|moment| moment.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn filters_become_a_query() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().expect("a time");
        let all = Records {
            since: Some("1h".into()),
            until: Some("2026-11-24".into()),
            sender: Some(String::new()),
            recipient: Some("a+b@c.example".into()),
            message_id: Some("<x@y>".into()),
            outcome: Some(Outcome::Deferred),
            undelivered: true,
            ..options()
        };
        assert_eq!(
            Filters::new(&all, now).expect("good").page(5, Some("01J")),
            "/records?since=2026-11-24T11%3A00%3A00Z&until=2026-11-24T00%3A00%3A00Z&sender=&recipient=a%2Bb%40c.example\
             &message_id=%3Cx%40y%3E&outcome=deferred&undelivered=true&limit=5&cursor=01J"
        );
        assert_eq!(Filters::new(&options(), now).expect("good").page(50, None), "/records?limit=50");
    }

    #[test]
    fn live_records_are_filtered_here() {
        let record =
            json!({"sender": "A@b.example", "recipients": ["x@c.example", "y@c.example"], "message_id": "<1@b>", "outcome": "deferred"});
        let table = [
            (options(), true),
            (Records { sender: Some("a@B.example".into()), ..options() }, true),
            (Records { sender: Some(String::new()), ..options() }, false),
            (Records { recipient: Some("Y@c.example".into()), ..options() }, true),
            (Records { recipient: Some("z@c.example".into()), ..options() }, false),
            (Records { message_id: Some("1@b".into()), ..options() }, true),
            (Records { message_id: Some("2@b".into()), ..options() }, false),
            (Records { outcome: Some(Outcome::Delivered), ..options() }, false),
            (Records { undelivered: true, ..options() }, true),
        ];
        for (index, (options, expected)) in table.into_iter().enumerate() {
            let filters = Filters::new(&options, Timestamp::UNIX_EPOCH).expect("good");
            assert_eq!(filters.takes(&record), expected, "row {index}");
        }
    }

    #[test]
    fn a_row() {
        let record = json!({
            "id": "01JDG", "date": "2026-11-24T21:31:21.123456Z", "sender": "", "recipients": ["a@b.example", "c@d.example"],
            "subject": "x".repeat(50), "server_response": {"status": 0, "body": ""}, "processing_time_us": 1234, "outcome": "deferred",
            "size": 2048, "route": "tickets",
        });
        assert_eq!(
            cells(&record).join("|"),
            format!("2026-11-24T21:31:21Z|deferred|-|1.23ms|2.0KiB|tickets|<>|a@b.example +1|01JDG|{}…", "x".repeat(39))
        );
    }
}
