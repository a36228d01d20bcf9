//! What a frame says about itself.

use crate::error::ErrorCode;
use std::borrow::Cow;
use std::ops::Range;

/// The two encodings of v1. Nothing on the wire names them: the first byte of a body tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encoding {
    /// UTF-8 JSON text.
    Json,
    /// msgpack, as npm `msgpackr` writes it with `pack()`.
    Msgpack,
}

impl Encoding {
    /// What the first bytes of a body say; `None` when it can be neither.
    pub fn detect(body: &[u8]) -> Option<Encoding> {
        match body.first()? {
            0x80..=0x8f | 0xde | 0xdf => Some(Encoding::Msgpack),
            b'{' | b' ' | b'\t' | b'\n' | b'\r' => Some(Encoding::Json),
            _ => None,
        }
    }

    /// The name that configurations use.
    pub fn as_str(self) -> &'static str {
        match self {
            Encoding::Json => "json",
            Encoding::Msgpack => "msgpack",
        }
    }
}

/// The message types of v1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// service → gateway, first.
    Register,
    /// gateway → service.
    RegisterAck,
    /// caller → gateway → callee.
    Call,
    /// callee → gateway → caller.
    Response,
    /// service → gateway.
    Heartbeat,
    /// gateway → service.
    Error,
    /// Any other type: ignored, so that the protocol can grow.
    Unknown,
}

impl Kind {
    /// The message type with this name on the wire.
    #[inline(always)]
    pub fn from_name(name: &[u8]) -> Kind {
        match name {
            b"CALL" => Kind::Call,
            b"RESPONSE" => Kind::Response,
            b"HEARTBEAT" => Kind::Heartbeat,
            b"REGISTER" => Kind::Register,
            b"REGISTER_ACK" => Kind::RegisterAck,
            b"ERROR" => Kind::Error,
            _ => Kind::Unknown,
        }
    }
}

/// How a call ended, by the `status` of its RESPONSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// `data` holds the result.
    Success,
    /// `error` says what went wrong.
    Error,
}

impl Status {
    /// The status with this name on the wire.
    #[inline(always)]
    pub fn from_name(name: &[u8]) -> Option<Status> {
        match name {
            b"success" => Some(Status::Success),
            b"error" => Some(Status::Error),
            _ => None,
        }
    }
}

/// A string of a header: its value, and where the encoded value (with quotes or length) stands in the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    /// The decoded text. Borrowed unless the JSON has escapes.
    pub value: Cow<'a, str>,
    /// The encoded value in the body.
    pub span: Range<usize>,
}

/// The `context` of a CALL or RESPONSE, read no further than routing needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextHeader<'a> {
    /// The encoded object in the body.
    pub span: Range<usize>,
    /// `root`, if it is a string.
    pub root: Option<Text<'a>>,
    /// The encoded `chain`, if it is an array.
    pub chain: Option<Range<usize>>,
    /// Entries of `chain`.
    pub chain_len: usize,
    /// `depth`, if it is a number; negative counts as 0, fractions are cut, large values saturate.
    pub depth: Option<u32>,
    /// `deadline` in epoch milliseconds, if it is a number; converted likewise.
    pub deadline_ms: Option<u64>,
}

/// Everything that routing needs to know of a frame. Fields that are absent, `null` or msgpack's `undefined` are `None`;
/// so are spans of `params`, `data`, `error`, `metadata` and `methods` that are absent (but a `null` payload has a span).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The encoding of the whole body.
    pub encoding: Encoding,
    /// The message type.
    pub kind: Kind,
    /// `id` of CALL, RESPONSE and ERROR.
    pub id: Option<Text<'a>>,
    /// `from`.
    pub from: Option<Text<'a>>,
    /// `to`.
    pub to: Option<Text<'a>>,
    /// `method` of a CALL.
    pub method: Option<Text<'a>>,
    /// `status` of a RESPONSE.
    pub status: Option<Status>,
    /// `serviceName` of REGISTER.
    pub service_name: Option<Text<'a>>,
    /// `version` of REGISTER.
    pub version: Option<Text<'a>>,
    /// The encoded `methods` of REGISTER.
    pub methods: Option<Range<usize>>,
    /// The encoded `metadata` of REGISTER.
    pub metadata: Option<Range<usize>>,
    /// The encoded `params` of a CALL.
    pub params: Option<Range<usize>>,
    /// The encoded `data` of a RESPONSE.
    pub data: Option<Range<usize>>,
    /// The encoded `error` of RESPONSE and ERROR.
    pub error: Option<Range<usize>>,
    /// `context` of CALL and RESPONSE, if it is an object.
    pub context: Option<ContextHeader<'a>>,
    /// `timestamp` of HEARTBEAT and ERROR, in epoch milliseconds.
    pub timestamp_ms: Option<u64>,
}

