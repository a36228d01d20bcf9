//! Frames of protocol version 1, in JSON and in msgpack.

use crate::wire::{NUMBER_DIGITS, Stencil, Template, Wire};
use anyhow::{Context as _, Result, bail, ensure};
use bro_proto::CallContext;
use bro_proto::frame::announced_bytes;
use bro_proto::limits::FRAME_PREFIX_BYTES;
use bro_proto::v1::encode::{
    CallFields, ContextSource, Outcome, RegisterFields, ResponseFields, encode_call, encode_register, encode_response,
};
use bro_proto::v1::rewrite::transcode;
use bro_proto::v1::{Encoding, Kind, Payload, scan};
use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The service that is called.
pub(crate) const CALLEE: &str = "callee";
pub(crate) const METHOD: &str = "getOrder";
/// The gateway takes what is more than a day away for a day.
const DEADLINE_MS: u64 = 4_102_444_800_000;
const EXACT_TRIES_MAX: usize = 8;
const PATIENCE: Duration = Duration::from_secs(10);

/// What the payload of a call looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shape {
    /// An object with objects, arrays, numbers and short strings in it.
    Order,
    /// An object with nearly everything in one string.
    Flat,
}

/// One connection that speaks version 1.
pub(crate) struct V1 {
    encoding: Encoding,
    caller: u8,
    template: Template,
}

impl V1 {
    /// Calls and answers of exactly `frame_bytes`, prefix included.
    pub(crate) fn new(encoding: Encoding, caller: u8, frame_bytes: usize, shape: Shape) -> Result<V1> {
        let template = Template {
            call: stencil(exact(encoding, shape, frame_bytes, call_frame)?)?,
            answer: stencil(exact(encoding, shape, frame_bytes, answer_frame)?)?,
        };
        Ok(V1 { encoding, caller, template })
    }
}

impl Wire for V1 {
    fn register(&mut self, stream: &mut UnixStream, name: &str) -> Result<()> {
        register(stream, self.encoding, name, b"").map(|_ack| ())
    }

    fn frame_bytes(&self, bytes: &[u8]) -> Option<usize> {
        bytes.first_chunk().map(|prefix| FRAME_PREFIX_BYTES + announced_bytes(*prefix))
    }

    fn call(&mut self, number: u64) -> &[u8] {
        self.template.call.with_number(self.caller, number)
    }

    fn answer(&mut self, call: &[u8]) -> Option<&[u8]> {
        self.template.answer(call)
    }

    fn answered(&mut self, answer: &[u8]) -> Option<u64> {
        self.template.answered(self.caller, answer)
    }
}

/// Registers with these `metadata`, in JSON, and gives the body of the REGISTER_ACK.
pub(crate) fn register(stream: &mut UnixStream, encoding: Encoding, name: &str, metadata: &[u8]) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    let metadata = Payload { encoding: Encoding::Json, bytes: metadata };
    let methods = [METHOD.into()];
    let fields = RegisterFields { service_name: name, methods: &methods, version: "1.0.0", metadata };
    encode_register(&mut frame, encoding, &fields)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&frame)?;
    let mut prefix = [0; FRAME_PREFIX_BYTES];
    stream.read_exact(&mut prefix).context("waiting for REGISTER_ACK")?;
    let mut body = vec![0; announced_bytes(prefix)];
    stream.read_exact(&mut body)?;
    stream.set_read_timeout(None)?;
    let kind = scan(&body)?.kind;
    ensure!(kind == Kind::RegisterAck, "{name} was answered {}", String::from_utf8_lossy(&body));
    Ok(body)
}

/// The name under which a caller registers.
pub(crate) fn name_of(caller: u8) -> String {
    format!("caller-{caller}")
}

fn stencil(frame: Vec<u8>) -> Result<Stencil> {
    Stencil::new(frame, &"0".repeat(NUMBER_DIGITS), &name_of(0))
}

/// The payloads of the calls and of the answers of [`V1`] in JSON.
pub(crate) fn json_payloads(frame_bytes: usize, shape: Shape) -> Result<[Vec<u8>; 2]> {
    let json = Encoding::Json;
    Ok([exact_payload(json, shape, frame_bytes, call_frame)?, exact_payload(json, shape, frame_bytes, answer_frame)?])
}

