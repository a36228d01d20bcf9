//! Direct lanes beside a raw futex and a pair of sockets: records there and back between two processes, without a gateway and without
//! messages in them.

use crate::children::Children;
use crate::figures::{Case, Figure, Measurement};
use crate::lane_peers::{Asker, Cpus, Way, pin};
use crate::rows::Plan;
use crate::window::{clock_ns, say};
use anyhow::{Context as _, Result, bail};
use bro_proto::limits::LANE_SPIN_US;
use rustix::thread::{CpuSet, sched_getaffinity};
use std::io::{Read as _, stdin};
use std::thread;

/// Everything that is measured here, by its name.
pub(crate) const ROWS: [&str; 4] = ["futex", "lane-asleep", "lane", BASE];
/// What lanes are compared with.
pub(crate) const BASE: &str = "socketpair";

const SMALL_BYTES: usize = 300;
const LARGE_BYTES: usize = 1024 * 1024;
const IN_FLIGHT: usize = 64;

/// How the machine is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Both on one CPU.
    One,
    /// One on each of two CPUs.
    Two,
    /// The scheduler decides.
    Free,
    /// The scheduler decides, and a third process wants a CPU.
    FreeBusy,
    /// One on each of two CPUs, and a third process wants that of the one that answers.
    TwoBusy,
}

impl Place {
    fn text(self) -> &'static str {
        match self {
            Place::One => "on one core",
            Place::Two => "on two cores",
            Place::Free => "on any core",
            Place::FreeBusy => "on any core beside a busy process",
            Place::TwoBusy => "on two cores, one of them busy",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traffic {
    /// 300 B, one at a time.
    Small,
    /// 300 B, many at once.
    Pipelined,
    /// 1 MiB, one at a time.
    Large,
}

impl Traffic {
    fn text(self) -> &'static str {
        match self {
            Traffic::Small => "300 B",
            Traffic::Pipelined => "300 B, 64 in flight",
            Traffic::Large => "1 MiB",
        }
    }

    /// A futex carries no bytes, and only one who waits is woken.
    fn ways(self) -> &'static [&'static str] {
        match self {
            Traffic::Small => &ROWS,
            Traffic::Pipelined | Traffic::Large => &["lane", BASE],
        }
    }
}

const CASES: [(Traffic, Place); 9] = [
    (Traffic::Small, Place::One),
    (Traffic::Small, Place::Two),
    (Traffic::Small, Place::Free),
    (Traffic::Small, Place::FreeBusy),
    (Traffic::Small, Place::TwoBusy),
    (Traffic::Pipelined, Place::Two),
    (Traffic::Pipelined, Place::One),
    (Traffic::Large, Place::Two),
    (Traffic::Large, Place::One),
];

/// What a case is called in a table.
fn name_of(traffic: Traffic, place: Place) -> String {
    format!("{} past the gateway, {}", traffic.text(), place.text())
}

/// The names of all cases; they say themselves who runs where.
#[cfg(test)]
pub(crate) fn places() -> Vec<(String, Option<bool>)> {
    CASES.into_iter().map(|(traffic, place)| (name_of(traffic, place), None)).collect()
}

/// Every way in every case. Those that need a second CPU are left out where there is none.
pub(crate) fn measure(plan: &Plan) -> Result<Vec<Measurement>> {
    let cpus = sched_getaffinity(None)?;
    let mut usable = (0..CpuSet::MAX_CPU).filter(|&cpu| cpus.is_set(cpu));
    let first = usable.next().context("no CPU to run on")?;
    let last = usable.next_back();
    let mut measured = Vec::new();
    for (traffic, place) in CASES {
        let (cpus, busy) = match (place, last) {
            (Place::One, _) => (Cpus { asks: last.or(Some(first)), answers: last.or(Some(first)) }, None),
            (Place::Two, Some(last)) => (Cpus { asks: Some(first), answers: Some(last) }, None),
            (Place::TwoBusy, Some(last)) => (Cpus { asks: Some(first), answers: Some(last) }, Some(Some(last))),
            (Place::Two | Place::TwoBusy, None) => continue,
            (Place::Free, _) => (Cpus { asks: None, answers: None }, None),
            (Place::FreeBusy, _) => (Cpus { asks: None, answers: None }, Some(None)),
        };
        for &row in traffic.ways() {
            let mut others = Children::new(false);
            if let Some(cpu) = busy {
                let cpu = cpu.map(|cpu| cpu.to_string());
                let arguments: Vec<&str> = std::iter::once("lane-busy").chain(cpu.as_deref()).collect();
                let busy = others.start_own(&arguments)?;
                others.wait_ready(busy)?;
            }
            // A thread of its own, so that only it is tied to a CPU.
            let figures = thread::scope(|scope| scope.spawn(|| figures(way(row), cpus, traffic, plan)).join());
            let Ok(figures) = figures else { bail!("{row} panicked") };
            let name = name_of(traffic, place);
            let figures = figures.with_context(|| format!("{row}, {name}"))?;
            let case = Case { name, is_pinned: None };
            measured.push(Measurement { row: row.to_owned(), case, figures });
        }
    }
    Ok(measured)
}

