//! `bench/peers`: a workspace of its own, built when it is asked for, so that nothing else waits for what it depends on.

use anyhow::{Context as _, Result, ensure};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds it beside this program, and says where the program is.
pub(crate) fn build() -> Result<PathBuf> {
    let program = env::current_exe()?;
    let target = program.ancestors().nth(2).context("this program is in no target directory")?.join("peers");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/Cargo.toml");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]).arg(manifest);
    cargo.arg("--target-dir").arg(&target);
    let status = cargo.status().context("running cargo")?;
    ensure!(status.success(), "bench/peers does not build");
    Ok(target.join("release/bro-bench-peers"))
}
