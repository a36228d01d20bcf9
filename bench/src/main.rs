//! Measurements of ipc-bro beside floors and peers: `cargo xtask bench`. What each row is stands in `docs/performance.md`.
//!
//! - [`rows`]: what is compared; [`round`]: one round of it, by a [`cast`] of [`children`]; [`figures`]: what rounds come to; [`report`] and [`plot`]: to be read.
//! - [`ends`]: who calls and who answers: [`load`] generators that speak a [`wire`], [`v1`] or [`v2`], or our own crate as [`client`]; both
//!   measure a [`window`]. Between them the [`gateway`], or the [`relay`]: the floor under every gateway.
//! - [`fairness`]: what one caller notices of floods.
//! - [`lane`]: direct lanes beside the [`floor_futex`]; [`routes`]: the router in process; [`idle`]: memory; [`operations`]: what
//!   instructions are counted of.
//! - [`goals`]: what all that should come to.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints what it measured")]
#![expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]

mod cast;
mod children;
mod client;
mod ends;
mod fairness;
mod figures;
mod floor_futex;
mod gateway;
mod goals;
mod idle;
mod lane;
mod lane_peers;
mod load;
mod machine;
mod operations;
mod peers;
mod plot;
mod relay;
mod report;
mod round;
mod route_frames;
mod routes;
mod rows;
mod turns;
mod v1;
mod v2;
mod window;
mod wire;

use crate::figures::Rounds;
use crate::machine::Machine;
use crate::rows::Plan;
use crate::v1::Shape;
use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use serde_json::json;
use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Measures ipc-bro beside floors and peers, every row once a round in processes of its own. See docs/performance.md.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct Options {
    /// Short spans and few rounds: less than three minutes
    #[arg(long)]
    quick: bool,
    /// How often every row is measured [default: 9, quick 3]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Only these rows and what they are compared with
    #[arg(long, value_name = "ROW", num_args = 1..)]
    only: Vec<String>,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the medians to this SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// What the payload of the load generators looks like
    #[arg(long, value_enum, default_value = "order")]
    payload: Shape,
    /// Measure other systems, too; builds bench/peers, which takes minutes the first time
    #[arg(long)]
    peers: bool,
    /// A `bro` program of another build, whose gateway is measured in the same rounds
    #[arg(long, value_name = "PROGRAM", num_args = 1..)]
    against: Vec<PathBuf>,
    /// Print the names of the rows
    #[arg(long)]
    list: bool,
}

#[derive(Subcommand)]
enum Part {
    /// Memory of a gateway for each connected idle service, in detail
    Idle {
        /// How many
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
        services: u64,
    },
    /// One hot operation, so many times
    #[command(hide = true)]
    Operation { name: String, times: usize },
    /// The names of all operations
    #[command(hide = true)]
    Operations,
    /// The gateway in a process of its own
    #[command(hide = true)]
    Gateway {
        socket: PathBuf,
        #[arg(long, value_enum)]
        lanes: gateway::Lanes,
        /// Another user may do everything, too
        #[arg(long)]
        open: bool,
    },
    /// A process that floods a gateway
    #[command(hide = true)]
    Flood(fairness::Flood),
    /// The process that copies bytes
    #[command(hide = true)]
    Relay { listen: PathBuf, upstream: PathBuf },
    /// The process that makes calls
    #[command(hide = true)]
    Caller(ends::Caller),
    /// The process that answers calls
    #[command(hide = true)]
    Callee(ends::Callee),
    /// The other process of a lane's row
    #[command(hide = true)]
    LaneEcho(lane_peers::EchoRole),
    /// A process that wants all of a CPU
    #[command(hide = true)]
    LaneBusy { cpu: Option<usize> },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.part {
        None => run(&arguments.options),
        Some(Part::Idle { services }) => idle::measure(services),
        Some(Part::Operation { name, times }) => operations::run(&name, times).map(|()| true),
        Some(Part::Operations) => {
            operations::NAMES.iter().for_each(|name| println!("{name}"));
            Ok(true)
        }
        Some(Part::Gateway { socket, lanes, open }) => gateway::run(&socket, lanes, open).map(|()| true),
        Some(Part::Relay { listen, upstream }) => relay::run(&listen, &upstream).map(|()| true),
        Some(Part::Caller(caller)) => caller.run().map(|()| true),
        Some(Part::Callee(callee)) => callee.run().map(|()| true),
        Some(Part::Flood(flood)) => flood.run().map(|()| true),
        Some(Part::LaneEcho(echo)) => echo.run().map(|()| true),
        Some(Part::LaneBusy { cpu }) => lane::be_busy(cpu).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bro-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints; true when every run succeeded. Goals that are missed are only shown.
fn run(options: &Options) -> Result<bool> {
    let mut rows = rows::all(&options.against);
    if options.list {
        rows.iter().for_each(|row| println!("{}", row.name));
        return Ok(true);
    }
    for name in &options.only {
        if !rows.iter().any(|row| row.name == *name) {
            bail!("no row {name:?}: see --list");
        }
    }
    if !options.only.is_empty() {
        rows::select(&mut rows, &options.only);
    }
    let peers = if options.peers { Some(peers::build()?) } else { None };
    let ms = Duration::from_millis;
    let shape = options.payload;
    let plan = if options.quick {
        Plan { rounds: 3, warm_up: ms(40), span: ms(150), services: 10_000, shape, peers }
    } else {
        Plan { rounds: 9, warm_up: ms(150), span: ms(600), services: 10_000, shape, peers }
    };
    let plan = Plan { rounds: options.rounds.unwrap_or(plan.rounds), ..plan };
    let mut left_out = Vec::new();
    rows.retain(|row| {
        let reason = rows::left_out(row, &plan);
        left_out.extend(reason.iter().map(|reason| format!("{}: {reason}", row.name)));
        reason.is_none()
    });
    if rows.iter().any(|row| row.name == rows::FAIRNESS) {
        left_out.extend(fairness::left_out());
    }
    let mut machine = Machine::read();
    let shows_progress = std::io::stderr().is_terminal();
    let mut rounds = Rounds::default();
    let mut failures = Vec::new();
    for round in 0..plan.rounds {
        let note = |name: &str| {
            if !shows_progress {
                return;
            }
            eprint!("\r\x1b[Kround {} of {}: {name} ", round + 1, plan.rounds);
            let _ = std::io::stderr().flush(); // progress may be lost
        };
        rounds.0.push(round::measure(&rows, &plan, round == 0, note, &mut failures));
    }
    if shows_progress {
        eprint!("\r\x1b[K");
    }
    machine.note_end();
    let goals = goals::judge(&rounds);
    println!("{} x {}, Linux {}", machine.processor, machine.cores, machine.kernel);
    println!("load before {}, after {}", machine.load_before, machine.load_after);
    println!("medians of {} rounds; x: times the row that it is compared with, in the same round\n", plan.rounds);
    println!("{}", report::tables(&rounds));
    if let Some(path) = &options.json {
        let result =
            json!({ "machine": machine, "goals": goals, "left_out": left_out, "failures": failures, "rounds": rounds });
        fs::write(path, serde_json::to_string_pretty(&result)?)?;
    }
    if let Some(path) = &options.plot {
        fs::write(path, plot::svg(&rounds))?;
    }
    for row in &left_out {
        println!("left out: {row}");
    }
    if !goals.is_empty() {
        println!("{}", report::goals_table(&goals));
    }
    for failure in &failures {
        eprintln!("FAILED: {failure}");
    }
    Ok(failures.is_empty())
}
