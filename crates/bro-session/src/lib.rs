//! The client's brain, without I/O: registration, calls, deadlines, heartbeats, reconnecting, the pool, shutdown.
//!
//! | module | subject |
//! |---|---|
//! | [`session`] | [`Session`]: commands and inputs in, [`Output`]s out; the order in which a driver calls them |
//! | [`config`] | [`SessionConfig`]: what a client is, and its limits |
//! | [`event`] | what a session tells its driver |
//! | [`context`] | where a request comes from, read only when somebody looks |
//! | `connect` | the life of the connections: connecting, registering, losing, waiting, disconnecting |
//! | `conns` | the pool and the state of each connection |
//! | `link` | what a connection of version 2 has told: routes, names, numbers |
//! | `outbound` | the bytes that wait to be written to one connection |
//! | `answers` | frames of version 1 from the gateway: RESPONSE, ERROR, REGISTER_ACK |
//! | `numbered` | frames of version 2 from the gateway |
//! | `outgoing` | calls that this client makes: their chain, their frames, cancelling them |
//! | `calls` | calls that wait for their answer, and the ids that find them |
//! | `waits` | calls that wait for their service to appear |
//! | `oversize` | frames above the limit: which call they are about |
//! | `incoming` | calls of others: refusing, handing out, answering |
//! | `requests` | calls of others that this client is working on |
//! | `methods` | what this client answers, and when that must be advertised |
//! | `lanes` | lanes to other clients |
//! | `drain` | leaving without dropping a call |
//! | `slots` | numbered places with generations |
//!
//! Nothing here owns a socket, a clock, a thread or a random source: time and the seed are arguments. A driver (tokio,
//! libuv, a simulation) owns the sockets and does what the outputs say.

mod answers;
mod calls;
pub mod config;
mod connect;
mod conns;
pub mod context;
mod drain;
pub mod event;
mod incoming;
mod lanes;
mod link;
mod methods;
mod numbered;
mod outbound;
mod outgoing;
mod oversize;
mod requests;
pub mod session;
mod slots;
mod waits;

pub use calls::{CallId, CallKey, TextKey};
pub use config::SessionConfig;
pub use conns::ConnId;
pub use context::RequestContext;
pub use event::{Counters, Origin, Output, OwnedPayload, Request, SessionEvent, SessionStatus};
pub use outbound::Outbound;
pub use outgoing::CallRequest;
pub use requests::{RequestId, RequestKey};
pub use session::Session;
