//! Printing for people and for programs.

use crate::exit::Failure;
use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Prints a value: indented for a terminal, in one line for a pipe.
pub fn print_json(value: &Value) -> Result<(), Failure> {
    let text = if std::io::stdout().is_terminal() {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    print_line(&text.expect("a JSON value has a text"))
}

/// Prints one line. A reader that has gone (`bro watch | head`) ends the command quietly.
pub fn print_line(line: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    written(writeln!(out, "{line}").and_then(|()| out.flush()))
}

/// Prints a text as it is.
pub fn print_bytes(text: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    written(out.write_all(text).and_then(|()| out.flush()))
}

fn written(result: std::io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|error| Failure::local(format!("cannot write to standard output: {error}"))),
    }
}

/// Rows in aligned columns, two spaces apart; the first row is the heading.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut lines = Vec::with_capacity(rows.len());
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

/// A time span in the largest unit that keeps it above 1: `3s`, `4m`, `2h`, `5d`.
pub fn age(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Microseconds as a person reads them.
pub fn duration_us(us: u64) -> String {
    match us {
        0..1000 => format!("{us} us"),
        1000..1_000_000 => format!("{:.2} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// A span in whole milliseconds.
pub fn in_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A span in whole microseconds.
pub fn in_us(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970, now.
pub fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, in_ms)
}

/// Time of day (UTC) with milliseconds.
pub fn time_of_day(wall_ms: u64) -> String {
    let ms = wall_ms % 86_400_000;
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["A".to_owned(), "B".to_owned()], vec!["long".to_owned(), "x".to_owned()]];
        assert_eq!(table(&rows), "A     B\nlong  x");
    }

    #[test]
    fn spans_read_well() {
        assert_eq!([age(999), age(61_000), age(7_200_000), age(90_000_000)], ["0s", "1m", "2h", "1d"]);
        assert_eq!([duration_us(999), duration_us(1500), duration_us(2_000_000)], ["999 us", "1.50 ms", "2.00 s"]);
        assert_eq!(time_of_day(86_400_000 + 3_723_004), "01:02:03.004");
    }
}
