//! Names of services and methods, checked once, where they come in.

use crate::limits::{METHOD_NAME_BYTES_MAX, SERVICE_NAME_BYTES_MAX};

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
