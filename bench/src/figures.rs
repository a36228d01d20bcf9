//! What is measured, and what rounds of it come to: medians with their spread, and ratios within each round.

use serde::Serialize;
use std::fmt;

/// One number about one row in one case of one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// Of calls made one at a time, in microseconds.
    P50Us,
    P99Us,
    CallsPerS,
    /// Processor time of the process in the middle, in nanoseconds per message: two for a call, itself and its answer.
    MiddleNs,
    /// Processor time of all processes together, in nanoseconds per call.
    AllNs,
    /// Routing one call and its answer in process, in nanoseconds.
    RouteNs,
    /// Memory for one idle connection, in bytes.
    IdleBytes,
}

impl Figure {
    /// What a column is headed with.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Figure::P50Us => "p50 us",
            Figure::P99Us => "p99 us",
            Figure::CallsPerS => "calls/s",
            Figure::MiddleNs => "middle ns/message",
            Figure::AllNs => "all ns/call",
            Figure::RouteNs => "ns",
            Figure::IdleBytes => "bytes",
        }
    }
}

/// Under what conditions rows are compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Case {
    /// `1 caller, 64 in flight`.
    pub(crate) name: String,
    /// Whether all processes share one core; `None` where only one process runs.
    pub(crate) is_pinned: Option<bool>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = match self.is_pinned {
            Some(true) => ", all on one core",
            Some(false) => ", on all cores",
            None => "",
        };
        write!(f, "{}{cores}", self.name)
    }
}

/// What one round found out about one row in one case.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measurement {
    pub(crate) row: String,
    #[serde(flatten)]
    pub(crate) case: Case,
    pub(crate) figures: Vec<(Figure, f64)>,
}

impl Measurement {
    fn figure(&self, wanted: Figure) -> Option<f64> {
        self.figures.iter().find(|(figure, _)| *figure == wanted).map(|(_, value)| *value)
    }
}

/// The middle of several rounds, with the least and the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Spread {
    /// `None` for no values.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(*values.get(middle.checked_sub(1)?)?, values[middle])
        };
        Some(Spread { median, least: *values.first()?, greatest: *values.last()? })
    }
}

/// All rounds of a run.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Rounds(pub(crate) Vec<Vec<Measurement>>);

impl Rounds {
    /// The cases in the order in which they were first measured.
    pub(crate) fn cases(&self) -> Vec<Case> {
        let mut cases: Vec<Case> = Vec::new();
        for measurement in self.0.iter().flatten() {
            if !cases.contains(&measurement.case) {
                cases.push(measurement.case.clone());
            }
        }
        cases
    }

    /// The rows that were measured in a case, likewise.
    pub(crate) fn rows(&self, case: &Case) -> Vec<&str> {
        let mut rows: Vec<&str> = Vec::new();
        for measurement in self.0.iter().flatten().filter(|measurement| measurement.case == *case) {
            if !rows.contains(&&*measurement.row) {
                rows.push(&measurement.row);
            }
        }
        rows
    }

    /// What the rounds say of one figure.
    pub(crate) fn spread(&self, case: &Case, row: &str, figure: Figure) -> Option<Spread> {
        Spread::of(self.0.iter().filter_map(|round| value(round, case, row, figure)).collect())
    }

    /// `row` compared with `base` by `compare`, round by round.
    pub(crate) fn compared(
        &self,
        case: &Case,
        (row, base): (&str, &str),
        figure: Figure,
        compare: fn(f64, f64) -> f64,
    ) -> Option<Spread> {
        let pairs = self
            .0
            .iter()
            .filter_map(|round| Some(compare(value(round, case, row, figure)?, value(round, case, base, figure)?)));
        Spread::of(pairs.collect())
    }

    /// How many times as much as `base`, in the same round.
    pub(crate) fn ratio(&self, case: &Case, row: &str, base: &str, figure: Figure) -> Option<Spread> {
        self.compared(case, (row, base), figure, |row, base| row / base)
    }
}

fn value(round: &[Measurement], case: &Case, row: &str, figure: Figure) -> Option<f64> {
    let measurement = round.iter().find(|measurement| measurement.case == *case && measurement.row == row)?;
    measurement.figure(figure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(row: &str, value: f64) -> Measurement {
        let case = Case { name: "x".to_owned(), is_pinned: None };
        Measurement { row: row.to_owned(), case, figures: vec![(Figure::P50Us, value)] }
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_ones() {
        assert_eq!(Spread::of(vec![]), None);
        let of = |values: &[f64]| Spread::of(values.to_vec()).unwrap();
        assert_eq!(of(&[3.0]), Spread { median: 3.0, least: 3.0, greatest: 3.0 });
        assert_eq!(of(&[9.0, 1.0, 2.0]), Spread { median: 2.0, least: 1.0, greatest: 9.0 });
        assert_eq!(of(&[4.0, 1.0]).median, 2.5);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was ten times slower in the second round: the ratio is the same.
        let round = |pace: f64| vec![measurement("relay", 2.0 * pace), measurement("gateway", 3.0 * pace)];
        let mut rounds = Rounds(vec![round(1.0), round(10.0)]);
        rounds.0.push(vec![measurement("gateway", 1.0)]); // the relay failed
        let case = &rounds.cases()[0];
        let ratio = rounds.ratio(case, "gateway", "relay", Figure::P50Us).unwrap();
        assert_eq!(ratio, Spread { median: 1.5, least: 1.5, greatest: 1.5 });
        assert_eq!(rounds.rows(case), ["relay", "gateway"]);
        assert_eq!(rounds.ratio(case, "gateway", "nobody", Figure::P50Us), None);
        assert_eq!(rounds.spread(case, "gateway", Figure::CallsPerS), None);
    }
}
