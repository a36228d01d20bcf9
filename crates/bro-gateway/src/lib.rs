//! The ipc-bro gateway: one thread and an event loop around [`bro_router::Router`], embeddable in any program.
//!
//! ```no_run
//! use bro_gateway::{Gateway, GatewayConfig};
//!
//! let gateway = Gateway::start(GatewayConfig::new("/tmp/my-app.sock"))?;
//! println!("services: {:?}", gateway.status()?.services);
//! gateway.stop()?; // lets calls in flight finish, closes every connection, removes the socket file
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | subject |
//! |---|---|
//! | `gateway` | [`Gateway`], the handle: start, look, drain, stop |
//! | `config`, `error`, `event` | options, what can go wrong, what is reported |
//! | `policy`, `credentials` | who may do what, and who is at the other end |
//! | `socket_file` | whose the file in the file system is: live, stale, ours |
//! | `adopted`, `embedding` | a socket that somebody else has made, and what else the program around brings along |
//! | `driver` | the thread: wait, read, route, write; `driver/accepting`: who comes in; `driver/ending`: the end of a wakeup |
//! | `pace` | how fast the thread comes round |
//! | `conns`, `outgoing`, `inbox` | connections, bytes going out, bytes coming in |
//! | `lanes` | making lanes, and handing them to two peers |
//! | `linger` | closing without losing the last bytes |
//! | `spare` | memory that is free, and that the allocator holds back |
//! | `takeover`, `driver/hand_over` | everything goes to another gateway, and nobody notices |
//! | `journal` | what is logged, and what is handed to the embedding program |
//!
//! What is decided about calls is decided in the router; here are only sockets, time and files. Logs go to `tracing`:
//! warnings for what an operator should know, `info` for the life of the gateway, `debug` for every routed call.

mod adopted;
mod clock;
mod config;
mod conns;
mod credentials;
mod driver;
mod embedding;
mod error;
mod event;
mod gateway;
mod inbox;
mod journal;
mod lanes;
mod linger;
mod outgoing;
mod pace;
mod policy;
mod socket_file;
mod spare;
mod takeover;

pub use bro_policy::{Policy, PolicyError};
pub use bro_router::{
    CloseReason, ConfigError, Counters, EventMask, InstanceView, LanePolicy, LoopView, PeerId, RouterConfig,
    ServiceView, UserView, WakeupView,
};
pub use config::{DEFAULT_SOCKET_PATH, GatewayConfig, Takeover};
pub use embedding::{Embedding, Pulse, Vitals};
pub use error::{ReloadError, StartError, StopReason, Stopped};
pub use event::GatewayEvent;
pub use gateway::{Gateway, Status};
pub use policy::{PolicyLoadError, PolicySource};
