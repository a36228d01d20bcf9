//! Small structured parts of a message as owned values.

use super::rewrite::{TranscodeError, transcode};
use super::transcode::head::read_strings;
use super::{ContextHeader, Encoding, Payload};
use crate::context::CallContext;
use crate::error::{ErrorBody, ErrorCode};
use crate::limits::{CHAIN_LEN_MAX, METHODS_MAX};
use crate::name::check_method_name;
use serde_json::Value;

/// The message of an error that came without one.
const NO_MESSAGE: &str = "unknown error";

/// The call context that the header of `body` holds. Every field must be there, and make sense.
pub fn context(body: &[u8], header: &ContextHeader<'_>, encoding: Encoding) -> Result<CallContext, ErrorBody> {
    let invalid = |why: &str| ErrorBody::new(ErrorCode::InvalidContext, why);
    let root = header.root.as_ref().ok_or_else(|| invalid("context.root must be a string"))?;
    let chain = header.chain.clone().and_then(|span| body.get(span));
    let chain = chain.ok_or_else(|| invalid("context.chain must be an array"))?;
    if header.chain_len > CHAIN_LEN_MAX {
        return Err(invalid("context.chain must name 1 to 256 services"));
    }
    let chain = strings(Payload { encoding, bytes: chain }, CHAIN_LEN_MAX)
        .ok_or_else(|| invalid("context.chain must be an array of strings"))?;
    let depth = header.depth.ok_or_else(|| invalid("context.depth must be a number"))?;
    let deadline_ms = header.deadline_ms.ok_or_else(|| invalid("context.deadline must be a number"))?;
    let context = CallContext { root: root.value.clone().into_owned(), chain, depth, deadline_ms };
    context.validate()?;
    Ok(context)
}

/// The `error` of a message, whatever it looks like: old programs send what they like, and an error must not get lost
/// because it is badly written.
pub fn error_body(payload: Payload<'_>) -> ErrorBody {
    match to_json(payload) {
        Ok(Value::Object(mut object)) => {
            let mut text = |key: &str| match object.remove(key) {
                None | Some(Value::Null) => None,
                Some(Value::String(text)) => Some(text),
                Some(other) => Some(other.to_string()),
            };
            ErrorBody {
                message: text("message").unwrap_or_else(|| NO_MESSAGE.to_owned()),
                code: text("code").filter(|code| !code.is_empty()).map(|code| ErrorCode::from(code.as_str())),
                stack: text("stack"),
            }
        }
        Ok(Value::String(message)) => ErrorBody { message, code: None, stack: None },
        Ok(Value::Null) | Err(_) => ErrorBody { message: NO_MESSAGE.to_owned(), code: None, stack: None },
        Ok(other) => ErrorBody { message: other.to_string(), code: None, stack: None },
    }
}

/// The `methods` of a REGISTER: at most [`METHODS_MAX`] acceptable names; none when the field is absent.
pub fn methods(payload: Payload<'_>) -> Result<Vec<Box<str>>, ErrorBody> {
    if payload.bytes.is_empty() {
        return Ok(Vec::new());
    }
    let names = strings(payload, METHODS_MAX).ok_or_else(|| {
        let why = format!("methods must be an array of at most {METHODS_MAX} strings");
        ErrorBody::new(ErrorCode::InvalidMessage, why)
    })?;
    for name in &names {
        check_method_name(name)
            .map_err(|error| ErrorBody::new(ErrorCode::InvalidMessage, format!("a method name is refused: {error}")))?;
    }
    Ok(names.into_iter().map(String::into_boxed_str).collect())
}

/// The version that `bro.v` of an object names: what `metadata` of a REGISTER offers, and what a REGISTER_ACK accepts.
pub fn version(object: &Value) -> Option<u64> {
    version_of(object.get("bro")?)
}

/// The version that `v` of an offer names.
pub fn version_of(offer: &Value) -> Option<u64> {
    let version = offer.get("v")?;
    let whole = |number: f64| (number.fract() == 0.0 && (0.0..1e9).contains(&number)).then_some(number);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
    version.as_u64().or_else(|| version.as_f64().and_then(whole).map(|number| number as u64))
}

/// Any value as a `serde_json` one, by the rules of [`super::rewrite`]; `null` for an absent one. Of duplicate keys
/// the last one counts, as in JavaScript.
pub fn to_json(payload: Payload<'_>) -> Result<Value, TranscodeError> {
    if payload.bytes.is_empty() {
        return Ok(Value::Null);
    }
    let mut text = Vec::new();
    match payload.encoding {
        Encoding::Msgpack => transcode(payload, Encoding::Json, &mut text)?,
        Encoding::Json => {
            if let Ok(value) = serde_json::from_slice(payload.bytes) {
                return Ok(value);
            }
            // Lone surrogates and numbers beyond the range are JSON, but not to serde_json: a detour mends them.
            let mut msgpack = Vec::new();
            transcode(payload, Encoding::Msgpack, &mut msgpack)?;
            transcode(Payload { encoding: Encoding::Msgpack, bytes: &msgpack }, Encoding::Json, &mut text)?;
        }
    }
    serde_json::from_slice(&text).map_err(|_| TranscodeError::Malformed { at: 0 })
}

/// The strings of an array of at most `len_max` strings; `None` for anything else.
fn strings(payload: Payload<'_>, len_max: usize) -> Option<Vec<String>> {
    match payload.encoding {
        Encoding::Json => {
            let texts: Vec<String> = serde_json::from_slice(payload.bytes).ok()?;
            (texts.len() <= len_max).then_some(texts)
        }
        Encoding::Msgpack => Some(read_strings(payload.bytes, len_max)?.into_iter().map(str::to_owned).collect()),
    }
}
