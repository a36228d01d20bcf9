//! What one wakeup brings, in the form that is cheapest to hand to JavaScript: one string, one array of numbers, one call.
//!
//! Usual values of JSON travel on the tape. All others are elements of the string, a JSON array, so that one `JSON.parse` makes all
//! of them: every record takes as many as its kind says. Values that would make the string long, and msgpack, travel beside it.
//! `../src/native.ts` is the other end.

use crate::node::{Env, Value};
use crate::shapes::{CONTEXT_START, START, Shapes};
use crate::tape::Tape;
use crate::unfold::{Unfolded, unfold};
use bro_proto::v1::{Encoding, ScanError, check_value};
use bro_session::OwnedPayload;
use bytes::Bytes;

/// Numbers in a record: kind with flags, three that depend on the kind, offset and length of a msgpack value, the caller of a request.
pub(crate) const RECORD_INTS: usize = 7;
/// Records in the first batch of a turn; what comes then makes others, each twice as large up to [`RECORDS_MAX`]. After each batch
/// what JavaScript has queued is written: the first has so few that the other side can work on the first answers while later ones are
/// being made, the last so many that calls of JavaScript and of the kernel do not count.
const RECORDS_FIRST: usize = 32;
/// Records in one batch.
const RECORDS_MAX: usize = 128;
/// Room for records: the last request may have its caller in front.
pub(crate) const RECORDS_ROOM: usize = RECORDS_MAX + 1;
/// Text above which another batch is begun, in bytes.
const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Large values in one batch.
const LARGE_LEN_MAX: usize = 16;
/// Values above this are handed over as strings or buffers of their own, in bytes.
pub(crate) const LARGE_BYTES: usize = 64 * 1024;

/// What a record says. JavaScript knows the same numbers.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(crate) enum Record {
    /// slot, generation. Elements: the request id if wanted, the result.
    Result = 1,
    /// slot, generation. Elements: the request id if wanted, the error.
    Failure = 2,
    /// slot, generation, handler, and at the end the caller. Elements: the context, the request id if wanted, the parameters.
    Request = 3,
    /// slot, generation. Elements: the reason.
    Expired = 4,
    /// Elements: the event.
    Event = 5,
    /// number. Elements: the name of the caller that has this number from now on.
    Caller = 6,
}

/// The value is `undefined`, there is no element for it.
const ABSENT: i32 = 1 << 8;
/// The value is JSON text beside the string.
const LARGE_JSON: i32 = 1 << 9;
/// The value is a string, beside the string, and needs no parsing.
const LARGE_TEXT: i32 = 1 << 10;
/// The value is msgpack, at offset and length of the batch's bytes.
const MSGPACK: i32 = 1 << 11;
/// The value is msgpack in a buffer of its own.
const LARGE_MSGPACK: i32 = 1 << 12;
/// Binary values may be written as JSON objects somewhere in the value.
const BINARY: i32 = 1 << 13;
/// The value is on the tape.
const TAPE: i32 = 1 << 14;
/// The request's context is on the tape.
const TAPE_CONTEXT: i32 = 1 << 15;
/// Nobody waits for the answer to the request.
const NOTIFICATION: i32 = 1 << 16;

/// After a value that was not for the tape, so many others are not tried, at most: twice as many each time, until one was.
const UNTRIED_MAX: u32 = 63;

/// What the JSON form of binary values contains, in any layout that `JSON.stringify` and the gateway write.
const BINARY_MARK: &[u8] = br#""type":"Buffer""#;

#[derive(Default)]
pub(crate) struct Batch {
    records: Vec<[i32; RECORD_INTS]>,
    records_max: usize,
    text: Vec<u8>,
    bytes: Vec<u8>,
    large: Vec<Large>,
    pub(crate) tape: Tape,
    untried: u32,
    untried_next: u32,
}

/// How long a batch was.
pub(crate) struct Mark {
    records: usize,
    text: usize,
    tape: crate::tape::Mark,
}

