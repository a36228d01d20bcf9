//! `cargo xtask test`: sets up what it needs, runs every suite, and adds up.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::libtest::Tally;
use crate::report::Report;
use crate::suites::{CRATES, CrateTests, SUITES, Suite, Work};
use crate::watched::{self, End};
use crate::workspace::{Workspace, cargo, clear_package_variables};
use crate::{instructions, licences, sanitized, tap, tidy};

/// Runs all suites, or those that `only` names; true when everything passed.
pub(crate) fn run(only: &[String]) -> Result<bool> {
    let selection = Selection::new(only)?;
    let workspace = Workspace::load()?;
    let logs = workspace.target_directory.join("xtask");
    fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;
    watched::end_group_with_this_program();
    let mut run = Run { workspace, logs, selection, passed: 0, failed: 0 };
    println!("every suite writes its output to {}", run.logs.display());
    for suite in SUITES {
        if run.selection.includes(suite) {
            run.suite(suite);
        }
    }
    println!("{} passed, {} failed", run.passed, run.failed);
    Ok(run.failed == 0)
}

/// Prints what there is to run.
pub(crate) fn list() {
    for suite in SUITES {
        println!("{:<22} {}", suite.name, suite.about);
        if matches!(suite.work, Work::Tests) {
            for tests in CRATES {
                println!("  {:<20} at least {}", format!("{}/{}", suite.name, tests.name), tests.tests_min);
            }
        }
    }
}

/// Long enough for a build from nothing on a small machine.
const BUILD_WATCHDOG_S: u64 = 1800;

/// The suites to run, all of them when nothing was named.
struct Selection {
    suites: Vec<String>,
    crates: Vec<String>,
}

impl Selection {
    fn new(only: &[String]) -> Result<Selection> {
        let mut selection = Selection { suites: Vec::new(), crates: Vec::new() };
        for name in only {
            let (suite, krate) = name.split_once('/').map_or((name.as_str(), None), |(s, krate)| (s, Some(krate)));
            let is_known = SUITES.iter().any(|known| known.name == suite)
                && krate.is_none_or(|krate| suite == "tests" && CRATES.iter().any(|known| known.name == krate));
            if !is_known {
                bail!("no suite `{name}`: see cargo xtask test --list");
            }
            selection.suites.push(suite.to_owned());
            selection.crates.extend(krate.map(str::to_owned));
        }
        Ok(selection)
    }

    fn includes(&self, suite: &Suite) -> bool {
        self.suites.is_empty() || self.suites.iter().any(|name| name == suite.name)
    }

    fn includes_crate(&self, tests: &CrateTests) -> bool {
        self.crates.is_empty() || self.crates.iter().any(|name| name == tests.name)
    }
}

struct Run {
    workspace: Workspace,
    logs: PathBuf,
    selection: Selection,
    passed: usize,
    failed: usize,
}

impl Run {
    fn suite(&mut self, suite: &Suite) {
        let start = Instant::now();
        let mut report = Report::new(suite.name);
        if let Work::Tests = suite.work {
            if let Err(error) = self.tests(suite) {
                report.fail(format!("{error:#}"));
            } else {
                return;
            }
        } else if let Err(error) = self.work(suite, &mut report) {
            report.fail(format!("{error:#}"));
        }
        report.require(suite.tests_min);
        self.finish(report, start);
    }

    fn finish(&mut self, mut report: Report, start: Instant) {
        report.elapsed = start.elapsed();
        report.print();
        self.passed += report.passed;
        self.failed += report.failed;
    }

