//! Direct lanes beside a raw futex and a socket pair: `bro-bench lane [--rounds N] [--ms N] [--json] [ROW...]`.
//!
//! Every row is measured once a round, in fresh processes; ratios are taken within a round, and the medians over all rounds are printed.

#[path = "lane_peers.rs"]
mod peers;

use peers::{Asker, Cpus, Way};
use serde::Serialize;
use std::error::Error;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Makes this program the process that echoes.
const ECHO_ARGUMENT: &str = "--echo";
/// Makes this program one that wants all of a CPU.
const BUSY_ARGUMENT: &str = "--busy";

const PAYLOAD_BYTES: usize = 300;
const LARGE_BYTES: usize = 1024 * 1024;
const IN_FLIGHT: usize = 64;

/// What all rounds came to.
#[derive(Debug, Serialize)]
pub(crate) struct LaneFigures {
    pub(crate) rounds: usize,
    pub(crate) rows: Vec<RowFigures>,
    pub(crate) goals: Vec<GoalFigures>,
}

/// One way in one place.
#[derive(Debug, Serialize)]
pub(crate) struct RowFigures {
    pub(crate) row: &'static str,
    /// Round trips, in nanoseconds. For a pipelined row: nanoseconds per call, for both.
    pub(crate) p50_ns: Spread,
    pub(crate) p99_ns: Spread,
    /// Calls a second.
    pub(crate) calls_per_s: Spread,
}

/// A median over the rounds, with the extremes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// A goal, and what became of it.
#[derive(Debug, Serialize)]
pub(crate) struct GoalFigures {
    pub(crate) goal: &'static str,
    pub(crate) got: Spread,
    pub(crate) limit: f64,
    pub(crate) is_met: bool,
}

/// How the machine is shared while a row is measured.
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

struct Row {
    name: &'static str,
    way: Way,
    place: Place,
    shape: Shape,
}

#[derive(Clone, Copy)]
enum Shape {
    /// One at a time.
    Sequential { record_bytes: usize },
    /// So many at once.
    Pipelined { depth: usize },
}

const SMALL: Shape = Shape::Sequential { record_bytes: PAYLOAD_BYTES };
const LARGE: Shape = Shape::Sequential { record_bytes: LARGE_BYTES };
const MANY: Shape = Shape::Pipelined { depth: IN_FLIGHT };
const ADAPTIVE: Way = Way::Lane { spin_us: bro_proto::limits::LANE_SPIN_US };
const ASLEEP: Way = Way::Lane { spin_us: 0 };

const fn row(name: &'static str, way: Way, place: Place, shape: Shape) -> Row {
    Row { name, way, place, shape }
}

/// Rows that are compared stand together, so that they are measured shortly after each other.
const ROWS: &[Row] = &[
    row("one core, futex", Way::Futex, Place::One, SMALL),
    row("one core, lane without spin", ASLEEP, Place::One, SMALL),
    row("one core, lane", ADAPTIVE, Place::One, SMALL),
    row("one core, socket", Way::Socket, Place::One, SMALL),
    row("two cores, futex", Way::Futex, Place::Two, SMALL),
    row("two cores, lane without spin", ASLEEP, Place::Two, SMALL),
    row("two cores, lane", ADAPTIVE, Place::Two, SMALL),
    row("two cores, socket", Way::Socket, Place::Two, SMALL),
    row("free, lane", ADAPTIVE, Place::Free, SMALL),
    row("free, socket", Way::Socket, Place::Free, SMALL),
    row("busy, lane without spin", ASLEEP, Place::FreeBusy, SMALL),
    row("busy, lane", ADAPTIVE, Place::FreeBusy, SMALL),
    row("busy, socket", Way::Socket, Place::FreeBusy, SMALL),
    row("two cores busy, lane without spin", ASLEEP, Place::TwoBusy, SMALL),
    row("two cores busy, lane", ADAPTIVE, Place::TwoBusy, SMALL),
    row("two cores busy, socket", Way::Socket, Place::TwoBusy, SMALL),
    row("64 in flight, lane", ADAPTIVE, Place::Two, MANY),
    row("64 in flight, socket", Way::Socket, Place::Two, MANY),
    row("64 in flight on one core, lane", ADAPTIVE, Place::One, MANY),
    row("64 in flight on one core, socket", Way::Socket, Place::One, MANY),
    row("1 MiB, lane", ADAPTIVE, Place::Two, LARGE),
    row("1 MiB, socket", Way::Socket, Place::Two, LARGE),
    row("1 MiB on one core, lane", ADAPTIVE, Place::One, LARGE),
    row("1 MiB on one core, socket", Way::Socket, Place::One, LARGE),
];