/// The frame of exactly `frame_bytes` that `make` makes of a payload.
pub(crate) fn exact(
    encoding: Encoding,
    shape: Shape,
    frame_bytes: usize,
    make: impl Fn(Payload<'_>) -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let payload = exact_payload(encoding, shape, frame_bytes, &make)?;
    make(Payload { encoding, bytes: &payload })
}

/// The payload of which `make` makes a frame of exactly `frame_bytes`.
pub(crate) fn exact_payload(
    encoding: Encoding,
    shape: Shape,
    frame_bytes: usize,
    make: impl Fn(Payload<'_>) -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let mut padding = 0;
    // msgpack writes a length in more bytes when it is large, so that what is missing without padding is not all.
    for _ in 0..EXACT_TRIES_MAX {
        let payload = encoded(encoding, &payload(shape, padding))?;
        let frame = make(Payload { encoding, bytes: &payload })?;
        match frame_bytes.checked_sub(frame.len()) {
            Some(0) => return Ok(payload),
            Some(missing) => padding += missing,
            None => padding = padding.saturating_sub(frame.len() - frame_bytes),
        }
    }
    bail!("no frame of {frame_bytes} bytes")
}

fn call_id() -> String {
    format!("req-1699005123456-{}", "0".repeat(NUMBER_DIGITS))
}

fn context() -> CallContext {
    CallContext {
        root: "root-1699005123456-k3v9x2".to_owned(),
        chain: vec![name_of(0), CALLEE.to_owned()],
        depth: 2,
        deadline_ms: DEADLINE_MS,
    }
}

fn call_frame(params: Payload<'_>) -> Result<Vec<u8>> {
    let (id, from, context) = (call_id(), name_of(0), context());
    let context = ContextSource::Owned(&context);
    let mut frame = Vec::new();
    encode_call(
        &mut frame,
        params.encoding,
        &CallFields { id: &id, from: &from, to: CALLEE, method: METHOD, params, context },
    )?;
    Ok(frame)
}

fn answer_frame(result: Payload<'_>) -> Result<Vec<u8>> {
    let (id, to, context) = (call_id(), name_of(0), context());
    let context = Some(ContextSource::Owned(&context));
    let mut frame = Vec::new();
    let outcome = Outcome::Success(result);
    encode_response(&mut frame, result.encoding, &ResponseFields { id: &id, from: CALLEE, to: &to, outcome, context })?;
    Ok(frame)
}

/// As JSON, with a note that is longer by `padding` bytes.
fn payload(shape: Shape, padding: usize) -> String {
    let note = "Leave it with the neighbour, please. ".repeat(padding / 37 + 1);
    let note = &note[..padding];
    let value = match shape {
        Shape::Order => json!({
            "orderId": 73912,
            "customer": { "name": "Ada Byron", "tags": ["early", "eu-west"] },
            "items": [{ "sku": "BOOK-0042", "count": 2, "price": 19.95 }, { "sku": "LAMP-1007", "count": 1, "price": 74.5 }],
            "paid": true,
            "note": note,
        }),
        Shape::Flat => json!({ "orderId": 73912, "note": note }),
    };
    value.to_string()
}

fn encoded(encoding: Encoding, json: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    transcode(Payload { encoding: Encoding::Json, bytes: json.as_bytes() }, encoding, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_length_that_was_asked_for_and_name_the_caller() {
        for encoding in [Encoding::Json, Encoding::Msgpack] {
            for shape in [Shape::Order, Shape::Flat] {
                for bytes in [454, 1 << 20] {
                    let mut wire = V1::new(encoding, 3, bytes, shape).unwrap();
                    let call = wire.call(123_456_789).to_vec();
                    let header = scan(&call[FRAME_PREFIX_BYTES..]).unwrap();
                    assert_eq!((call.len(), wire.frame_bytes(&call)), (bytes, Some(bytes)));
                    assert_eq!(&*header.id.unwrap().value, "req-1699005123456-3123456789");
                    assert_eq!(&*header.from.unwrap().value, "caller-3");
                    let answer = wire.answer(&call).unwrap().to_vec();
                    let header = scan(&answer[FRAME_PREFIX_BYTES..]).unwrap();
                    assert_eq!(answer.len(), bytes);
                    assert_eq!(&*header.to.unwrap().value, "caller-3");
                    assert_eq!(wire.answered(&answer), Some(123_456_789));
                }
            }
        }
    }
}
