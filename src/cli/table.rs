//! Aligned columns for a terminal. Every cell is made safe, since records hold what strangers wrote.

use crate::log::escaped;

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows under a header; the last column is not padded.
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        let widths = columns.iter().map(|(name, _)| name.chars().count()).collect();
        Self { columns: columns.to_vec(), rows: Vec::new(), widths }
    }

    pub(super) fn push(&mut self, cells: Vec<String>) {
        let cells: Vec<_> = cells.iter().map(|cell| escaped(cell)).collect();
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        self.rows.push(cells);
    }

    pub(super) fn header(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        self.line(&names)
    }

    /// The rows so far; the widths stay, so that later rows stand under them.
    pub(super) fn take_rows(&mut self) -> String {
        let rows = std::mem::take(&mut self.rows);
        rows.iter().map(|row| self.line(row)).collect()
    }

    fn line(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for ((cell, &width), (_, align)) in cells.iter().zip(&self.widths).zip(&self.columns) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let space = " ".repeat(width.saturating_sub(cell.chars().count()));
            match align {
                Align::Left => line.extend([cell.as_str(), &space]),
                Align::Right => line.extend([&space, cell.as_str()]),
            }
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
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
        let mut table = Table::new(&[("ID", Align::Left), ("SIZE", Align::Right), ("SUBJECT", Align::Left)]);
        table.push(vec!["äb".into(), "1".into(), "a\nb\u{1b}[2J".into()]);
        table.push(vec!["c".into(), "12345".into(), String::new()]);
        let text = table.header() + &table.take_rows();
        // The header was asked for after the rows, so it has their widths.
        assert_eq!(text, "ID   SIZE  SUBJECT\näb      1  a\\nb\\u{1b}[2J\nc   12345\n");
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
