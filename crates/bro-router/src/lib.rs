//! The gateway's brain, without I/O: `(peer, frame, now)` in; forward, reply, drop, disconnect and event out.
//!
//! | file | subject |
//! |---|---|
//! | `router` | the inputs, and the order in which they take effect |
//! | `outbox`, `event`, `view`, `counters` | what comes out |
//! | `peers` | connections, and the bytes that each is charged for |
//! | `accounts`, `quota` | what each user has taken of what all share, and who goes when memory is short |
//! | `register`, `registry` | services by name, each with the ring of its instances |
//! | `routing`, `calls`, `abandoned` | CALLs: admission, forwarding, what is in flight, and what may still be answered |
//! | `reply` | RESPONSEs: forwarded, and the gateway's own |
//! | `v2_peer`, `v2_call`, `v2_reply`, `v2_report` | the same for peers of version 2 |
//! | `oversize` | frames above the limit: whom to tell |
//! | `cancel`, `ends`, `stumps` | calls that are given up, and those made for them; ends of many calls, in pieces |
//! | `lanes` | direct lanes between peers: offered, open, taken back |
//! | `permission` | who may do what, as the policy says |
//! | `closing`, `drain` | how connections and the gateway end |
//! | `introspect`, `parked`, `event_log`, `report` | calls to `bro.gateway`, and who is told what happens |
//! | `timers`, `hash`, `config` | what all of these use |
//! | `takeover` | a gateway that asks for everything |
//! | [`state`] | everything that it knows as plain values: exported, and imported by the gateway that takes over |
//! | `check` | invariants, for tests |
//!
//! It owns no socket, clock, thread or random source: see [`Router`] for the order of its inputs.

mod abandoned;
mod accounts;
mod calls;
mod cancel;
mod check;
mod closing;
mod config;
mod counters;
mod drain;
mod ends;
mod event;
mod event_log;
mod hash;
mod introspect;
mod lanes;
mod outbox;
mod oversize;
mod parked;
mod peers;
mod permission;
mod prefetch;
mod quota;
mod register;
mod registry;
mod reply;
mod report;
mod router;
mod routing;
pub mod state;
mod takeover;
mod timers;
mod v2_call;
mod v2_peer;
mod v2_reply;
mod v2_report;
mod view;

pub use accounts::UserView;
pub use bro_policy::Policy;
pub use config::{ConfigError, RouterConfig};
pub use counters::Counters;
pub use event::{CloseReason, Event, EventMask};
pub use lanes::LanePolicy;
pub use outbox::{LaneOffer, Outbox, Part, PeerId};
pub use peers::PeerIdentity;
pub use router::Router;
pub use takeover::TakeoverRequest;
pub use view::{InstanceView, LoopView, ServiceView, WakeupView};
