//! What a gateway does with input that is wrong: a coded error where someone can read it, the connection closed unless
//! the protocol says otherwise, and nobody else affected. Through a real gateway process, from JSON and msgpack peers.
//!
//! - [`bytes`]: frames that are no messages.
//! - [`messages`]: messages that are not acceptable.
//! - [`silence`]: frames that do not come, or only in part.
//! - [`scene`]: the gateway, and those who must not be affected.

mod bytes;
mod messages;
mod scene;
mod silence;
