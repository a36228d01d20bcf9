//! One round: every row once, each in processes of its own.

use crate::children::{Children, Index};
use crate::figures::{Case, Figure, Measurement};
use crate::rows::{Ends, Middle, Plan, Row, Way, Work};
use crate::v1::Shape;
use crate::window::{Order, Report, clock_ns};
use anyhow::{Context as _, Result, bail};
use bro_proto::v1::Encoding;
use std::path::Path;

/// Bytes of calls and of answers, prefix included.
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
    shape: Shape,
}

/// Measures every row once. A run that fails is reported, and the others go on.
pub(crate) fn measure(
    rows: &[Row],
    plan: &Plan,
    shape: Shape,
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
        for work in rows.iter().flat_map(|row| row.cases) {
            if !works.contains(work) {
                works.push(*work);
            }
        }
        for work in works {
            for row in rows.iter().filter(|row| row.cases.contains(&work)) {
                note(&row.name);
                let run = Run { row, work, is_pinned, plan, shape };
                keep(format!("{} ({work:?})", row.name), run.measure());
            }
        }
    }
    for row in rows {
        if let Way::Function(function) = &row.way
            && (is_first || row.name != "idle")
        {
            note(&row.name);
            keep(row.name.clone(), function(plan));
        }
    }
    found
}

impl Run<'_> {
    fn measure(&self) -> Result<Vec<Measurement>> {
        let Way::Calls { middle, ends } = &self.row.way else { bail!("not measured by its calls") };
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("calls.sock");
        let upstream = directory.path().join("callee.sock");
        let mut children = Children::new(self.is_pinned);
        let (between, callee) = self.start_service(&mut children, middle, *ends, &socket, &upstream)?;
        let callers: Vec<Index> = (0..self.callers())
            .map(|caller| self.start_caller(&mut children, *ends, middle, &socket, caller))
            .collect::<Result<_>>()?;
        let watched: Vec<u32> =
            between.iter().chain([&callee]).chain(&callers).map(|index| children.id(*index)).collect();
        let mut measured = Vec::new();
        for &in_flight in self.in_flight() {
            let start_ns = clock_ns() + u64::try_from(self.plan.warm_up.as_nanos())?;
            let end_ns = start_ns + u64::try_from(self.plan.span.as_nanos())?;
            for (at, caller) in callers.iter().enumerate() {
                let in_flight = if self.work == Work::Fairness && at > 0 { PIPELINED_BESIDE } else { in_flight };
                let watched = if at == 0 { watched.clone() } else { Vec::new() };
                let order = Order { in_flight, start_ns, end_ns, watched };
                children.tell(*caller, &serde_json::to_string(&order)?)?;
            }
            let reports: Vec<Report> = callers
                .iter()
                .map(|caller| Ok(serde_json::from_str(&children.hear(*caller)?)?))
                .collect::<Result<_>>()?;
            let case = Case { name: self.case_name(in_flight), is_pinned: Some(self.is_pinned) };
            let figures = figures(&reports, between.is_some(), in_flight);
            measured.push(Measurement { row: self.row.name.clone(), case, figures });
        }
        Ok(measured)
    }

    /// What callers call: the callee, and what is between.
    fn start_service(
        &self,
        children: &mut Children,
        middle: &Middle,
        ends: Ends,
        socket: &Path,
        upstream: &Path,
    ) -> Result<(Option<Index>, Index)> {
        let (path, upstream_path) = (text(socket)?, text(upstream)?);
        let between = match middle {
            Middle::Nothing | Middle::Relay => None,
            Middle::Gateway => Some(children.start_own(&["gateway", path])?),
            Middle::OtherGateway(program) => {
                let gateway = children.start(program, &["gateway", "--socket", path, "--stop-with-stdin"])?;
                wait_for_socket(socket)?;
                Some(gateway)
            }
        };
        if let (Middle::Gateway, Some(gateway)) = (middle, between) {
            children.wait_ready(gateway)?;
        }
        let callee_socket = if matches!(middle, Middle::Relay) { upstream_path } else { path };
        let callers = self.callers().to_string();
        let mut arguments = vec!["callee", callee_socket];
        self.add_ends(&mut arguments, ends);
        let bytes = self.frame_bytes().to_string();
        arguments.extend(["--frame-bytes", &bytes]);
        if matches!(middle, Middle::Nothing | Middle::Relay) {
            arguments.extend(["--listen", &callers]);
        }
        let callee = children.start_own(&arguments)?;
        children.wait_ready(callee)?;
        if let Middle::Relay = middle {
            let relay = children.start_own(&["relay", path, upstream_path])?;
            children.wait_ready(relay)?;
            return Ok((Some(relay), callee));
        }
        Ok((between, callee))
    }

    fn start_caller(
        &self,
        children: &mut Children,
        ends: Ends,
        middle: &Middle,
        socket: &Path,
        caller: u8,
    ) -> Result<Index> {
        let (number, bytes) = (caller.to_string(), self.frame_bytes().to_string());
        let mut arguments = vec!["caller", text(socket)?];
        self.add_ends(&mut arguments, ends);
        arguments.extend(["--frame-bytes", &bytes, "--number", &number]);
        if matches!(middle, Middle::Nothing | Middle::Relay) {
            arguments.push("--unregistered");
        }
        let caller = children.start_own(&arguments)?;
        children.wait_ready(caller)?;
        Ok(caller)
    }

    fn add_ends(&self, arguments: &mut Vec<&str>, ends: Ends) {
        let ends = match ends {
            Ends::V1(Encoding::Json) => "json",
            Ends::V1(Encoding::Msgpack) => "msgpack",
            Ends::Client => "client",
        };
        let shape = if self.shape == Shape::Flat { "flat" } else { "order" };
        arguments.extend(["--ends", ends, "--shape", shape]);
    }

    fn callers(&self) -> u8 {
        match self.work {
            Work::Calls { callers } => callers,
            Work::Fairness => 1 + CALLERS_BESIDE,
            Work::Large { .. } => 1,
        }
    }

    fn in_flight(&self) -> &'static [usize] {
        match self.work {
            Work::Calls { .. } => &IN_FLIGHT,
            Work::Fairness | Work::Large { .. } => &IN_FLIGHT[..1],
        }
    }

    fn frame_bytes(&self) -> usize {
        match self.work {
            Work::Large { mib } => mib * MIB,
            _ => FRAME_BYTES,
        }
    }

    fn case_name(&self, in_flight: usize) -> String {
        match self.work {
            Work::Calls { callers: 1 } => format!("1 caller, {in_flight} in flight"),
            Work::Calls { callers } => format!("{callers} callers, {in_flight} in flight each"),
            Work::Fairness => format!("1 in flight beside {CALLERS_BESIDE} callers with {PIPELINED_BESIDE}"),
            Work::Large { mib } => format!("{mib} MiB there and back"),
        }
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

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the temporary directory has a name that is no text")
}

/// Until somebody listens.
fn wait_for_socket(socket: &Path) -> Result<()> {
    let start_ns = clock_ns();
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        if clock_ns() - start_ns > 10_000_000_000 {
            bail!("nobody listens on {}", socket.display());
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Ok(())
}
