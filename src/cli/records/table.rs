//! Records as rows of a table: fitted to a window, whole in a file or a pipe; below a row of what was not delivered stands why.

use super::super::table::{Align, Colour, Column, Table, octets, time_us};
use super::super::terminal::{self, Paint};
use super::super::time::Zone;
use super::super::{Failure, print};
use super::filters::{recipients, status};
use serde_json::Value;

/// From here on a window has room for ids.
const WIDE: usize = 110;
/// Below this it has none for what can be asked for by `records ID`.
const SLIM: usize = 72;

/// Prints records in one of the two forms.
pub(super) struct Output {
    /// `None` for JSON.
    table: Option<Table>,
    layout: Layout,
    zone: Zone,
    header_is_due: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Slim,
    Narrow,
    Wide,
    Whole,
}

impl Output {
    pub(super) fn new(json: bool, zone: Zone) -> Self {
        let layout = match terminal::columns() {
            Some(columns) if columns < SLIM => Layout::Slim,
            Some(columns) if columns < WIDE => Layout::Narrow,
            Some(_) => Layout::Wide,
            None => Layout::Whole,
        };
        let left = |title: &str| Column::new(title, Align::Left);
        let right = |title: &str| Column::new(title, Align::Right);
        let mut columns = vec![left(&zone.title()), left("OUTCOME")];
        if layout != Layout::Slim {
            columns.extend([right("HTTP"), right("TOOK")]);
        }
        match layout {
            Layout::Slim | Layout::Narrow => {}
            Layout::Wide => columns.push(left("ID")),
            Layout::Whole => columns.extend([right("SIZE"), left("ROUTE"), left("ID"), left("SENDER")]),
        }
        columns.extend([left("TO").at_least(8), left("SUBJECT").at_least(7)]);
        let table = (!json).then(|| Table::new(columns).painted(Paint::of_stdout()));
        Self { table, layout, zone, header_is_due: true }
    }

    pub(super) fn print(&mut self, records: &[Value]) -> Result<(), Failure> {
        let Some(table) = &mut self.table else {
            let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
            return print(&lines);
        };
        for record in records {
            table.push_coloured(cells(record, self.layout, &self.zone));
            if outcome(record) != "delivered" {
                table.note(&why(record, &self.zone));
            }
        }
        table.fit(terminal::columns());
        let rows = table.take_rows();
        let header = if std::mem::take(&mut self.header_is_due) { table.header() } else { String::new() };
        print(&(header + &rows))
    }
}

fn outcome(record: &Value) -> &str {
    record.get("outcome").and_then(Value::as_str).unwrap_or_default()
}

type Cell = (String, Option<Colour>);

fn cells(record: &Value, layout: Layout, zone: &Zone) -> Vec<Cell> {
    let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| record.get(name).and_then(Value::as_u64).unwrap_or_default();
    let mut to = recipients(record);
    let first = to.next().unwrap_or_default();
    let others = to.count();
    let to = if others > 0 { format!("{first} +{others}") } else { first.to_owned() };
    let status = status(record);
    let paint: Colour = match outcome(record) {
        "delivered" => Paint::good,
        "rejected" => Paint::bad,
        _ => Paint::wait,
    };
    let mut cells: Vec<Cell> = vec![(zone.show(text("date")), None), (outcome(record).to_owned(), Some(paint))];
    if layout != Layout::Slim {
        let status = if status == 0 { "-".to_owned() } else { status.to_string() };
        cells.extend([status, time_us(number("processing_time_us"))].map(|cell| (cell, None)));
    }
    let id = text("id").to_owned();
    match layout {
        Layout::Slim | Layout::Narrow => {}
        Layout::Wide => cells.push((id, None)),
        Layout::Whole => {
            let sender = if text("sender").is_empty() { "<>" } else { text("sender") };
            cells.extend([octets(number("size")), text("route").to_owned(), id, sender.to_owned()].map(|cell| (cell, None)));
        }
    }
    cells.extend([(to, None), (text("subject").to_owned(), None)]);
    cells
}

/// The answer, or why there was none; how often it was tried, and since when, where that is known.
fn why(record: &Value, zone: &Zone) -> String {
    let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
    let body = record.pointer("/server_response/body").and_then(Value::as_str).unwrap_or_default();
    let body = body.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let answer = match (status(record), body) {
        (0, "") => text("reply").to_owned(),
        (0, reason) => reason.to_owned(),
        (status, "") => format!("the endpoint answered {status}"),
        (status, body) => format!("the endpoint answered {status}: {body}"),
    };
    let attempts = record.get("attempts").and_then(Value::as_u64);
    let since = record.get("first_seen").and_then(Value::as_str).map(|since| zone.show(since)).unwrap_or_default();
    match attempts {
        Some(1) => format!("(1 attempt) {answer}"),
        Some(attempts) => format!("({attempts} attempts since {since}) {answer}"),
        None => format!("({answer})"),
    }
}
