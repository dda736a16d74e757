//! Aligned columns for a terminal. Every cell is made safe, since records hold what strangers wrote.

use crate::log::escaped;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

const GAP: usize = 2;

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A column: its title, how it stands, and how narrow it may get where the window is (0: never narrower than its cells).
#[derive(Clone, Debug)]
pub(super) struct Column {
    title: String,
    align: Align,
    least: usize,
}

impl Column {
    pub(super) fn new(title: impl Into<String>, align: Align) -> Self {
        Self { title: title.into(), align, least: 0 }
    }

    pub(super) fn at_least(self, least: usize) -> Self {
        Self { least, ..self }
    }
}

/// Puts a cell's colour around it, once it has its width.
pub(super) type Colour = fn(super::terminal::Paint, &str) -> String;

struct Cell {
    text: String,
    colour: Option<Colour>,
}

/// Rows under a header; the last column is not padded.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Row>,
    widths: Vec<usize>,
    paint: super::terminal::Paint,
}

enum Row {
    Cells(Vec<Cell>),
    /// A line of its own below a row.
    Note(String),
}

impl Table {
    pub(super) fn new(columns: Vec<Column>) -> Self {
        let widths = columns.iter().map(|column| column.title.width()).collect();
        Self { columns, rows: Vec::new(), widths, paint: super::terminal::Paint(false) }
    }

    pub(super) fn painted(self, paint: super::terminal::Paint) -> Self {
        Self { paint, ..self }
    }

    pub(super) fn push(&mut self, cells: Vec<String>) {
        self.push_coloured(cells.into_iter().map(|cell| (cell, None)).collect());
    }