    fn work(&self, suite: &Suite, report: &mut Report) -> Result<()> {
        let watchdog = Duration::from_secs(suite.watchdog_s);
        match &suite.work {
            Work::Tidy => {
                for checked in tidy::check(&self.workspace)? {
                    let lines: Vec<String> = checked.findings.iter().map(|finding| format!("{finding}\n")).collect();
                    report.show(&lines.concat());
                    let failure = format!("{}: {} to put right", checked.name, lines.len());
                    report.one(Some(failure).filter(|_| !lines.is_empty()));
                }
            }
            Work::Licences => {
                let problems = licences::check(&Workspace::load_with_dependencies()?.packages);
                report.show(&problems.join("\n"));
                let failure = format!("{} packages", problems.len());
                report.one(Some(failure).filter(|_| !problems.is_empty()));
            }
            Work::Cargo { arguments, environment } => {
                let mut command = self.cargo();
                command.args(*arguments).envs(environment.iter().copied());
                let (end, output) = self.watched(suite.name, &mut command, watchdog)?;
                report.show(&output);
                report.one(end.failure());
            }
            Work::Build => {
                let mut command = self.cargo();
                command
                    .args(["build", "--quiet", "--lib", "--bins", "--examples", "--tests"])
                    .args(workspace_without_release());
                let (end, output) = self.watched(suite.name, &mut command, watchdog)?;
                report.show(&output);
                report.one(end.failure());
            }
            Work::Doctests => {
                let mut command = self.cargo();
                command.args(["test", "--doc", "--no-fail-fast"]).args(workspace_without_release());
                let (end, output) = self.watched(suite.name, &mut command, watchdog)?;
                report.show(&output);
                report.add("doctests", suite.name, &Tally::read(&output), end.failure());
            }
            Work::Loom => {
                let mut command = self.cargo();
                command.args(["test", "--release", "--package", "bro-lane", "--test", "loom"]);
                // A folder of its own: other flags would compile everything again, here and the next time there.
                command
                    .env("RUSTFLAGS", "--cfg loom")
                    .env("CARGO_TARGET_DIR", self.workspace.target_directory.join("loom"));
                let (end, output) = self.watched(suite.name, &mut command, watchdog)?;
                report.add("bro-lane", suite.name, &Tally::read(&output), end.failure());
                if report.failed > 0 {
                    report.show(&output);
                }
            }
            Work::Sanitized { packages } => self.sanitized(suite, packages, report)?,
            Work::Program { binary, arguments, expected } => {
                self.build_alone(binary)?;
                let mut command = outside_of_cargo(&self.program(binary));
                command.args(*arguments);
                let (end, output) = self.watched(suite.name, &mut command, watchdog)?;
                report.show(&output);
                let missing = expected.iter().find(|text| !output.contains(**text));
                let missing = missing.map(|text| format!("`{text}` is not in its output"));
                report.one(end.failure().or(missing));
            }
            Work::Instructions => {
                let mut run = |command: &mut Command| {
                    let (end, output) = self.watched(suite.name, command, watchdog)?;
                    end.failure().map_or(Ok(output.clone()), |failure| bail!("{failure}\n{output}"))
                };
                for counted in instructions::count(&self.workspace, &mut run)? {
                    report.one(counted.problem().map(|problem| format!("{problem}; {}", instructions::ADVICE)));
                }
            }
            Work::Node { arguments, prints_tap } => {
                let mut command = outside_of_cargo(Path::new("node"));
                command.current_dir(self.workspace.root.join("bindings/node")).arg("scripts/test.mjs").args(*arguments);
                let (end, output) = self.watched(suite.name, &mut command, watchdog)?;
                if *prints_tap {
                    report.add(suite.name, suite.name, &tap::read(&output), end.failure());
                    report.show(&tap::explanation(&output));
                } else {
                    report.show(&output);
                    report.one(end.failure());
                }
            }
            Work::Tests => unreachable!("has a report for every crate"),
        }
        Ok(())
    }

    fn sanitized(&self, suite: &Suite, packages: &[&str], report: &mut Report) -> Result<()> {
        let watchdog = Duration::from_secs(suite.watchdog_s);
        let folder = self.workspace.target_directory.join("sanitized");
        let (end, output) = self.watched("sanitized-canary", &mut sanitized::canary(&folder)?, watchdog)?;
        report.one(sanitized::canary_failure(end, &output));
        let (end, output) =
            self.watched(suite.name, &mut sanitized::tests(self.cargo(), packages, &folder), watchdog)?;
        // Only bro-lane has a test that others start.
        report.add("bro-lane", suite.name, &Tally::read(&output), end.failure());
        if report.failed > 0 {
            report.show(&output);
        }
        Ok(())
    }

