//! What this client answers, and when that must be advertised.

use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::limits::{METADATA_BYTES_MAX, METHODS_MAX, PING_METHOD, REGISTER_BYTES_MAX};
use bro_proto::name::check_method_name;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Encoded bytes that all names together may have, so that a REGISTER stays below its limit. What is left after
/// the metadata and these holds the service name, the version and the keys.
const NAMES_BYTES_MAX: usize = REGISTER_BYTES_MAX - METADATA_BYTES_MAX - 4096;

#[derive(Debug, Default)]
pub(crate) struct Methods {
    /// In the order of registration.
    names: Vec<Box<str>>,
    lookup: BTreeSet<Arc<str>>,
    names_bytes: usize,
    /// Counts changes: a registration that carries an older version is out of date.
    version: u64,
}

impl Methods {
    /// Adds a name. True when it is new.
    pub(crate) fn add(&mut self, name: &str) -> Result<bool, ErrorBody> {
        if let Err(error) = check_method_name(name) {
            return Err(ErrorBody::new(ErrorCode::InvalidArgument, format!("method name: {error}")));
        }
        if name == PING_METHOD {
            let why = format!("{PING_METHOD} is answered by every client itself");
            return Err(ErrorBody::new(ErrorCode::PermissionDenied, why));
        }
        if self.lookup.contains(name) {
            return Ok(false);
        }
        let names_bytes = self.names_bytes + encoded_bytes(name);
        if self.names.len() >= METHODS_MAX || names_bytes > NAMES_BYTES_MAX {
            let why = format!(
                "method {name:?}: at most {METHODS_MAX} methods with {NAMES_BYTES_MAX} bytes of names are accepted"
            );
            return Err(ErrorBody::new(ErrorCode::ResourceExhausted, why));
        }
        self.names_bytes = names_bytes;
        self.names.push(name.into());
        self.lookup.insert(name.into());
        self.version += 1;
        Ok(true)
    }

    /// Takes a name away. False when it was not there.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        if !self.lookup.remove(name) {
            return false;
        }
        self.names.retain(|other| &**other != name);
        self.names_bytes -= encoded_bytes(name);
        self.version += 1;
        true
    }

    /// The name itself, to be shared.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<str>> {
        self.lookup.get(name)
    }

    pub(crate) fn names(&self) -> &[Box<str>] {
        &self.names
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }
}

/// Bytes of a name in the larger of the two encodings: JSON with quotes, a comma and escapes. Names have no control
/// characters, so each escape is two bytes.
fn encoded_bytes(name: &str) -> usize {
    name.len() + 3 + name.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_order_and_changes_are_counted() {
        let mut methods = Methods::default();
        for name in ["b", "a", "c"] {
            assert_eq!(methods.add(name), Ok(true));
        }
        assert_eq!(methods.add("a"), Ok(false));
        assert_eq!(methods.version(), 3);
        assert!(methods.remove("a") && !methods.remove("a"));
        assert_eq!(methods.names().concat(), "bc");
        assert!(methods.find("b").is_some() && methods.find("a").is_none());
    }

    #[test]
    fn what_no_registration_could_carry_is_refused() {
        let mut methods = Methods::default();
        assert_eq!(methods.add("").unwrap_err().code, Some(ErrorCode::InvalidArgument));
        assert_eq!(methods.add("a\nb").unwrap_err().code, Some(ErrorCode::InvalidArgument));
        assert_eq!(methods.add(PING_METHOD).unwrap_err().code, Some(ErrorCode::PermissionDenied));
        let refused = (0..=METHODS_MAX).find_map(|i| methods.add(&format!("{i:0>255}")).err());
        assert_eq!(refused.unwrap().code, Some(ErrorCode::ResourceExhausted));
        assert!(methods.names().len() < METHODS_MAX, "the bytes were the limit");
        assert!(methods.names_bytes <= NAMES_BYTES_MAX);
    }
}
