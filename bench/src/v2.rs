//! Frames of protocol version 2. Only the number of a call changes in them.

use crate::v1::{self, CALLEE, METHOD, Shape};
use crate::wire::{Wire, is_same};
use anyhow::{Result, ensure};
use bro_proto::frame::announced_bytes;
use bro_proto::limits::FRAME_PREFIX_BYTES;
use bro_proto::v1::Encoding;
use bro_proto::v2::encode::{CallHead, call_head, resolve, response_head};
use bro_proto::v2::{self, CallNumber, Codec, Frame, FrameKind};
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::net::UnixStream;

/// To whom registers with it the gateway speaks version 2.
pub(crate) const METADATA: &[u8] = br#"{"bro":{"v":2}}"#;
/// The one that a caller binds to the service that it calls.
pub(crate) const ROUTE: u32 = 0;
const TIMEOUT_MS: u32 = 30_000;
/// Places in the table that a caller pretends to have: as many calls as are under way at most.
const SLOTS: u64 = 512;
/// Where the number of a call stands in its frames.
pub(crate) const ID_BYTES: Range<usize> = 8..16;
const ORIGIN_BYTES: Range<usize> = 16..24;
const PEER_BYTES: Range<usize> = 32..36;
/// From here on a CALL is the same for the callee as it was for the caller.
const METHOD_BYTES_AT: usize = 40;

/// What calls and answers have that is to be compared with version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Same {
    /// The bytes of the whole frame.
    Frame,
    /// The payload: frames are shorter.
    Payload,
}

/// One connection that speaks version 2.
pub(crate) struct V2 {
    caller: u8,
    call: Vec<u8>,
    answer: Vec<u8>,
    /// Callers by their numbers, as the gateway tells them; `None` where there is no gateway.
    names: Option<Vec<u64>>,
}

impl V2 {
    /// As [`v1::V1::new`] in JSON, with the `same`.
    pub(crate) fn new(caller: u8, v1_frame_bytes: usize, shape: Shape, same: Same) -> Result<V2> {
        let (call, answer) = match same {
            Same::Frame => {
                let exact = |make: fn(&[u8]) -> Vec<u8>| {
                    v1::exact(Encoding::Json, shape, v1_frame_bytes, |payload| Ok(make(payload.bytes)))
                };
                (exact(call_frame)?, exact(answer_frame)?)
            }
            Same::Payload => {
                let [params, result] = v1::json_payloads(v1_frame_bytes, shape)?;
                (call_frame(&params), answer_frame(&result))
            }
        };
        Ok(V2 { caller, call, answer, names: None })
    }

    /// Whether the gateway told of a caller before this CALL came from it, and named the call as the caller did.
    fn is_introduced(&self, call: &[u8]) -> bool {
        let Some(names) = &self.names else { return true };
        let [origin, peer] = [&call[ORIGIN_BYTES], &call[PEER_BYTES]];
        origin != [0; 8] && names.iter().any(|known| known.to_le_bytes()[..4] == *peer)
    }
}

impl Wire for V2 {
    fn register(&mut self, stream: &mut UnixStream, name: &str) -> Result<()> {
        let ack = v1::register(stream, Encoding::Json, name, METADATA)?;
        let ack: serde_json::Value = serde_json::from_slice(&ack)?;
        ensure!(ack["bro"]["v"] == v2::VERSION, "the gateway does not speak version 2: {ack}");
        if name == CALLEE {
            self.names = Some(Vec::new());
        } else {
            let mut frame = Vec::new();
            resolve(&mut frame, ROUTE, CALLEE);
            stream.write_all(&frame)?;
        }
        Ok(())
    }

    fn frame_bytes(&self, bytes: &[u8]) -> Option<usize> {
        bytes.first_chunk().map(|prefix| FRAME_PREFIX_BYTES + announced_bytes(*prefix))
    }

    fn call(&mut self, number: u64) -> &[u8] {
        self.call[ID_BYTES].copy_from_slice(&id(self.caller, number).to_le_bytes());
        &self.call
    }

    fn answer(&mut self, call: &[u8]) -> Option<&[u8]> {
        if call.get(5) == Some(&(FrameKind::Name as u8)) {
            let Ok(Frame::Name { number, service, .. }) = v2::parse(call) else { return None };
            let is_caller = (0..10).any(|caller| v1::name_of(caller) == service);
            self.names.as_mut().filter(|_| is_caller)?.push(number);
            return Some(&[]);
        }
        let is_call = call.len() == self.call.len()
            && call[..ID_BYTES.start] == self.call[..ID_BYTES.start]
            && is_same(&self.call[METHOD_BYTES_AT..], &call[METHOD_BYTES_AT..]);
        if !is_call || !self.is_introduced(call) {
            return None;
        }
        self.answer[ID_BYTES].copy_from_slice(&call[ID_BYTES]);
        Some(&self.answer)
    }

    fn answered(&mut self, answer: &[u8]) -> Option<u64> {
        self.answer[ID_BYTES].copy_from_slice(answer.get(ID_BYTES)?);
        if !is_same(&self.answer, answer) {
            return None;
        }
        number_of(self.caller, u64::from_le_bytes(answer[ID_BYTES].try_into().ok()?))
    }
}

