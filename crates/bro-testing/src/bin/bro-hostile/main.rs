//! `bro-hostile`: what a peer that means harm gets, and what the others notice of it.
//!
//! Each attack has a gateway process of its own, two honest pairs that call each other all the time (one of our own clients, one
//! of old programs), and a hostile peer that does one bad thing over and over. What must hold is asserted by the attack
//! itself; for all of them, no honest call may fail, the gateway must live and take no more memory than it is allowed, and
//! when the attacker has gone, so must be every descriptor that it cost.
//!
//! - [`scene`]: gateway, victims, and when to stop.
//! - [`victim`]: the honest pairs, in a process of their own.
//! - [`raw`]: a connection that sends whatever it wants.
//! - [`attacks`]: the attacks, by subject.
//! - [`table`]: the result, for people.

#![allow(clippy::print_stdout, reason = "the table goes to standard output")]

mod attacks;
mod observer;
mod raw;
mod scene;
mod table;
mod victim;

use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::PathBuf;
use std::process::ExitCode;

/// Attack a gateway in every way that we know, and see what the attacker gets and what others notice
#[derive(Parser, Debug)]
#[command(name = "bro-hostile", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    worker: Option<WorkerCommand>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Args, Debug)]
struct RunArgs {
    /// How long each attack goes on, in milliseconds; the honest pairs are watched half as long before it
    #[arg(long, default_value_t = 1000)]
    attack_ms: u64,
    /// Only attacks with this in their name
    #[arg(long)]
    only: Option<String>,
    /// Write the table as Markdown
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Seed of what is random in the attacks
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Subcommand, Debug)]
enum WorkerCommand {
    /// The honest pairs, until standard input ends
    #[command(hide = true)]
    Victims(SocketArgs),
    /// Registers, and then does nothing at all
    #[command(hide = true)]
    Idler(SocketArgs),
}

#[derive(Args, Debug)]
struct SocketArgs {
    #[arg(long)]
    socket: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.worker {
        Some(WorkerCommand::Victims(args)) => victim::run(&args.socket),
        Some(WorkerCommand::Idler(args)) => attacks::processes::idle(&args.socket),
        None => return run(&cli.run),
    }
    ExitCode::SUCCESS
}

fn run(args: &RunArgs) -> ExitCode {
    raise_descriptor_limit();
    let mut rows = Vec::new();
    let mut broken = 0;
    let chosen = |name: &str| args.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    for attack in attacks::all().filter(|attack| chosen(attack.name)) {
        let row = scene::run(attack, args);
        println!("{}", table::line(&row));
        broken += usize::from(row.broken.is_some());
        rows.push(row);
    }
    println!("\n{} attacks, {broken} of them broke a promise (seed {})", rows.len(), args.seed);
    if let Some(path) = &args.markdown {
        std::fs::write(path, table::markdown(&rows, args.attack_ms)).expect("the table can be written");
    }
    if broken == 0 && !rows.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Attackers hold thousands of connections.
fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
