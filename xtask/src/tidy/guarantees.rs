//! Every promise in docs/guarantees.md names a test that tries to break it, and every test that a document names exists.
//!
//! A test is named `PACKAGE::FILE::TEST`: `bro-router::v2::cancelling_reaches_every_descendant`. `FILE` is the end of the path of a Rust file of that
//! package, or of `bindings/node/test/FILE.test.mjs` where the package is `node` and `TEST` is the title.

use super::Finding;
use super::tree::Tree;

/// The documents that name tests.
const DOCUMENTS: [&str; 2] = [GUARANTEES, "docs/threat-model.md"];
/// The one with promises, one in each row of its tables.
const GUARANTEES: &str = "docs/guarantees.md";

/// Tests that do not exist, and promises that no test tries to break.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in DOCUMENTS {
        let Some(text) = tree.text(path) else {
            findings.push(Finding::new(path, 1, "there is no such document"));
            continue;
        };
        for (line, number) in text.lines().zip(1..) {
            let names: Vec<&str> = tests_named(line).collect();
            let missing = names.iter().filter(|name| !exists(tree, name));
            findings.extend(missing.map(|name| Finding::new(path, number, format!("there is no test `{name}`"))));
            if path == GUARANTEES && is_promise(line) && names.is_empty() {
                findings.push(Finding::new(path, number, "this promise names no test"));
            }
        }
    }
    findings
}

/// Code in a line that has the form of a test's name.
fn tests_named(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2).filter(|code| code.matches("::").count() == 2)
}

/// A row of a table, but for its heading and the line below that.
fn is_promise(line: &str) -> bool {
    line.starts_with("| ") && !line.starts_with("| promise")
}

fn exists(tree: &Tree, name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let [package, file, test] = parts[..] else { return false };
    if package == "node" {
        let text = tree.text(&format!("bindings/node/test/{file}.test.mjs")).unwrap_or_default();
        return !test.is_empty() && text.contains(&format!("(\"{test}\""));
    }
    let folders = [format!("crates/{package}/"), format!("apps/{package}/"), format!("{package}/")];
    let ending = format!("/{file}.rs");
    let mut candidates = tree
        .texts(&["rs"])
        .filter(|(path, _)| path.ends_with(&ending) && folders.iter().any(|folder| path.starts_with(folder.as_str())));
    candidates.any(|(_, text)| has_test(text, test))
}

/// Whether that function stands there with the attribute of a test.
fn has_test(text: &str, test: &str) -> bool {
    let head = format!("fn {test}(");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.iter().enumerate().filter(|(_, line)| line.contains(&head)).any(|(at, _)| {
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        above.clone().any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str =
        "#[test]\n#[cfg(unix)]\nfn it_holds() {}\n\nfn no_test() {}\n    #[tokio::test]\n    async fn later() {}\n";

    fn problems(guarantees: &str) -> Vec<String> {
        let tree = Tree::sample(&[
            ("docs/guarantees.md", guarantees),
            ("docs/threat-model.md", "See `bro-router::v2::it_holds`, and `a::b`."),
            ("crates/bro-router/tests/v2.rs", CODE),
            ("sim/tests/seeds.rs", CODE),
            ("bindings/node/test/drain.test.mjs", "test(\"drains, and ends\", () => {});"),
        ]);
        check(&tree).into_iter().map(|finding| finding.problem).collect()
    }

    #[test]
    fn promises_without_a_test_that_exists_are_found() {
        for bad in [
            "| it holds | |",
            "| it holds | `bro-router::v2` |",
            "| it holds | `bro-router::v2::it_broke` |",
            "| it holds | `bro-router::v2::no_test` |",
            "| it holds | `bro-router::v1::it_holds` |",
            "| it holds | `bro-gateway::v2::it_holds` |",
            "| it holds | `bro-router::v2::it_holds` `bro-router::v2::it_hold` |",
            "| it holds | `node::drain::drains` |",
            "Outside of a table: `bro-router::v2::it_broke`.",
        ] {
            assert_eq!(problems(bad).len(), 1, "{bad}");
        }
        for good in [
            "| promise | test |\n|---|---|\n| it holds | `bro-router::v2::it_holds` |",
            "| it holds | `sim::seeds::later`, `sim::seeds::it_holds` |",
            "| it holds | `node::drain::drains, and ends` |",
        ] {
            assert_eq!(problems(good), [""; 0], "{good}");
        }
    }

    #[test]
    fn a_document_that_is_gone_is_found() {
        assert_eq!(check(&Tree::sample(&[])).len(), 2);
    }
}
