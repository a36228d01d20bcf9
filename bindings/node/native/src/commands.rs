//! What JavaScript has queued: calls, answers, cancellations, in the order in which they were made.
//!
//! They come in one crossing: numbers in an `Int32Array`, texts one behind the other in one string, msgpack in one array of bytes,
//! long values apart.

use crate::calls::Promise;
use crate::client::State;
use crate::node::{Env, Value};
use bro_proto::context::CallContext;
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::time::Now;
use bro_proto::v1::encode::Outcome;
use bro_proto::v1::{Encoding, Payload};
use bro_session::{CallRequest, RequestId};
use serde::Deserialize;
use std::ops::Range;

/// Numbers of one command: kind with flags, length of the value, slot, generation, and for calls route, timeout, slot and
/// generation of the request it is made for, length of the context's text, length of the route's text.
const COMMAND_INTS: usize = 10;

const CALL: i32 = 1;
const RESULT: i32 = 2;
const FAILURE: i32 = 3;
const CANCEL: i32 = 4;
const KIND_MASK: i32 = 0xff;

/// The value is the next of the long ones: JSON text or a `Uint8Array` of msgpack.
const LARGE: i32 = 1 << 9;
/// The long value is a string to be quoted, not JSON text.
const PLAIN: i32 = 1 << 10;
/// The value is msgpack.
const MSGPACK: i32 = 1 << 11;

/// What `submit` was given.
#[derive(Clone, Copy)]
pub(crate) struct Submitted {
    pub(crate) count: usize,
    pub(crate) commands: Value,
    pub(crate) text: Value,
    pub(crate) bytes: Value,
    pub(crate) bytes_len: usize,
    pub(crate) large: Value,
}

/// Everything of one submission, copied out of V8.
#[derive(Default)]
pub(crate) struct Commands {
    ints: Vec<i32>,
    text: Text,
    bytes: Vec<u8>,
    bytes_at: usize,
    large_at: u32,
    long_value: Vec<u8>,
}

/// The texts, one behind the other. Lengths are in UTF-16 units.
#[derive(Default)]
struct Text {
    utf8: Vec<u8>,
    at: usize,
    /// Only for text beyond ASCII, where units are not bytes.
    utf16: Vec<u16>,
}

/// Where a call's numbers say its parts are.
struct CallParts {
    route: Range<usize>,
    context: Range<usize>,
}

#[derive(Deserialize)]
struct FailureText {
    message: String,
    code: Option<String>,
    stack: Option<String>,
}

impl State {
    /// Carries out what was queued. `None` when V8 refuses a value: a defect of the JavaScript side.
    pub(crate) fn submit(&mut self, env: Env, submitted: Submitted, commands: &mut Commands, now: Now) -> Option<()> {
        commands.read(env, submitted)?;
        let ints = std::mem::take(&mut commands.ints);
        for command in ints.chunks_exact(COMMAND_INTS) {
            self.absorb();
            self.run(env, submitted, commands, command, now)?;
        }
        commands.ints = ints;
        Some(())
    }

    fn run(
        &mut self,
        env: Env,
        submitted: Submitted,
        commands: &mut Commands,
        command: &[i32],
        now: Now,
    ) -> Option<()> {
        let (kind, slot, generation) = (command[0] & KIND_MASK, command[2], command[3]);
        match kind {
            CALL => {
                let parts =
                    CallParts { route: commands.text.take(command[9])?, context: commands.text.take(command[8])? };
                let value = commands.value(env, submitted, command)?;
                let promise = Promise { slot, generation };
                if let Err(error) = self.call(promise, &parts, commands, command, &value, now) {
                    self.calls.refuse(promise, error);
                }
            }
            RESULT => {
                let value = commands.value(env, submitted, command)?;
                let id = request_id(slot, generation);
                self.session.respond(id, Outcome::Success(commands.payload(&value)), now);
            }
            FAILURE => {
                let text = commands.text.take(command[1])?;
                let error = match serde_json::from_slice::<FailureText>(&commands.text.utf8[text]) {
                    Ok(FailureText { message, code, stack }) => {
                        ErrorBody { message, code: code.as_deref().map(ErrorCode::from), stack }
                    }
                    Err(error) => ErrorBody::new(ErrorCode::InternalError, error.to_string()),
                };
                let id = request_id(slot, generation);
                self.session.respond(id, Outcome::Error(&error), now);
            }
            CANCEL => {
                if let Some(id) = self.calls.id(Promise { slot, generation }) {
                    self.session.cancel(id, now);
                }
            }
            _ => {}
        }
        Some(())
    }

