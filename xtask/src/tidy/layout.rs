//! The files that explain the workspace keep up with it.

use super::Finding;
use super::layers::LOGIC;
use super::tree::Tree;

/// Calls that every logic crate's clippy.toml must disallow.
const DISALLOWED: &[&str] = &["std::time::Instant::now", "std::time::SystemTime::now", "std::thread::spawn"];

/// Members without a comment, members that ARCHITECTURE.md does not name, logic crates that may use clocks.
pub(crate) fn check(tree: &Tree, members: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let manifest = tree.text("Cargo.toml").unwrap_or_default();
    for (number, line) in manifest.lines().enumerate() {
        let Some((name, rest)) = line.trim().strip_prefix('"').and_then(|rest| rest.split_once('"')) else { continue };
        let comment = rest.split_once('#').map_or("", |(_, comment)| comment.trim());
        if comment.is_empty() && members.iter().any(|member| member == name) {
            findings.push(Finding::new("Cargo.toml", number + 1, format!("member `{name}` has no comment beside it")));
        }
    }
    let architecture = tree.text("ARCHITECTURE.md").unwrap_or_default();
    for member in members.iter().filter(|member| !mentions_folder(architecture, member)) {
        findings.push(Finding::new("ARCHITECTURE.md", 1, format!("does not mention the folder `{member}`")));
    }
    for member in members.iter().filter(|member| LOGIC.iter().any(|name| member.ends_with(&format!("/{name}")))) {
        let path = format!("{member}/clippy.toml");
        let rules = tree.text(&path).unwrap_or_default();
        for call in DISALLOWED.iter().filter(|call| !rules.contains(&format!("\"{call}\""))) {
            findings.push(Finding::new(&path, 1, format!("does not disallow `{call}`")));
        }
    }
    findings
}

/// Whether `text` names the folder, not only a longer one that starts alike.
fn mentions_folder(text: &str, folder: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    text.match_indices(folder).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + folder.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str =
        "\"std::time::Instant::now\" \"std::time::SystemTime::now\" \"std::thread::spawn\" \"std::env::var\"";

    fn problems(manifest: &str, architecture: &str, rules: &str) -> usize {
        let tree = Tree::sample(&[
            ("Cargo.toml", manifest),
            ("ARCHITECTURE.md", architecture),
            ("crates/bro-proto/clippy.toml", rules),
        ]);
        check(&tree, &["crates/bro-proto".to_owned()]).len()
    }

    #[test]
    fn what_is_left_unexplained_is_found() {
        let manifest = "members = [\n    \"crates/bro-proto\", # the wire\n]";
        assert_eq!(problems(manifest, "`crates/bro-proto`: the wire", RULES), 0);
        assert_eq!(problems("members = [\n    \"crates/bro-proto\",\n]", "crates/bro-proto", RULES), 1);
        assert_eq!(problems(manifest, "crates/bro-proto-extra, my-crates/bro-proto", RULES), 1);
        assert_eq!(problems(manifest, "crates/bro-proto", "\"std::time::Instant::now\""), 2);
    }
}
