//! `bro`: run a gateway, call services, see what is going on.
//!
//! One file a subcommand under `commands/`; `cli.rs` defines every flag once, for parsing, help, completions and man pages.

mod cli;
mod commands;
mod connection;
mod demo;
mod exit;
mod output;
mod systemd;

use clap::Parser;
use cli::{Cli, Command};
use exit::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Gateway(args) => commands::gateway::run(args),
        Command::Ls(args) => block_on(commands::ls::run(args)),
        Command::Call(args) => block_on(commands::call::run(args)),
        Command::Notify(args) => block_on(commands::notify::run(args)),
        Command::Status(args) => block_on(commands::status::run(args)),
        Command::Watch(args) => block_on(commands::watch::run(args)),
        Command::WaitFor(args) => block_on(commands::wait_for::run(args)),
        Command::Ping(args) => block_on(commands::ping::run(args)),
        Command::Policy(args) => commands::policy::run(args),
        Command::Demo(args) => block_on(demo::run(args)),
        Command::DemoService(args) => block_on(demo::service::run(args)),
        Command::Completions(args) => commands::generate::completions(&args),
        Command::Man(args) => commands::generate::man(&args),
    }
}

fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::local(format!("cannot start the async runtime: {error}")))?;
    let result = runtime.block_on(work);
    // A read of the terminal may still be under way on a blocking thread; it must not delay the exit.
    runtime.shutdown_background();
    result
}