impl Header<'_> {
    /// A header with no field set.
    pub fn empty(encoding: Encoding) -> Self {
        Header {
            encoding,
            kind: Kind::Unknown,
            id: None,
            from: None,
            to: None,
            method: None,
            status: None,
            service_name: None,
            version: None,
            methods: None,
            metadata: None,
            params: None,
            data: None,
            error: None,
            context: None,
            timestamp_ms: None,
        }
    }
}

/// Why a body is not a v1 message. `at` is the offset in the body where that became clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The first byte is neither that of a JSON object nor of a msgpack map.
    #[error("the body is neither a JSON object nor a msgpack map")]
    UnknownEncoding,
    /// The body ends in the middle of a value.
    #[error("the body ends in the middle of a value")]
    Truncated,
    /// Not well-formed in its encoding.
    #[error("malformed {} at byte {at}", encoding.as_str())]
    Malformed {
        /// The encoding that the first byte announced.
        encoding: Encoding,
        /// Offset in the body.
        at: usize,
    },
    /// Bytes follow the message.
    #[error("{bytes} bytes follow the message in its frame")]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
    /// A text is not UTF-8 where it must be.
    #[error("invalid UTF-8 at or after byte {at}")]
    InvalidUtf8 {
        /// Offset in the body.
        at: usize,
    },
    /// Nested deeper than [`crate::limits::NESTING_MAX`].
    #[error("nested deeper than {} levels at byte {at}", crate::limits::NESTING_MAX)]
    TooDeep {
        /// Offset in the body.
        at: usize,
    },
    /// A header key stands twice: readers would disagree about which one counts.
    #[error("duplicate header key at byte {at}")]
    DuplicateKey {
        /// Offset in the body.
        at: usize,
    },
    /// A JSON header key is written with escapes, or a msgpack map of the header has a key that is not a string.
    #[error("a key at byte {at} is not a plain string")]
    UnusualKey {
        /// Offset in the body.
        at: usize,
    },
    /// A header field has a type that it must not have.
    #[error("the header field at byte {at} has the wrong type")]
    WrongType {
        /// Offset in the body.
        at: usize,
    },
    /// A record extension of msgpackr's `new Packr()`; only `pack()` output is understood.
    #[error(
        "msgpackr record extension at byte {at}: send plain maps (msgpackr `pack()`, or `new Packr({{useRecords: false}})`)"
    )]
    RecordExtension {
        /// Offset in the body.
        at: usize,
    },
}

impl ScanError {
    /// The code to tell the peer.
    pub fn code(&self) -> ErrorCode {
        match self {
            ScanError::RecordExtension { .. } => ErrorCode::DeserializationFailed,
            _ => ErrorCode::InvalidMessage,
        }
    }
}

/// Reads the header of a body (without its frame prefix), checking that the whole body is one well-formed value.
///
/// Allocates only for header strings with escapes. Time is linear in the body, and depth is bounded.
pub fn scan(body: &[u8]) -> Result<Header<'_>, ScanError> {
    let mut header = Header::empty(Encoding::Json);
    scan_into(body, &mut header)?;
    Ok(header)
}

/// Like [`scan`], into a header that was [`Header::empty`]: a header is some 500 bytes, and moving it costs more than reading most
/// fields. After an error it holds fields that mean nothing.
#[inline]
pub fn scan_into<'a>(body: &'a [u8], header: &mut Header<'a>) -> Result<(), ScanError> {
    match Encoding::detect(body) {
        Some(Encoding::Json) => super::json::scan_into(body, header),
        Some(Encoding::Msgpack) => super::msgpack::scan_into(body, header),
        // What `new Packr()` begins with: the sender can be told what to change.
        None if matches!(body, [0xd4 | 0xd5, 0x72, ..]) => Err(ScanError::RecordExtension { at: 0 }),
        None => Err(ScanError::UnknownEncoding),
    }
}

/// Reads the header as far as it stands in `beginning`, the first bytes of a body whose other bytes are not there: what follows its end is unknown, a
/// key that stands twice included. `None` where that is not the beginning of a message, or does not say of which type.
///
/// Time is linear in `beginning`.
pub fn scan_beginning(beginning: &[u8]) -> Option<Header<'_>> {
    let mut header = match Encoding::detect(beginning)? {
        Encoding::Json => super::json::scan_beginning(beginning)?,
        Encoding::Msgpack => super::msgpack::scan_beginning(beginning)?,
    };
    // It was opened, and its end is not there.
    header.context = header.context.filter(|context| !context.span.is_empty());
    (header.kind != Kind::Unknown).then_some(header)
}
