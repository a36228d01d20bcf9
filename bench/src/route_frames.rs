//! The frames of [`crate::routes`]: one call and its answer, written anew for every pair of services.

use crate::v1::{self, METHOD, Shape};
use crate::v2::{self, ID_BYTES, ROUTE};
use anyhow::Result;
use bro_proto::CallContext;
use bro_proto::v1::encode::{
    CallFields, ContextSource, Outcome, RegisterFields, ResponseFields, encode_call, encode_register, encode_response,
};
use bro_proto::v1::rewrite::TranscodeError;
use bro_proto::v1::{Encoding, Payload};
use bro_proto::v2::encode::resolve;
use bro_proto::v2::{CALL_HEAD_BYTES, CallNumber};
use memchr::memmem::find_iter;

/// Of every call and every answer.
pub(crate) const FRAME_BYTES: usize = 454;

/// What peers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    V1(Encoding),
    V2,
}

impl Dialect {
    /// With which the service of this number registers.
    pub(crate) fn register(self, number: usize) -> Result<Vec<u8>> {
        let (encoding, metadata) = match self {
            Dialect::V1(encoding) => (encoding, &b""[..]),
            Dialect::V2 => (Encoding::Json, v2::METADATA),
        };
        let mut frame = Vec::new();
        let methods = [METHOD.into()];
        let metadata = Payload { encoding: Encoding::Json, bytes: metadata };
        let service_name = &name(&format!("{number:05}"));
        encode_register(
            &mut frame,
            encoding,
            &RegisterFields { service_name, methods: &methods, version: "1.0.0", metadata },
        )?;
        Ok(frame)
    }

    /// With which a caller binds its route to the service that it calls.
    pub(crate) fn resolve(self, callee: usize) -> Option<Vec<u8>> {
        let Dialect::V2 = self else { return None };
        let mut frame = Vec::new();
        resolve(&mut frame, ROUTE, &name(&format!("{callee:05}")));
        Some(frame)
    }
}

/// A call and its answer.
pub(crate) enum Frames {
    /// The gateway leaves the bytes as they are.
    V1 { call: Digits, answer: Digits },
    /// The gateway writes into the head of both.
    V2 { call: Vec<u8>, head: Vec<u8>, answer: Vec<u8> },
}

impl Frames {
    /// Of calls that must be answered by `deadline_ms`.
    pub(crate) fn new(dialect: Dialect, deadline_ms: u64) -> Result<Frames> {
        let exact = |make: fn(&[u8]) -> Vec<u8>| {
            v1::exact(Encoding::Json, Shape::Order, FRAME_BYTES, |payload| Ok(make(payload.bytes)))
        };
        Ok(match dialect {
            Dialect::V1(encoding) => Frames::V1 {
                call: Digits::call(encoding, deadline_ms)?,
                answer: Digits::answer(encoding, deadline_ms)?,
            },
            Dialect::V2 => {
                let call = exact(v2::call_frame)?;
                Frames::V2 { head: call[..CALL_HEAD_BYTES].to_vec(), call, answer: exact(v2::answer_frame)? }
            }
        })
    }

    /// Before a call of this number from one service to another one.
    pub(crate) fn write(&mut self, number: usize, caller: usize, callee: usize) {
        match self {
            Frames::V1 { call, answer } => {
                call.write(number, caller, callee);
                answer.write(number, caller, callee);
            }
            Frames::V2 { call, head, .. } => {
                let number = u32::try_from(number).expect("a small number");
                let id = CallNumber { slot: 0, generation: number + 1 }.to_wire();
                head[ID_BYTES].copy_from_slice(&id.to_le_bytes());
                call[..CALL_HEAD_BYTES].copy_from_slice(head);
            }
        }
    }

    /// As the caller sends it.
    pub(crate) fn call(&mut self) -> &mut [u8] {
        match self {
            Frames::V1 { call, .. } => &mut call.bytes,
            Frames::V2 { call, .. } => call,
        }
    }

    /// The answer to the call as the callee got it.
    pub(crate) fn answer(&mut self) -> &mut [u8] {
        match self {
            Frames::V1 { answer, .. } => &mut answer.bytes,
            Frames::V2 { call, answer, .. } => {
                answer[ID_BYTES].copy_from_slice(&call[ID_BYTES]);
                answer
            }
        }
    }
}

/// A frame of version 1 with five digits in it for the caller, the callee and the call.
pub(crate) struct Digits {
    bytes: Vec<u8>,
    caller_at: Vec<usize>,
    callee_at: Vec<usize>,
    number_at: Vec<usize>,
}

const CALLER: &str = "11111";
const CALLEE: &str = "22222";
const NUMBER: &str = "33333";

impl Digits {
    fn call(encoding: Encoding, deadline_ms: u64) -> Result<Digits> {
        Digits::new(encoding, deadline_ms, |out, payload, context| {
            let (id, from, to) = (id(), name(CALLER), name(CALLEE));
            let context = ContextSource::Owned(context);
            encode_call(
                out,
                encoding,
                &CallFields { id: &id, from: &from, to: &to, method: METHOD, params: payload, context },
            )
        })
    }

    fn answer(encoding: Encoding, deadline_ms: u64) -> Result<Digits> {
        Digits::new(encoding, deadline_ms, |out, payload, context| {
            let (id, from, to) = (id(), name(CALLEE), name(CALLER));
            let (outcome, context) = (Outcome::Success(payload), Some(ContextSource::Owned(context)));
            encode_response(out, encoding, &ResponseFields { id: &id, from: &from, to: &to, outcome, context })
        })
    }

    fn new(
        encoding: Encoding,
        deadline_ms: u64,
        write: impl Fn(&mut Vec<u8>, Payload<'_>, &CallContext) -> Result<(), TranscodeError>,
    ) -> Result<Digits> {
        let context = CallContext {
            root: "root-1699005123456-k3v9x2".to_owned(),
            chain: vec![name(CALLER), name(CALLEE)],
            depth: 2,
            deadline_ms,
        };
        let bytes = v1::exact(encoding, Shape::Order, FRAME_BYTES, |payload| {
            let mut bytes = Vec::new();
            write(&mut bytes, payload, &context)?;
            Ok(bytes)
        })?;
        let places = |text: &str| find_iter(&bytes, text).collect();
        Ok(Digits { caller_at: places(CALLER), callee_at: places(CALLEE), number_at: places(NUMBER), bytes })
    }

    fn write(&mut self, number: usize, caller: usize, callee: usize) {
        for (places, number) in [(&self.number_at, number), (&self.caller_at, caller), (&self.callee_at, callee)] {
            let digits = digits(number);
            for &at in places {
                self.bytes[at..at + digits.len()].copy_from_slice(&digits);
            }
        }
    }
}

fn id() -> String {
    format!("req-1699005123456-{NUMBER}")
}

fn name(number: &str) -> String {
    format!("service-{number}")
}

fn digits(mut number: usize) -> [u8; 5] {
    let mut digits = [b'0'; 5];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).expect("a digit");
        number /= 10;
    }
    digits
}
