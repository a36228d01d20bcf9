//! Frames of version 2, read and written by `docs/protocol.md` alone.

use serde_json::{Value, json};

pub(crate) const RESPONSE: u8 = 2;
pub(crate) const ERROR: u8 = 3;
pub(crate) const CANCEL: u8 = 4;
pub(crate) const NAME: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
pub(crate) const DRAIN: u8 = 11;
pub(crate) const LANE_OFFER: u8 = 16;
pub(crate) const LANE_READY: u8 = 17;
pub(crate) const LANE_CLOSE: u8 = 18;

const KINDS: [&str; 19] = [
    "",
    "CALL",
    "RESPONSE",
    "ERROR",
    "CANCEL",
    "NOTIFY",
    "RESOLVE",
    "",
    "NAME",
    "PING",
    "PONG",
    "DRAIN",
    "STATS",
    "",
    "",
    "",
    "LANE_OFFER",
    "LANE_READY",
    "LANE_CLOSE",
];

/// A frame with nothing but `rest` behind its header.
pub(crate) fn frame(kind: u8, flags: u8, codec: u8, id: u64, rest: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(12 + rest.len()).unwrap().to_be_bytes().to_vec();
    frame.extend([0xb2, kind, flags, codec]);
    frame.extend(id.to_le_bytes());
    frame.extend(rest);
    frame
}

/// A CALL or NOTIFY on its way to the callee.
pub(crate) struct Call<'a> {
    pub(crate) kind: u8,
    pub(crate) id: u64,
    pub(crate) origin: u64,
    pub(crate) root: u64,
    pub(crate) name: u32,
    pub(crate) timeout_ms: u32,
    pub(crate) method: &'a str,
    pub(crate) section: Option<(&'a str, u32, &'a [&'a str])>,
    pub(crate) codec: u8,
    pub(crate) payload: &'a [u8],
}

impl Call<'_> {
    pub(crate) fn frame(&self) -> Vec<u8> {
        let section = self.section.map(|(root, depth, chain)| section(root, depth, chain)).unwrap_or_default();
        let mut rest = self.origin.to_le_bytes().to_vec();
        rest.extend(self.root.to_le_bytes());
        rest.extend(self.name.to_le_bytes());
        rest.extend(self.timeout_ms.to_le_bytes());
        rest.extend(u16::try_from(self.method.len()).unwrap().to_le_bytes());
        rest.extend([0; 2]);
        rest.extend(u32::try_from(section.len()).unwrap().to_le_bytes());
        rest.extend(self.method.as_bytes());
        rest.extend(section);
        rest.extend(self.payload);
        frame(self.kind, 0, self.codec, self.id, &rest)
    }
}

/// A CALL of `get` by the caller that is told as name 0, with a chain that begins there.
pub(crate) fn call(id: u64) -> Call<'static> {
    Call {
        kind: 1,
        id,
        origin: 7 << 32 | 35,
        root: 1_700_000_000_123 << 22 | 36,
        name: 0,
        timeout_ms: 1000,
        method: "get",
        section: None,
        codec: 1,
        payload: br#"{"a":1}"#,
    }
}

pub(crate) fn name(number: u64, name: &str) -> Vec<u8> {
    frame(NAME, 0, 0, number, name.as_bytes())
}

pub(crate) fn error(id: u64, flags: u8, code: &str, message: &str, stack: &str) -> Vec<u8> {
    let mut rest = u16::try_from(code.len()).unwrap().to_le_bytes().to_vec();
    rest.extend([0; 2]);
    rest.extend(u32::try_from(message.len()).unwrap().to_le_bytes());
    rest.extend([code, message, stack].concat().as_bytes());
    frame(ERROR, flags, 0, id, &rest)
}

fn section(root: &str, depth: u32, chain: &[&str]) -> Vec<u8> {
    let mut section = u16::try_from(root.len()).unwrap().to_le_bytes().to_vec();
    section.extend(u16::try_from(chain.len()).unwrap().to_le_bytes());
    section.extend(depth.to_le_bytes());
    section.extend(root.as_bytes());
    for name in chain {
        section.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        section.extend(name.as_bytes());
    }
    section
}

/// What the session sent, field by field. Payloads must be JSON or msgpack, as their codec says.
pub(crate) fn read(body: &[u8]) -> Value {
    let (kind, flags, codec) = (KINDS[usize::from(body[1])], body[2], body[3]);
    let rest = &body[12..];
    let mut frame = json!({"kind": kind, "flags": flags, "codec": codec, "id": number(&body[4..12])});
    let text = |bytes: &[u8]| Value::from(std::str::from_utf8(bytes).unwrap());
    match kind {
        "CALL" | "NOTIFY" => {
            let method_bytes = usize::try_from(number(&rest[24..26])).unwrap();
            let section_bytes = usize::try_from(number(&rest[28..32])).unwrap();
            assert_eq!((number(&rest[8..16]), number(&rest[26..28])), (0, 0), "fields that are 0 to the gateway");
            let (method, behind) = rest[32..].split_at(method_bytes);
            let (section, payload) = behind.split_at(section_bytes);
            frame["parent"] = number(&rest[..8]).into();
            frame["route"] = number(&rest[16..20]).into();
            frame["timeout"] = number(&rest[20..24]).into();
            frame["method"] = text(method);
            frame["section"] = if section.is_empty() { Value::Null } else { read_section(section) };
            frame["payload"] = read_payload(codec, payload);
        }
        "RESPONSE" => frame["payload"] = read_payload(codec, rest),
        "ERROR" => {
            let code_bytes = usize::try_from(number(&rest[..2])).unwrap();
            let message_bytes = usize::try_from(number(&rest[4..8])).unwrap();
            let (code, behind) = rest[8..].split_at(code_bytes);
            let (message, stack) = behind.split_at(message_bytes);
            frame["code"] = text(code);
            frame["message"] = text(message);
            frame["stack"] = text(stack);
        }
        "RESOLVE" => frame["service"] = text(rest),
        "STATS" => frame["stats"] = [0, 8, 16].map(|at| number(&rest[at..at + 8])).to_vec().into(),
        "CANCEL" | "PING" | "PONG" | "DRAIN" | "LANE_READY" | "LANE_CLOSE" => assert!(rest.is_empty()),
        other => panic!("a client does not send {other}"),
    }
    frame
}

fn read_payload(codec: u8, payload: &[u8]) -> Value {
    match codec {
        0 => {
            assert!(payload.is_empty());
            Value::Null
        }
        1 => serde_json::from_slice(payload).unwrap(),
        2 => rmp_serde::from_slice(payload).unwrap(),
        other => panic!("no codec {other}"),
    }
}

fn read_section(section: &[u8]) -> Value {
    let root_bytes = usize::try_from(number(&section[..2])).unwrap();
    let (root, mut rest) = section[8..].split_at(root_bytes);
    let mut chain = Vec::new();
    for _ in 0..number(&section[2..4]) {
        let (name, behind) = rest[2..].split_at(usize::try_from(number(&rest[..2])).unwrap());
        chain.push(std::str::from_utf8(name).unwrap());
        rest = behind;
    }
    assert!(rest.is_empty());
    json!({"root": std::str::from_utf8(root).unwrap(), "depth": number(&section[4..8]), "chain": chain})
}

fn number(little_endian: &[u8]) -> u64 {
    little_endian.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
