//! Measurements of ipc-bro. `cargo run --release -p bro-bench -- idle --services 10000`
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints what it measured")]

mod floor_futex;
mod idle;
mod lane;

use std::env;
use std::process::ExitCode;

const USAGE: &str = "\
usage: bro-bench idle [--services N]    memory of a gateway per connected idle service (default 10000)
       bro-bench lane [--rounds N] [--ms N] [--json] [ROW...]    direct lanes beside a futex and a socket pair";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["idle"] => idle::measure(10_000),
        ["idle", "--services", count] => match count.parse() {
            Ok(count @ 1..) => idle::measure(count),
            _ => return usage(),
        },
        ["lane", ref rest @ ..] => lane::run(rest),
        [idle::GATEWAY_ARGUMENT, socket] => idle::run_gateway(socket),
        _ => return usage(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bro-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
