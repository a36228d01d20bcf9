//! The wire of ipc-bro, without I/O.
//!
//! | module | subject |
//! |---|---|
//! | [`limits`] | every bound, in one place |
//! | [`frame`] | cutting a byte stream into frames |
//! | [`v1`] | messages in JSON and msgpack: header scan, encoding, transcoding |
//! | [`v2`] | messages with a binary header, between our own clients and gateways |
//! | [`context`] | the call context: root, chain, depth, deadline |
//! | [`error`] | error codes and the error object |
//! | [`name`], [`id`] | names and ids |
//! | [`time`], [`timer`], [`backoff`], [`rng`] | time as an argument, timers, waiting, seeded randomness |
//!
//! Nothing here owns a socket, a clock, a thread or a random source.

pub mod backoff;
pub mod context;
pub mod error;
pub mod frame;
pub mod id;
pub mod limits;
pub mod name;
pub mod rng;
pub mod time;
pub mod timer;
pub mod v1;
pub mod v2;

pub use context::CallContext;
pub use error::{ErrorBody, ErrorCode};
pub use time::Now;