enum Large {
    Text(Bytes),
    Bytes(Bytes),
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Begins a turn.
    pub(crate) fn begin_turn(&mut self) {
        self.records_max = RECORDS_FIRST;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.records.len() >= self.records_max
            || self.text.len() + self.bytes.len() > TEXT_BYTES_MAX
            || self.large.len() >= LARGE_LEN_MAX
            || self.tape.is_nearly_full()
    }

    /// Begins a record; its elements follow.
    pub(crate) fn record(&mut self, kind: Record, numbers: [i32; 3]) {
        let [a, b, c] = numbers;
        self.records.push([kind as i32, a, b, c, 0, 0, 0]);
    }

    /// The number of the caller of the present record, a request.
    pub(crate) fn caller(&mut self, number: i32) {
        self.records.last_mut().expect("a record was begun")[6] = number;
    }

    /// An element of JSON that `write` appends.
    pub(crate) fn element(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.text.push(if self.text.is_empty() { b'[' } else { b',' });
        write(&mut self.text);
    }

    /// The present record has no value.
    pub(crate) fn no_value(&mut self) {
        self.records.last_mut().expect("a record was begun")[0] |= ABSENT;
    }

    /// The present record, a request, wants no answer.
    pub(crate) fn mark_notification(&mut self) {
        self.records.last_mut().expect("a record was begun")[0] |= NOTIFICATION;
    }

    /// The context of the present record, as JSON.
    pub(crate) fn context(&mut self, json: &[u8], shapes: &mut Shapes) {
        if shapes.are_used && unfold(json, CONTEXT_START, shapes, &mut self.tape) == Unfolded::Done {
            self.records.last_mut().expect("a record was begun")[0] |= TAPE_CONTEXT;
        } else {
            self.element(|text| text.extend_from_slice(json));
        }
    }

    /// The context of the present record, where JavaScript compiles shapes and there is one for contexts: the tape and the number of that.
    pub(crate) fn context_on_tape(&mut self, shapes: &mut Shapes) -> Option<(&mut Tape, i32)> {
        if !shapes.are_used {
            return None;
        }
        let shape = shapes.context()?;
        self.records.last_mut().expect("a record was begun")[0] |= TAPE_CONTEXT;
        Some((&mut self.tape, shape))
    }

    /// The value of the present record. The session has not looked at it. After an error, which says that it is no value, the record is to
    /// be taken back.
    pub(crate) fn value(&mut self, payload: &OwnedPayload, shapes: &mut Shapes) -> Result<(), ScanError> {
        let bytes = &payload.bytes;
        let is_large = bytes.len() > LARGE_BYTES;
        let is_on_tape =
            payload.encoding == Encoding::Json && !bytes.is_empty() && !is_large && self.unfold(bytes, shapes);
        if !is_on_tape && !bytes.is_empty() {
            // What was unfolded is a value. Others are parsed together: one that is none would be the end of all.
            check_value(payload.as_payload())?;
        }
        let flags = match payload.encoding {
            _ if bytes.is_empty() => ABSENT,
            _ if is_on_tape => TAPE,
            Encoding::Json if is_large => {
                let (large, flags) = large_json(bytes);
                self.large.push(Large::Text(large));
                flags
            }
            Encoding::Json => {
                self.element(|text| text.extend_from_slice(bytes));
                binary_flag(bytes)
            }
            Encoding::Msgpack if is_large => {
                self.large.push(Large::Bytes(bytes.clone()));
                LARGE_MSGPACK
            }
            Encoding::Msgpack => {
                let offset = self.bytes.len();
                self.bytes.extend_from_slice(bytes);
                let record = self.records.last_mut().expect("a record was begun");
                record[4] = i32::try_from(offset).expect("a batch is small");
                record[5] = i32::try_from(bytes.len()).expect("a small value");
                MSGPACK
            }
        };
        self.records.last_mut().expect("a record was begun")[0] |= flags;
        Ok(())
    }

