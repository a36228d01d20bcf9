//! Which licences the dependencies may have, and reading the expressions that name them.

use crate::workspace::Package;

/// One of these must be enough to use a dependency.
const ALLOWED: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "MPL-2.0",
];

/// One line for every package whose licence is missing, unreadable or not allowed.
pub(crate) fn check(packages: &[Package]) -> Vec<String> {
    let described = packages.iter().map(|package| {
        let problem = match &package.license {
            Some(expression) => problem(expression),
            None => Some("names no licence".to_owned()),
        };
        problem.map(|problem| format!("{} {}: {problem}", package.name, package.version))
    });
    described.flatten().collect()
}

fn problem(expression: &str) -> Option<String> {
    // Before there were expressions, a slash meant a choice.
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, at: 0 };
    match parser.alternatives(0) {
        Some(_) if parser.at < words.len() => Some(format!("cannot read `{expression}`")),
        Some(true) => None,
        Some(false) => Some(format!("`{expression}` is not allowed")),
        None => Some(format!("cannot read `{expression}`")),
    }
}

/// Real expressions nest once or twice.
const NESTING_MAX: usize = 8;

/// Says whether an expression is allowed, `None` when it is not one.
struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
}

impl Parser<'_> {
    fn alternatives(&mut self, nesting: usize) -> Option<bool> {
        let mut is_allowed = self.conjunction(nesting)?;
        while self.take("OR") {
            is_allowed |= self.conjunction(nesting)?;
        }
        Some(is_allowed)
    }

    fn conjunction(&mut self, nesting: usize) -> Option<bool> {
        let mut is_allowed = self.term(nesting)?;
        while self.take("AND") {
            is_allowed &= self.term(nesting)?;
        }
        Some(is_allowed)
    }

    fn term(&mut self, nesting: usize) -> Option<bool> {
        if self.take("(") {
            if nesting == NESTING_MAX {
                return None;
            }
            let is_allowed = self.alternatives(nesting + 1)?;
            return self.take(")").then_some(is_allowed);
        }
        let mut licence = self.word()?.to_owned();
        if self.take("WITH") {
            licence = format!("{licence} WITH {}", self.word()?);
        }
        Some(ALLOWED.contains(&licence.as_str()))
    }

    fn word(&mut self) -> Option<&str> {
        let word = self.words.get(self.at).filter(|word| !["OR", "AND", "WITH", "(", ")"].contains(word))?;
        self.at += 1;
        Some(word)
    }

    fn take(&mut self, word: &str) -> bool {
        let is_next = self.words.get(self.at) == Some(&word);
        self.at += usize::from(is_next);
        is_next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_licences_pass() {
        for good in [
            "MIT",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
            "Unlicense OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR GPL-2.0-only) AND Unicode-3.0",
            "GPL-3.0 OR (ISC AND (Zlib OR X))",
        ] {
            assert_eq!(problem(good), None, "{good}");
        }
    }

    #[test]
    fn other_licences_and_broken_expressions_do_not() {
        for bad in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "MIT OR",
            "",
            "(MIT",
            "MIT)",
            "MIT Apache-2.0",
            "GPL-2.0 WITH LLVM-exception",
            "GPL-3.0 OR MIT AND X",
            "OR",
        ] {
            assert!(problem(bad).is_some(), "{bad}");
        }
        assert!(problem(&"(".repeat(100_000)).is_some());
    }
}
