//! What the tests of ipc-bro stand on: real processes, real sockets, and programs that share no code with the rest.
//!
//! - [`gateway`]: [`TempGateway`], the real `bro gateway` process on a private socket; kill it, stop it, restart it.
//! - [`peer`]: [`V1Peer`], an old v1 program, and [`Service`], one that answers calls on a thread.
//! - [`codec`]: how such programs encode: JSON, and msgpack as npm `msgpackr` writes it. Written from the protocol's
//!   description, never from `bro-proto`, so that a mistake there cannot hide here.
//! - [`old_gateway`]: [`OldGateway`], a gateway that behaves as the old library's does, faults included.
//! - [`client`]: our own client, as tests start it.
//! - [`succession`]: a gateway that is replaced by others while it is used.
//! - [`stage`]: gateways that are started by hand on one socket, each with arguments of its own.
//! - [`mix`]: running one test body over every pair of encodings.
//! - [`watchdog`]: what ends a hang.
//!
//! Everything panics when the other side does not behave: these are test programs.

pub mod client;
pub mod codec;
pub mod gateway;
pub mod mix;
pub mod old_gateway;
pub mod peer;
pub mod stage;
pub mod succession;
pub mod watchdog;

pub use codec::Encoding;
pub use gateway::{GatewayOptions, TempGateway};
pub use mix::{Mix, for_each_encoding, for_each_mix, for_each_mix_at_once};
pub use old_gateway::OldGateway;
pub use peer::{ReceiveError, Service, V1Peer};
pub use watchdog::Watchdog;
