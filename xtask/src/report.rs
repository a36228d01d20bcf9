//! What a suite came to, and how it is printed.

use std::time::Duration;

use crate::libtest::Tally;
use crate::suites::IGNORED;

/// The result of one suite or, for tests, of one crate.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) elapsed: Duration,
    /// Why it failed, where the output does not say so.
    notes: Vec<String>,
    /// What its failing programs printed.
    output: String,
}

impl Report {
    pub(crate) fn new(name: impl Into<String>) -> Report {
        Report { name: name.into(), ..Report::default() }
    }

    /// One more failure, with its reason.
    pub(crate) fn fail(&mut self, note: impl Into<String>) {
        self.failed += 1;
        self.notes.push(note.into());
    }

    /// Output to show if this is a failure.
    pub(crate) fn show(&mut self, output: &str) {
        self.output.push_str(output);
    }

    /// One test: passed unless there is a reason why not.
    pub(crate) fn one(&mut self, failure: Option<String>) {
        match failure {
            None => self.passed += 1,
            Some(note) => self.fail(note),
        }
    }

    /// The results of a test program that ended with `failure`.
    pub(crate) fn add(&mut self, krate: &str, program: &str, tally: &Tally, failure: Option<String>) {
        self.passed += tally.passed;
        self.failed += tally.failed;
        for test in &tally.ignored {
            if !IGNORED.iter().any(|(owner, name, _)| *owner == krate && name == test) {
                self.fail(format!(
                    "{program}: `{test}` is ignored, without an entry in IGNORED of xtask/src/suites.rs"
                ));
            }
        }
        match failure {
            Some(failure) if tally.failed == 0 => self.fail(format!("{program}: {failure}")),
            None if tally.results == 0 => self.fail(format!("{program}: printed no test result")),
            _ => {}
        }
    }

    /// Too few tests are a failure.
    pub(crate) fn require(&mut self, tests_min: usize) {
        let count = self.passed + self.failed;
        if count < tests_min {
            self.fail(format!("only {count} tests ran, at least {tests_min} are expected"));
        }
    }

    /// One line, and for a failure everything that may explain it.
    pub(crate) fn print(&self) {
        let total = self.passed + self.failed;
        let noun = if total == 1 { "test" } else { "tests" };
        let (verdict, count) = match self.failed {
            0 => ("ok", format!("{total} {noun}")),
            _ => ("FAIL", format!("{} of {total} {noun}", self.passed)),
        };
        println!("{verdict:<5} {:<22} {count:>16} {:>8.1} s", self.name, self.elapsed.as_secs_f64());
        if self.failed > 0 {
            for line in self.output.lines() {
                println!("      | {line}");
            }
            for note in &self.notes {
                println!("      * {note}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: usize, failed: usize, ignored: &[&str], results: usize) -> Tally {
        Tally { passed, failed, ignored: ignored.iter().map(|name| (*name).to_owned()).collect(), results }
    }

    #[test]
    fn whatever_goes_wrong_is_counted_once() {
        let cases = [
            (tally(3, 0, &[], 1), None, 0),
            (tally(2, 1, &[], 1), Some("exit code 101"), 1),
            (tally(0, 0, &[], 0), Some("killed by signal 6"), 1),
            (tally(3, 0, &[], 1), Some("exit code 1"), 1),
            (tally(0, 0, &[], 0), None, 1),
            (tally(3, 0, &["left::out"], 1), None, 1),
        ];
        for (tally, failure, failed) in cases {
            let mut report = Report::new("x");
            report.add("x", "x", &tally, failure.map(str::to_owned));
            assert_eq!(report.failed, failed, "{tally:?} {failure:?}");
        }
    }

    #[test]
    fn too_few_tests_are_a_failure() {
        let mut report = Report::new("x");
        report.passed = 3;
        report.require(3);
        assert_eq!(report.failed, 0);
        report.require(4);
        assert_eq!(report.failed, 1);
    }
}
