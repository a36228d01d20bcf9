//! Names of services and methods, checked once, where they come in.

use crate::limits::{METHOD_NAME_BYTES_MAX, SERVICE_NAME_BYTES_MAX};
use std::borrow::Cow;

/// Why a name is not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Names have at least one character.
    #[error("the name is empty")]
    Empty,
    /// The name is longer than its limit.
    #[error("the name has {bytes} bytes, at most {limit} are accepted")]
    TooLong {
        /// Bytes of the name.
        bytes: usize,
        /// Bytes that would have been accepted.
        limit: usize,
    },
    /// Control characters would break logs and terminals.
    #[error("the name contains a control character")]
    ControlCharacter,
}

/// Checks a service name.
pub fn check_service_name(name: &str) -> Result<(), NameError> {
    check(name, SERVICE_NAME_BYTES_MAX)
}

/// Checks a method name.
pub fn check_method_name(name: &str) -> Result<(), NameError> {
    check(name, METHOD_NAME_BYTES_MAX)
}

/// A text of a peer as it may stand in a log or on a terminal: in one line, control characters written as escapes.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escaped).collect())
}

fn check(name: &str, limit: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > limit {
        return Err(NameError::TooLong { bytes: name.len(), limit });
    }
    if name.chars().any(char::is_control) {
        return Err(NameError::ControlCharacter);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_writes_cannot_steer_a_terminal_or_begin_a_line() {
        assert_eq!(printable("a plain text, also \u{e4}\u{1f600}"), "a plain text, also \u{e4}\u{1f600}");
        assert_eq!(printable("\x1b[2J\r\nbro: \u{9b}1m\x7f"), "\\u{1b}[2J\\r\\nbro: \\u{9b}1m\\u{7f}");
    }
}
