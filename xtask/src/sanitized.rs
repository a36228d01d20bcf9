//! Tests compiled for AddressSanitizer, which comes with the stable compiler and is hidden there behind a variable.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::watched::End;

/// Reads what it has given back.
const CANARY: &str = "fn main() {
    let number = Box::into_raw(Box::new(std::env::args().count()));
    unsafe { drop(Box::from_raw(number)) };
    println!(\"{}\", unsafe { std::ptr::read_volatile(number) });
}
";

/// A program that must not survive: if it does, the sanitizer watches nothing. Compiled here.
pub(crate) fn canary(folder: &Path) -> Result<Command> {
    let (source, program) = (folder.join("canary.rs"), folder.join("canary"));
    fs::create_dir_all(folder).and_then(|()| fs::write(&source, CANARY)).context("writing the canary")?;
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition=2024", "-Zsanitizer=address", "-o"]).arg(&program).arg(&source).env("RUSTC_BOOTSTRAP", "1");
    let output = rustc.output().context("running rustc")?;
    if !output.status.success() {
        bail!("this compiler cannot build for AddressSanitizer:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(Command::new(program))
}

/// What is wrong with how the canary ended.
pub(crate) fn canary_failure(end: End, output: &str) -> Option<String> {
    let is_caught = end.failure().is_some() && output.contains("heap-use-after-free");
    (!is_caught).then(|| String::from("the canary was not caught: the sanitizer watches nothing"))
}

/// The tests of these packages, in `folder`: other flags would compile everything again, here and the next time there.
pub(crate) fn tests(mut cargo: Command, packages: &[&str], folder: &Path) -> Command {
    // With a target named, what runs while compiling is compiled without the sanitizer.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    cargo.args(["test", "--no-fail-fast", "--lib", "--tests", "--target", &target]);
    cargo.args(packages.iter().flat_map(|package| ["--package", package]));
    // The sanitizer has an allocator of its own, which is never asked for that.
    cargo.args(["--", "--skip", "memory_goes_back_to_the_system"]);
    cargo.envs([("RUSTC_BOOTSTRAP", "1"), ("RUSTFLAGS", "-Zsanitizer=address"), ("CARGO_PROFILE_DEV_OPT_LEVEL", "1")]);
    cargo.env("CARGO_TARGET_DIR", folder);
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::ExitStatus;

    #[test]
    fn a_canary_that_lives_is_a_failure() {
        assert!(canary_failure(End::Exited(ExitStatus::default()), "heap-use-after-free").is_some());
    }
}
