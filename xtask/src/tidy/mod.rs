//! `cargo xtask tidy`: what the compiler and clippy do not check.
//!
//! | check | finds |
//! |---|---|
//! | [`layers`] | dependencies that point sideways or up; I/O below logic |
//! | [`layout`] | crates without a comment, a line in ARCHITECTURE.md, or their clippy.toml |
//! | [`dead_files`] | Rust files that are never compiled |
//! | [`words`] | names that say nothing |
//! | [`phrases`] | promises for later; places on one machine |
//! | [`ratchet`] | files that are too long, or grow |
//! | [`links`] | links in Markdown that lead nowhere |
//! | [`guarantees`] | promises that no test tries to break |
//!
//! Each takes the files as an argument and returns [`Finding`]s, so that each is tested with bad samples.

mod dead_files;
mod guarantees;
mod layers;
mod layout;
mod lexer;
mod links;
mod phrases;
mod ratchet;
mod tree;
mod words;

use std::fmt;

use anyhow::{Result, bail};

use crate::workspace::Workspace;
use layers::Member;
use tree::Tree;

/// Something to put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) problem: String,
}

impl Finding {
    fn new(path: &str, line: usize, problem: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, problem: problem.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.problem)
    }
}

/// One check and what it found in the checkout.
pub(crate) struct Checked {
    pub(crate) name: &'static str,
    pub(crate) findings: Vec<Finding>,
}

/// Runs every check.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<Checked>> {
    let tree = Tree::read(&workspace.root)?;
    let folders = workspace.folders();
    let mut roots = workspace.crate_roots();
    roots.extend(dead_files::roots_apart(&tree, &folders));
    let manifests: Vec<String> = folders.iter().map(|folder| format!("{folder}/Cargo.toml")).collect();
    let members: Vec<Member<'_>> = folders
        .iter()
        .zip(&manifests)
        .map(|(folder, path)| Member { folder, manifest: tree.text(path).unwrap_or_default() })
        .collect();
    Ok(vec![
        Checked { name: "layers", findings: layers::check(&members) },
        Checked { name: "layout", findings: layout::check(&tree, &folders) },
        Checked { name: "dead files", findings: dead_files::check(&tree, &roots) },
        Checked { name: "words", findings: words::check(&tree) },
        Checked { name: "phrases", findings: phrases::check(&tree) },
        Checked { name: "ratchet", findings: ratchet::check(&tree) },
        Checked { name: "links", findings: links::check(&tree) },
        Checked { name: "guarantees", findings: guarantees::check(&tree) },
    ])
}

/// The verb: prints what was found, and fails when that is anything.
pub(crate) fn run() -> Result<()> {
    let checked = check(&Workspace::load()?)?;
    let mut count = 0;
    for checked in &checked {
        for finding in &checked.findings {
            println!("{finding} [{}]", checked.name);
        }
        count += checked.findings.len();
    }
    if count > 0 {
        bail!("{count} to put right");
    }
    println!("tidy: {} checks, nothing to put right", checked.len());
    Ok(())
}
