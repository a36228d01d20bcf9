//! Callers, callees and servers of other systems, for `cargo xtask bench --peers`.
//!
//! Each system carries the same text as the row `client` does with ipc-bro, and comes back with it. Callers and callees are processes
//! of their own and end when their standard input does; a server is a child of the process that was asked for it.
#![expect(clippy::print_stderr, reason = "a command that says why it failed")]

#[path = "../../src/turns.rs"]
mod turns;
#[path = "../../src/window.rs"]
mod window;

mod dbus;
mod iceoryx;
mod nats;
mod server;
mod unary;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::runtime::Builder;

#[derive(Parser)]
struct Arguments {
    role: Role,
    system: System,
    /// Where its sockets and files are
    directory: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Server,
    Callee,
    Caller,
}

#[derive(Clone, Copy, ValueEnum)]
enum System {
    Nats,
    Dbus,
    Tonic,
    Iceoryx2,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bro-bench-peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { role, system, directory }: &Arguments) -> Result<()> {
    let runtime = || Builder::new_current_thread().enable_all().build();
    match (role, system) {
        (Role::Server, System::Nats) => nats::serve(directory),
        (Role::Server, System::Dbus) => dbus::serve(directory),
        (Role::Server, System::Tonic | System::Iceoryx2) => anyhow::bail!("its processes call each other directly"),
        (Role::Callee, System::Iceoryx2) => iceoryx::answer(directory),
        (Role::Caller, System::Iceoryx2) => iceoryx::call(directory),
        (Role::Callee, system) => {
            end_with_stdin();
            runtime()?.block_on(async {
                match system {
                    System::Nats => nats::answer(directory).await,
                    System::Dbus => dbus::answer(directory).await,
                    _ => unary::answer(directory).await,
                }
            })
        }
        (Role::Caller, system) => runtime()?.block_on(async {
            match system {
                System::Nats => nats::call(directory).await,
                System::Dbus => dbus::call(directory).await,
                _ => unary::call(directory).await,
            }
        }),
    }
}

/// Whoever started this holds the other end.
fn end_with_stdin() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new()); // an error is an end, too
        std::process::exit(0);
    });
}
