//! Whole messages as owned values, for programs that prefer convenience to speed: tools, tests, bindings.
//!
//! Together with a few other modules this is the readme's list of "Util Methods":
//!
//! | readme | here |
//! |---|---|
//! | `serialize`, `deserialize`, `readMessageLength`, `hasCompleteMessage`, `splitMessages` | [`serialize`], [`deserialize`], [`read_message_length`], [`has_complete_message`], [`split_messages`]; for streams [`crate::frame::Deframer`] |
//! | `generateId`, `generateRootId` | [`crate::id::generate_id`], [`crate::id::generate_root_id`] |
//! | `createContext`, `extendContext`, `validateContext` | [`CallContext::create`], [`CallContext::extend`], [`CallContext::validate`] |
//! | `isDeadlineExceeded`, `getRemainingTime`, `calculateDeadline` | [`CallContext::is_deadline_exceeded`], [`CallContext::remaining_ms`], [`crate::context::deadline_ms`] |
//! | `createCallMessage`, `createSuccessResponse`, `createErrorResponse` | [`create_call_message`], [`create_success_response`], [`create_error_response`] |
//! | `validateMessage`, `isMaxDepthExceeded` | [`validate_message`], [`CallContext::is_max_depth_exceeded`] |
//! | `formatMessageForLog`, `formatContext` | [`format_message_for_log`], [`format_context`] |
//! | `calculateBackoff` | [`crate::backoff::backoff_ms`] |
//! | `sleep`, `createTimeoutPromise` | the runtime's own timers: nothing here waits |

use super::encode::{
    CallFields, ContextSource, Outcome, RegisterFields, ResponseFields, encode_call, encode_error, encode_heartbeat,
    encode_register, encode_register_ack, encode_response,
};
use super::{Encoding, Header, Kind, Payload, Status, Text, decode, scan};
use crate::context::CallContext;
use crate::error::{ErrorBody, ErrorCode};
use crate::frame::{FrameError, announced_bytes};
use crate::id::generate_id;
use crate::limits::{CALL_ID_BYTES_MAX, FRAME_PREFIX_BYTES, METHODS_MAX};
use crate::name::{NameError, check_method_name, check_service_name};
use crate::rng::Rng;
use crate::time::Now;
use serde_json::{Map, Value};
use std::fmt::Write;
use std::ops::Range;

/// The version of a service that does not name one.
pub const DEFAULT_VERSION: &str = "1.0.0";
/// Longest payload text in a log line, in bytes.
const LOG_PAYLOAD_BYTES_MAX: usize = 120;

/// A v1 message.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// service → gateway, first.
    Register(Register),
    /// gateway → service.
    RegisterAck,
    /// caller → gateway → callee.
    Call(Call),
    /// callee → gateway → caller.
    Response(Response),
    /// service → gateway.
    Heartbeat(Heartbeat),
    /// gateway → service.
    Error(ErrorNotice),
}

/// A service makes itself known.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    /// The name to register.
    pub service_name: String,
    /// The methods to advertise.
    pub methods: Vec<Box<str>>,
    /// The service's own version; [`DEFAULT_VERSION`] when it names none.
    pub version: String,
    /// What else the service says about itself.
    pub metadata: Map<String, Value>,
}

/// A method is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The caller's id for this call.
    pub id: String,
    /// The calling service.
    pub from: String,
    /// The called service.
    pub to: String,
    /// The called method.
    pub method: String,
    /// `None` is `undefined`.
    pub params: Option<Value>,
    /// Where the call comes from; the gateway adds one if there is none.
    pub context: Option<CallContext>,
}

/// A call has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// The id of the call.
    pub id: String,
    /// The called service.
    pub from: String,
    /// The calling service.
    pub to: String,
    /// The result (`None` is `undefined`) or what went wrong.
    pub outcome: Result<Option<Value>, ErrorBody>,
    /// The context of the call.
    pub context: Option<CallContext>,
}

/// A service is alive.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// The service.
    pub from: String,
    /// When, in milliseconds since 1970.
    pub timestamp_ms: u64,
}

/// The gateway refuses something that is not a call of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorNotice {
    /// The call that it is about, if any.
    pub id: Option<String>,
    /// What is wrong.
    pub error: ErrorBody,
    /// When, in milliseconds since 1970.
    pub timestamp_ms: u64,
}

