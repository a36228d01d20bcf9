//! What rounds came to, as text.

use crate::figures::{Figure, Rounds, Spread};
use crate::goals::{Goal, Limit};
use crate::rows::base_of;
use std::fmt::Write as _;

/// Shown with a ratio to the base of the case.
const COMPARED: [Figure; 5] = [Figure::P50Us, Figure::P99Us, Figure::CallsPerS, Figure::MiddleNs, Figure::RouteNs];
const ALONE: [Figure; 2] = [Figure::AllNs, Figure::IdleBytes];

/// One table for every case.
pub(crate) fn tables(rounds: &Rounds) -> String {
    let mut text = String::new();
    for case in rounds.cases() {
        let rows = rounds.rows(&case);
        let is_compared = rows.iter().any(|row| rows.contains(&base_of(row)));
        let has = |figure: &Figure| rows.iter().any(|row| rounds.spread(&case, row, *figure).is_some());
        let mut head = vec![case.to_string()];
        for figure in COMPARED.iter().filter(|figure| has(figure)) {
            head.push(figure.title().to_owned());
            head.push("(min..max)".to_owned());
            head.extend(is_compared.then(|| "x".to_owned()));
        }
        for figure in ALONE.iter().filter(|figure| has(figure)) {
            head.extend([figure.title().to_owned(), "(min..max)".to_owned()]);
        }
        let mut lines = vec![head];
        for row in &rows {
            let mut line = vec![(*row).to_owned()];
            for figure in COMPARED.iter().chain(&ALONE).filter(|figure| has(figure)) {
                line.extend(cells(rounds.spread(&case, row, *figure)));
                if is_compared && COMPARED.contains(figure) {
                    let ratio = rounds.ratio(&case, row, base_of(row), *figure);
                    line.push(ratio.map_or_else(String::new, |ratio| format!("{:.2}", ratio.median)));
                }
            }
            lines.push(line);
        }
        writeln!(text, "{}", grid(&lines)).expect("a String takes everything");
    }
    text
}

/// The goals as text.
pub(crate) fn goals_table(goals: &[Goal]) -> String {
    let mut lines = vec![["goal", "limit", "got", "(min..max)", ""].map(str::to_owned).to_vec()];
    for goal in goals {
        let limit = match goal.limit {
            Limit::AtMost(limit) => format!("<= {}", number(limit)),
            Limit::AtLeast(limit) => format!(">= {}", number(limit)),
        };
        let mut line = vec![goal.what.to_owned(), limit];
        line.extend(cells(Some(goal.found)));
        line.push(if goal.is_met { "met" } else { "MISSED" }.to_owned());
        lines.push(line);
    }
    grid(&lines)
}

fn cells(spread: Option<Spread>) -> [String; 2] {
    match spread {
        Some(Spread { median, least, greatest }) => {
            [number(median), format!("{}..{}", number(least), number(greatest))]
        }
        None => [String::new(), String::new()],
    }
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn grid(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let written = if column == 0 { write!(row, "{cell:<width$}") } else { write!(row, "  {cell:>width$}") };
            written.expect("a String takes everything");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}
