//! Building frames.
//!
//! Each function appends one whole frame, prefix and body, to `out`. After an error `out` is as it was. Fields stand in
//! the order in which the JavaScript library writes them. Numbers beyond 32 bits (timestamps, deadlines) become
//! float64 in msgpack: JavaScript would read an int64 as a BigInt.

use super::rewrite::{TranscodeError, transcode};
use super::transcode::write::{self, Object};
use super::{Encoding, Payload};
use crate::context::CallContext;
use crate::error::ErrorBody;
use crate::frame::finish_frame;
use crate::limits::FRAME_PREFIX_BYTES;

/// A call context on its way out.
#[derive(Clone, Copy, Debug)]
pub enum ContextSource<'a> {
    /// To be encoded.
    Owned(&'a CallContext),
    /// As it came, for instance to echo it; empty bytes leave the field out.
    Encoded(Payload<'a>),
}

/// The fields of a CALL.
#[derive(Clone, Copy, Debug)]
pub struct CallFields<'a> {
    /// The caller's id for this call.
    pub id: &'a str,
    /// The calling service.
    pub from: &'a str,
    /// The called service.
    pub to: &'a str,
    /// The called method.
    pub method: &'a str,
    /// Left out when empty.
    pub params: Payload<'a>,
    /// Where the call comes from.
    pub context: ContextSource<'a>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// With a result; empty bytes leave `data` out, as `undefined` does.
    Success(Payload<'a>),
    /// With an error.
    Error(&'a ErrorBody),
}

/// The fields of a RESPONSE.
#[derive(Clone, Copy, Debug)]
pub struct ResponseFields<'a> {
    /// The id of the call.
    pub id: &'a str,
    /// The called service.
    pub from: &'a str,
    /// The calling service.
    pub to: &'a str,
    /// `status` with `data` or `error`.
    pub outcome: Outcome<'a>,
    /// The call's context, if it had one.
    pub context: Option<ContextSource<'a>>,
}

/// The fields of a REGISTER.
#[derive(Clone, Copy, Debug)]
pub struct RegisterFields<'a> {
    /// The name to register.
    pub service_name: &'a str,
    /// The methods to advertise.
    pub methods: &'a [Box<str>],
    /// The service's own version.
    pub version: &'a str,
    /// An object; `{}` when empty.
    pub metadata: Payload<'a>,
}

/// Appends a CALL.
pub fn encode_call(out: &mut Vec<u8>, encoding: Encoding, call: &CallFields<'_>) -> Result<(), TranscodeError> {
    frame(out, |out| {
        let members = 5 + u32::from(!call.params.bytes.is_empty()) + u32::from(call.context.is_present());
        let mut object = Object::begin(out, encoding, members);
        object.string("type", "CALL");
        object.string("id", call.id);
        object.string("from", call.from);
        object.string("to", call.to);
        object.string("method", call.method);
        payload(&mut object, encoding, "params", call.params)?;
        context(&mut object, encoding, call.context)?;
        object.end();
        Ok(())
    })
}

/// Appends a RESPONSE.
pub fn encode_response(
    out: &mut Vec<u8>,
    encoding: Encoding,
    response: &ResponseFields<'_>,
) -> Result<(), TranscodeError> {
    frame(out, |out| {
        let has_outcome = !matches!(response.outcome, Outcome::Success(data) if data.bytes.is_empty());
        let has_context = response.context.is_some_and(|context| context.is_present());
        let mut object = Object::begin(out, encoding, 5 + u32::from(has_outcome) + u32::from(has_context));
        object.string("type", "RESPONSE");
        object.string("id", response.id);
        object.string("from", response.from);
        object.string("to", response.to);
        match response.outcome {
            Outcome::Success(data) => {
                object.string("status", "success");
                payload(&mut object, encoding, "data", data)?;
            }
            Outcome::Error(error) => {
                object.string("status", "error");
                error_object(object.key("error"), encoding, error);
            }
        }
        if let Some(source) = response.context {
            context(&mut object, encoding, source)?;
        }
        object.end();
        Ok(())
    })
}

/// Appends a REGISTER.
pub fn encode_register(
    out: &mut Vec<u8>,
    encoding: Encoding,
    register: &RegisterFields<'_>,
) -> Result<(), TranscodeError> {
    frame(out, |out| {
        let mut object = Object::begin(out, encoding, 5);
        object.string("type", "REGISTER");
        object.string("serviceName", register.service_name);
        object.strings("methods", register.methods);
        object.string("version", register.version);
        if register.metadata.bytes.is_empty() {
            Object::begin(object.key("metadata"), encoding, 0).end();
        } else {
            payload(&mut object, encoding, "metadata", register.metadata)?;
        }
        object.end();
        Ok(())
    })
}

