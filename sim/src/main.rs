//! Runs a simulation by hand: `bro-sim [--system] [--seed S] [--seeds N] [--steps N] [--fault NAME]`. Without `--system` that of the router, with
//! it that of sessions, router, lanes and takeovers together.

use bro_sim::{Fault, Summary, SystemFault, SystemSummary, run, run_system};
use std::process::ExitCode;

struct Options {
    is_of_system: bool,
    seed: u64,
    seeds: u64,
    steps: u64,
    fault: String,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            report(&problem);
            return ExitCode::from(2);
        }
    };
    let Options { seed, seeds, steps, fault, is_of_system } = options;
    let seeds = seed..seed + seeds;
    let ran = if is_of_system {
        let Some(fault) = SystemFault::from_name(&fault) else { return no_such(&fault) };
        let mut sum = SystemSummary::default();
        let ran = seeds.into_iter().try_for_each(|seed| run_system(seed, steps, fault).map(|one| sum.add(&one)));
        ran.map(|()| format!("{sum:#?}")).map_err(|violation| violation.to_string())
    } else {
        let Some(fault) = Fault::from_name(&fault) else { return no_such(&fault) };
        let mut sum = Summary::default();
        let ran = seeds.into_iter().try_for_each(|seed| run(seed, steps, fault).map(|one| sum.add(&one)));
        ran.map(|()| format!("{sum:#?}")).map_err(|violation| violation.to_string())
    };
    match ran {
        Ok(sum) => {
            report(&sum);
            ExitCode::SUCCESS
        }
        Err(violation) => {
            report(&violation);
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options =
        Options { is_of_system: false, seed: 0, seeds: 1, steps: 100_000, fault: Fault::None.as_str().to_owned() };
    while let Some(name) = args.next() {
        if name == "--system" {
            options.is_of_system = true;
            continue;
        }
        let value = args.next().unwrap_or_default();
        match (name.as_str(), value.parse()) {
            ("--seed", Ok(number)) => options.seed = number,
            ("--seeds", Ok(number)) => options.seeds = number,
            ("--steps", Ok(number)) => options.steps = number,
            ("--fault", _) => options.fault = value,
            _ => {
                return Err(format!(
                    "{name} {value}: expected --system, --seed S, --seeds N, --steps N or --fault NAME"
                ));
            }
        }
    }
    Ok(options)
}

fn no_such(fault: &str) -> ExitCode {
    report(&format!("there is no fault {fault:?} in this simulation"));
    ExitCode::from(2)
}

#[allow(clippy::print_stdout, reason = "a command for people")]
fn report(text: &str) {
    println!("{text}");
}
