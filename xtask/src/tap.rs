//! Reading the TAP that Node's test runner prints.

use crate::libtest::Tally;

/// Counts the results in the output of one run. The runner sums up at the end, in lines such as `# pass 12`; tests may print
/// lines that look the same, so the last ones count.
pub(crate) fn read(output: &str) -> Tally {
    let mut tally = Tally::default();
    let (mut failed, mut cancelled, mut left_out) = (0, 0, 0);
    for line in output.lines() {
        if let Some((name, count)) = line.strip_prefix("# ").and_then(|rest| rest.split_once(' ')) {
            let Ok(count) = count.parse() else { continue };
            match name {
                "pass" => tally.passed = count,
                "fail" => failed = count,
                "cancelled" => cancelled = count,
                "skipped" => left_out = count,
                // The last count of the summary.
                "todo" => {
                    left_out += count;
                    tally.results = 1;
                }
                _ => {}
            }
            continue;
        }
        // A directive: the test was skipped, or its failure does not count. In names, `#` is escaped.
        let Some((result, _)) = line.split_once(" # ") else { continue };
        if let Some((_, name)) = result.split_once(" - ") {
            tally.ignored.push(name.to_owned());
        }
    }
    tally.failed = failed + cancelled;
    while tally.ignored.len() < left_out {
        tally.ignored.push("(not named)".to_owned());
    }
    tally
}

/// What explains a failure: the tests that failed with what they say, or, if no test began, everything.
pub(crate) fn explanation(output: &str) -> String {
    let Some((_, results)) = output.split_once("TAP version") else { return output.to_owned() };
    let mut kept = String::new();
    let mut in_failure = false;
    for line in results.lines() {
        let text = line.trim_start();
        if text.starts_with("not ok ") {
            in_failure = true;
        } else if text.starts_with("ok ") || text.starts_with("# Subtest: ") {
            in_failure = false;
        }
        if in_failure {
            kept.push_str(line);
            kept.push('\n');
        }
        in_failure &= text != "...";
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "npm pack in node: done\nTAP version 13\n# Subtest: calls\n    # Subtest: a\n    ok 1 - a\n      ---\n      \
        duration_ms: 1\n      ...\n    # pass 77\n    not ok 2 - b\n      ---\n      error: 'why'\n      ...\n    \
        ok 3 - c # SKIP not here\n    1..3\nnot ok 1 - calls\n  ---\n  error: '1 subtest failed'\n  ...\n1..1\n# pass 99\n\
        # tests 4\n# suites 1\n# pass 1\n# fail 1\n# cancelled 1\n# skipped 1\n# todo 0\n# duration_ms 12.5\n";

    #[test]
    fn the_summary_at_the_end_counts() {
        assert_eq!(read(OUTPUT), Tally { passed: 1, failed: 2, ignored: vec!["c".into()], results: 1 });
    }

    #[test]
    fn tests_that_are_left_out_are_counted_though_not_named() {
        let tally = read("# pass 3\n# fail 0\n# cancelled 0\n# skipped 1\n# todo 1\n# duration_ms 1\n");
        assert_eq!(tally.ignored, ["(not named)", "(not named)"]);
    }

    #[test]
    fn a_runner_that_died_has_no_result() {
        assert_eq!(read("TAP version 13\n# Subtest: a\nok 1 - a\n").results, 0);
    }

    #[test]
    fn failures_are_shown_with_their_reasons_and_nothing_else() {
        let expected = "    not ok 2 - b\n      ---\n      error: 'why'\n      ...\n\
            not ok 1 - calls\n  ---\n  error: '1 subtest failed'\n  ...\n";
        assert_eq!(explanation(OUTPUT), expected);
        assert_eq!(explanation("cargo did not build\n"), "cargo did not build\n");
    }
}