/// The frames in a buffer; see [`split_messages`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split<'a> {
    /// Whole frames, with their prefixes.
    pub frames: Vec<&'a [u8]>,
    /// The beginning of the next one.
    pub rest: &'a [u8],
}

/// The frame of a message: its prefix and its body.
pub fn serialize(message: &Message, encoding: Encoding) -> Result<Vec<u8>, ErrorBody> {
    let mut out = Vec::new();
    let written = match message {
        Message::RegisterAck => {
            encode_register_ack(&mut out, encoding, None, None);
            Ok(())
        }
        Message::Heartbeat(Heartbeat { from, timestamp_ms }) => {
            encode_heartbeat(&mut out, encoding, from, *timestamp_ms);
            Ok(())
        }
        Message::Error(ErrorNotice { id, error, timestamp_ms }) => {
            encode_error(&mut out, encoding, id.as_deref(), error, *timestamp_ms);
            Ok(())
        }
        Message::Register(Register { service_name, methods, version, metadata }) => {
            let metadata = encoded(metadata)?;
            encode_register(
                &mut out,
                encoding,
                &RegisterFields { service_name, methods, version, metadata: json(&metadata) },
            )
        }
        Message::Call(Call { id, from, to, method, params, context }) => {
            let params = encoded_option(params.as_ref())?;
            let context = context.as_ref().map_or(ContextSource::Encoded(json(&[])), ContextSource::Owned);
            encode_call(&mut out, encoding, &CallFields { id, from, to, method, params: json(&params), context })
        }
        Message::Response(Response { id, from, to, outcome, context }) => {
            let result = encoded_option(outcome.as_ref().ok().and_then(Option::as_ref))?;
            let outcome = match outcome {
                Ok(_) => Outcome::Success(json(&result)),
                Err(error) => Outcome::Error(error),
            };
            let context = context.as_ref().map(ContextSource::Owned);
            encode_response(&mut out, encoding, &ResponseFields { id, from, to, outcome, context })
        }
    };
    written.map_err(|error| ErrorBody::new(ErrorCode::SerializationFailed, error.to_string()))?;
    Ok(out)
}

/// The message in a frame, which must be whole and end where the buffer ends. Types that v1 does not know are an error.
pub fn deserialize(frame: &[u8]) -> Result<Message, ErrorBody> {
    let invalid = |why: String| ErrorBody::new(ErrorCode::InvalidMessage, why);
    let Some((prefix, body)) = frame.split_first_chunk() else { return Err(invalid("half a frame".into())) };
    let announced = announced_bytes(*prefix);
    if announced != body.len() {
        return Err(invalid(format!("the prefix announces {announced} bytes, {} follow", body.len())));
    }
    let header = scan(body).map_err(|error| ErrorBody::new(error.code(), error.to_string()))?;
    let encoding = header.encoding;
    let payload = |span: &Option<Range<usize>>| Payload {
        encoding,
        bytes: span.clone().and_then(|span| body.get(span)).unwrap_or_default(),
    };
    let value = |span: &Option<Range<usize>>| {
        let payload = payload(span);
        let parsed = (!payload.bytes.is_empty()).then(|| decode::to_json(payload)).transpose();
        parsed.map_err(|error| ErrorBody::new(ErrorCode::DeserializationFailed, error.to_string()))
    };
    let context = || header.context.as_ref().map(|context| decode::context(body, context, encoding));
    match header.kind {
        Kind::RegisterAck => Ok(Message::RegisterAck),
        Kind::Register => Ok(Message::Register(Register {
            service_name: required(&header.service_name, "serviceName")?,
            methods: decode::methods(payload(&header.methods))?,
            version: optional(&header.version).unwrap_or_else(|| DEFAULT_VERSION.to_owned()),
            metadata: match value(&header.metadata)? {
                None | Some(Value::Null) => Map::new(),
                Some(Value::Object(metadata)) => metadata,
                Some(_) => return Err(invalid("metadata must be an object".into())),
            },
        })),
        Kind::Call => Ok(Message::Call(Call {
            id: required(&header.id, "id")?,
            from: required(&header.from, "from")?,
            to: required(&header.to, "to")?,
            method: required(&header.method, "method")?,
            params: value(&header.params)?,
            context: context().transpose()?,
        })),
        Kind::Response => Ok(Message::Response(Response {
            id: required(&header.id, "id")?,
            from: required(&header.from, "from")?,
            to: required(&header.to, "to")?,
            outcome: match header.status {
                Some(Status::Success) => Ok(value(&header.data)?),
                Some(Status::Error) => Err(decode::error_body(payload(&header.error))),
                None => return Err(invalid("status must be \"success\" or \"error\"".into())),
            },
            // Only an echo: a bad one is no reason to lose the answer.
            context: context().and_then(Result::ok),
        })),
        Kind::Heartbeat => Ok(Message::Heartbeat(Heartbeat {
            from: required(&header.from, "from")?,
            timestamp_ms: timestamp(&header)?,
        })),
        Kind::Error => Ok(Message::Error(ErrorNotice {
            id: optional(&header.id),
            error: decode::error_body(payload(&header.error)),
            timestamp_ms: timestamp(&header)?,
        })),
        Kind::Unknown => Err(invalid("unknown message type".into())),
    }
}

