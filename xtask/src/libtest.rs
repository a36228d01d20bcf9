//! Reading what Rust's test harness prints.

/// What one or more test programs reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// Names of the tests that were left out.
    pub(crate) ignored: Vec<String>,
    /// "test result" lines seen: none means that the harness did not get to its end.
    pub(crate) results: usize,
}

impl Tally {
    /// Counts the results in the output of test programs.
    pub(crate) fn read(output: &str) -> Tally {
        let mut tally = Tally::default();
        let mut left_out = 0;
        for line in output.lines() {
            if let Some(counts) = line.strip_prefix("test result: ") {
                let Some((_, counts)) = counts.split_once(". ") else { continue };
                tally.results += 1;
                for part in counts.split(';') {
                    match part.trim().split_once(' ') {
                        Some((count, "passed")) => tally.passed += count.parse().unwrap_or(0),
                        Some((count, "failed")) => tally.failed += count.parse().unwrap_or(0),
                        Some((count, "ignored")) => left_out += count.parse().unwrap_or(0),
                        _ => {}
                    }
                }
                continue;
            }
            let Some((name, verdict)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) else {
                continue;
            };
            if verdict == "ignored" || verdict.starts_with("ignored,") {
                tally.ignored.push(name.to_owned());
            }
        }
        // Never fewer than the harness counted, whatever the lines look like.
        while tally.ignored.len() < left_out {
            tally.ignored.push("(not named)".to_owned());
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up() {
        let output = "\nrunning 3 tests\ntest a::b ... ok\ntest c - should panic ... ok\ntest d ... FAILED\n\n\
            test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
            test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s\n";
        assert_eq!(Tally::read(output), Tally { passed: 42, failed: 1, ignored: vec![], results: 2 });
    }

    #[test]
    fn ignored_tests_are_named() {
        let output = "test a ... ignored\ntest src/lib.rs - x (line 3) ... ignored, slow\n\
            test result: ok. 0 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        let tally = Tally::read(output);
        assert_eq!(tally.ignored, ["a", "src/lib.rs - x (line 3)", "(not named)"]);
    }

    #[test]
    fn a_harness_that_died_has_no_result() {
        assert_eq!(Tally::read("running 3 tests\ntest a ... ok\n").results, 0);
    }
}