/// Places and generations as a client's table has them; callers have different ones.
fn id(caller: u8, number: u64) -> u64 {
    let slot = u64::from(caller) * SLOTS + number % SLOTS;
    let generation = 1 + number / SLOTS;
    let part = |part: u64| u32::try_from(part).expect("numbers are below 10^9");
    CallNumber { slot: part(slot), generation: part(generation) }.to_wire()
}

fn number_of(caller: u8, id: u64) -> Option<u64> {
    let CallNumber { slot, generation } = CallNumber::from_wire(id);
    let place = u64::from(slot).checked_sub(u64::from(caller) * SLOTS).filter(|place| *place < SLOTS)?;
    Some((u64::from(generation).checked_sub(1)?) * SLOTS + place)
}

/// A CALL of number 0 with these parameters, in JSON.
pub(crate) fn call_frame(params: &[u8]) -> Vec<u8> {
    let head = CallHead {
        kind: FrameKind::Call,
        id: 0,
        origin: 0,
        root: 0,
        peer: ROUTE,
        timeout_ms: TIMEOUT_MS,
        method: METHOD,
        section: &[],
        codec: Codec::JSON,
    };
    let mut frame = Vec::new();
    call_head(&mut frame, &head, params.len());
    frame.extend_from_slice(params);
    frame
}

/// Its answer.
pub(crate) fn answer_frame(result: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    response_head(&mut frame, 0, Codec::JSON, result.len());
    frame.extend_from_slice(result);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use bro_proto::v2::encode::{complete_call, name, readdress};

    const FRAME_BYTES: usize = 454;

    /// As it comes to a callee of a gateway.
    fn routed(wire: &mut V2, number: u64) -> Vec<u8> {
        let mut call = wire.call(number).to_vec();
        complete_call(&mut call, 99, id(wire.caller, number), 7, 3, TIMEOUT_MS - 1);
        call
    }

    #[test]
    fn frames_are_comparable_with_those_of_version_1() {
        for shape in [Shape::Order, Shape::Flat] {
            let mut whole = V2::new(0, FRAME_BYTES, shape, Same::Frame).unwrap();
            let call = whole.call(1).to_vec();
            assert_eq!((call.len(), whole.frame_bytes(&call)), (FRAME_BYTES, Some(FRAME_BYTES)));
            assert_eq!(whole.answer(&call).unwrap().len(), FRAME_BYTES);
            let mut short = V2::new(0, FRAME_BYTES, shape, Same::Payload).unwrap();
            let [params, result] = v1::json_payloads(FRAME_BYTES, shape).unwrap();
            let call = short.call(1).to_vec();
            let Ok(Frame::Call(read)) = v2::parse(&call) else { panic!("a CALL") };
            assert_eq!((read.method, read.payload), (METHOD, &*params));
            let Ok(Frame::Response { payload, .. }) = v2::parse(short.answer(&call).unwrap()) else { panic!() };
            assert_eq!(payload, result);
        }
    }

    #[test]
    fn numbers_come_back_to_the_caller_that_they_are_of() {
        let mut wire = V2::new(3, FRAME_BYTES, Shape::Order, Same::Frame).unwrap();
        for number in [0, 1, SLOTS, 123_456_789] {
            let call = wire.call(number).to_vec();
            let answer = wire.answer(&call).unwrap().to_vec();
            assert_eq!(wire.answered(&answer), Some(number));
            let mut other = V2::new(2, FRAME_BYTES, Shape::Order, Same::Frame).unwrap();
            assert_eq!(other.answered(&answer), None, "of another caller");
        }
    }

    #[test]
    fn a_callee_answers_whom_it_was_told_of() {
        let mut wire = V2::new(0, FRAME_BYTES, Shape::Order, Same::Frame).unwrap();
        wire.names = Some(Vec::new());
        let call = routed(&mut wire, 5);
        assert_eq!(wire.answer(&call), None, "nobody was introduced");
        let mut told = Vec::new();
        name(&mut told, 3, "stranger", false);
        assert_eq!(wire.answer(&told), None);
        told.clear();
        name(&mut told, 3, &v1::name_of(0), false);
        assert_eq!(wire.answer(&told), Some(&[][..]));
        let mut answer = wire.answer(&call).unwrap().to_vec();
        assert_eq!(answer[ID_BYTES], 99_u64.to_le_bytes());
        readdress(&mut answer, id(0, 5));
        assert_eq!(wire.answered(&answer), Some(5));
    }

    #[test]
    fn frames_that_differ_are_not_taken() {
        let mut wire = V2::new(0, FRAME_BYTES, Shape::Order, Same::Frame).unwrap();
        let call = wire.call(5).to_vec();
        let answer = wire.answer(&call).unwrap().to_vec();
        for at in [0, 5, 6, 7, METHOD_BYTES_AT, 60, FRAME_BYTES - 1] {
            let (mut call, mut answer) = (call.clone(), answer.clone());
            call[at] ^= 1;
            answer[at] ^= 1;
            assert_eq!(wire.answer(&call), None, "{at}");
            assert_eq!(wire.answered(&answer), None, "{at}");
        }
        assert_eq!(wire.answer(&call[..FRAME_BYTES - 1]), None);
        assert_eq!(wire.answer(b""), None);
        assert_eq!(wire.answered(b""), None);
    }
}
