//! Frames of version 2, read and written slowly, from `docs/protocol.md` alone.
//!
//! The tests of this crate, the fuzz targets and the simulation share it.

#![allow(missing_docs, dead_code, unreachable_pub, reason = "everyone who includes this uses a part of it")]

pub const CALL: u8 = 1;
pub const RESPONSE: u8 = 2;
pub const ERROR: u8 = 3;
pub const CANCEL: u8 = 4;
pub const NOTIFY: u8 = 5;
pub const RESOLVE: u8 = 6;
pub const NAME: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
pub const DRAIN: u8 = 11;
pub const STATS: u8 = 12;
pub const LANE_OFFER: u8 = 16;
pub const LANE_READY: u8 = 17;
pub const LANE_CLOSE: u8 = 18;

/// A frame. What its kind does not use is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub codec: u8,
    pub id: u64,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// CALL, NOTIFY.
    Call(Call),
    /// RESPONSE.
    Payload(Vec<u8>),
    /// ERROR.
    Failure { code: String, message: String, stack: String },
    /// RESOLVE, NAME.
    Name(String),
    /// CANCEL, PING, PONG, DRAIN, and what may be skipped.
    Nothing,
    /// STATS and the LANE kinds.
    Other(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub origin: u64,
    pub root: u64,
    pub peer: u32,
    pub timeout_ms: u32,
    pub method: String,
    pub section: Option<Section>,
    pub payload: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    pub root: String,
    pub chain: Vec<String>,
    pub depth: u32,
}

/// Why a frame is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Short,
    Kind,
    Name,
    Context,
    Text,
}

/// Reads a whole frame of version 2, prefix included.
pub fn read(frame: &[u8]) -> Result<Frame, Wrong> {
    let mut left = Left { bytes: frame.get(4..).ok_or(Wrong::Short)? };
    let head = left.take(12)?;
    assert_eq!(head[0], 0xb2, "whoever calls this knows that it is of version 2");
    let (kind, flags, codec) = (head[1], head[2], head[3]);
    let id = number(&head[4..]);
    let body = match kind {
        CALL | NOTIFY => Body::Call(read_call(&mut left)?),
        RESPONSE => Body::Payload(left.bytes.to_vec()),
        ERROR => {
            let head = left.take(8)?;
            let code = left.take(number(&head[..2]))?;
            let message = left.take(number(&head[4..]))?;
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| Wrong::Text);
            Body::Failure { code: text(code)?, message: text(message)?, stack: text(left.bytes)? }
        }
        RESOLVE | NAME => Body::Name(name(left.bytes)?),
        CANCEL | PING | PONG | DRAIN => Body::Nothing,
        12 | 16..=18 => Body::Other(left.bytes.to_vec()),
        _ if flags & 0x80 != 0 => Body::Nothing,
        _ => return Err(Wrong::Kind),
    };
    Ok(Frame { kind, flags, codec, id, body })
}

fn read_call(left: &mut Left<'_>) -> Result<Call, Wrong> {
    let head = left.take(32)?;
    let (method_bytes, section_bytes) = (number(&head[24..26]), number(&head[28..]));
    let method = left.take(method_bytes)?;
    let method = name(method)?;
    let section = left.take(section_bytes)?;
    let section = if section.is_empty() { None } else { Some(read_section(section)?) };
    Ok(Call {
        origin: number(&head[..8]),
        root: number(&head[8..16]),
        peer: u32::try_from(number(&head[16..20])).expect("four bytes"),
        timeout_ms: u32::try_from(number(&head[20..24])).expect("four bytes"),
        method,
        section,
        payload: left.bytes.to_vec(),
    })
}

