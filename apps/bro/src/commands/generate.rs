//! `bro completions` and `bro man`: made from the same definitions as the help.

use crate::cli::{Cli, CompletionsArgs, ManArgs};
use crate::exit::Failure;
use clap::CommandFactory;
use std::io::Write;

pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "bro", &mut script);
    std::io::stdout().write_all(&script).map_err(Failure::from)
}

pub fn man(args: &ManArgs) -> Result<(), Failure> {
    match &args.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            clap_mangen::generate_to(Cli::command(), dir).map_err(Failure::from)
        }
        None => clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout()).map_err(Failure::from),
    }
}