/// Wants all of a CPU, until standard input ends.
pub(crate) fn be_busy(cpu: Option<usize>) -> Result<()> {
    thread::spawn(|| {
        let _ = stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    if let Some(cpu) = cpu {
        pin(cpu)?;
    }
    say("ready")?;
    loop {
        std::hint::black_box((0..10_000_u64).sum::<u64>());
    }
}

fn way(row: &str) -> Way {
    match row {
        "futex" => Way::Futex,
        "lane-asleep" => Way::Lane { spin_us: 0 },
        "lane" => Way::Lane { spin_us: LANE_SPIN_US },
        _ => Way::Socket,
    }
}

fn figures(way: Way, cpus: Cpus, traffic: Traffic, plan: &Plan) -> Result<Vec<(Figure, f64)>> {
    let record_bytes = if traffic == Traffic::Large { LARGE_BYTES } else { SMALL_BYTES };
    let mut asker = Asker::start(way, cpus, record_bytes)?;
    let span_ns = u64::try_from(plan.span.as_nanos())?;
    let start_ns = clock_ns() + u64::try_from(plan.warm_up.as_nanos())?;
    if traffic == Traffic::Pipelined {
        asker.pipeline(IN_FLIGHT, || clock_ns() >= start_ns)?;
        let (start_ns, start_cpu_ns) = (clock_ns(), asker.cpu_ns()?);
        let answered = asker.pipeline(IN_FLIGHT, || clock_ns() - start_ns >= span_ns)?;
        let calls_per_s = answered as f64 * 1e9 / (clock_ns() - start_ns) as f64;
        let cpu_ns = (asker.cpu_ns()? - start_cpu_ns) as f64 / answered as f64;
        asker.stop()?;
        return Ok(vec![(Figure::CallsPerS, calls_per_s), (Figure::AllNs, cpu_ns)]);
    }
    while clock_ns() < start_ns {
        asker.ask()?;
    }
    let (start_ns, start_cpu_ns) = (clock_ns(), asker.cpu_ns()?);
    let (mut last_ns, mut times_ns) = (start_ns, Vec::new());
    while last_ns - start_ns < span_ns {
        asker.ask()?;
        let now_ns = clock_ns();
        times_ns.push(now_ns - last_ns);
        last_ns = now_ns;
    }
    let cpu_ns = (asker.cpu_ns()? - start_cpu_ns) as f64 / times_ns.len() as f64;
    asker.stop()?;
    let calls_per_s = times_ns.len() as f64 * 1e9 / (last_ns - start_ns) as f64;
    times_ns.sort_unstable();
    let percentile_us = |percent: usize| times_ns[((times_ns.len() - 1) * percent).div_ceil(100)] as f64 / 1e3;
    Ok(vec![
        (Figure::P50Us, percentile_us(50)),
        (Figure::P99Us, percentile_us(99)),
        (Figure::CallsPerS, calls_per_s),
        (Figure::AllNs, cpu_ns),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_way_of_its_own_and_every_case_has_a_name_of_its_own() {
        let mut ways: Vec<Way> = ROWS.into_iter().map(way).collect();
        ways.dedup();
        assert_eq!(ways.len(), ROWS.len());
        let names: std::collections::BTreeSet<String> = CASES.map(|(traffic, place)| name_of(traffic, place)).into();
        assert_eq!(names.len(), CASES.len());
        assert!(CASES.iter().all(|(traffic, _)| traffic.ways().contains(&BASE)), "everything is compared");
    }
}
