//! The project's own verbs, as `cargo xtask VERB`.
//!
//! - [`mod@test`]: every suite of [`suites`], each program [`watched`], its output read by [`libtest`] or [`tap`], summed up in
//!   [`report`].
//! - [`tidy`]: what compilers do not check; [`licences`]: what we may depend on.
//! - [`instructions`]: how many of them hot operations take.
//! - [`programs`]: verbs that run a program of ours.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line speaks")]

mod instructions;
mod libtest;
mod licences;
mod programs;
mod report;
mod sanitized;
mod suites;
mod tap;
mod test;
mod tidy;
mod watched;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Verbs of the ipc-bro project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run every test and lint there is.
    Test {
        /// Only this suite, or the tests of one crate (tests/CRATE); may be repeated.
        #[arg(long, value_name = "SUITE")]
        only: Vec<String>,
        /// Print the suites instead of running them.
        #[arg(long)]
        list: bool,
    },
    /// Check what compilers do not: layers between crates, names, dead files, links.
    Tidy,
    /// Run `bro demo`, optimised.
    Demo {
        /// Passed on to `bro demo`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Do chaos to callees, callers and the gateway at random moments under load: `cargo xtask soak --minutes 10 --seed 1`.
    Soak {
        /// Passed on to `bro-soak`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Count the instructions of hot operations, and compare them with bench/instructions.toml; needs valgrind.
    Instructions {
        /// Write what was counted to the table.
        #[arg(long)]
        update: bool,
    },
    /// Measure beside floors and other systems: `cargo xtask bench -- --help` says what, docs/performance.md what it means.
    Bench {
        /// Passed on to `bro-bench`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Test { list: true, .. } => {
            test::list();
            Ok(true)
        }
        Verb::Test { only, .. } => test::run(&only),
        Verb::Tidy => tidy::run().map(|()| true),
        Verb::Demo { arguments } => programs::run("bro", &["demo"], &arguments),
        Verb::Soak { arguments } => programs::run("bro-testing", &[], &arguments),
        Verb::Instructions { update } => instructions::run(update),
        Verb::Bench { arguments } => programs::run("bro-bench", &[], &arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
