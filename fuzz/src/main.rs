//! `cargo run --release -p bro-fuzz -- TARGET [--seconds N] [--seed S] [--input FILE]`; TARGET may be `all`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

use bro_fuzz::corpus;
use bro_fuzz::run::{self, Failure};
use bro_fuzz::targets::{self, TARGETS, Target};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs, io};

struct Options {
    targets: Vec<&'static Target>,
    seconds: u64,
    seed: u64,
    input: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = match parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}\nusage: bro-fuzz TARGET|all [--seconds N] [--seed S] [--input FILE]\ntargets:");
            TARGETS.iter().for_each(|target| eprintln!("  {:14}{}", target.name, target.about));
            return ExitCode::from(2);
        }
    };
    let mut code = ExitCode::SUCCESS;
    for target in &options.targets {
        match fuzz(target, &options) {
            Ok(true) => {}
            Ok(false) => code = ExitCode::FAILURE,
            Err(error) => {
                eprintln!("{}: {error}", target.name);
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { targets: Vec::new(), seconds: 10, seed: 1, input: None };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is not a number"));
        match argument.as_str() {
            "--seconds" => options.seconds = number(value()?)?,
            "--seed" => options.seed = number(value()?)?,
            "--input" => options.input = Some(PathBuf::from(value()?)),
            "all" => options.targets.extend(TARGETS),
            name => options.targets.push(targets::named(name).ok_or(format!("no target `{name}`"))?),
        }
    }
    if options.targets.is_empty() { Err(String::from("which target?")) } else { Ok(options) }
}

/// Whether the target survived.
fn fuzz(target: &Target, options: &Options) -> io::Result<bool> {
    if let Some(path) = &options.input {
        // The panic tells what is wrong.
        (target.run)(&fs::read(path)?);
        println!("{}: nothing wrong with {}", target.name, path.display());
        return Ok(true);
    }
    let corpus = corpus::load(target.name)?;
    let end = Instant::now() + Duration::from_secs(options.seconds);
    // Looking at the clock costs more than a run.
    let outcome = run::run(target, &corpus, options.seed, |runs| runs % 256 != 0 || Instant::now() < end);
    match outcome {
        Ok(runs) => {
            println!(
                "{}: {runs} runs, seed {}, {} seeds in the corpus: nothing wrong",
                target.name,
                options.seed,
                corpus.len()
            );
            Ok(true)
        }
        Err(failure) => {
            report(target, options.seed, &failure)?;
            Ok(false)
        }
    }
}

fn report(target: &Target, seed: u64, failure: &Failure) -> io::Result<()> {
    let folder = corpus::folder().join("failures");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}-{}", target.name, run::name_of(&failure.input)));
    fs::write(&path, &failure.input)?;
    eprintln!("{}: seed {seed}: {}", target.name, failure.said);
    eprintln!("input: {}", failure.input.escape_ascii());
    eprintln!("again: cargo run -p bro-fuzz -- {} --input {}", target.name, path.display());
    Ok(())
}
