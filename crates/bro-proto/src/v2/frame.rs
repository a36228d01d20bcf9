//! Reading v2 frames.

use super::section::Section;
use super::{CALL_HEAD_BYTES, FLAG_FORGET, FLAG_FROM_GATEWAY, FLAG_MAY_IGNORE, HEAD_BYTES, MARK};
use crate::error::{ErrorBody, ErrorCode};
use crate::limits::{FRAME_PREFIX_BYTES, METHOD_NAME_BYTES_MAX, SERVICE_NAME_BYTES_MAX};
use crate::v1::Encoding;

/// What a frame is. The numbers of kinds that are not listed here are free, but for those that `docs/protocol.md` sets aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// caller → gateway → callee: asks for an answer.
    Call = 1,
    /// callee → gateway → caller: the result.
    Response = 2,
    /// callee → gateway → caller, or gateway → caller: the call failed.
    Error = 3,
    /// caller → gateway → callee: nobody waits for the answer any more.
    Cancel = 4,
    /// caller → gateway → callee: a call without answer.
    Notify = 5,
    /// client → gateway: from now on this route number means that service.
    Resolve = 6,
    /// gateway → client: from now on this number means that caller.
    Name = 8,
    /// Either way: answer with PONG.
    Ping = 9,
    /// Either way: answers PING.
    Pong = 10,
    /// client → gateway: send no more calls here; gateway → client: make no more calls.
    Drain = 11,
    /// client → gateway: counters of its lanes.
    Stats = 12,
    /// gateway → client, with descriptors: a lane to another client.
    LaneOffer = 16,
    /// client → gateway: the offered lane is in use.
    LaneReady = 17,
    /// Either way: the lane is not to be used any more, or is gone.
    LaneClose = 18,
}

impl FrameKind {
    fn from_wire(kind: u8) -> Option<FrameKind> {
        const ALL: [FrameKind; 14] = [
            FrameKind::Call,
            FrameKind::Response,
            FrameKind::Error,
            FrameKind::Cancel,
            FrameKind::Notify,
            FrameKind::Resolve,
            FrameKind::Name,
            FrameKind::Ping,
            FrameKind::Pong,
            FrameKind::Drain,
            FrameKind::Stats,
            FrameKind::LaneOffer,
            FrameKind::LaneReady,
            FrameKind::LaneClose,
        ];
        ALL.into_iter().find(|known| *known as u8 == kind)
    }
}

/// How a payload is encoded. Numbers that are not listed are carried between v2 peers unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Codec(pub u8);

impl Codec {
    /// There is no value: `undefined` in JavaScript. The payload is empty.
    pub const ABSENT: Codec = Codec(0);
    /// UTF-8 JSON text.
    pub const JSON: Codec = Codec(1);
    /// msgpack.
    pub const MSGPACK: Codec = Codec(2);

    /// The v1 encoding of the same name; `None` for no value and for unknown codecs.
    pub fn encoding(self) -> Option<Encoding> {
        match self {
            Codec::JSON => Some(Encoding::Json),
            Codec::MSGPACK => Some(Encoding::Msgpack),
            _ => None,
        }
    }

    /// The codec of a value in a v1 encoding; no bytes are no value.
    pub fn of(payload: crate::v1::Payload<'_>) -> Codec {
        match payload.encoding {
            _ if payload.bytes.is_empty() => Codec::ABSENT,
            Encoding::Json => Codec::JSON,
            Encoding::Msgpack => Codec::MSGPACK,
        }
    }
}

/// Why a call was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CancelReason {
    /// The caller, or what it was called for, gave up.
    Cancelled,
    /// The deadline passed.
    Deadline,
    /// The caller is gone.
    CallerGone,
}

impl CancelReason {
    pub(super) fn to_wire(self) -> u8 {
        match self {
            CancelReason::Cancelled => 0,
            CancelReason::Deadline => 1,
            CancelReason::CallerGone => 2,
        }
    }

    fn from_wire(flags: u8) -> CancelReason {
        match flags & 0x03 {
            1 => CancelReason::Deadline,
            2 => CancelReason::CallerGone,
            _ => CancelReason::Cancelled,
        }
    }

    /// The error code that stands for it.
    pub fn code(self) -> ErrorCode {
        match self {
            CancelReason::Cancelled => ErrorCode::Cancelled,
            CancelReason::Deadline => ErrorCode::Timeout,
            CancelReason::CallerGone => ErrorCode::ConnectionLost,
        }
    }
}