    /// Where the next record begins.
    pub(crate) fn mark(&self) -> Mark {
        Mark { records: self.records.len(), text: self.text.len(), tape: self.tape.mark() }
    }

    /// Takes back a record whose value was none.
    pub(crate) fn reset(&mut self, mark: Mark) {
        self.records.truncate(mark.records);
        self.text.truncate(mark.text);
        self.tape.reset(mark.tape);
    }

    /// Puts a value onto the tape, if it is for that.
    fn unfold(&mut self, json: &[u8], shapes: &mut Shapes) -> bool {
        if !shapes.are_used || self.untried > 0 {
            self.untried = self.untried.saturating_sub(1);
            return false;
        }
        match unfold(json, START, shapes, &mut self.tape) {
            Unfolded::Done => {
                self.untried_next = 0;
                true
            }
            Unfolded::Unknown => false,
            Unfolded::Unusual => {
                self.untried_next = (2 * self.untried_next + 1).min(UNTRIED_MAX);
                self.untried = self.untried_next;
                false
            }
        }
    }

    pub(crate) fn records(&self) -> &[[i32; RECORD_INTS]] {
        &self.records
    }

    /// The arguments of JavaScript's `dispatch`: how many records, the text, the bytes, the large values, the strings of the tape, and the
    /// shapes that are new.
    pub(crate) fn arguments(&mut self, env: Env, definitions: Option<Vec<u8>>) -> Option<[Value; 6]> {
        let count = env.int(i32::try_from(self.records.len()).ok()?)?;
        let text = if self.text.is_empty() {
            env.undefined()
        } else {
            self.text.push(b']');
            env.string(&self.text)?
        };
        let bytes = if self.bytes.is_empty() { env.undefined() } else { env.buffer(&self.bytes)? };
        let large = if self.large.is_empty() {
            env.undefined()
        } else {
            let values: Option<Vec<Value>> = self.large.iter().map(|large| large.to_value(env)).collect();
            env.array(&values?)?
        };
        let definitions = match definitions {
            Some(json) => env.string(&json)?,
            None => env.undefined(),
        };
        Some([count, text, bytes, large, self.tape.pieces(env)?, definitions])
    }

    /// Forgets what was delivered, and memory beyond the usual. The next one may be larger.
    pub(crate) fn clear(&mut self) {
        self.records_max = (2 * self.records_max).min(RECORDS_MAX);
        self.records.clear();
        self.text.clear();
        self.text.shrink_to(TEXT_BYTES_MAX / 8);
        self.bytes.clear();
        self.bytes.shrink_to(TEXT_BYTES_MAX / 8);
        self.large.clear();
        self.tape.clear(TEXT_BYTES_MAX / 8);
    }
}

impl Large {
    fn to_value(&self, env: Env) -> Option<Value> {
        match self {
            Large::Text(text) => env.string(text),
            Large::Bytes(bytes) => env.buffer(bytes),
        }
    }
}

/// A long JSON value: a string without escapes, the usual long value, is freed of its quotes and needs no parsing.
fn large_json(json: &Bytes) -> (Bytes, i32) {
    if json.first() == Some(&b'"') && json.len() >= 2 {
        let inner = 1..json.len() - 1;
        if memchr::memchr(b'\\', &json[inner.clone()]).is_none() && json.last() == Some(&b'"') {
            return (json.slice(inner), LARGE_TEXT);
        }
    }
    (json.clone(), LARGE_JSON | binary_flag(json))
}

fn binary_flag(json: &[u8]) -> i32 {
    if holds_binary_mark(json) { BINARY } else { 0 }
}

/// Whether there may be a binary value somewhere.
pub(crate) fn holds_binary_mark(json: &[u8]) -> bool {
    memchr::memmem::find(json, BINARY_MARK).is_some()
}
