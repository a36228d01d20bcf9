//! Links in Markdown lead somewhere: relative ones to a file of the project, anchors to a heading.

use std::collections::BTreeSet;

use super::Finding;
use super::dead_files::join;
use super::tree::Tree;

/// Relative links to files or headings that do not exist.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts(&["md"]) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (line, link) in links(text) {
            if has_scheme(&link) {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { path.to_owned() } else { join(folder, file) };
            let problem = if link.starts_with('/') {
                Some(format!("`{link}` is absolute: link relative to this file"))
            } else if !exists(tree, &target) {
                Some(format!("`{link}` leads nowhere"))
            } else if !anchor.is_empty() && !has_anchor(tree, &target, anchor) {
                Some(format!("`{link}`: no such heading"))
            } else {
                None
            };
            findings.extend(problem.map(|problem| Finding::new(path, line, problem)));
        }
    }
    findings
}

fn has_scheme(link: &str) -> bool {
    let scheme = link.split_once(':').map_or("", |(scheme, _)| scheme);
    !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+')
}

/// A file, or a folder with something in it.
fn exists(tree: &Tree, path: &str) -> bool {
    let folder = format!("{path}/");
    path.is_empty() || tree.files.iter().any(|file| file.path == path || file.path.starts_with(&folder))
}

fn has_anchor(tree: &Tree, path: &str, anchor: &str) -> bool {
    if !path.ends_with(".md") {
        // Line anchors into source, as code hosts understand them.
        return anchor.starts_with('L');
    }
    anchors(tree.text(path).unwrap_or_default()).contains(anchor)
}

/// The lines of a document outside code fences, with inline code blanked, and their numbers from 1.
fn prose(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut fence: Option<&str> = None;
    for (number, line) in text.lines().enumerate() {
        let marker = ["```", "~~~"].into_iter().find(|marker| line.trim_start().starts_with(marker));
        match (fence, marker) {
            (None, Some(marker)) => fence = Some(marker),
            (Some(open), Some(marker)) if open == marker => fence = None,
            (None, None) => lines.push((number + 1, line.to_owned())),
            _ => {}
        }
    }
    lines
}

fn without_code(line: &str) -> String {
    let parts: Vec<&str> = line.split('`').collect();
    // An odd backtick opens nothing.
    let closed = parts.len() - usize::from(parts.len().is_multiple_of(2));
    let keep = |at: usize| at.is_multiple_of(2) || at >= closed;
    parts.iter().enumerate().filter(|(at, _)| keep(*at)).map(|(_, part)| *part).collect::<Vec<_>>().join("`")
}

/// Targets of `[text](target "title")`, images and `[name]: target`.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let line = without_code(&line);
        for (at, _) in line.match_indices("](") {
            let rest = &line[at + 2..];
            let target = match rest.strip_prefix('<') {
                Some(rest) => rest.split('>').next(),
                None => rest.split([')', ' ']).next(),
            };
            found.extend(target.map(|target| (number, target.to_owned())));
        }
        if let Some((_, target)) = line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) {
            found.extend(target.split_whitespace().next().map(|target| (number, target.to_owned())));
        }
    }
    found
}

/// The anchors that code hosts give to headings, and explicit ones.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, line) in prose(text) {
        for attribute in ["id=\"", "name=\""] {
            for (at, _) in line.match_indices(attribute) {
                found.extend(line[at + attribute.len()..].split('"').next().map(str::to_owned));
            }
        }
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let slug = slug(heading.trim());
        let numbered = (1..).map(|count| format!("{slug}-{count}"));
        let free = std::iter::once(slug.clone()).chain(numbered).find(|slug| !found.contains(slug));
        found.extend(free);
    }
    found
}

/// `## 3. What a *frame* is` is reached as `3-what-a-frame-is`.
fn slug(heading: &str) -> String {
    let mut text = String::new();
    let mut in_target = false;
    for (at, letter) in heading.char_indices() {
        // Of a link, only its text counts.
        if heading[..at].ends_with(']') && letter == '(' {
            in_target = true;
        }
        if !in_target && (letter.is_alphanumeric() || letter == '-' || letter == '_') {
            text.extend(letter.to_lowercase());
        } else if !in_target && letter == ' ' {
            text.push('-');
        }
        if letter == ')' {
            in_target = false;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let tree = Tree::sample(&[
            ("README.md", "# Name\n## A b, `c()`: d_e!\n## Twice\n## Twice\n<a id=\"by-hand\"></a>"),
            ("docs/guide.md", text),
            ("docs/decisions/0001.md", ""),
            ("src/a.rs", ""),
        ]);
        check(&tree).into_iter().map(|finding| finding.problem).collect()
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        for bad in [
            "[a](missing.md)",
            "see ![a](../src/b.png \"title\")",
            "[a](/README.md)",
            "[a](../README.md#nothing)",
            "[a](#nothing)",
            "[a]: missing.md",
            "[a](<missing file.md>)",
            "`x` [a](missing.md) `y`",
            "[a](../README.md#twice-2)",
        ] {
            assert_eq!(problems(bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn links_that_lead_somewhere_are_not() {
        for good in [
            "[a](../README.md#a-b-c-d_e)",
            "[a](../README.md#twice-1) [b](../README.md#by-hand)",
            "[a](decisions) [b](decisions/0001.md \"t\")",
            "# Here\n[a](#here)",
            "[a](../src/a.rs#L12)",
            "[a](https://example.org/x) <b@c.d> [m](mailto:a@b.c)",
            "`[a](missing.md)`",
            "```\n[a](missing.md)\n```",
            "[a](../README.md)",
        ] {
            assert_eq!(problems(good), [""; 0], "{good}");
        }
    }
}
