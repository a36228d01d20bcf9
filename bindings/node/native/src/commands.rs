//! What JavaScript has queued: calls, notifications, answers, cancellations, in the order in which they were made.
//!
//! They come in one crossing: numbers in an `Int32Array`, texts one behind the other in one string, values that were taken apart
//! as tapes, msgpack in one array of bytes, long values apart.

use crate::calls::Promise;
use crate::client::State;
use crate::fold::Folder;
use crate::node::{Env, Value};
use crate::quote::{append_quoted_ascii, append_quoted_units};
use crate::shapes::Shapes;
use bro_proto::context::CallContext;
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::time::Now;
use bro_proto::v1::encode::Outcome;
use bro_proto::v1::{Encoding, Payload};
use bro_session::{CallRequest, RequestId};
use serde::Deserialize;
use std::ops::Range;

/// Numbers of one command: kind with flags, length of the value, slot, generation, and for calls and notifications route, timeout, slot and
/// generation of the request it is made for, length of the context's text, length of the route's text, and how long it waits for its service.
const COMMAND_INTS: usize = 11;

const CALL: i32 = 1;
const RESULT: i32 = 2;
const FAILURE: i32 = 3;
const CANCEL: i32 = 4;
const NOTIFY: i32 = 5;
const KIND_MASK: i32 = 0xff;

/// The value is the next of the long ones: JSON text or a `Uint8Array` of msgpack.
const LARGE: i32 = 1 << 9;
/// The long value is a string to be quoted, not JSON text.
const PLAIN: i32 = 1 << 10;
/// The value is msgpack.
const MSGPACK: i32 = 1 << 11;
/// The value is on the tape; its length is that of the tape, its strings are next in the text.
const TAPE: i32 = 1 << 14;

/// What `submit` was given.
#[derive(Clone, Copy)]
pub(crate) struct Submitted {
    pub(crate) count: usize,
    pub(crate) commands: Value,
    pub(crate) text: Value,
    pub(crate) bytes: Value,
    pub(crate) bytes_len: usize,
    pub(crate) large: Value,
    pub(crate) tape: Value,
    pub(crate) tape_len: usize,
    pub(crate) doubles: Value,
    pub(crate) doubles_len: usize,
}

/// Everything of one submission, copied out of V8.
#[derive(Default)]
pub(crate) struct Commands {
    ints: Vec<i32>,
    text: Text,
    bytes: Vec<u8>,
    bytes_at: usize,
    large_at: u32,
    tape: Vec<i32>,
    tape_at: usize,
    doubles: Vec<f64>,
    doubles_at: usize,
    /// A long value, or one that was on the tape.
    made: Vec<u8>,
}