    pub(super) fn push_coloured(&mut self, cells: Vec<(String, Option<Colour>)>) {
        let cells: Vec<_> = cells.into_iter().map(|(text, colour)| Cell { text: escaped(&text), colour }).collect();
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.text.width());
        }
        self.rows.push(Row::Cells(cells));
    }

    /// A line below the last row, indented.
    pub(super) fn note(&mut self, text: &str) {
        self.rows.push(Row::Note(format!("    {}", escaped(text))));
    }

    /// Makes columns narrower until a row is no wider than the window: the widest one that may first.
    pub(super) fn fit(&mut self, window: Option<usize>) {
        let Some(window) = window else { return };
        loop {
            let needed = self.widths.iter().sum::<usize>() + GAP * self.widths.len().saturating_sub(1);
            let too_much = needed.saturating_sub(window);
            let narrowable = self.widths.iter_mut().zip(&self.columns).filter(|(width, column)| column.least > 0 && **width > column.least);
            match narrowable.max_by_key(|(width, _)| **width) {
                Some((width, _)) if too_much > 0 => *width -= 1,
                _ => return,
            }
        }
    }

    pub(super) fn header(&self) -> String {
        let titles: Vec<_> = self.columns.iter().map(|column| Cell { text: column.title.clone(), colour: None }).collect();
        within(&self.line(&titles), super::terminal::columns())
    }

    /// The rows so far; the widths stay, so that later rows stand under them.
    pub(super) fn take_rows(&mut self) -> String {
        let rows = std::mem::take(&mut self.rows);
        let window = super::terminal::columns();
        let note = |text: &str| window.map_or_else(|| text.to_owned(), |window| cut(text, window));
        // In a window that is too narrow for all columns the last ones are not seen; no row wraps.
        rows.iter()
            .map(|row| match row {
                Row::Cells(cells) => within(&self.line(cells), window),
                Row::Note(text) => format!("{}\n", self.paint.dim(&note(text))),
            })
            .collect()
    }

    fn line(&self, cells: &[Cell]) -> String {
        let mut line = String::new();
        let last = cells.len().saturating_sub(1);
        for (at, ((cell, &width), column)) in cells.iter().zip(&self.widths).zip(&self.columns).enumerate() {
            if at > 0 {
                line.push_str("  ");
            }
            let text = cut(&cell.text, width);
            let space = " ".repeat(width.saturating_sub(text.width()));
            let text = cell.colour.map_or_else(|| text.clone(), |colour| colour(self.paint, &text));
            match column.align {
                Align::Left if at == last => line.push_str(&text),
                Align::Left => line.extend([text.as_str(), &space]),
                Align::Right => line.extend([&space, text.as_str()]),
            }
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

/// The part of a line that a window has room for. Colours take none.
pub(super) fn within(line: &str, window: Option<usize>) -> String {
    let Some(columns) = window else { return line.to_owned() };
    let (mut shown, mut used, mut escape) = (String::new(), 0, false);
    for letter in line.chars() {
        if escape {
            escape = letter != 'm';
        } else if letter == '\x1b' {
            escape = true;
        } else if letter != '\n' {
            used += letter.width().unwrap_or(0);
            if used > columns {
                continue;
            }
        }
        shown.push(letter);
    }
    shown
}

/// At most so many columns of a text; what is cut ends in an ellipsis.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let (mut shown, mut used) = (String::new(), 1);
    for letter in text.chars() {
        used += letter.width().unwrap_or(0);
        if used > width {
            break;
        }
        shown.push(letter);
    }
    if width > 0 {
        shown.push('…');
    }
    shown
}

/// Microseconds in three figures and the unit that fits.
pub(super) fn time_us(us: u64) -> String {
    // Only for people to read: the fourth figure does not matter.
    let [ms, s] = [us / 1000, us / 1_000_000];
    match us {
        0..1000 => format!("{us}µs"),
        1000..10_000 => format!("{ms}.{:02}ms", us / 10 % 100),
        10_000..100_000 => format!("{ms}.{}ms", us / 100 % 10),
        100_000..1_000_000 => format!("{ms}ms"),
        1_000_000..10_000_000 => format!("{s}.{:02}s", us / 10_000 % 100),
        10_000_000..100_000_000 => format!("{s}.{}s", us / 100_000 % 10),
        _ => format!("{s}s"),
    }
}

/// Octets in about three figures and the unit that fits.
pub(super) fn octets(n: u64) -> String {
    let units = [("KiB", 1_u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
    let Some((name, unit)) = units.into_iter().rev().find(|(_, unit)| n >= *unit) else { return format!("{n}B") };
    let whole = n / unit;
    if whole >= 100 { format!("{whole}{name}") } else { format!("{whole}.{}{name}", n % unit * 10 / unit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_safe() {
        let columns = [("ID", Align::Left), ("SIZE", Align::Right), ("SUBJECT", Align::Left)];
        let mut table = Table::new(columns.map(|(title, align)| Column::new(title, align)).into());
        table.push(vec!["äb".into(), "1".into(), "a\nb\u{1b}[2J".into()]);
        table.push(vec!["c".into(), "12345".into(), String::new()]);
        let text = table.header() + &table.take_rows();
        // The header was asked for after the rows, so it has their widths.
        assert_eq!(text, "ID   SIZE  SUBJECT\näb      1  a\\nb\\u{1b}[2J\nc   12345\n");
    }

    #[test]
    fn no_row_is_wider_than_the_window() {
        let columns = || {
            vec![
                Column::new("TIME", Align::Left),
                Column::new("TO", Align::Left).at_least(8),
                Column::new("SUBJECT", Align::Left).at_least(8),
            ]
        };
        for window in [30, 40, 80] {
            let mut table = Table::new(columns());
            table.push(vec!["12:00:00".into(), "a-long-address@example.test".into(), "漢字".repeat(40)]);
            table.push(vec!["12:00:01".into(), "b@c".into(), "short".into()]);
            table.fit(Some(window));
            let text = table.header() + &table.take_rows();
            assert!(text.lines().all(|line| line.width() <= window), "{window}:\n{text}");
            assert!(text.contains("12:00:00") && text.contains("short") && text.contains('…'), "{text}");
        }
        let mut table = Table::new(columns());
        table.push(vec!["x".into(), "y".repeat(300), "z".into()]);
        table.fit(None);
        assert!(table.take_rows().contains(&"y".repeat(300)), "a file gets all");
    }

    #[test]
    fn a_cut_text_has_its_width() {
        for (text, width, expected) in
            [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("漢字", 3, "漢…"), ("漢字", 2, "…"), ("ab", 1, "…"), ("a", 0, "")]
        {
            assert_eq!(cut(text, width), expected, "{text} in {width}");
        }
    }

    #[test]
    fn figures() {
        for (us, expected) in [
            (0, "0µs"),
            (999, "999µs"),
            (1234, "1.23ms"),
            (12_345, "12.3ms"),
            (123_456, "123ms"),
            (1_050_000, "1.05s"),
            (12_345_678, "12.3s"),
            (123_456_789, "123s"),
        ] {
            assert_eq!(time_us(us), expected);
        }
        for (n, expected) in
            [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (150 << 10, "150KiB"), (25 << 20, "25.0MiB"), (5 << 40, "5.0TiB")]
        {
            assert_eq!(octets(n), expected);
        }
    }
}
