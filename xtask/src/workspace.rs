//! What cargo knows about the workspace.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// The workspace as `cargo metadata` describes it.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    #[serde(rename = "workspace_root")]
    pub(crate) root: PathBuf,
    pub(crate) target_directory: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// One package: a member, or a dependency when those were asked for.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Cargo's own name for exactly this package, as its build messages repeat it.
    pub(crate) id: String,
    pub(crate) license: Option<String>,
    pub(crate) manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
    src_path: PathBuf,
}

impl Workspace {
    /// The members.
    pub(crate) fn load() -> Result<Workspace> {
        Workspace::ask(&["--no-deps"])
    }

    /// The members and all that they depend on, on any platform and with every feature.
    pub(crate) fn load_with_dependencies() -> Result<Workspace> {
        Workspace::ask(&["--all-features"])
    }

    fn ask(arguments: &[&str]) -> Result<Workspace> {
        let mut command = cargo();
        command.args(["metadata", "--format-version", "1"]).args(arguments);
        // The checkout that this program was built from, wherever it is called.
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = command.output().context("running cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("reading what cargo metadata says")
    }

    /// The folders of the members, from the root, in the order of their paths.
    pub(crate) fn folders(&self) -> Vec<String> {
        let folders = self.packages.iter().filter_map(|package| package.manifest_path.parent());
        let mut folders: Vec<String> = folders.map(|folder| self.relative(folder)).collect();
        folders.sort();
        folders
    }

    /// The root file of every target, from the root of the project.
    pub(crate) fn crate_roots(&self) -> Vec<String> {
        let targets = self.packages.iter().flat_map(|package| &package.targets);
        targets.map(|target| self.relative(&target.src_path)).collect()
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().replace('\\', "/")
    }
}

impl Package {
    /// The names of its programs.
    pub(crate) fn binaries(&self) -> impl Iterator<Item = &str> {
        let binaries = self.targets.iter().filter(|target| target.kind.iter().any(|kind| kind == "bin"));
        binaries.map(|target| target.name.as_str())
    }
}

/// The cargo that runs this program, without what it set for this package alone.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    clear_package_variables(&mut command);
    command
}

/// `cargo run` describes this package in the environment; other programs must not take it for theirs.
pub(crate) fn clear_package_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_ours =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|p| text.starts_with(p));
        if is_ours || text == "CARGO_PRIMARY_PACKAGE" {
            command.env_remove(&name);
        }
    }
}
