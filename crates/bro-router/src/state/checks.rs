//! What every part of a state has to stand.

use super::{CallerIdState, ImportError};
use bro_proto::limits::CALL_ID_BYTES_MAX;
use bro_proto::v1::{Payload, check_value};
use serde_json::Value;

/// A part of a state that does not fit the others is an error.
pub(crate) fn ensure(holds: bool, what: &'static str) -> Result<(), ImportError> {
    if holds { Ok(()) } else { Err(ImportError::Contradiction { what }) }
}

/// There may be no more of something than a limit says.
pub(crate) fn ensure_at_most(present: usize, limit: usize, name: &'static str) -> Result<(), ImportError> {
    if present <= limit { Ok(()) } else { Err(ImportError::Limit { name, limit, present }) }
}

/// A context is written into answers as it is: it must be one value, or nothing.
pub(crate) fn check_context(context: Payload<'_>, bytes_max: usize) -> Result<(), ImportError> {
    ensure(context.bytes.len() <= bytes_max, "a context is longer than those that are kept")?;
    ensure(context.bytes.is_empty() || check_value(context).is_ok(), "a context is not one value")
}

/// JSON texts are shown to others as they are.
pub(crate) fn check_json_object(text: &str) -> Result<(), ImportError> {
    ensure(matches!(serde_json::from_str(text), Ok(Value::Object(_))), "a text should be a JSON object")
}

/// Ids are texts where their caller speaks version 1, and numbers otherwise.
pub(crate) fn check_id(id: &CallerIdState, speaks_v2: bool) -> Result<(), ImportError> {
    match id {
        CallerIdState::Text(text) => {
            let is_length_right = (1..=CALL_ID_BYTES_MAX).contains(&text.len());
            ensure(!speaks_v2 && is_length_right, "the id of a call is not as its caller's would be")
        }
        CallerIdState::Number(number) => {
            ensure(speaks_v2 && *number != 0, "the number of a call is not as its caller's would be")
        }
    }
}
