//! Processes on one machine call each other by name, through a gateway on a Unix socket.
//!
//! A [`Client`] is one service: it has a name, methods that others may call, and calls methods of others. The names
//! meet at a gateway: the `bro gateway` program, or a [`Gateway`] inside of a program of yours.
//!
#![cfg_attr(feature = "gateway", doc = "```")]
#![cfg_attr(not(feature = "gateway"), doc = "```ignore")]
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = std::env::temp_dir().join(format!("ipc-bro-doc-crate-{}", std::process::id()));
//! # let path = directory.join("gateway.sock");
//! use ipc_bro::{Client, Context, Gateway, GatewayConfig, HandlerError};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct User { id: u32, name: String, role: String }
//!
//! let gateway = Gateway::start(GatewayConfig::new(&path))?;
//!
//! let role = Client::builder("role")
//!     .gateway_path(&path)
//!     .method("ofUser", async |id: u32, context: Context| {
//!         assert_eq!(context.call().chain, ["order", "user", "role"]);
//!         Ok::<_, HandlerError>(if id == 1 { "admin" } else { "guest" })
//!     })
//!     .connect()
//!     .await?;
//!
//! let user = Client::builder("user")
//!     .gateway_path(&path)
//!     .method("byId", async |id: u32, context: Context| {
//!         // A nested call: it continues the chain of this one, and its deadline.
//!         let role = context.client().call("role", "ofUser", id).await?;
//!         Ok::<_, HandlerError>(User { id, name: "Nirikshan".into(), role })
//!     })
//!     .connect()
//!     .await?;
//!
//! let order = Client::builder("order").gateway_path(&path).connect().await?;
//! let found: User = order.call("user", "byId", 1).await?;
//! assert_eq!(found.role, "admin");
//!
//! let error = order.call::<()>("stock", "count", ()).await.unwrap_err();
//! assert_eq!(error.code().as_str(), "SERVICE_NOT_FOUND");
//! # for client in [order, user, role] { client.disconnect().await; }
//! # gateway.stop()?; std::fs::remove_dir_all(&directory)?; Ok(()) }
//! ```
//!
//! | to | see |
//! |---|---|
//! | set options and register methods | [`ClientBuilder`], [`Client::register`] |
//! | make calls | [`Client::call`], [`CallOptions`]; encoded values: [`RawPayload`]; without answer: [`Client::notify`] |
//! | give calls up, or be told of it | drop their future; [`Context::cancelled`], [`ClientBuilder::keep_cancelled_handlers`] |
//! | stop without dropping a call | [`Client::serve_until_signal`], or [`Client::drain`] and then [`Client::disconnect`] |
//! | know the call that a handler works on | [`Context`] |
//! | tell failures apart | [`Error::code`], [`Error::failed_by`]; answer with them: [`HandlerError`] |
//! | watch connections and calls | [`Client::events`] |
//! | run a gateway | [`Gateway`] (feature `gateway`, on by default) |
//!
//! Parameters and results are whatever serde can encode. JSON and msgpack peers understand each other: the gateway
//! translates.

mod builder;
mod call;
mod client;
mod context;
mod driver;
mod error;
mod event;
mod handler;
mod lanes;
mod msgpack_numbers;
mod outputs;
mod payload;
mod signals;
mod sockets;
mod table;

#[cfg(feature = "gateway")]
pub use bro_gateway::{
    CloseReason, Counters, Embedding, EventMask, Gateway, GatewayConfig, GatewayEvent, InstanceView, LanePolicy,
    LoopView, PeerId, Pulse, RouterConfig, ServiceView, StartError, Status, StopReason, Stopped, UserView, Vitals,
    WakeupView,
};
pub use bro_proto::v1::Encoding;
pub use bro_proto::{CallContext, ErrorCode, limits};
pub use builder::{ClientBuilder, DEFAULT_GATEWAY_PATH};
pub use call::{Call, CallOptions};
pub use client::{Client, ClientStatus};
pub use context::Context;
pub use error::{Error, FailedBy, HandlerError};
pub use event::{ClientEvent, EVENTS_LEN_MAX, EventStream};
pub use payload::RawPayload;

/// How frames are encoded: the readme's `serializer` option.
pub type Serializer = Encoding;

/// The examples of the project's README, so that they are compiled with the other documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
