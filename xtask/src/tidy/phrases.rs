//! Text that must not be in any file: promises for later, and places that exist on one machine only.

use super::Finding;
use super::tree::Tree;

/// How the characters around a phrase decide whether it counts.
#[derive(Clone, Copy)]
enum Edge {
    /// As whole words only, whatever the case.
    Words,
    /// Exactly so, as a whole word.
    Exact,
    /// Exactly so, where a path can start.
    Path,
    /// Exactly so, anywhere.
    Anywhere,
}

/// In pieces, so that this file does not find itself.
const BANNED: &[(&str, Edge, &str)] = &[
    (concat!("TO", "DO"), Edge::Exact, "finish it, or file an issue"),
    (concat!("to", "do!"), Edge::Exact, "finish it, or leave it out"),
    (concat!("unimple", "mented!"), Edge::Exact, "finish it, or leave it out"),
    (concat!("FIX", "ME"), Edge::Words, "fix it, or file an issue"),
    (concat!("for ", "now"), Edge::Words, "say what holds, not how long"),
    (concat!("/ho", "me/"), Edge::Path, "a path of one machine"),
    (concat!("/ro", "ot/"), Edge::Path, "a path of one machine"),
    (concat!("/Us", "ers/"), Edge::Path, "a path of one machine"),
    (concat!("/wo", "rk/"), Edge::Path, "a path of one machine"),
    (concat!("/tmp/", "target"), Edge::Path, "a path of one machine"),
    (concat!("://regi", "stry."), Edge::Anywhere, "the registry is the user's choice"),
    (concat!("arti", "factory"), Edge::Words, "the registry is the user's choice"),
    (concat!("://index.cra", "tes.io"), Edge::Anywhere, "the registry is the user's choice"),
    (concat!("pypi.org/", "simple"), Edge::Anywhere, "the registry is the user's choice"),
    (concat!("files.python", "hosted.org"), Edge::Anywhere, "the registry is the user's choice"),
    (concat!("index-", "url"), Edge::Words, "the registry is the user's choice"),
];

/// Lock files of npm name the server that each package came from, unless told not to.
const RESOLVED: &str = concat!("\"resolved\": \"ht", "tp");

/// The sources that Cargo.lock may name: the registry's own name, not a mirror.
const CARGO_SOURCE: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";

/// Banned phrases in every text file.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        let Some(text) = &file.text else { continue };
        let is_lock = file.path.ends_with("Cargo.lock");
        for (number, line) in text.lines().enumerate() {
            for (phrase, edge, advice) in BANNED {
                if contains(line, phrase, *edge) {
                    findings.push(Finding::new(&file.path, number + 1, format!("`{phrase}`: {advice}")));
                }
            }
            if is_lock && line.starts_with("source = ") && line != CARGO_SOURCE {
                findings.push(Finding::new(&file.path, number + 1, "a source that is not the public registry"));
            }
            if line.contains(RESOLVED) {
                let advice = "set omit-lockfile-registry-resolved in .npmrc";
                findings.push(Finding::new(&file.path, number + 1, format!("`resolved` names a server: {advice}")));
            }
        }
    }
    findings
}

fn contains(line: &str, phrase: &str, edge: Edge) -> bool {
    let fold = |text: &str| if matches!(edge, Edge::Words) { text.to_ascii_lowercase() } else { text.to_owned() };
    let (line, phrase) = (fold(line), fold(phrase));
    line.match_indices(&phrase).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let rest = &line[at + phrase.len()..];
        let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        match edge {
            Edge::Anywhere => true,
            Edge::Path => !is_word(before) && !matches!(before, Some('.' | '/' | '-' | '}' | '~')),
            Edge::Exact => !is_word(before) && !is_word(rest.chars().next()),
            // A loop over moments is no promise.
            Edge::Words => !is_word(before) && !is_word(rest.chars().next()) && !rest.starts_with(" in "),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> usize {
        check(&Tree::sample(&[(path, text)])).len()
    }

    #[test]
    fn every_banned_phrase_is_found() {
        for (phrase, ..) in BANNED {
            assert_eq!(problems("a.md", &format!("see \"{phrase}\" x")), 1, "{phrase}");
        }
        assert_eq!(problems("a.rs", &format!("// {}: later", concat!("TO", "DO"))), 1);
        assert_eq!(problems("a.rs", concat!("// Enough for", " now.")), 1);
    }

    #[test]
    fn look_alikes_are_not_found() {
        for good in [
            "mastodon",
            "todo = \"deny\"",
            "for now in moments {",
            "for now_ms",
            "net/work/x",
            "https://a.b/home/c",
            "./root/x",
        ] {
            assert_eq!(problems("a.rs", good), 0, "{good}");
        }
    }

    #[test]
    fn lock_files_name_no_mirror() {
        assert_eq!(problems("Cargo.lock", CARGO_SOURCE), 0);
        assert_eq!(problems("Cargo.lock", "source = \"registry+https://mirror.example/index\""), 1);
        assert_eq!(problems("package-lock.json", &format!("  {RESOLVED}s://mirror.example/a.tgz\",")), 1);
    }
}