pub fn read_section(section: &[u8]) -> Result<Section, Wrong> {
    let fields = || {
        let mut left = Left { bytes: section };
        let head = left.take(8)?;
        let root = left.take(number(&head[..2]))?.to_vec();
        let mut chain = Vec::new();
        for _ in 0..number(&head[2..4]) {
            let bytes = number(left.take(2)?);
            chain.push(left.take(bytes)?.to_vec());
        }
        Ok((root, chain, number(&head[4..]), left.bytes.len()))
    };
    let (root, chain, depth, rest) = fields().map_err(|_: Wrong| Wrong::Context)?;
    let is_good = section.len() <= 64 * 1024
        && rest == 0
        && (1..=255).contains(&root.len())
        && (1..=256).contains(&chain.len())
        && chain.iter().all(|name| name.len() <= 255)
        && depth >= 1;
    let text = |bytes| String::from_utf8(bytes).map_err(|_| Wrong::Context);
    if !is_good {
        return Err(Wrong::Context);
    }
    Ok(Section {
        root: text(root)?,
        chain: chain.into_iter().map(text).collect::<Result<_, _>>()?,
        depth: u32::try_from(depth).expect("four bytes"),
    })
}

fn name(bytes: &[u8]) -> Result<String, Wrong> {
    if bytes.is_empty() || bytes.len() > 255 {
        return Err(Wrong::Name);
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| Wrong::Name)
}

/// A little-endian number of up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

struct Left<'a> {
    bytes: &'a [u8],
}

impl<'a> Left<'a> {
    fn take(&mut self, bytes: impl TryInto<usize>) -> Result<&'a [u8], Wrong> {
        let bytes = bytes.try_into().map_err(|_| Wrong::Short)?;
        let (taken, left) = self.bytes.split_at_checked(bytes).ok_or(Wrong::Short)?;
        self.bytes = left;
        Ok(taken)
    }
}

/// Writes a frame, prefix included.
pub fn write(frame: &Frame) -> Vec<u8> {
    let mut body = vec![0xb2, frame.kind, frame.flags, frame.codec];
    body.extend(frame.id.to_le_bytes());
    match &frame.body {
        Body::Call(call) => {
            let section = call.section.as_ref().map(write_section).unwrap_or_default();
            body.extend(call.origin.to_le_bytes());
            body.extend(call.root.to_le_bytes());
            body.extend(call.peer.to_le_bytes());
            body.extend(call.timeout_ms.to_le_bytes());
            body.extend(u16_of(call.method.len()));
            body.extend([0, 0]);
            body.extend(u32_of(section.len()));
            body.extend(call.method.as_bytes());
            body.extend(section);
            body.extend(&call.payload);
        }
        Body::Payload(payload) | Body::Other(payload) => body.extend(payload),
        Body::Failure { code, message, stack } => {
            body.extend(u16_of(code.len()));
            body.extend([0, 0]);
            body.extend(u32_of(message.len()));
            [code, message, stack].iter().for_each(|text| body.extend(text.as_bytes()));
        }
        Body::Name(name) => body.extend(name.as_bytes()),
        Body::Nothing => {}
    }
    let mut frame = u32::try_from(body.len()).expect("a short frame").to_be_bytes().to_vec();
    frame.extend(body);
    frame
}

pub fn write_section(section: &Section) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(u16_of(section.root.len()));
    out.extend(u16_of(section.chain.len()));
    out.extend(section.depth.to_le_bytes());
    out.extend(section.root.as_bytes());
    for name in &section.chain {
        out.extend(u16_of(name.len()));
        out.extend(name.as_bytes());
    }
    out
}

fn u16_of(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("a short text").to_le_bytes()
}

fn u32_of(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("a short frame").to_le_bytes()
}

/// How people see a number: `req-<high half>-<low half in six base36 digits>`; and a root stamp likewise.
pub fn text_of(prefix: &str, high: u64, low: u64) -> String {
    let mut digits = String::new();
    let mut left = low % 36_u64.pow(6);
    for _ in 0..6 {
        digits.insert(0, char::from_digit(u32::try_from(left % 36).expect("a digit"), 36).expect("base 36"));
        left /= 36;
    }
    format!("{prefix}-{high}-{digits}")
}