    fn call(
        &mut self,
        promise: Promise,
        parts: &CallParts,
        commands: &Commands,
        command: &[i32],
        value: &LocatedValue,
        now: Now,
    ) -> Result<(), ErrorBody> {
        let invalid = |why: String| ErrorBody::new(ErrorCode::InvalidContext, why);
        let utf8 = &commands.text.utf8;
        let named: (String, String);
        let (to, method) = match usize::try_from(command[4]).ok().and_then(|route| self.routes.get(route)) {
            Some((to, method)) => (&**to, &**method),
            None => {
                named = serde_json::from_slice(&utf8[parts.route.clone()])
                    .map_err(|error| ErrorBody::new(ErrorCode::InvalidArgument, error.to_string()))?;
                (named.0.as_str(), named.1.as_str())
            }
        };
        let explicit: Option<CallContext> = if parts.context.is_empty() {
            None
        } else {
            let text = &utf8[parts.context.clone()];
            let context: CallContext =
                serde_json::from_slice(text).map_err(|error| invalid(format!("context: {error}")))?;
            context.validate()?;
            Some(context)
        };
        // An explicit context is no child of the request: that may have been answered, or be another client's.
        let made_for = explicit.is_none() && command[6] >= 0;
        let request = CallRequest {
            to,
            method,
            params: commands.payload(value),
            request: made_for.then(|| request_id(command[6], command[7])),
            parent: explicit.as_ref(),
            context: None,
            timeout_ms: u64::try_from(command[5]).ok(),
        };
        let id = self.session.call(request, now)?;
        self.calls.insert(promise, id);
        Ok(())
    }
}

fn request_id(slot: i32, generation: i32) -> RequestId {
    RequestId { slot: slot.cast_unsigned(), generation: generation.cast_unsigned() }
}

/// Where the value of a command is.
enum LocatedValue {
    Absent,
    Text(Range<usize>),
    Bytes(Range<usize>),
    Long(Encoding),
}

impl Commands {
    fn read(&mut self, env: Env, submitted: Submitted) -> Option<()> {
        self.ints.clear();
        self.bytes.clear();
        (self.bytes_at, self.large_at) = (0, 0);
        env.ints(submitted.commands, submitted.count * COMMAND_INTS, &mut self.ints)?;
        self.text.read(env, submitted.text)?;
        if submitted.bytes_len > 0 {
            env.bytes(submitted.bytes, submitted.bytes_len, &mut self.bytes)?;
        }
        Some(())
    }

    fn value(&mut self, env: Env, submitted: Submitted, command: &[i32]) -> Option<LocatedValue> {
        let flags = command[0];
        if flags & LARGE != 0 {
            let value = env.element(submitted.large, self.large_at)?;
            self.large_at += 1;
            self.long_value.clear();
            if flags & MSGPACK != 0 {
                env.bytes(value, usize::MAX, &mut self.long_value)?;
                return Some(LocatedValue::Long(Encoding::Msgpack));
            }
            if flags & PLAIN != 0 {
                crate::quote::append_quoted(env, value, &mut self.long_value)?;
            } else {
                env.append_utf8(value, &mut self.long_value)?;
            }
            return Some(LocatedValue::Long(Encoding::Json));
        }
        if command[1] == 0 {
            return Some(LocatedValue::Absent);
        }
        if flags & MSGPACK != 0 {
            let start = self.bytes_at;
            self.bytes_at += usize::try_from(command[1]).ok()?;
            return (self.bytes_at <= self.bytes.len()).then_some(LocatedValue::Bytes(start..self.bytes_at));
        }
        Some(LocatedValue::Text(self.text.take(command[1])?))
    }

    fn payload(&self, value: &LocatedValue) -> Payload<'_> {
        match value {
            LocatedValue::Absent => Payload { encoding: Encoding::Json, bytes: &[] },
            LocatedValue::Text(at) => Payload { encoding: Encoding::Json, bytes: &self.text.utf8[at.clone()] },
            LocatedValue::Bytes(at) => Payload { encoding: Encoding::Msgpack, bytes: &self.bytes[at.clone()] },
            LocatedValue::Long(encoding) => Payload { encoding: *encoding, bytes: &self.long_value },
        }
    }

    /// Gives back memory beyond the usual.
    pub(crate) fn trim(&mut self, bytes_max: usize) {
        self.text.utf8.clear();
        self.text.utf8.shrink_to(bytes_max);
        self.text.utf16 = Vec::new();
        self.bytes.clear();
        self.bytes.shrink_to(bytes_max);
        self.long_value.clear();
        self.long_value.shrink_to(bytes_max);
    }
}

impl Text {
    fn read(&mut self, env: Env, value: Value) -> Option<()> {
        self.utf8.clear();
        self.utf16.clear();
        self.at = 0;
        if !env.append_utf8(value, &mut self.utf8)? {
            self.utf8.clear();
            env.append_utf16(value, &mut self.utf16)?;
        }
        Some(())
    }

    /// The next text, `units` long, as a place in `utf8`.
    fn take(&mut self, units: i32) -> Option<Range<usize>> {
        let units = usize::try_from(units).ok()?;
        let start = self.at;
        self.at += units;
        if self.utf16.is_empty() {
            return (self.at <= self.utf8.len()).then_some(start..self.at);
        }
        let begin = self.utf8.len();
        let mut buffer = [0; 4];
        for decoded in char::decode_utf16(self.utf16.get(start..self.at)?.iter().copied()) {
            // `JSON.stringify` writes lone surrogates as escapes, so there are none here.
            let character = decoded.unwrap_or(char::REPLACEMENT_CHARACTER);
            self.utf8.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
        }
        Some(begin..self.utf8.len())
    }
}
