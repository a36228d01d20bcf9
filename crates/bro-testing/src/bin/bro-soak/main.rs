//! `bro-soak`: a gateway, callees and callers as real processes under load, while chaos is done to them: killed with SIGKILL, stopped and
//! continued, flooded, sent garbage, read from slowly.
//!
//! What must hold: no call hangs, every call ends exactly once and with a code that fits, every answer belongs to its
//! call, and the gateway gives back the memory and the descriptors that the dead have used. Two of the callers are
//! never killed, so that every one of their calls is accounted for from its beginning to its end.
//!
//! - [`plan`]: which calls are made, and how each may end.
//! - [`report`]: what a caller counts and tells the soak.
//! - [`callee`], [`old_callee`], [`caller`], [`old_caller`]: the processes, on our client and as old programs of version 1.
//! - [`worker`]: such a process from the soak's side.
//! - [`intruder`]: peers that behave badly.
//! - [`chaos`]: what is done, in which order. A new kind of chaos is a line in its table and a branch in `Soak::act`.
//! - [`rest`]: the gateway while nobody is connected, and what it means that its memory is flat.
//! - [`soak`]: the processes together, and the verdict.
//! - [`takeovers`]: no chaos at all: gateways take over from each other, and nobody may notice.
//! - [`faulty`]: canaries: gateways with a defect, with which the soak must fail.

#![allow(clippy::print_stdout, reason = "reports and the table go to standard output")]

mod callee;
mod caller;
mod chaos;
mod faulty;
mod intruder;
mod old_callee;
mod old_caller;
mod plan;
mod report;
mod rest;
mod soak;
mod takeovers;
mod worker;

use bro_testing::Encoding;
use clap::{Args, Parser, Subcommand};
use faulty::{FaultyGatewayArgs, GatewayFault};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Do chaos to callees, callers and the gateway at random moments under load, and check that nobody is left hanging.
#[derive(Parser, Debug)]
#[command(name = "bro-soak", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    worker: Option<WorkerCommand>,
    #[command(flatten)]
    soak: SoakArgs,
}

#[derive(Args, Debug)]
struct SoakArgs {
    /// How often something is done
    #[arg(long, default_value_t = 1000)]
    rounds: u64,
    /// For how long something is done again and again, in minutes
    #[arg(long, conflicts_with = "rounds")]
    minutes: Option<f64>,
    /// Repeats the same in the same order [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// How many callees; every fourth is an old program
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=64))]
    callees: u32,
    /// The longest pause between two rounds, in milliseconds
    #[arg(long, default_value_t = 200)]
    pause_ms: u64,
    /// After so many rounds all rest, and the idle gateway is looked at: 64 have every kind of chaos in them twice
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    rest_rounds: u64,
    /// For how much of the run gateways are killed, in percent: the memory of the last one is judged
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(..=100))]
    gateway_kills_percent: u64,
    /// Canary: the gateway has this defect, and the soak must fail (lanes must be off)
    #[arg(long, conflicts_with = "takeovers")]
    gateway_fault: Option<GatewayFault>,
    /// How much more memory the idle gateway may have at the end than after a warm-up, in KiB
    #[arg(long, default_value_t = 4096)]
    memory_slack_kib: u64,
    /// Which pairs the gateway gives lanes: off, auto or always
    #[arg(long, default_value = "auto")]
    lanes: String,
    /// Instead of chaos, so many takeovers while 25 clients call without pause
    #[arg(long, conflicts_with_all = ["rounds", "minutes"])]
    takeovers: Option<u64>,
    /// With --takeovers: 25 more clients, of this program for Node (bindings/node/test/programs/steady.mjs, beside the built package)
    #[arg(long, requires = "takeovers")]
    node: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum WorkerCommand {
    /// Serves until standard input ends, or a signal comes
    #[command(hide = true)]
    Callee(WorkerArgs),
    /// Serves as an old program would until standard input ends
    #[command(hide = true)]
    OldCallee(WorkerArgs),
    /// Calls through our client until standard input ends
    #[command(hide = true)]
    Caller(WorkerArgs),
    /// Calls as an old program would until standard input ends
    #[command(hide = true)]
    OldCaller(WorkerArgs),
    /// The gateway of a canary, until it is told to stop
    #[command(hide = true)]
    FaultyGateway(FaultyGatewayArgs),
}

/// What every worker is told.
#[derive(Args, Debug)]
struct WorkerArgs {
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    name: String,
    #[arg(long)]
    msgpack: bool,
    #[arg(long, default_value_t = 1)]
    pool_size: u32,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    callees: u32,
}

impl WorkerArgs {
    fn encoding(&self) -> Encoding {
        if self.msgpack { Encoding::Msgpack } else { Encoding::Json }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.worker {
        Some(WorkerCommand::Callee(args)) => callee::run(&args),
        Some(WorkerCommand::OldCallee(args)) => old_callee::run(&args),
        Some(WorkerCommand::Caller(args)) => caller::run(&args),
        Some(WorkerCommand::OldCaller(args)) => old_caller::run(&args),
        Some(WorkerCommand::FaultyGateway(args)) => faulty::run(&args),
        None => {
            let seed = cli.soak.seed.unwrap_or_else(clock_seed);
            let held = match cli.soak.takeovers {
                Some(takeovers) => takeovers::run(&cli.soak, takeovers),
                None => soak::run(&cli.soak, seed),
            };
            return if held { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    }
    ExitCode::SUCCESS
}

fn clock_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(since.subsec_nanos()) ^ since.as_secs()
}

/// Returns when standard input ends: the soak has closed it, or is gone.
fn wait_for_end_of_input() {
    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
}
