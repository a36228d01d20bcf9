//! Verbs that run one of our own programs, optimised: `cargo xtask demo`, `soak` and `bench`.

use anyhow::{Context as _, Result};

use crate::workspace::cargo;

/// Builds and runs a program of `package` with the terminal of this one; true when it exits with 0.
pub(crate) fn run(package: &str, arguments: &[&str], more: &[String]) -> Result<bool> {
    let mut command = cargo();
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["run", "--quiet", "--release", "--package", package, "--"]).args(arguments).args(more);
    Ok(command.status().context("running cargo")?.success())
}
