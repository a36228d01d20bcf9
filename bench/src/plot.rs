//! A picture of the medians, with whiskers from the least to the greatest, as SVG.

use crate::figures::{Case, Figure, Rounds, Spread};
use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const NAMES_WIDTH: f64 = 130.0;
const VALUES_WIDTH: f64 = 90.0;
const BAR_HEIGHT: f64 = 16.0;
const ROW_HEIGHT: f64 = 22.0;
const HEAD_HEIGHT: f64 = 34.0;

const ONE_CORE: Option<bool> = Some(true);
const ALL_CORES: Option<bool> = Some(false);

/// One bar chart: case, whether on one core, figure, and what is shown.
const PANELS: [(&str, Option<bool>, Figure, &str); 10] = [
    ("1 caller, 1 in flight", ONE_CORE, Figure::P50Us, "One call at a time, all on one core: p50 in microseconds"),
    ("1 caller, 64 in flight", ONE_CORE, Figure::CallsPerS, "64 calls in flight, all on one core: calls per second"),
    (
        "1 caller, 64 in flight",
        ONE_CORE,
        Figure::MiddleNs,
        "64 in flight, all on one core: processor time between the two, ns per message",
    ),
    ("1 MiB there and back", ONE_CORE, Figure::P50Us, "1 MiB there and back, all on one core: p50 in microseconds"),
    ("1 MiB there and back", ALL_CORES, Figure::P50Us, "1 MiB there and back, on all cores: p50 in microseconds"),
    (
        "300 B past the gateway, on one core",
        None,
        Figure::P50Us,
        "A record there and back without a gateway, on one core: p50 in microseconds",
    ),
    (
        "300 B past the gateway, on two cores",
        None,
        Figure::P50Us,
        "A record there and back without a gateway, on two cores: p50 in microseconds",
    ),
    (
        "300 B, 64 in flight past the gateway, on one core",
        None,
        Figure::CallsPerS,
        "64 records in flight without a gateway, on one core: calls per second",
    ),
    (
        "text of 410 B, 1 in flight",
        ONE_CORE,
        Figure::P50Us,
        "Crates, one call at a time, all on one core: p50 in microseconds",
    ),
    (
        "text of 410 B, 64 in flight",
        ONE_CORE,
        Figure::CallsPerS,
        "Crates, 64 calls in flight, all on one core: calls per second",
    ),
];

/// Charts of what was measured.
pub(crate) fn svg(rounds: &Rounds) -> String {
    let mut body = String::new();
    let mut top = 0.0;
    for (name, is_pinned, figure, title) in PANELS {
        let case = Case { name: name.to_owned(), is_pinned };
        let rows = rounds.rows(&case);
        let bars: Vec<(&str, Spread)> =
            rows.into_iter().filter_map(|row| Some((row, rounds.spread(&case, row, figure)?))).collect();
        if !bars.is_empty() {
            top = panel(&mut body, top, title, &bars);
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{top}\" viewBox=\"0 0 {WIDTH} {top}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

/// Returns where the next one begins.
fn panel(body: &mut String, top: f64, title: &str, bars: &[(&str, Spread)]) -> f64 {
    let greatest = bars.iter().map(|(_, spread)| spread.greatest).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - NAMES_WIDTH - VALUES_WIDTH) / greatest;
    let mut line = |text: std::fmt::Arguments<'_>| writeln!(body, "{text}").expect("a String takes everything");
    line(format_args!("<text x=\"10\" y=\"{:.0}\" font-weight=\"bold\">{title}</text>", top + 22.0));
    for (index, (name, spread)) in bars.iter().enumerate() {
        let y = top + HEAD_HEIGHT + index as f64 * ROW_HEIGHT;
        let (text_y, middle) = (y + BAR_HEIGHT - 3.0, y + BAR_HEIGHT / 2.0);
        let x = |value: f64| NAMES_WIDTH + value * scale;
        let color =
            if ["gateway", "client", "lane"].iter().any(|ours| name.starts_with(ours)) { "#2b6cb0" } else { "#a0aec0" };
        line(format_args!("<text x=\"{:.0}\" y=\"{text_y:.0}\" text-anchor=\"end\">{name}</text>", NAMES_WIDTH - 8.0));
        line(format_args!(
            "<rect x=\"{NAMES_WIDTH}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{color}\"/>",
            spread.median * scale
        ));
        line(format_args!(
            "<path d=\"M{:.1} {middle:.0}H{:.1}\" stroke=\"#1a202c\" stroke-width=\"2\"/>",
            x(spread.least),
            x(spread.greatest)
        ));
        line(format_args!(
            "<text x=\"{:.1}\" y=\"{text_y:.0}\">{}</text>",
            x(spread.greatest) + 6.0,
            number(spread.median)
        ));
    }
    top + HEAD_HEIGHT + bars.len() as f64 * ROW_HEIGHT + 8.0
}

/// With thousands apart.
fn number(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|part| std::str::from_utf8(part).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Measurement;

    #[test]
    fn every_row_has_a_bar_that_ends_at_its_median() {
        let case = Case { name: "1 caller, 64 in flight".to_owned(), is_pinned: Some(true) };
        let measurement = |row: &str, rate: f64| Measurement {
            row: row.to_owned(),
            case: case.clone(),
            figures: vec![(Figure::CallsPerS, rate)],
        };
        let rounds = Rounds(vec![vec![measurement("relay", 1_234_567.0), measurement("gateway-json", 617_283.5)]]);
        let svg = svg(&rounds);
        let room = WIDTH - NAMES_WIDTH - VALUES_WIDTH;
        assert!(svg.contains(&format!("width=\"{room:.1}\"")) && svg.contains(&format!("width=\"{:.1}\"", room / 2.0)));
        assert!(svg.contains(">1,234,567<") && svg.contains(">gateway-json<"));
        assert_eq!(svg.matches("font-weight").count(), 1, "no chart without bars");
    }
}