/// The texts, one behind the other. Lengths are in UTF-16 units.
#[derive(Default)]
pub(crate) struct Text {
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
    pub(crate) fn submit(
        &mut self,
        env: Env,
        submitted: Submitted,
        commands: &mut Commands,
        shapes: &Shapes,
        now: Now,
    ) -> Option<()> {
        commands.read(env, submitted)?;
        let ints = std::mem::take(&mut commands.ints);
        for command in ints.chunks_exact(COMMAND_INTS) {
            self.absorb();
            self.run(env, submitted, commands, command, shapes, now)?;
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
        shapes: &Shapes,
        now: Now,
    ) -> Option<()> {
        let (kind, slot, generation) = (command[0] & KIND_MASK, command[2], command[3]);
        match kind {
            CALL | NOTIFY => {
                let parts =
                    CallParts { route: commands.text.take(command[9])?, context: commands.text.take(command[8])? };
                let value = commands.value(env, submitted, command, shapes)?;
                let promise = Promise { slot, generation };
                match self.call(promise, &parts, commands, command, &value, now) {
                    Ok(()) if kind == CALL => {}
                    outcome => self.calls.settle(promise, outcome),
                }
            }
            RESULT => {
                let value = commands.value(env, submitted, command, shapes)?;
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

    /// Makes a call, or sends a notification.
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
        let made_for = (explicit.is_none() && command[6] >= 0).then(|| request_id(command[6], command[7]));
        // JavaScript names only requests that it has not answered: it is not told yet that this one was given up.
        if made_for.is_some_and(|id| !self.session.is_in_work(id)) {
            return Err(ErrorBody::new(ErrorCode::Cancelled, "nobody waits for the request any more"));
        }
        let request = CallRequest {
            to,
            method,
            params: commands.payload(value),
            request: made_for,
            parent: explicit.as_ref(),
            context: None,
            timeout_ms: u64::try_from(command[5]).ok(),
            wait_ms: u64::try_from(command[10]).ok(),
        };
        if command[0] & KIND_MASK == NOTIFY {
            return self.session.notify(request, now);
        }
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
    Made(Encoding),
}

impl Commands {
    fn read(&mut self, env: Env, submitted: Submitted) -> Option<()> {
        self.ints.clear();
        self.bytes.clear();
        self.tape.clear();
        self.doubles.clear();
        (self.bytes_at, self.large_at, self.tape_at, self.doubles_at) = (0, 0, 0, 0);
        env.ints(submitted.commands, submitted.count * COMMAND_INTS, &mut self.ints)?;
        self.text.read(env, submitted.text)?;
        if submitted.bytes_len > 0 {
            env.bytes(submitted.bytes, submitted.bytes_len, &mut self.bytes)?;
        }
        if submitted.tape_len > 0 {
            env.ints(submitted.tape, submitted.tape_len, &mut self.tape)?;
        }
        if submitted.doubles_len > 0 {
            env.doubles(submitted.doubles, submitted.doubles_len, &mut self.doubles)?;
        }
        Some(())
    }

    fn value(&mut self, env: Env, submitted: Submitted, command: &[i32], shapes: &Shapes) -> Option<LocatedValue> {
        let flags = command[0];
        if flags & TAPE != 0 {
            let start = self.tape_at;
            self.tape_at += usize::try_from(command[1]).ok()?;
            let (ints, doubles) = (self.tape.get(start..self.tape_at)?, self.doubles.get(self.doubles_at..)?);
            self.made.clear();
            let mut folder = Folder { ints, doubles, text: &mut self.text, shapes };
            folder.value(&mut self.made, 0)?;
            self.doubles_at += doubles.len() - folder.doubles.len();
            return Some(LocatedValue::Made(Encoding::Json));
        }
        if flags & LARGE != 0 {
            let value = env.element(submitted.large, self.large_at)?;
            self.large_at += 1;
            self.made.clear();
            if flags & MSGPACK != 0 {
                env.bytes(value, usize::MAX, &mut self.made)?;
                return Some(LocatedValue::Made(Encoding::Msgpack));
            }
            if flags & PLAIN != 0 {
                crate::quote::append_quoted(env, value, &mut self.made)?;
            } else {
                env.append_utf8(value, &mut self.made)?;
            }
            return Some(LocatedValue::Made(Encoding::Json));
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
            LocatedValue::Made(encoding) => Payload { encoding: *encoding, bytes: &self.made },
        }
    }

    /// Gives back memory beyond the usual.
    pub(crate) fn trim(&mut self, bytes_max: usize) {
        self.text.utf8.clear();
        self.text.utf8.shrink_to(bytes_max);
        self.text.utf16 = Vec::new();
        self.bytes.clear();
        self.bytes.shrink_to(bytes_max);
        self.tape.clear();
        self.tape.shrink_to(bytes_max / 4);
        self.doubles.clear();
        self.doubles.shrink_to(bytes_max / 8);
        self.made.clear();
        self.made.shrink_to(bytes_max);
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

    /// Appends the next text in quotes.
    pub(crate) fn take_quoted(&mut self, units: i32, out: &mut Vec<u8>) -> Option<()> {
        let start = self.at;
        self.at += usize::try_from(units).ok()?;
        if self.utf16.is_empty() {
            append_quoted_ascii(self.utf8.get(start..self.at)?, out);
        } else {
            append_quoted_units(self.utf16.get(start..self.at)?, out);
        }
        Some(())
    }
}
