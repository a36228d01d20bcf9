//! One round: every row once, each in processes of its own.

use crate::cast::{Cast, Roles};
use crate::figures::{Case, Figure, Measurement};
use crate::rows::{Plan, Row, Way, Work};
use crate::turns::TEXT_BYTES;
use crate::window::{Order, Report, clock_ns};
use anyhow::{Result, bail};

/// Bytes of calls and of answers in version 1, prefix included.
const FRAME_BYTES: usize = 454;
const PIPELINED_BESIDE: usize = 64;
const CALLERS_BESIDE: u8 = 3;
const IN_FLIGHT: [usize; 3] = [1, 64, 512];
const MIB: usize = 1024 * 1024;

/// One run of a row: its processes, and the cases that they go through one after the other.
struct Run<'a> {
    row: &'a Row,
    work: Work,
    is_pinned: bool,
    plan: &'a Plan,
}

/// Measures every row once. A run that fails is reported, and the others go on.
pub(crate) fn measure(
    rows: &[Row],
    plan: &Plan,
    is_first: bool,
    mut note: impl FnMut(&str),
    failures: &mut Vec<String>,
) -> Vec<Measurement> {
    let mut found = Vec::new();
    let mut keep = |what: String, result: Result<Vec<Measurement>>| match result {
        Ok(measured) => found.extend(measured),
        Err(error) => failures.push(format!("{what}: {error:#}")),
    };
    for is_pinned in [true, false] {
        // Row by row within a kind of work: what is compared is measured at nearly the same time.
        let mut works: Vec<Work> = Vec::new();
        for work in rows.iter().flat_map(|row| &row.cases) {
            if !works.contains(work) {
                works.push(*work);
            }
        }
        for work in works {
            for row in rows.iter().filter(|row| row.cases.contains(&work)) {
                note(&row.name);
                let run = Run { row, work, is_pinned, plan };
                keep(format!("{} ({work:?})", row.name), run.measure());
            }
        }
    }
    for row in rows {
        let function = match row.way {
            Way::Function(function) => function,
            Way::Once(function) if is_first => function,
            _ => continue,
        };
        note(&row.name);
        keep(row.name.clone(), function(plan));
    }
    found
}

impl Run<'_> {
    fn measure(&self) -> Result<Vec<Measurement>> {
        let Way::Calls { middle, ends } = &self.row.way else { bail!("not measured by its calls") };
        let roles = Roles {
            middle,
            ends: *ends,
            callers: self.callers(),
            frame_bytes: self.frame_bytes(),
            is_pinned: self.is_pinned,
            plan: self.plan,
        };
        let mut cast: Cast = roles.start()?;
        let mut measured = Vec::new();
        for &in_flight in in_flight(self.work) {
            let start_ns = clock_ns() + u64::try_from(self.plan.warm_up.as_nanos())?;
            let end_ns = start_ns + u64::try_from(self.plan.span.as_nanos())?;
            for (at, caller) in cast.callers.iter().enumerate() {
                let in_flight = if self.work == Work::Fairness && at > 0 { PIPELINED_BESIDE } else { in_flight };
                let watched = if at == 0 { cast.ids.clone() } else { Vec::new() };
                let order = Order { in_flight, start_ns, end_ns, watched };
                cast.children.tell(*caller, &serde_json::to_string(&order)?)?;
            }
            let reports: Vec<Report> = cast
                .callers
                .iter()
                .map(|caller| Ok(serde_json::from_str(&cast.children.hear(*caller)?)?))
                .collect::<Result<_>>()?;
            let case = Case { name: case_name(self.work, in_flight), is_pinned: Some(self.is_pinned) };
            let figures = figures(&reports, cast.has_middle, in_flight);
            measured.push(Measurement { row: self.row.name.clone(), case, figures });
        }
        for caller in &cast.callers {
            cast.children.finish(*caller)?;
        }
        Ok(measured)
    }

    fn callers(&self) -> u8 {
        match self.work {
            Work::Calls { callers } => callers,
            Work::Fairness => 1 + CALLERS_BESIDE,
            Work::Text | Work::Large { .. } => 1,
        }
    }

    fn frame_bytes(&self) -> usize {
        match self.work {
            Work::Large { mib } => mib * MIB,
            _ => FRAME_BYTES,
        }
    }
}

/// The names of all cases of one kind of work.
#[cfg(test)]
pub(crate) fn case_names(work: Work) -> Vec<String> {
    in_flight(work).iter().map(|&in_flight| case_name(work, in_flight)).collect()
}

fn case_name(work: Work, in_flight: usize) -> String {
    match work {
        Work::Calls { callers: 1 } => format!("1 caller, {in_flight} in flight"),
        Work::Calls { callers } => format!("{callers} callers, {in_flight} in flight each"),
        Work::Text => format!("text of {TEXT_BYTES} B, {in_flight} in flight"),
        Work::Fairness => format!("1 in flight beside {CALLERS_BESIDE} callers with {PIPELINED_BESIDE}"),
        Work::Large { mib } => format!("{mib} MiB there and back"),
    }
}

fn in_flight(work: Work) -> &'static [usize] {
    match work {
        Work::Calls { .. } | Work::Text => &IN_FLIGHT,
        Work::Fairness | Work::Large { .. } => &IN_FLIGHT[..1],
    }
}

/// The first report is of the caller that watched the processes, what is between the others first.
fn figures(reports: &[Report], has_middle: bool, in_flight: usize) -> Vec<(Figure, f64)> {
    let rate = |report: &Report| report.calls as f64 / (report.span_ns as f64 / 1e9);
    let calls_per_s: f64 = reports.iter().map(rate).sum();
    let lead = &reports[0];
    // The span of the others is the same but for the moments at which each looked at the clock.
    let calls = calls_per_s * lead.span_ns as f64 / 1e9;
    let mut figures = Vec::new();
    if in_flight == 1 {
        figures.push((Figure::P50Us, lead.p50_ns as f64 / 1e3));
        figures.push((Figure::P99Us, lead.p99_ns as f64 / 1e3));
    }
    figures.push((Figure::CallsPerS, calls_per_s));
    if has_middle {
        figures.push((Figure::MiddleNs, lead.cpu_ns[0] as f64 / (2.0 * calls)));
    }
    figures.push((Figure::AllNs, lead.cpu_ns.iter().sum::<u64>() as f64 / calls));
    figures
}