/// The body length that a buffer's first four bytes announce; `None` when there are fewer.
pub fn read_message_length(buffer: &[u8]) -> Option<usize> {
    buffer.first_chunk().map(|prefix| announced_bytes(*prefix))
}

/// Whether a buffer holds at least one whole frame.
pub fn has_complete_message(buffer: &[u8]) -> bool {
    read_message_length(buffer).is_some_and(|bytes| buffer.len() - FRAME_PREFIX_BYTES >= bytes)
}

/// Cuts a buffer into its frames, none of them with a body of more than `body_bytes_max`.
pub fn split_messages(buffer: &[u8], body_bytes_max: usize) -> Result<Split<'_>, FrameError> {
    let mut split = Split { frames: Vec::new(), rest: buffer };
    while let Some(announced) = read_message_length(split.rest) {
        if announced > body_bytes_max {
            return Err(FrameError::TooLarge { announced, limit: body_bytes_max });
        }
        let Some((frame, rest)) = split.rest.split_at_checked(FRAME_PREFIX_BYTES + announced) else { break };
        split.frames.push(frame);
        split.rest = rest;
    }
    Ok(split)
}

/// A CALL with a fresh id.
pub fn create_call_message(
    from: &str,
    to: &str,
    method: &str,
    params: Option<Value>,
    context: CallContext,
    now: Now,
    rng: &mut Rng,
) -> Message {
    Message::Call(Call {
        id: generate_id("req", now.wall_ms, rng),
        from: from.to_owned(),
        to: to.to_owned(),
        method: method.to_owned(),
        params,
        context: Some(context),
    })
}

/// The answer to a call that went well.
pub fn create_success_response(call: &Call, result: Option<Value>) -> Message {
    Message::Response(respond(call, Ok(result)))
}

/// The answer to a call that failed.
pub fn create_error_response(call: &Call, error: ErrorBody) -> Message {
    Message::Response(respond(call, Err(error)))
}

/// Checks what types cannot say: lengths of names and ids, and the context.
pub fn validate_message(message: &Message) -> Result<(), ErrorBody> {
    match message {
        Message::RegisterAck => Ok(()),
        Message::Heartbeat(heartbeat) => checked("from", check_service_name(&heartbeat.from)),
        Message::Error(notice) => notice.id.as_deref().map_or(Ok(()), check_id),
        Message::Register(register) => {
            checked("serviceName", check_service_name(&register.service_name))?;
            if register.methods.len() > METHODS_MAX {
                let why = format!("{} methods, at most {METHODS_MAX} are accepted", register.methods.len());
                return Err(ErrorBody::new(ErrorCode::InvalidMessage, why));
            }
            register.methods.iter().try_for_each(|name| checked("methods", check_method_name(name)))
        }
        Message::Call(call) => {
            check_id(&call.id)?;
            checked("from", check_service_name(&call.from))?;
            checked("to", check_service_name(&call.to))?;
            checked("method", check_method_name(&call.method))?;
            call.context.as_ref().map_or(Ok(()), CallContext::validate)
        }
        Message::Response(response) => {
            check_id(&response.id)?;
            checked("from", check_service_name(&response.from))?;
            checked("to", check_service_name(&response.to))?;
            response.context.as_ref().map_or(Ok(()), CallContext::validate)
        }
    }
}