/// A CALL or a NOTIFY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call<'a> {
    /// To the gateway: the caller's number. To the callee: the number to answer with. 0 for NOTIFY.
    pub id: u64,
    /// To the gateway: the number of the call that this one is made for, as the gateway gave it; 0 for none. To the callee: the
    /// caller's number, so that both name the call alike.
    pub origin: u64,
    /// To the callee: the stamp of the chain that begins here; 0 where there is a section.
    pub root: u64,
    /// To the gateway: the route. To the callee: the number of the caller's name.
    pub peer: u32,
    /// Milliseconds that are left; 0: as long as the gateway gives to calls that do not say.
    pub timeout_ms: u32,
    /// The method.
    pub method: &'a str,
    /// Where it comes from, unless the chain begins here or is derived from the parent.
    pub section: Option<Section<'a>>,
    /// How `payload` is encoded.
    pub codec: Codec,
    /// The parameters.
    pub payload: &'a [u8],
    /// Where `payload` begins in the frame, prefix included.
    pub payload_at: usize,
}

/// The error object of an ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// For programs; empty when the callee gave none.
    pub code: &'a str,
    /// For people.
    pub message: &'a str,
    /// The remote stack; empty when there is none.
    pub stack: &'a str,
}

impl Failure<'_> {
    /// As an owned error object.
    pub fn to_body(self) -> ErrorBody {
        ErrorBody {
            message: self.message.to_owned(),
            code: (!self.code.is_empty()).then(|| ErrorCode::from(self.code)),
            stack: (!self.stack.is_empty()).then(|| self.stack.to_owned()),
        }
    }
}

/// A v2 frame, read as far as its kind goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A call.
    Call(Call<'a>),
    /// A call without answer.
    Notify(Call<'a>),
    /// A result.
    Response {
        /// The number of the call.
        id: u64,
        /// How `payload` is encoded.
        codec: Codec,
        /// The result.
        payload: &'a [u8],
    },
    /// A failure.
    Error {
        /// The number of the call.
        id: u64,
        /// The gateway wrote it itself.
        is_from_gateway: bool,
        /// What went wrong.
        failure: Failure<'a>,
    },
    /// A call is given up.
    Cancel {
        /// The number of the call, as its receiver knows it.
        id: u64,
        /// Why.
        reason: CancelReason,
    },
    /// A route number gets its meaning.
    Resolve {
        /// The number.
        route: u64,
        /// The service.
        service: &'a str,
    },
    /// A caller's number gets its meaning.
    Name {
        /// The number.
        number: u64,
        /// The caller.
        service: &'a str,
        /// Names told before are forgotten.
        forgets: bool,
    },
    /// Asks for a PONG with the same id.
    Ping {
        /// Free.
        id: u64,
    },
    /// Answers a PING.
    Pong {
        /// That of the PING.
        id: u64,
    },
    /// No more calls.
    Drain,
    /// STATS and the LANE kinds: their payload is read by those that they are for.
    Other {
        /// Which.
        kind: FrameKind,
        /// What it is about.
        id: u64,
        /// The rest of the frame.
        payload: &'a [u8],
    },
    /// A kind of a later version that may be ignored.
    Ignored,
}

/// A frame that makes no sense: its connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The frame ends before its header does, or before what the header announces.
    #[error("a v2 frame of {bytes} bytes is too short for what it announces")]
    Short {
        /// Bytes of the frame.
        bytes: usize,
    },
    /// A kind that is unknown and must not be ignored.
    #[error("a v2 frame of the unknown kind {kind}")]
    UnknownKind {
        /// The kind.
        kind: u8,
    },
    /// A name that is empty, too long or not UTF-8.
    #[error("a v2 frame with a name that is empty, too long or not UTF-8")]
    BadName,
    /// A context section that is not as it must be.
    #[error("a v2 frame with a malformed context section")]
    BadContext,
    /// An error object whose texts are not UTF-8.
    #[error("a v2 ERROR whose texts are not UTF-8")]
    BadText,
}

/// Whether a frame, prefix included, is a v2 frame.
#[inline]
pub fn is_v2(frame: &[u8]) -> bool {
    frame.get(FRAME_PREFIX_BYTES) == Some(&MARK)
}

/// Reads a frame, prefix included. The caller knows that it is a v2 frame, and whole.
#[inline(always)]
pub fn parse(frame: &[u8]) -> Result<Frame<'_>, WireError> {
    let Some((head, rest)) = frame.split_first_chunk::<HEAD_BYTES>() else { return Err(short(frame)) };
    let [_, _, _, _, _, kind, flags, codec, id @ ..] = head;
    let (flags, codec, id) = (*flags, Codec(*codec), u64::from_le_bytes(*id));
    const CALL: u8 = FrameKind::Call as u8;
    const RESPONSE: u8 = FrameKind::Response as u8;
    match *kind {
        CALL => Ok(Frame::Call(parse_call(frame, codec, id)?)),
        RESPONSE => Ok(Frame::Response { id, codec, payload: rest }),
        kind => parse_other(frame, kind, flags, codec, id, rest),
    }
}

/// What every frame says, whatever follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its kind, if that is known.
    pub kind: Option<FrameKind>,
    /// A reader that does not know the kind may ignore the frame.
    pub may_ignore: bool,
    /// What it is about.
    pub id: u64,
}

