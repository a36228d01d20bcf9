//! What rounds came to, as text.

use crate::figures::{Case, Figure, Rounds, Spread};
use crate::routes;
use crate::rows;
use serde::Serialize;
use std::fmt::Write as _;

/// Shown with a ratio to the base of the case.
const COMPARED: [Figure; 5] = [Figure::P50Us, Figure::P99Us, Figure::CallsPerS, Figure::MiddleNs, Figure::RouteNs];
const ALONE: [Figure; 2] = [Figure::AllNs, Figure::IdleBytes];

/// Something that should hold, and whether it does.
#[derive(Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) found: Spread,
    pub(crate) at_most: f64,
    pub(crate) is_met: bool,
}

/// One table for every case.
pub(crate) fn tables(rounds: &Rounds) -> String {
    let mut text = String::new();
    for case in rounds.cases() {
        let rows = rounds.rows(&case);
        let base = [rows::BASE, rows::CLIENT, routes::BASE].into_iter().find(|base| rows.contains(base));
        let has = |figure: &Figure| rows.iter().any(|row| rounds.spread(&case, row, *figure).is_some());
        let mut head = vec![case.to_string()];
        for figure in COMPARED.iter().filter(|figure| has(figure)) {
            head.push(figure.title().to_owned());
            head.push("(min..max)".to_owned());
            head.extend(base.map(|_| "x".to_owned()));
        }
        for figure in ALONE.iter().filter(|figure| has(figure)) {
            head.extend([figure.title().to_owned(), "(min..max)".to_owned()]);
        }
        let mut lines = vec![head];
        for row in &rows {
            let mut line = vec![(*row).to_owned()];
            for figure in COMPARED.iter().chain(&ALONE).filter(|figure| has(figure)) {
                line.extend(cells(rounds.spread(&case, row, *figure)));
                if let Some(base) = base
                    && COMPARED.contains(figure)
                {
                    let ratio = rounds.ratio(&case, row, base, *figure);
                    line.push(ratio.map_or_else(String::new, |ratio| format!("{:.2}", ratio.median)));
                }
            }
            lines.push(line);
        }
        writeln!(text, "{}", grid(&lines)).expect("a String takes everything");
    }
    text
}

/// What of the goals was measured.
pub(crate) fn goals(rounds: &Rounds) -> Vec<Goal> {
    let pinned = |name: &str| Case { name: name.to_owned(), is_pinned: Some(true) };
    let (alone, piped) = (pinned("1 caller, 1 in flight"), pinned("1 caller, 64 in flight"));
    let cases = rounds.cases();
    let mut goals = Vec::new();
    let mut add = |what: &str, found: Option<Spread>, at_most: f64| {
        if let Some(found) = found {
            goals.push(Goal { what: what.to_owned(), found, at_most, is_met: found.median <= at_most });
        }
    };
    let ratio = |case, row, base, figure| rounds.ratio(case, row, base, figure);
    let json = "gateway-json";
    add("v1 JSON, one call at a time, one core: CPU x relay", ratio(&alone, json, rows::BASE, Figure::MiddleNs), 1.15);
    add("v1 JSON, one call at a time, one core: p50 x relay", ratio(&alone, json, rows::BASE, Figure::P50Us), 1.1);
    add(
        "v1 JSON, 64 in flight, one core: CPU above the relay's, ns per message",
        rounds.compared(&piped, (json, rows::BASE), Figure::MiddleNs, |row, base| row - base),
        140.0,
    );
    for case in &cases {
        add(
            "routing beside 10,000 services x beside 2",
            ratio(case, "route-10000", routes::BASE, Figure::RouteNs),
            1.2,
        );
        add("bytes for an idle service", rounds.spread(case, "idle", Figure::IdleBytes), 1024.0);
    }
    goals
}

/// The goals as text.
pub(crate) fn goals_table(goals: &[Goal]) -> String {
    let mut lines = vec![["goal", "found", "(min..max)", "at most", ""].map(str::to_owned).to_vec()];
    for goal in goals {
        let mut line = vec![goal.what.clone()];
        line.extend(cells(Some(goal.found)));
        line.extend([number(goal.at_most), if goal.is_met { "met" } else { "MISSED" }.to_owned()]);
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
