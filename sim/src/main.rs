//! Runs the simulation by hand: `bro-sim [--seed S] [--seeds N] [--steps N] [--fault NAME]`.

use bro_sim::{Fault, Summary, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let (mut seed, mut seeds, mut steps, mut fault) = (0, 1, 100_000, Fault::None);
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().unwrap_or_default();
        let number = value.parse().ok();
        match (name.as_str(), number, Fault::from_name(&value)) {
            ("--seed", Some(number), _) => seed = number,
            ("--seeds", Some(number), _) => seeds = number,
            ("--steps", Some(number), _) => steps = number,
            ("--fault", _, Some(named)) => fault = named,
            _ => {
                report(&format!("{name} {value}: expected --seed S, --seeds N, --steps N or --fault NAME"));
                return ExitCode::from(2);
            }
        }
    }
    let mut sum = Summary::default();
    for seed in seed..seed + seeds {
        match run(seed, steps, fault) {
            Ok(summary) => sum.add(&summary),
            Err(violation) => {
                report(&violation.to_string());
                return ExitCode::FAILURE;
            }
        }
    }
    report(&format!("{sum:#?}"));
    ExitCode::SUCCESS
}

#[allow(clippy::print_stdout, reason = "a command for people")]
fn report(text: &str) {
    println!("{text}");
}