/// Reads the head of a frame, prefix included, of which no more need be there. The caller knows that it is a v2 frame; `None` where its head is
/// not whole.
pub fn parse_head(beginning: &[u8]) -> Option<Head> {
    let [_, _, _, _, _, kind, flags, _, id @ ..] = beginning.first_chunk::<HEAD_BYTES>()?;
    let may_ignore = flags & FLAG_MAY_IGNORE != 0;
    Some(Head { kind: FrameKind::from_wire(*kind), may_ignore, id: u64::from_le_bytes(*id) })
}

#[inline(always)]
fn parse_call(frame: &[u8], codec: Codec, id: u64) -> Result<Call<'_>, WireError> {
    let Some((head, rest)) = frame.split_first_chunk::<CALL_HEAD_BYTES>() else { return Err(short(frame)) };
    let method_bytes = usize::from(u16::from_le_bytes([head[40], head[41]]));
    let section_bytes = u32_at(head, 44) as usize;
    let Some((method, after)) = rest.split_at_checked(method_bytes) else { return Err(short(frame)) };
    let method = match std::str::from_utf8(method) {
        Ok(method) if !method.is_empty() && method.len() <= METHOD_NAME_BYTES_MAX => method,
        _ => return Err(WireError::BadName),
    };
    let (section, payload) = if section_bytes == 0 {
        (None, after)
    } else {
        let Some((section, payload)) = after.split_at_checked(section_bytes) else { return Err(short(frame)) };
        (Some(Section::parse(section)?), payload)
    };
    Ok(Call {
        id,
        origin: u64_at(head, 16),
        root: u64_at(head, 24),
        peer: u32_at(head, 32),
        timeout_ms: u32_at(head, 36),
        method,
        section,
        codec,
        payload,
        payload_at: frame.len() - payload.len(),
    })
}

#[inline(never)]
fn parse_other<'a>(
    frame: &'a [u8],
    kind: u8,
    flags: u8,
    codec: Codec,
    id: u64,
    rest: &'a [u8],
) -> Result<Frame<'a>, WireError> {
    let Some(known) = FrameKind::from_wire(kind) else {
        let may_ignore = flags & FLAG_MAY_IGNORE != 0;
        return if may_ignore { Ok(Frame::Ignored) } else { Err(WireError::UnknownKind { kind }) };
    };
    Ok(match known {
        FrameKind::Call | FrameKind::Notify => Frame::Notify(parse_call(frame, codec, id)?),
        FrameKind::Response => Frame::Response { id, codec, payload: rest },
        FrameKind::Error => {
            let failure = parse_failure(rest).ok_or_else(|| short(frame))??;
            Frame::Error { id, is_from_gateway: flags & FLAG_FROM_GATEWAY != 0, failure }
        }
        FrameKind::Cancel => Frame::Cancel { id, reason: CancelReason::from_wire(flags) },
        FrameKind::Resolve => Frame::Resolve { route: id, service: parse_name(rest)? },
        FrameKind::Name => Frame::Name { number: id, service: parse_name(rest)?, forgets: flags & FLAG_FORGET != 0 },
        FrameKind::Ping => Frame::Ping { id },
        FrameKind::Pong => Frame::Pong { id },
        FrameKind::Drain => Frame::Drain,
        FrameKind::Stats | FrameKind::LaneOffer | FrameKind::LaneReady | FrameKind::LaneClose => {
            Frame::Other { kind: known, id, payload: rest }
        }
    })
}

fn parse_name(bytes: &[u8]) -> Result<&str, WireError> {
    match std::str::from_utf8(bytes) {
        Ok(name) if !name.is_empty() && name.len() <= SERVICE_NAME_BYTES_MAX => Ok(name),
        _ => Err(WireError::BadName),
    }
}

/// `None` when it ends too early.
fn parse_failure(rest: &[u8]) -> Option<Result<Failure<'_>, WireError>> {
    let (head, rest) = rest.split_first_chunk::<8>()?;
    let code_bytes = usize::from(u16::from_le_bytes([head[0], head[1]]));
    let message_bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let (code, rest) = rest.split_at_checked(code_bytes)?;
    let (message, stack) = rest.split_at_checked(message_bytes)?;
    let [code, message, stack] = [code, message, stack].map(|text| simdutf8::basic::from_utf8(text));
    Some(match (code, message, stack) {
        (Ok(code), Ok(message), Ok(stack)) => Ok(Failure { code, message, stack }),
        _ => Err(WireError::BadText),
    })
}

#[cold]
fn short(frame: &[u8]) -> WireError {
    WireError::Short { bytes: frame.len() }
}

fn u32_at(head: &[u8; CALL_HEAD_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(*head[at..].first_chunk().expect("within the header"))
}

fn u64_at(head: &[u8; CALL_HEAD_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(*head[at..].first_chunk().expect("within the header"))
}