/// One line for a log. Payloads are cut to what a line can show.
pub fn format_message_for_log(message: &Message) -> String {
    match message {
        Message::RegisterAck => "REGISTER_ACK".to_owned(),
        Message::Heartbeat(heartbeat) => format!("HEARTBEAT {} at {}", heartbeat.from, heartbeat.timestamp_ms),
        Message::Register(register) => {
            format!("REGISTER {} {} [{}]", register.service_name, register.version, register.methods.join(", "))
        }
        Message::Call(Call { id, from, to, method, params, context }) => {
            let mut line = format!("CALL {id} {from} → {to}.{method}({})", shortened(params.as_ref()));
            if let Some(context) = context {
                write!(line, " [{}]", format_context(context)).expect("writing to a string");
            }
            line
        }
        Message::Response(Response { id, from, to, outcome, .. }) => match outcome {
            Ok(result) => format!("RESPONSE {id} {from} → {to} success {}", shortened(result.as_ref())),
            Err(error) => format!("RESPONSE {id} {from} → {to} error {}", coded(error)),
        },
        Message::Error(ErrorNotice { id, error, .. }) => match id {
            Some(id) => format!("ERROR {id} {}", coded(error)),
            None => format!("ERROR {}", coded(error)),
        },
    }
}

/// The call chain on one line: `order → user → role (depth 3, root-…)`.
pub fn format_context(context: &CallContext) -> String {
    format!("{} (depth {}, {})", context.chain.join(" → "), context.depth, context.root)
}

fn json(bytes: &[u8]) -> Payload<'_> {
    Payload { encoding: Encoding::Json, bytes }
}

fn encoded<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, ErrorBody> {
    serde_json::to_vec(value).map_err(|error| ErrorBody::new(ErrorCode::SerializationFailed, error.to_string()))
}

fn encoded_option(value: Option<&Value>) -> Result<Vec<u8>, ErrorBody> {
    value.map_or(Ok(Vec::new()), encoded)
}

fn optional(text: &Option<Text<'_>>) -> Option<String> {
    text.as_ref().map(|text| text.value.clone().into_owned())
}

fn required(text: &Option<Text<'_>>, field: &str) -> Result<String, ErrorBody> {
    optional(text).ok_or_else(|| ErrorBody::new(ErrorCode::InvalidMessage, format!("{field} must be a string")))
}

fn timestamp(header: &Header<'_>) -> Result<u64, ErrorBody> {
    header.timestamp_ms.ok_or_else(|| ErrorBody::new(ErrorCode::InvalidMessage, "timestamp must be a number"))
}

fn respond(call: &Call, outcome: Result<Option<Value>, ErrorBody>) -> Response {
    Response {
        id: call.id.clone(),
        from: call.to.clone(),
        to: call.from.clone(),
        outcome,
        context: call.context.clone(),
    }
}

fn check_id(id: &str) -> Result<(), ErrorBody> {
    if (1..=CALL_ID_BYTES_MAX).contains(&id.len()) {
        return Ok(());
    }
    let why = format!("id must have 1 to {CALL_ID_BYTES_MAX} bytes, not {}", id.len());
    Err(ErrorBody::new(ErrorCode::InvalidMessage, why))
}

fn checked(field: &str, name: Result<(), NameError>) -> Result<(), ErrorBody> {
    name.map_err(|error| ErrorBody::new(ErrorCode::InvalidMessage, format!("{field}: {error}")))
}

fn shortened(payload: Option<&Value>) -> String {
    let mut text = payload.map(Value::to_string).unwrap_or_default();
    if text.len() > LOG_PAYLOAD_BYTES_MAX {
        text.truncate(text.floor_char_boundary(LOG_PAYLOAD_BYTES_MAX));
        text.push('…');
    }
    text
}

fn coded(error: &ErrorBody) -> String {
    match &error.code {
        Some(code) => format!("{code}: {}", error.message),
        None => error.message.clone(),
    }
}