/// What a row is measured by.
#[derive(Clone, Copy)]
enum Goal {
    /// The p50 of the first row is at most so many times that of the second.
    Ratio { of: &'static str, to: &'static str, limit: f64 },
    /// The p50 is at most so many nanoseconds.
    P50 { of: &'static str, limit_ns: f64 },
    /// At least so many calls a second.
    CallsPerS { of: &'static str, least: f64 },
}

const GOALS: &[(&str, Goal)] = &[
    (
        "one core without spin: p50 at most 1.2 futex",
        Goal::Ratio { of: "one core, lane without spin", to: "one core, futex", limit: 1.2 },
    ),
    ("one core: p50 at most 0.6 socket", Goal::Ratio { of: "one core, lane", to: "one core, socket", limit: 0.6 }),
    ("two cores: p50 at most 1 us", Goal::P50 { of: "two cores, lane", limit_ns: 1000.0 }),
    ("two cores: p50 at most 0.05 socket", Goal::Ratio { of: "two cores, lane", to: "two cores, socket", limit: 0.05 }),
    ("busy: p50 at most 0.6 socket", Goal::Ratio { of: "busy, lane", to: "busy, socket", limit: 0.6 }),
    ("64 in flight: at least 5 M calls/s", Goal::CallsPerS { of: "64 in flight, lane", least: 5e6 }),
    ("1 MiB: p50 at most 0.6 socket", Goal::Ratio { of: "1 MiB, lane", to: "1 MiB, socket", limit: 0.6 }),
    (
        "1 MiB on one core: p50 at most 0.6 socket",
        Goal::Ratio { of: "1 MiB on one core, lane", to: "1 MiB on one core, socket", limit: 0.6 },
    ),
];

/// What one round measured of one row.
#[derive(Clone, Copy)]
struct Measured {
    p50_ns: f64,
    p99_ns: f64,
    calls_per_s: f64,
}

/// The subcommand. True when all goals are met that could be judged.
pub(crate) fn run(arguments: &[&str]) -> Result<bool, Box<dyn Error>> {
    match arguments {
        [ECHO_ARGUMENT, way, cpu, record_bytes] => return peers::echo(way, cpu, record_bytes).map(|()| true),
        [BUSY_ARGUMENT, cpu] => return busy(cpu),
        _ => {}
    }
    let (mut rounds, mut span, mut is_json, mut only) = (7, Duration::from_millis(200), false, Vec::new());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match *argument {
            "--rounds" => rounds = arguments.next().ok_or("--rounds needs a number")?.parse()?,
            "--ms" => span = Duration::from_millis(arguments.next().ok_or("--ms needs a number")?.parse()?),
            "--json" => is_json = true,
            row => only.push(row),
        }
    }
    let figures = measure(rounds, span, &only)?;
    if is_json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print(&figures);
    }
    Ok(figures.goals.iter().all(|goal| goal.is_met))
}

/// Measures every row whose name contains one of `only` (all, when there are none), for about `span` each a round.
pub(crate) fn measure(rounds: usize, span: Duration, only: &[&str]) -> Result<LaneFigures, Box<dyn Error>> {
    let rows: Vec<&Row> =
        ROWS.iter().filter(|row| only.is_empty() || only.iter().any(|part| row.name.contains(part))).collect();
    let mut measured: Vec<Vec<Measured>> = vec![Vec::new(); rows.len()];
    for round in 0..rounds.max(1) {
        for (row, measured) in rows.iter().zip(&mut measured) {
            let one = measure_row(row, span).map_err(|error| format!("{}, round {round}: {error}", row.name))?;
            measured.push(one);
        }
    }
    let of = |name: &str| rows.iter().position(|row| row.name == name).map(|at| &measured[at]);
    let goals = GOALS.iter().filter_map(|(goal, rule)| judge(goal, *rule, of)).collect();
    let rows = rows.iter().zip(&measured).map(|(row, measured)| RowFigures {
        row: row.name,
        p50_ns: Spread::of(measured.iter().map(|one| one.p50_ns)),
        p99_ns: Spread::of(measured.iter().map(|one| one.p99_ns)),
        calls_per_s: Spread::of(measured.iter().map(|one| one.calls_per_s)),
    });
    Ok(LaneFigures { rounds, rows: rows.collect(), goals })
}

