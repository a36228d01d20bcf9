//! The client's brain, without I/O: registration, calls, deadlines, heartbeats, reconnecting, the pool, shutdown.
//!
//! | module | subject |
//! |---|---|
//! | [`session`] | [`Session`]: commands and inputs in, [`Output`]s out; the order in which a driver calls them |
//! | [`config`] | [`SessionConfig`]: what a client is, and its limits |
//! | [`event`] | what a session tells its driver |
//! | `connect` | the life of the connections: connecting, registering, losing, waiting, disconnecting |
//! | `conns` | the pool and the state of each connection |
//! | `outbound` | the bytes that wait to be written to one connection |
//! | `answers` | frames from the gateway that answer us: RESPONSE, ERROR, REGISTER_ACK |
//! | `calls` | calls that wait for their answer, and the ids that find them |
//! | `incoming` | CALL frames: refusing, handing out, answering |
//! | `requests` | calls of others that this client is working on |
//! | `methods` | what this client answers, and when that must be advertised |
//! | `slots` | numbered places with generations |
//!
//! Nothing here owns a socket, a clock, a thread or a random source: time and the seed are arguments. A driver (tokio,
//! libuv, a simulation) owns the sockets and does what the outputs say.

mod answers;
mod calls;
pub mod config;
mod connect;
mod conns;
pub mod event;
mod incoming;
mod methods;
mod outbound;
mod requests;
pub mod session;
mod slots;

pub use calls::{CallId, CallKey};
pub use config::SessionConfig;
pub use conns::ConnId;
pub use event::{Counters, Origin, Output, OwnedPayload, Request, SessionEvent, SessionStatus};
pub use outbound::Outbound;
pub use requests::RequestId;
pub use session::{CallRequest, Session};