/// Appends a REGISTER_ACK. With `from`, the gateway says that it is one of ours; with `version`, that this connection speaks that
/// version from now on.
pub fn encode_register_ack(out: &mut Vec<u8>, encoding: Encoding, from: Option<&str>, version: Option<u64>) {
    small_frame(out, |out| {
        let members = 1 + u32::from(from.is_some()) + u32::from(version.is_some());
        let mut object = Object::begin(out, encoding, members);
        object.string("type", "REGISTER_ACK");
        if let Some(from) = from {
            object.string("from", from);
        }
        if let Some(version) = version {
            let mut bro = Object::begin(object.key("bro"), encoding, 1);
            bro.unsigned("v", version);
            bro.end();
        }
        object.end();
    });
}

/// Appends a HEARTBEAT of the service `from`.
pub fn encode_heartbeat(out: &mut Vec<u8>, encoding: Encoding, from: &str, timestamp_ms: u64) {
    small_frame(out, |out| {
        let mut object = Object::begin(out, encoding, 3);
        object.string("type", "HEARTBEAT");
        object.string("from", from);
        object.unsigned("timestamp", timestamp_ms);
        object.end();
    });
}

/// Appends an ERROR, about the call `id` or about the connection.
pub fn encode_error(out: &mut Vec<u8>, encoding: Encoding, id: Option<&str>, error: &ErrorBody, timestamp_ms: u64) {
    small_frame(out, |out| {
        let mut object = Object::begin(out, encoding, 3 + u32::from(id.is_some()));
        object.string("type", "ERROR");
        if let Some(id) = id {
            object.string("id", id);
        }
        error_object(object.key("error"), encoding, error);
        object.unsigned("timestamp", timestamp_ms);
        object.end();
    });
}

/// Appends one value: a call context as it stands in a message.
pub fn write_context(out: &mut Vec<u8>, encoding: Encoding, context: &CallContext) {
    let mut object = Object::begin(out, encoding, 4);
    object.string("root", &context.root);
    object.strings("chain", &context.chain);
    object.unsigned("depth", u64::from(context.depth));
    object.unsigned("deadline", context.deadline_ms);
    object.end();
}

/// Appends `text` as a JSON string, with quotes and with the escapes that JSON requires.
pub fn write_json_string(out: &mut Vec<u8>, text: &str) {
    write::json_string(out, text);
}

impl ContextSource<'_> {
    fn is_present(&self) -> bool {
        !matches!(self, ContextSource::Encoded(payload) if payload.bytes.is_empty())
    }
}

fn frame(
    out: &mut Vec<u8>,
    write_body: impl FnOnce(&mut Vec<u8>) -> Result<(), TranscodeError>,
) -> Result<(), TranscodeError> {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_PREFIX_BYTES]);
    let body = start + FRAME_PREFIX_BYTES;
    let written = write_body(out).and_then(|()| match u32::try_from(out.len() - body) {
        Ok(_) => Ok(()),
        Err(_) => Err(TranscodeError::TooLarge { limit: u32::MAX as usize }),
    });
    match written {
        Ok(()) => finish_frame(out, start),
        Err(_) => out.truncate(start),
    }
    written
}

/// A frame without a payload.
fn small_frame(out: &mut Vec<u8>, write_body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_PREFIX_BYTES]);
    write_body(out);
    finish_frame(out, start);
}

fn payload(
    object: &mut Object<'_>,
    encoding: Encoding,
    key: &'static str,
    value: Payload<'_>,
) -> Result<(), TranscodeError> {
    if value.bytes.is_empty() { Ok(()) } else { transcode(value, encoding, object.key(key)) }
}

fn context(object: &mut Object<'_>, encoding: Encoding, source: ContextSource<'_>) -> Result<(), TranscodeError> {
    match source {
        ContextSource::Owned(context) => {
            write_context(object.key("context"), encoding, context);
            Ok(())
        }
        ContextSource::Encoded(encoded) => payload(object, encoding, "context", encoded),
    }
}

fn error_object(out: &mut Vec<u8>, encoding: Encoding, error: &ErrorBody) {
    let members = 1 + u32::from(error.code.is_some()) + u32::from(error.stack.is_some());
    let mut object = Object::begin(out, encoding, members);
    object.string("message", &error.message);
    if let Some(code) = &error.code {
        object.string("code", code.as_str());
    }
    if let Some(stack) = &error.stack {
        object.string("stack", stack);
    }
    object.end();
}
