//! The files that the checks look at.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// A file of the project.
#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    /// From the root of the project, with `/`.
    pub(crate) path: String,
    /// `None` for bytes that are no text.
    pub(crate) text: Option<String>,
}

/// Every file of the checkout that is not ignored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(crate) files: Vec<SourceFile>,
}

impl Tree {
    /// Reads the checkout at `root`, leaving out `.git` and what the `.gitignore` there names.
    pub(crate) fn read(root: &Path) -> Result<Tree> {
        let ignored = Ignored::parse(&fs::read_to_string(root.join(".gitignore")).unwrap_or_default());
        let mut tree = Tree::default();
        tree.read_folder(root, "", &ignored)?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    fn read_folder(&mut self, root: &Path, folder: &str, ignored: &Ignored) -> Result<()> {
        let place = root.join(folder);
        for entry in fs::read_dir(&place).with_context(|| format!("reading {}", place.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            if name == ".git" || ignored.matches(&path, &name) {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.read_folder(root, &path, ignored)?;
            } else if kind.is_file() {
                let bytes = fs::read(root.join(&path)).with_context(|| format!("reading {path}"))?;
                self.files.push(SourceFile { path, text: String::from_utf8(bytes).ok() });
            }
        }
        Ok(())
    }

    /// The text of the file at `path`.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path)?.text.as_deref()
    }

    /// Path and text of every text file whose name ends like one of `extensions`.
    pub(crate) fn texts<'a>(&'a self, extensions: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files.iter().filter_map(move |file| {
            let name = file.path.rsplit('/').next().unwrap_or_default();
            let wanted = extensions.iter().any(|extension| name.rsplit('.').next() == Some(extension));
            if wanted { file.text.as_deref().map(|text| (file.path.as_str(), text)) } else { None }
        })
    }

    #[cfg(test)]
    pub(crate) fn sample(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, text)| SourceFile { path: (*path).into(), text: Some((*text).into()) });
        Tree { files: files.collect() }
    }
}

/// The three forms of `.gitignore` lines in use here: `/path`, `name` and `*.extension`.
struct Ignored {
    patterns: Vec<String>,
}

impl Ignored {
    fn parse(text: &str) -> Ignored {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Ignored { patterns: lines.map(|line| line.trim_end_matches('/').to_owned()).collect() }
    }

    fn matches(&self, path: &str, name: &str) -> bool {
        self.patterns.iter().any(|pattern| match (pattern.strip_prefix('/'), pattern.strip_prefix('*')) {
            (Some(whole), _) => path == whole,
            (_, Some(ending)) => name.ends_with(ending),
            _ if pattern.contains('/') => path == pattern,
            _ => name == pattern,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_files_are_left_out() {
        let ignored = Ignored::parse("# built\n/target\nnode_modules/\n*.node\nbindings/x/dist\n");
        for (path, name) in [
            ("target", "target"),
            ("a/node_modules", "node_modules"),
            ("b/x.node", "x.node"),
            ("bindings/x/dist", "dist"),
        ] {
            assert!(ignored.matches(path, name), "{path}");
        }
        assert!(!ignored.matches("a/target", "target"));
        assert!(!ignored.matches("a/dist", "dist"));
    }
}
