//! `cargo xtask instructions`: hot operations take as many instructions as the table in `bench/instructions.toml` says.
//!
//! Counted by valgrind, which is not disturbed by what else a machine does. Each operation is run a number of times and three times as
//! often: the difference is its own, without what starting a program takes. Better counts fail as well as worse ones, so
//! that the next regression is measured from where the code is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::workspace::{Workspace, cargo};

/// Where the counts are.
const TABLE: &str = "bench/instructions.toml";
/// How far counts may be off, in percent: compilers of one version build the same code a little differently in other folders.
const TOLERANCE_PERCENT: u64 = 5;
/// Runs of an operation, and runs in the other measurement.
const FEW: u64 = 500;
const MANY: u64 = 3 * FEW;

/// One operation.
pub(crate) struct Counted {
    pub(crate) name: String,
    pub(crate) found: u64,
    pub(crate) expected: Option<u64>,
}

impl Counted {
    /// Why it fails.
    pub(crate) fn problem(&self) -> Option<String> {
        let Counted { name, found, expected } = self;
        let Some(expected) = expected else {
            return Some(format!("{name}: {found} instructions, and no line in {TABLE}"));
        };
        let is_off = found.abs_diff(*expected) * 100 > expected * TOLERANCE_PERCENT;
        is_off.then(|| {
            let percent = (*found as f64 / *expected as f64 - 1.0) * 100.0;
            let what = if found > expected { "a regression" } else { "better: keep it" };
            format!("{name}: {found} instructions instead of {expected} ({percent:+.1} %), {what}")
        })
    }
}

/// What to do about a difference.
pub(crate) const ADVICE: &str =
    "if that is meant: cargo xtask instructions --update, and commit bench/instructions.toml";

/// The verb: prints every count, and either checks the table or writes it.
pub(crate) fn run(update: bool) -> Result<bool> {
    let workspace = Workspace::load()?;
    let counted = count(&workspace, &mut output)?;
    for Counted { name, found, expected } in &counted {
        let expected = expected.map_or_else(|| "new".to_owned(), |expected| expected.to_string());
        println!("{name:<28} {found:>8} {expected:>8}");
    }
    if update {
        fs::write(workspace.root.join(TABLE), table(&counted)).with_context(|| format!("writing {TABLE}"))?;
        return Ok(true);
    }
    let problems: Vec<String> = counted.iter().filter_map(Counted::problem).collect();
    problems.iter().for_each(|problem| println!("{problem}"));
    if !problems.is_empty() {
        println!("{ADVICE}");
    }
    Ok(problems.is_empty())
}

/// Counts every operation. `run` runs a command and gives what it printed, or the reason why it failed.
pub(crate) fn count(
    workspace: &Workspace,
    run: &mut impl FnMut(&mut Command) -> Result<String>,
) -> Result<Vec<Counted>> {
    let version = Command::new("valgrind").arg("--version").output();
    ensure!(version.is_ok(), "valgrind is missing: apt-get install -y valgrind");
    #[cfg(target_arch = "x86_64")]
    ensure!(
        std::arch::is_x86_feature_detected!("avx2"),
        "the counts in {TABLE} are of processors with AVX2, which this one has not"
    );
    let program = build(workspace, run)?;
    let mut expected = read(&workspace.root)?;
    let names = run(Command::new(&program).arg("operations"))?;
    let mut counted = Vec::new();
    for name in names.lines() {
        let (few, many) = (collected(&program, name, FEW, run)?, collected(&program, name, MANY, run)?);
        let found = many.saturating_sub(few) / (MANY - FEW);
        ensure!(found > 0, "{name} was not counted");
        counted.push(Counted { name: name.to_owned(), found, expected: expected.remove(name) });
    }
    if let Some(name) = expected.keys().next() {
        bail!("{TABLE} has a line for {name:?}, which `bro-bench operations` does not name");
    }
    Ok(counted)
}

fn build(workspace: &Workspace, run: &mut impl FnMut(&mut Command) -> Result<String>) -> Result<PathBuf> {
    let mut command = cargo();
    command.current_dir(&workspace.root).args(["build", "--quiet", "--release", "--package", "bro-bench"]);
    run(&mut command).context("building bro-bench")?;
    Ok(workspace.target_directory.join("release/bro-bench"))
}

fn read(root: &Path) -> Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string(root.join(TABLE)).with_context(|| format!("reading {TABLE}"))?;
    toml::from_str(&text).with_context(|| format!("{TABLE} is not a list of name = count"))
}

fn table(counted: &[Counted]) -> String {
    let head = "# Instructions that hot operations take, as valgrind counts them: written by `cargo xtask instructions --update`.\n";
    let lines = counted.iter().map(|Counted { name, found, .. }| format!("{name} = {found}\n"));
    std::iter::once(head.to_owned()).chain(lines).collect()
}

/// Instructions of a whole run of the program.
fn collected(
    program: &Path,
    name: &str,
    times: u64,
    run: &mut impl FnMut(&mut Command) -> Result<String>,
) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1"]);
    // What a shell has set does not move the stack, and so neither what is aligned on it.
    command.arg(program).args(["operation", name, &times.to_string()]).env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    let output = run(&mut command)?;
    parse(&output).with_context(|| format!("valgrind did not count {name}:\n{output}"))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {}", command.get_program().display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// The line `==12== Collected : 345`.
fn parse(output: &str) -> Option<u64> {
    let mut lines = output.lines().filter_map(|line| line.split_once("Collected :"));
    lines.next()?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_what_valgrind_prints() {
        let output = "==7== Events    : Ir\n==7== Collected : 4906\n==7== \n==7== I   refs:      4,906\n";
        assert_eq!(parse(output), Some(4906));
        assert_eq!(parse("==7== Events    : Ir\n"), None);
    }

    #[test]
    fn what_is_off_by_more_than_the_tolerance_fails() {
        let counted = |found, expected| Counted { name: "scan".to_owned(), found, expected };
        for (found, expected) in [(1000, Some(1000)), (1050, Some(1000)), (950, Some(1000))] {
            assert_eq!(counted(found, expected).problem(), None);
        }
        for (found, expected, part) in
            [(1051, Some(1000), "+5.1 %"), (949, Some(1000), "better"), (1000, None, "no line")]
        {
            assert!(counted(found, expected).problem().is_some_and(|problem| problem.contains(part)), "{found}");
        }
    }

    #[test]
    fn a_table_that_was_written_is_read_again() {
        let counted = [Counted { name: "scan-json".to_owned(), found: 12, expected: None }];
        let read: BTreeMap<String, u64> = toml::from_str(&table(&counted)).expect("it is TOML");
        assert_eq!(read, BTreeMap::from([("scan-json".to_owned(), 12)]));
    }
}
