//! What figures should come to, and whether they do.

use crate::figures::{Case, Figure, Rounds, Spread};
use crate::rows::base_of;
use serde::Serialize;

/// One goal, with what became of it.
#[derive(Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) what: &'static str,
    pub(crate) limit: Limit,
    /// Over the rounds; the median decides.
    pub(crate) found: Spread,
    pub(crate) is_met: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// What is looked at.
#[derive(Clone, Copy, Debug)]
enum Of {
    /// The figure of a row.
    Value(&'static str),
    /// How many times that of the row that it is compared with.
    Times(&'static str),
    /// How much more than that.
    Above(&'static str),
    /// How many times that of the second row.
    TimesThat(&'static str, &'static str),
}

struct Rule {
    what: &'static str,
    limit: Limit,
    of: Of,
    figure: Figure,
    case: &'static str,
    is_pinned: Option<bool>,
}

const fn rule(what: &'static str, limit: Limit, of: Of, figure: Figure, (case, is_pinned): Place) -> Rule {
    Rule { what, limit, of, figure, case, is_pinned }
}

type Place = (&'static str, Option<bool>);

const ALONE: Place = ("1 caller, 1 in flight", Some(true));
const PIPED: Place = ("1 caller, 64 in flight", Some(true));
const PIPED_512: Place = ("1 caller, 512 in flight", Some(true));
const ROUTE: Place = ("routing a call and its answer in process", None);
const IDLE: Place = ("memory for each of 10000 idle services", None);
const LANE_ONE: Place = ("300 B past the gateway, on one core", None);
const LANE_TWO: Place = ("300 B past the gateway, on two cores", None);
const LANE_BUSY: Place = ("300 B past the gateway, on any core beside a busy process", None);
const LANE_TWO_BUSY: Place = ("300 B past the gateway, on two cores, one of them busy", None);
const LANE_PIPED_TWO: Place = ("300 B, 64 in flight past the gateway, on two cores", None);
const LANE_PIPED_ONE: Place = ("300 B, 64 in flight past the gateway, on one core", None);
const LANE_LARGE_TWO: Place = ("1 MiB past the gateway, on two cores", None);
const LANE_LARGE_ONE: Place = ("1 MiB past the gateway, on one core", None);
const LARGE_ONE: Place = ("1 MiB there and back", Some(true));
const LARGE_ALL: Place = ("1 MiB there and back", Some(false));
const TEXT: Place = ("text of 410 B, 1 in flight", Some(true));
const TEXT_PIPED: Place = ("text of 410 B, 64 in flight", Some(true));

const RULES: &[Rule] = {
    use Figure::{AllNs, CallsPerS, IdleBytes, MiddleNs, P50Us, RouteNs};
    use Limit::{AtLeast, AtMost};
    use Of::{Above, Times, TimesThat, Value};
    &[
        rule("v1, 1 in flight, one core: CPU x relay", AtMost(1.15), Times("gateway-json"), MiddleNs, ALONE),
        rule("v1, 1 in flight, one core: p50 x relay", AtMost(1.1), Times("gateway-json"), P50Us, ALONE),
        rule("v1, 64 in flight, one core: CPU above relay, ns", AtMost(140.0), Above("gateway-json"), MiddleNs, PIPED),
        rule(
            "v1, 512 in flight, one core: CPU above relay, ns",
            AtMost(140.0),
            Above("gateway-json"),
            MiddleNs,
            PIPED_512,
        ),
        rule("v2, 64 in flight, one core: CPU x relay", AtMost(1.2), Times("gateway-v2"), MiddleNs, PIPED),
        rule("v2, 512 in flight, one core: CPU x relay", AtMost(1.5), Times("gateway-v2"), MiddleNs, PIPED_512),
        rule("v2 short, 64 in flight, one core: CPU x relay", AtMost(1.2), Times("gateway-v2-short"), MiddleNs, PIPED),
        rule(
            "v2 short, 512 in flight, one core: CPU x relay",
            AtMost(1.5),
            Times("gateway-v2-short"),
            MiddleNs,
            PIPED_512,
        ),
        rule("v2, 1 MiB, one core: p50 x relay", AtMost(1.1), Times("gateway-v2"), P50Us, LARGE_ONE),
        rule("v2, 1 MiB, all cores: p50 x relay", AtMost(1.1), Times("gateway-v2"), P50Us, LARGE_ALL),
        rule("v1, routing beside 10,000 services x beside 2", AtMost(1.2), Times("route-10000"), RouteNs, ROUTE),
        rule("v2, routing beside 10,000 services x beside 2", AtMost(1.2), Times("route-v2-10000"), RouteNs, ROUTE),
        rule("an idle service: bytes", AtMost(1024.0), Value("idle"), IdleBytes, IDLE),
        rule(
            "lane that sleeps, one core: p50 x futex",
            AtMost(1.2),
            TimesThat("lane-asleep", "futex"),
            P50Us,
            LANE_ONE,
        ),
        rule("lane, two cores: p50 us", AtMost(1.0), Value("lane"), P50Us, LANE_TWO),
        rule("lane, two cores: p50 x socketpair", AtMost(0.05), Times("lane"), P50Us, LANE_TWO),
        rule("lane, one core: p50 x socketpair", AtMost(0.6), Times("lane"), P50Us, LANE_ONE),
        rule("lane, beside a busy process: p50 x socketpair", AtMost(0.6), Times("lane"), P50Us, LANE_BUSY),
        rule("lane, two cores, one busy: p50 x socketpair", AtMost(0.6), Times("lane"), P50Us, LANE_TWO_BUSY),
        rule("lane, 64 in flight, two cores: calls/s", AtLeast(5e6), Value("lane"), CallsPerS, LANE_PIPED_TWO),
        rule("lane, 64 in flight, one core: calls/s", AtLeast(5e6), Value("lane"), CallsPerS, LANE_PIPED_ONE),
        // The same of a core that nobody else uses meanwhile.
        rule("lane, 64 in flight, one core: CPU ns/call", AtMost(200.0), Value("lane"), AllNs, LANE_PIPED_ONE),
        rule("lane, 1 MiB, two cores: p50 x socketpair", AtMost(0.6), Times("lane"), P50Us, LANE_LARGE_TWO),
        rule("lane, 1 MiB, one core: p50 x socketpair", AtMost(0.6), Times("lane"), P50Us, LANE_LARGE_ONE),
        rule("client, 1 in flight, one core: p50 x nats", AtMost(1.0), TimesThat("client", "nats"), P50Us, TEXT),
        rule("client, 1 in flight, one core: p50 x dbus", AtMost(1.0), TimesThat("client", "dbus"), P50Us, TEXT),
        rule("client, 1 in flight, one core: p50 x tonic", AtMost(1.0), TimesThat("client", "tonic"), P50Us, TEXT),
        rule(
            "client, 64 in flight, one core: calls/s x nats",
            AtLeast(1.0),
            TimesThat("client", "nats"),
            CallsPerS,
            TEXT_PIPED,
        ),
        rule(
            "client, 64 in flight, one core: calls/s x dbus",
            AtLeast(1.0),
            TimesThat("client", "dbus"),
            CallsPerS,
            TEXT_PIPED,
        ),
        rule(
            "client, 64 in flight, one core: calls/s x tonic",
            AtLeast(1.0),
            TimesThat("client", "tonic"),
            CallsPerS,
            TEXT_PIPED,
        ),
        rule(
            "client by lane, 1 in flight, one core: p50 x iceoryx2",
            AtMost(1.0),
            TimesThat("client-lane", "iceoryx2"),
            P50Us,
            TEXT,
        ),
        rule(
            "client by lane, 64 in flight, one core: calls/s x iceoryx2",
            AtLeast(1.0),
            TimesThat("client-lane", "iceoryx2"),
            CallsPerS,
            TEXT_PIPED,
        ),
    ]
};

/// What of the goals was measured.
pub(crate) fn judge(rounds: &Rounds) -> Vec<Goal> {
    let judged = RULES.iter().filter_map(|rule| {
        let case = Case { name: rule.case.to_owned(), is_pinned: rule.is_pinned };
        let found = match rule.of {
            Of::Value(row) => rounds.spread(&case, row, rule.figure),
            Of::Times(row) => rounds.ratio(&case, row, base_of(row), rule.figure),
            Of::Above(row) => rounds.compared(&case, (row, base_of(row)), rule.figure, |row, base| row - base),
            Of::TimesThat(row, that) => rounds.ratio(&case, row, that, rule.figure),
        }?;
        let is_met = match rule.limit {
            Limit::AtMost(limit) => found.median <= limit,
            Limit::AtLeast(limit) => found.median >= limit,
        };
        Some(Goal { what: rule.what, limit: rule.limit, found, is_met })
    });
    judged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Measurement;
    use crate::{lane, round, rows};
    use std::collections::BTreeSet;

    fn measurement(row: &str, rule: &Rule, value: f64) -> Measurement {
        let case = Case { name: rule.case.to_owned(), is_pinned: rule.is_pinned };
        Measurement { row: row.to_owned(), case, figures: vec![(rule.figure, value)] }
    }

    fn rows_of(rule: &Rule) -> (&'static str, &'static str) {
        match rule.of {
            Of::Value(row) => (row, row),
            Of::Times(row) | Of::Above(row) => (row, base_of(row)),
            Of::TimesThat(row, that) => (row, that),
        }
    }

    #[test]
    fn the_median_over_rounds_meets_a_goal_or_misses_it() {
        for rule in RULES {
            let (row, that) = rows_of(rule);
            let (limit, worse) = match rule.limit {
                Limit::AtMost(limit) => (limit, 1.01),
                Limit::AtLeast(limit) => (limit, 0.99),
            };
            let base = if matches!(rule.of, Of::Value(_)) { 1.0 } else { 8.0 };
            let value = |limit: f64| if matches!(rule.of, Of::Above(_)) { base + limit } else { base * limit };
            let round = |limit| vec![measurement(row, rule, value(limit)), measurement(that, rule, base)];
            let is_met = |limits: [f64; 3]| {
                let rounds = Rounds(limits.map(round).into());
                let goals: Vec<Goal> = judge(&rounds).into_iter().filter(|goal| goal.what == rule.what).collect();
                assert_eq!(goals.len(), 1, "{}", rule.what);
                goals[0].is_met
            };
            let (good, bad) = (limit / worse, limit * worse);
            assert!(is_met([good, good, bad]), "{}", rule.what);
            assert!(!is_met([good, bad, bad]), "{}", rule.what);
        }
        assert!(judge(&Rounds::default()).is_empty(), "what was not measured is not judged");
    }

    #[test]
    fn goals_are_about_what_is_measured() {
        let mut measured = lane::places();
        measured.extend([ROUTE.0.to_owned(), IDLE.0.to_owned()].map(|case| (case, None)));
        for row in rows::all(&[]) {
            let names = row.cases.iter().flat_map(|work| round::case_names(*work));
            measured.extend(names.flat_map(|name| [(name.clone(), Some(true)), (name, Some(false))]));
        }
        let names: BTreeSet<&str> = RULES.iter().map(|rule| rule.what).collect();
        assert_eq!(names.len(), RULES.len(), "no two goals have one name");
        for rule in RULES {
            assert!(measured.contains(&(rule.case.to_owned(), rule.is_pinned)), "{} is nowhere measured", rule.case);
        }
    }
}