fn judge<'a>(goal: &'static str, rule: Goal, of: impl Fn(&str) -> Option<&'a Vec<Measured>>) -> Option<GoalFigures> {
    let (got, limit, is_at_most) = match rule {
        Goal::Ratio { of: one, to, limit } => {
            let ratios = of(one)?.iter().zip(of(to)?).map(|(one, to)| one.p50_ns / to.p50_ns);
            (Spread::of(ratios), limit, true)
        }
        Goal::P50 { of: one, limit_ns } => (Spread::of(of(one)?.iter().map(|one| one.p50_ns)), limit_ns, true),
        Goal::CallsPerS { of: one, least } => (Spread::of(of(one)?.iter().map(|one| one.calls_per_s)), least, false),
    };
    let is_met = if is_at_most { got.median <= limit } else { got.median >= limit };
    Some(GoalFigures { goal, got, limit, is_met })
}

fn measure_row(row: &Row, span: Duration) -> Result<Measured, Box<dyn Error>> {
    let cpus = match row.place {
        Place::One => Cpus { asks: Some(1), answers: Some(1) },
        Place::Two | Place::TwoBusy => Cpus { asks: Some(0), answers: Some(1) },
        Place::Free | Place::FreeBusy => Cpus { asks: None, answers: None },
    };
    let _busy = match row.place {
        Place::FreeBusy => Some(Busy::start("-")?),
        Place::TwoBusy => Some(Busy::start("1")?),
        Place::One | Place::Two | Place::Free => None,
    };
    match row.shape {
        Shape::Sequential { record_bytes } => {
            let mut asker = Asker::start(row.way, cpus, record_bytes)?;
            let mut times = Vec::new();
            let warm = Instant::now() + span / 4;
            while Instant::now() < warm {
                asker.ask()?;
            }
            let begin = Instant::now();
            let mut last = begin;
            while last - begin < span {
                asker.ask()?;
                let now = Instant::now();
                times.push((now - last).as_nanos());
                last = now;
            }
            asker.stop()?;
            times.sort_unstable();
            let at = |part: usize| times[(times.len() - 1) * part / 100] as f64;
            let calls_per_s = times.len() as f64 / (last - begin).as_secs_f64();
            Ok(Measured { p50_ns: at(50), p99_ns: at(99), calls_per_s })
        }
        Shape::Pipelined { depth } => {
            let mut asker = Asker::start(row.way, cpus, PAYLOAD_BYTES)?;
            let warm = Instant::now() + span / 4;
            asker.pipeline(depth, || Instant::now() >= warm)?;
            let begin = Instant::now();
            let answered = asker.pipeline(depth, || begin.elapsed() >= span)?;
            let calls_per_s = answered as f64 / begin.elapsed().as_secs_f64();
            asker.stop()?;
            Ok(Measured { p50_ns: 1e9 / calls_per_s, p99_ns: 1e9 / calls_per_s, calls_per_s })
        }
    }
}

/// A process that wants all of a CPU, ended when dropped.
struct Busy {
    process: Child,
}

impl Busy {
    fn start(cpu: &str) -> Result<Busy, Box<dyn Error>> {
        let process = Command::new(std::env::current_exe()?).args(["lane", BUSY_ARGUMENT, cpu]).spawn()?;
        Ok(Busy { process })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Longest life of a busy process whose parent died.
const BUSY_MAX: Duration = Duration::from_secs(60);

fn busy(cpu: &str) -> Result<bool, Box<dyn Error>> {
    peers::pin(if cpu == "-" { None } else { Some(cpu.parse()?) })?;
    let begin = Instant::now();
    while begin.elapsed() < BUSY_MAX {
        std::hint::black_box((0..10_000_u64).sum::<u64>());
    }
    Ok(true)
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        let last = values.len() - 1;
        Spread { median: values[last / 2], min: values[0], max: values[last] }
    }
}

fn print(figures: &LaneFigures) {
    println!("{:<36} {:>10} {:>21} {:>10} {:>12}", "", "p50 us", "(over the rounds)", "p99 us", "calls/s");
    for row in &figures.rows {
        let us = |ns: f64| ns / 1000.0;
        println!(
            "{:<36} {:>10.3} {:>21} {:>10.2} {:>12.0}",
            row.row,
            us(row.p50_ns.median),
            format!("({:.3} to {:.3})", us(row.p50_ns.min), us(row.p50_ns.max)),
            us(row.p99_ns.median),
            row.calls_per_s.median,
        );
    }
    for goal in &figures.goals {
        let verdict = if goal.is_met { "met" } else { "MISSED" };
        println!("{:<46} {:.3} ({:.3} to {:.3}): {verdict}", goal.goal, goal.got.median, goal.got.min, goal.got.max);
    }
}
