//! Every Rust file is part of some target: reached by `mod`, `#[path]` or `include!` from a crate root.

use std::collections::BTreeSet;

use super::Finding;
use super::lexer::{Kind, Token, lex};
use super::tree::Tree;

/// Rust files that none of the crate roots reaches.
pub(crate) fn check(tree: &Tree, roots: &[String]) -> Vec<Finding> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<(String, bool)> = roots.iter().map(|root| (root.clone(), true)).collect();
    while let Some((path, owns_folder)) = waiting.pop() {
        let Some(text) = tree.text(&path) else { continue };
        if !reached.insert(path.clone()) {
            continue;
        }
        for mention in mentions(text) {
            for (candidate, owns_folder) in mention.candidates(&path, owns_folder) {
                if tree.text(&candidate).is_some() {
                    waiting.push((candidate, owns_folder));
                }
            }
        }
    }
    let unreached = tree.texts(&["rs"]).filter(|(path, _)| !reached.contains(*path));
    unreached.map(|(path, _)| Finding::new(path, 1, "no `mod` reaches this file: it is never compiled")).collect()
}

/// Where the crates begin that are no members: each has a workspace of its own, which cargo does not tell about here.
pub(crate) fn roots_apart(tree: &Tree, members: &[String]) -> Vec<String> {
    let manifests = tree.files.iter().filter_map(|file| file.path.strip_suffix("/Cargo.toml"));
    let apart = manifests.filter(|folder| !members.iter().any(|member| member == folder));
    apart.flat_map(|folder| [format!("{folder}/src/main.rs"), format!("{folder}/src/lib.rs")]).collect()
}

/// A place where one file names another.
#[derive(Debug, PartialEq, Eq)]
enum Mention {
    /// `mod name;` inside these inline modules.
    Module { inline: Vec<String>, name: String },
    /// `#[path = "…"] mod name;` or `include!("…")`, relative to the folder of the file.
    File(String),
}

impl Mention {
    /// Where the named file may be, and whether its own modules are beside it (else in a folder of its name).
    fn candidates(&self, from: &str, owns_folder: bool) -> Vec<(String, bool)> {
        let (folder, file) = from.rsplit_once('/').unwrap_or(("", from));
        match self {
            Mention::File(relative) => vec![(join(folder, relative), true)],
            Mention::Module { inline, name } => {
                let mut base = folder.to_owned();
                if !owns_folder {
                    base = join(&base, file.trim_end_matches(".rs"));
                }
                for module in inline {
                    base = join(&base, module);
                }
                vec![(join(&base, &format!("{name}.rs")), false), (join(&base, &format!("{name}/mod.rs")), true)]
            }
        }
    }
}

fn mentions(source: &str) -> Vec<Mention> {
    let tokens = lex(source);
    let mut found = Vec::new();
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0_usize;
    let mut path_attribute = None;
    for (at, token) in tokens.iter().enumerate() {
        let kind = |ahead: usize| tokens.get(at + ahead).map(|t: &Token<'_>| t.kind);
        match token.kind {
            Kind::Punct('{') => depth += 1,
            Kind::Punct('}') => {
                depth = depth.saturating_sub(1);
                inline.pop_if(|(_, opened)| *opened == depth);
            }
            Kind::Ident("path") => {
                if let (Some(Kind::Punct('=')), Some(Kind::Text(text))) = (kind(1), kind(2)) {
                    path_attribute = Some(text.to_owned());
                }
            }
            Kind::Ident("mod") => match (kind(1), kind(2)) {
                (Some(Kind::Ident(name)), Some(Kind::Punct(';'))) => found.push(match path_attribute.take() {
                    Some(path) => Mention::File(path),
                    None => Mention::Module {
                        inline: inline.iter().map(|(name, _)| name.clone()).collect(),
                        name: name.into(),
                    },
                }),
                (Some(Kind::Ident(name)), Some(Kind::Punct('{'))) => inline.push((name.into(), depth)),
                _ => {}
            },
            Kind::Ident("include") => {
                if let (Some(Kind::Punct('!')), Some(Kind::Text(text))) = (kind(1), kind(3)) {
                    found.push(Mention::File(text.into()));
                }
            }
            _ => {}
        }
    }
    found
}

/// `folder` and `relative` as one path without `.` and `..`.
pub(crate) fn join(folder: &str, relative: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(relative.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_that_are_no_members_have_roots_too() {
        let tree =
            Tree::sample(&[("Cargo.toml", ""), ("a/Cargo.toml", ""), ("a/b/Cargo.toml", ""), ("a/b/src/main.rs", "")]);
        assert_eq!(roots_apart(&tree, &["a".to_owned()]), ["a/b/src/main.rs", "a/b/src/lib.rs"]);
    }

    #[test]
    fn a_file_without_a_mod_is_found() {
        let tree = Tree::sample(&[
            ("a/src/lib.rs", "mod x; mod y { mod z; } #[path = \"odd.rs\"] mod w; // mod dead;"),
            ("a/src/x.rs", "pub mod deep;"),
            ("a/src/x/deep.rs", "include!(\"../../gen/table.rs\");"),
            ("a/src/y/z.rs", ""),
            ("a/src/odd.rs", "const S: &str = \"mod dead;\";"),
            ("a/gen/table.rs", ""),
            ("a/src/dead.rs", ""),
            ("a/tests/it.rs", "mod common;"),
            ("a/tests/common/mod.rs", ""),
        ]);
        let roots = ["a/src/lib.rs".to_owned(), "a/tests/it.rs".to_owned()];
        let found: Vec<String> = check(&tree, &roots).into_iter().map(|finding| finding.path).collect();
        assert_eq!(found, ["a/src/dead.rs"]);
    }
}
