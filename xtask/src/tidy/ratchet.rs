//! Files stay short; those that are too long already may only shrink.

use std::collections::BTreeMap;

use super::Finding;
use super::tree::Tree;

/// Where the exceptions are listed: path = lines.
pub(crate) const LIST: &str = "xtask/ratchet.toml";

const EXTENSIONS: &[&str] = &["rs", "ts", "js", "mjs", "cjs", "py", "sh"];
const LINES_MAX: usize = 600;
/// For files under a folder `tests`, which are read one test at a time.
const TEST_LINES_MAX: usize = 1000;

/// Files above the limit that are not listed or have grown, and entries that have become too generous.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut listed: BTreeMap<String, usize> = match toml::from_str(tree.text(LIST).unwrap_or_default()) {
        Ok(listed) => listed,
        Err(error) => return vec![Finding::new(LIST, 1, format!("not a list of path = lines: {error}"))],
    };
    let mut findings = Vec::new();
    for (path, text) in tree.texts(EXTENSIONS) {
        let lines = text.lines().count();
        let is_test = path.split('/').any(|part| part == "tests");
        let limit = if is_test { TEST_LINES_MAX } else { LINES_MAX };
        let entry = listed.remove(path);
        let problem = match entry {
            None if lines > limit => format!("{lines} lines, {limit} allowed: one subject a file"),
            Some(_) if lines <= limit => format!("{lines} lines are within the limit: remove the file from {LIST}"),
            Some(most) if lines > most => format!("grew from {most} to {lines} lines: it may only shrink"),
            Some(most) if lines < most => format!("shrank to {lines} lines: lower {most} in {LIST}"),
            _ => continue,
        };
        findings.push(Finding::new(path, 1, problem));
    }
    findings.extend(listed.keys().map(|path| Finding::new(LIST, 1, format!("`{path}` is gone: remove it"))));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, lines: usize, list: &str) -> usize {
        let text = "x\n".repeat(lines);
        check(&Tree::sample(&[(path, &text), (LIST, list)])).len()
    }

    #[test]
    fn long_files_are_found_unless_listed_with_their_length() {
        assert_eq!(problems("a/src/a.rs", 600, ""), 0);
        assert_eq!(problems("a/src/a.rs", 601, ""), 1);
        assert_eq!(problems("a/tests/a.rs", 1000, ""), 0);
        assert_eq!(problems("a/tests/a.rs", 1001, ""), 1);
        assert_eq!(problems("a/src/a.rs", 700, "\"a/src/a.rs\" = 700"), 0);
    }

    #[test]
    fn the_list_only_shrinks() {
        for (lines, list) in [
            (701, "\"a/src/a.rs\" = 700"),
            (699, "\"a/src/a.rs\" = 700"),
            (600, "\"a/src/a.rs\" = 700"),
            (600, "\"gone.rs\" = 700"),
            (1, "\"a/src/a.rs\" = \"x\""),
        ] {
            assert_eq!(problems("a/src/a.rs", lines, list), 1, "{lines} {list}");
        }
    }
}