    /// Builds the test programs of all selected crates, then runs them crate by crate.
    fn tests(&mut self, suite: &Suite) -> Result<()> {
        let members: Vec<&str> = self.workspace.packages.iter().map(|package| package.name.as_str()).collect();
        let listed: Vec<&str> =
            CRATES.iter().filter(|t| self.selection.includes_crate(t)).map(|tests| tests.name).collect();
        let unlisted = members.iter().filter(|name| !CRATES.iter().any(|tests| tests.name == **name));
        let gone = listed.iter().filter(|name| !members.contains(name));
        let strays: Vec<String> = unlisted.chain(gone).map(|name| (*name).to_owned()).collect();
        for name in strays {
            let mut report = Report::new(format!("{}/{name}", suite.name));
            report.fail("CRATES of xtask/src/suites.rs and the members of the workspace differ here");
            self.finish(report, Instant::now());
        }
        let is_member = |name: &str| self.workspace.packages.iter().any(|package| package.name == name);
        let selected = CRATES.iter().filter(|tests| self.selection.includes_crate(tests) && is_member(tests.name));
        let selected: Vec<&CrateTests> = selected.collect();
        if selected.iter().any(|tests| tests.needs_bro) {
            self.build_alone("bro")?;
        }
        for is_release in [false, true] {
            let selected: Vec<&CrateTests> =
                selected.iter().copied().filter(|tests| tests.is_release == is_release).collect();
            if selected.is_empty() {
                continue;
            }
            let mut programs = self.build_tests(suite, &selected, is_release)?;
            for tests in selected {
                let start = Instant::now();
                let mut report = Report::new(format!("{}/{}", suite.name, tests.name));
                for program in programs.remove(tests.name).unwrap_or_default() {
                    if let Err(error) = self.test_program(suite, tests, &program, &mut report) {
                        report.fail(format!("{error:#}"));
                    }
                }
                report.require(tests.tests_min);
                self.finish(report, start);
            }
        }
        Ok(())
    }

    fn build_tests(
        &self,
        suite: &Suite,
        selected: &[&CrateTests],
        is_release: bool,
    ) -> Result<BTreeMap<String, Vec<TestProgram>>> {
        let mut command = self.cargo();
        command.args(["test", "--no-run", "--message-format=json-render-diagnostics"]);
        // Naming the crates one by one would compile their dependencies again, with fewer features.
        if is_release || !self.selection.crates.is_empty() {
            command.args(selected.iter().flat_map(|tests| ["--package", tests.name]));
        } else {
            command.args(workspace_without_release());
        }
        if is_release {
            command.arg("--release");
        }
        let messages = self.logs.join("build-messages.json");
        let log = self.logs.join(format!("{}-build.log", suite.name));
        let deadline = Instant::now() + Duration::from_secs(suite.watchdog_s);
        let end = watched::run(&mut command, &create(&messages)?, &create(&log)?, deadline)?;
        if let Some(failure) = end.failure() {
            bail!("the tests do not compile: {failure}\n{}", read(&log)?);
        }
        let mut programs: BTreeMap<String, Vec<TestProgram>> = BTreeMap::new();
        for program in test_programs(&read(&messages)?) {
            let package = self.workspace.packages.iter().find(|package| package.id == program.package_id);
            programs.entry(package.context("a test of no member")?.name.clone()).or_default().push(program);
        }
        Ok(programs)
    }

    fn test_program(
        &self,
        suite: &Suite,
        tests: &CrateTests,
        program: &TestProgram,
        report: &mut Report,
    ) -> Result<()> {
        let package = self.workspace.packages.iter().find(|package| package.name == tests.name);
        let package = package.context("a test of no member")?;
        let folder = package.manifest_path.parent().context("a manifest without a folder")?;
        let mut command = outside_of_cargo(&program.executable);
        // As cargo would run it.
        command.current_dir(folder).env("CARGO_MANIFEST_DIR", folder).env("CARGO_PKG_NAME", tests.name);
        command.env("CARGO_PKG_VERSION", &package.version);
        for binary in package.binaries() {
            command.env(format!("CARGO_BIN_EXE_{binary}"), self.program(binary));
        }
        let log = format!("{}-{}-{}", suite.name, tests.name, program.name);
        let (end, output) = self.watched(&log, &mut command, Duration::from_secs(suite.watchdog_s))?;
        let failed_before = report.failed;
        report.add(tests.name, &program.name, &Tally::read(&output), end.failure());
        if report.failed > failed_before {
            report.show(&output);
        }
        Ok(())
    }

