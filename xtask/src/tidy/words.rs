//! Words that say nothing, in names of files and in identifiers.

use super::Finding;
use super::lexer::{Kind, lex};
use super::tree::Tree;

const BANNED: &[&str] = &["manager", "managers", "helper", "helpers", "util", "utils", "msg", "msgs"];

/// Names that are not ours to choose, with the reason.
const ALLOWED: &[(&str, &str)] = &[("IPCUtils", "public name of the JavaScript package")];

/// Names of types and files may not end in this: everything is data.
const BANNED_ENDING: &str = "data";

/// Banned words in the names of files and in the identifiers of Rust sources.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        for part in file.path.split('/') {
            let stem = part.split('.').find(|piece| !piece.is_empty()).unwrap_or(part);
            let bad = if is_allowed(stem) { None } else { banned_word(stem).or_else(|| banned_ending(stem)) };
            if let Some(word) = bad {
                findings.push(Finding::new(&file.path, 1, format!("file name `{part}` says nothing with `{word}`")));
            }
        }
    }
    for (path, text) in tree.texts(&["rs"]) {
        check_source(path, text, &mut findings);
    }
    findings
}

fn check_source(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let tokens = lex(text);
    let mut before = Kind::Punct(' ');
    for token in &tokens {
        if let Kind::Ident(name) = token.kind {
            let defines_type = matches!(before, Kind::Ident("struct" | "enum" | "trait" | "type"));
            let word = if is_allowed(name) {
                None
            } else if before == Kind::Ident("fn") && name == "process" {
                Some("process".to_owned())
            } else {
                banned_word(name).or_else(|| if defines_type { banned_ending(name) } else { None })
            };
            if let Some(word) = word {
                let problem = format!("`{name}`: `{word}` says nothing, name what it does or holds");
                findings.push(Finding::new(path, token.line, problem));
            }
        }
        before = token.kind;
    }
}

fn is_allowed(name: &str) -> bool {
    ALLOWED.iter().any(|(allowed, _)| *allowed == name)
}

fn banned_word(name: &str) -> Option<String> {
    words(name).into_iter().find(|word| BANNED.contains(&word.as_str()))
}

fn banned_ending(name: &str) -> Option<String> {
    words(name).pop().filter(|word| word == BANNED_ENDING)
}

/// The lower-case words of a snake_case, kebab-case or CamelCase name; `IPCCall` is `ipc` and `call`.
fn words(name: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let letters: Vec<char> = name.chars().collect();
    for (at, &letter) in letters.iter().enumerate() {
        let after_lower = at > 0 && !letters[at - 1].is_uppercase();
        let before_lower = letters.get(at + 1).is_some_and(|next| next.is_lowercase());
        if !letter.is_alphanumeric() || (letter.is_uppercase() && (after_lower || before_lower)) {
            words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
        }
        if letter.is_alphanumeric() {
            word.extend(letter.to_lowercase());
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> usize {
        check(&Tree::sample(&[(path, text)])).len()
    }

    #[test]
    fn names_are_cut_into_words() {
        assert_eq!(words("IPCCallContext"), ["ipc", "call", "context"]);
        assert_eq!(words("frame_bytes-max"), ["frame", "bytes", "max"]);
        assert_eq!(words("MsgPack"), ["msg", "pack"]);
        assert_eq!(words("msgpack"), ["msgpack"]);
    }

    #[test]
    fn banned_identifiers_are_found() {
        for bad in ["struct CallManager;", "fn wire_utils() {}", "let msg = 1;", "fn process() {}", "struct PeerData;"]
        {
            assert_eq!(problems("src/a.rs", bad), 1, "{bad}");
        }
        for good in ["// manager", "\"helper\"", "std::process::exit(0)", "metadata", "let data = 1;", "IPCUtils"] {
            assert_eq!(problems("src/a.rs", good), 0, "{good}");
        }
    }

    #[test]
    fn banned_file_names_are_found() {
        assert_eq!(problems("src/utils.rs", ""), 1);
        assert_eq!(problems("src/test_helper/a.js", ""), 1);
        assert_eq!(problems("src/peer_data.rs", ""), 1);
        assert_eq!(problems("src/process.rs", ""), 0);
    }
}
