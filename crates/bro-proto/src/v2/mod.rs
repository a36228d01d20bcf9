//! v2 messages: a fixed binary header, then what it announces, then a payload that the gateway does not look at.
//!
//! - [`frame`]: reading a frame; nothing is allocated.
//! - [`encode`]: building frames, and completing a call in place on its way through the gateway.
//! - [`section`]: the context section of calls that do not begin a chain.
//! - [`lane`]: what the frames about lanes carry.
//! - [`number`]: call numbers and root stamps, and the texts that people see.
//!
//! A v2 frame has the prefix of v1, and its body begins with [`MARK`], which begins no v1 body. So both can stand on one
//! connection: REGISTER, REGISTER_ACK, HEARTBEAT and the ERROR about a connection stay v1 frames for ever. Integers are
//! little-endian, but for the prefix. Which connections speak v2 is agreed in REGISTER; see `docs/protocol.md`.

pub mod encode;
pub mod frame;
pub mod lane;
pub mod number;
pub mod section;

pub use frame::{Call, CancelReason, Codec, Failure, Frame, FrameKind, Head, WireError, is_v2, parse, parse_head};
pub use number::{CallNumber, RootStamp};
pub use section::Section;

/// The first byte of every v2 body. Neither JSON nor a msgpack map begins with it.
pub const MARK: u8 = 0xb2;
/// The version that REGISTER offers and REGISTER_ACK accepts, as `bro.v`.
pub const VERSION: u64 = 2;

/// Bytes of the header that all kinds have, prefix included.
pub const HEAD_BYTES: usize = 16;
/// Bytes of the header of CALL and NOTIFY, prefix included.
pub const CALL_HEAD_BYTES: usize = 48;

/// Of any kind: a reader that does not know the kind skips the frame.
pub const FLAG_MAY_IGNORE: u8 = 0x80;
/// Of ERROR: the gateway wrote it itself.
pub const FLAG_FROM_GATEWAY: u8 = 0x01;
/// Of NAME: names told before on this connection are forgotten.
pub const FLAG_FORGET: u8 = 0x01;

const _: () = assert!(HEAD_BYTES > crate::limits::FRAME_PREFIX_BYTES);
