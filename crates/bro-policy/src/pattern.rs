//! Patterns of names: a whole name, or the beginning of one and a `*`.

use bro_proto::limits::SERVICE_NAME_BYTES_MAX;
use bro_proto::name::{NameError, check_service_name};

/// Many patterns, of which one has to match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Patterns {
    /// Whole names, sorted.
    exact: Box<[Box<str>]>,
    /// Beginnings of names, sorted. Invariant: none is the beginning of another, so that only the last one that is not greater than a name can
    /// be its beginning.
    beginnings: Box<[Box<str>]>,
}

/// One pattern, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern<'a> {
    /// This name.
    Name(&'a str),
    /// Every name that begins so; every name at all when it is empty.
    Beginning(&'a str),
}

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatternError {
    #[error("a `*` may stand at the end only: \"billing.*\" is every name that begins with \"billing.\"")]
    Star,
    #[error(transparent)]
    Name(#[from] NameError),
}

impl<'a> Pattern<'a> {
    /// Names of services and of methods have the same limits.
    pub(crate) fn parse(text: &'a str) -> Result<Pattern<'a>, PatternError> {
        let (beginning, has_star) = text.strip_suffix('*').map_or((text, false), |beginning| (beginning, true));
        if beginning.contains('*') {
            return Err(PatternError::Star);
        }
        if !has_star {
            check_service_name(text)?;
            return Ok(Pattern::Name(text));
        }
        match check_service_name(beginning) {
            Ok(()) | Err(NameError::Empty) => Ok(Pattern::Beginning(beginning)),
            Err(error) => Err(error.into()),
        }
    }

    /// What stands before the `*`, or all of it.
    pub(crate) fn text(self) -> &'a str {
        match self {
            Pattern::Name(text) | Pattern::Beginning(text) => text,
        }
    }
}

impl Patterns {
    pub(crate) fn new<'a>(patterns: impl IntoIterator<Item = Pattern<'a>>) -> Patterns {
        let (mut exact, mut all) = (Vec::new(), Vec::new());
        for pattern in patterns {
            match pattern {
                Pattern::Name(name) => exact.push(name),
                Pattern::Beginning(beginning) => all.push(beginning),
            }
        }
        exact.sort_unstable();
        exact.dedup();
        all.sort_unstable();
        let mut beginnings: Vec<&str> = Vec::new();
        for beginning in all {
            // Those that begin with another follow it directly.
            if !beginnings.last().is_some_and(|last| beginning.starts_with(last)) {
                beginnings.push(beginning);
            }
        }
        let boxed = |texts: Vec<&str>| texts.into_iter().map(Box::from).collect();
        Patterns { exact: boxed(exact), beginnings: boxed(beginnings) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.beginnings.is_empty()
    }

    /// Whether a name is meant. Costs the logarithm of the number of patterns.
    pub(crate) fn has(&self, name: &str) -> bool {
        if self.exact.binary_search_by(|exact| (**exact).cmp(name)).is_ok() {
            return true;
        }
        let after = self.beginnings.partition_point(|beginning| **beginning <= *name);
        after > 0 && name.starts_with(&*self.beginnings[after - 1])
    }
}

const _: () = assert!(SERVICE_NAME_BYTES_MAX == bro_proto::limits::METHOD_NAME_BYTES_MAX, "one check serves both");

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Patterns {
        Patterns::new(texts.iter().map(|text| Pattern::parse(text).unwrap()))
    }

    #[test]
    fn a_star_is_every_name_that_begins_so() {
        let some = patterns(&["user", "billing.*", "bro-cli-*", "billing.eu.*"]);
        for name in ["user", "billing.a", "billing.", "billing.eu.x", "bro-cli-7"] {
            assert!(some.has(name), "{name}");
        }
        for name in ["", "users", "use", "billing", "billingx", "bro-cli", "BILLING.a", "zzz", "a"] {
            assert!(!some.has(name), "{name}");
        }
        assert_eq!(some.beginnings.len(), 2, "what another one covers is left out");
        assert!(patterns(&["*"]).has("anything") && !Patterns::default().has("anything"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["a*b", "**", "*.a", "a**"] {
            assert_eq!(Pattern::parse(text), Err(PatternError::Star), "{text}");
        }
        assert_eq!(Pattern::parse(""), Err(PatternError::Name(NameError::Empty)));
        assert!(Pattern::parse("a\nb").is_err() && Pattern::parse("a\n*").is_err());
        assert!(Pattern::parse(&"a".repeat(256)).is_err() && Pattern::parse(&"a".repeat(255)).is_ok());
    }
}