    /// Builds one program when the suite that builds everything is not among those that run.
    fn build_alone(&self, binary: &str) -> Result<()> {
        if SUITES.iter().any(|suite| matches!(suite.work, Work::Build) && self.selection.includes(suite)) {
            return Ok(());
        }
        let mut command = self.cargo();
        command.args(["build", "--quiet", "--workspace", "--bin", binary]);
        let log = format!("build-{binary}");
        let (end, output) = self.watched(&log, &mut command, Duration::from_secs(BUILD_WATCHDOG_S))?;
        if let Some(failure) = end.failure() {
            bail!("`{binary}` does not build: {failure}\n{output}");
        }
        Ok(())
    }

    fn program(&self, binary: &str) -> PathBuf {
        self.workspace.target_directory.join("debug").join(binary)
    }

    fn cargo(&self) -> Command {
        let mut command = cargo();
        command.current_dir(&self.workspace.root);
        command
    }

    /// Runs a command with everything it prints in the log of that name, and returns how it ended and what it printed.
    fn watched(&self, log: &str, command: &mut Command, watchdog: Duration) -> Result<(End, String)> {
        command.env("CARGO_TERM_COLOR", "never").env("RUST_BACKTRACE", "1").env("BRO_BIN", self.program("bro"));
        let path = self.logs.join(format!("{log}.log"));
        let file = create(&path)?;
        let end = watched::run(command, &file, &file, Instant::now() + watchdog)?;
        Ok((end, read(&path)?))
    }
}

/// A test program that cargo has built.
#[derive(Debug, PartialEq, Eq)]
struct TestProgram {
    package_id: String,
    /// Kind and name of the target: `lib-bro_proto`, `test-wire`.
    name: String,
    executable: PathBuf,
}

/// Picks the test programs out of cargo's build messages, one JSON object a line.
fn test_programs(messages: &str) -> Vec<TestProgram> {
    #[derive(Deserialize)]
    struct Message {
        package_id: String,
        target: Target,
        profile: Profile,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        kind: Vec<String>,
        name: String,
    }
    #[derive(Deserialize)]
    struct Profile {
        test: bool,
    }
    // Messages of other kinds lack some of these fields.
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let tests = messages.filter(|message| message.profile.test).filter_map(|message| {
        let kind = message.target.kind.first().map_or("", String::as_str);
        let name = format!("{kind}-{}", message.target.name);
        Some(TestProgram { package_id: message.package_id, name, executable: message.executable? })
    });
    tests.collect()
}

/// All crates but those whose tests are only ever built optimised.
fn workspace_without_release() -> Vec<&'static str> {
    let excluded = CRATES.iter().filter(|tests| tests.is_release).flat_map(|tests| ["--exclude", tests.name]);
    std::iter::once("--workspace").chain(excluded).collect()
}

/// A program that does not take the description of this package for its own.
fn outside_of_cargo(program: &Path) -> Command {
    let mut command = Command::new(program);
    clear_package_variables(&mut command);
    command
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("making {}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_picked_out_of_the_build_messages() {
        let artifact = |test: bool, executable: &str| {
            format!(
                "{{\"reason\":\"compiler-artifact\",\"package_id\":\"p\",\"target\":{{\"kind\":[\"lib\"],\
                 \"name\":\"x\"}},\"profile\":{{\"test\":{test}}},\"executable\":{executable}}}\n"
            )
        };
        let finished = "{\"reason\":\"build-finished\",\"success\":true}\n";
        let messages =
            [artifact(true, "\"/a\""), artifact(false, "\"/b\""), artifact(true, "null"), finished.to_owned()];
        let program = TestProgram { package_id: "p".into(), name: "lib-x".into(), executable: "/a".into() };
        assert_eq!(test_programs(&messages.concat()), [program]);
    }

    #[test]
    fn only_known_suites_can_be_selected() {
        for bad in ["", "nothing", "tests/nothing", "fmt/xtask"] {
            assert!(Selection::new(&[bad.to_owned()]).is_err(), "{bad}");
        }
        let selection = Selection::new(&["tests/xtask".to_owned(), "fmt".to_owned()]).expect("both are known");
        let names: Vec<&str> = SUITES.iter().filter(|s| selection.includes(s)).map(|s| s.name).collect();
        assert_eq!(names, ["fmt", "tests"]);
        assert_eq!(CRATES.iter().filter(|c| selection.includes_crate(c)).count(), 1);
    }
}
