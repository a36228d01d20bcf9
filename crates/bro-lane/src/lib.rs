//! Direct lanes between two peers: records in sealed shared memory, without the gateway on the way.
//!
//! The gateway makes a lane with [`create`] and passes each half ([`SideFds`]) to one process, which opens it as a [`Lane`]. From then on
//! the two need no system call as long as both are awake. The memory and the protocol are specified in `docs/lanes.md`.
//!
//! | module | subject |
//! |---|---|
//! | `create` | [`create`]: memory, seals, doorbells, companions |
//! | `lane` | [`Lane`]: open, push, flush, pop, spin, arm, close |
//! | `wait` | [`Lane::wait`], for threads |
//! | `spin`, `contention` | [`Spinner`]: when waiting is better done awake |
//! | `ring`, `outbound`, `inbound` | the protocol of one direction: positions, flags, what is checked |
//! | `control`, `layout` | the shared words, and what lies where |
//! | `memory` | mapping and copying: the `unsafe` of this crate |
//! | `error`, `counters` | what can go wrong; what was done |
//!
//! Nothing in the memory is trusted. A peer that scribbles gets its lane closed with a [`Violation`], and can neither crash nor hang
//! the other side. No runtime, no threads.
//!
//! With `--cfg loom` only `control`, `ring` and its two ends are built, over `memory_model`: see `tests/loom.rs`.

mod atomics;
mod control;
mod error;
mod inbound;
mod outbound;

#[cfg(loom)]
#[path = "memory_model.rs"]
pub mod memory;
#[cfg(loom)]
pub mod ring;

#[cfg(not(loom))]
mod contention;
#[cfg(not(loom))]
mod counters;
#[cfg(not(loom))]
mod create;
#[cfg(not(loom))]
mod lane;
#[cfg(not(loom))]
mod layout;
#[cfg(not(loom))]
mod memory;
#[cfg(not(loom))]
mod ring;
#[cfg(not(loom))]
mod spin;
#[cfg(not(loom))]
mod wait;

pub use error::{LaneError, PushError, Violation};

#[cfg(not(loom))]
pub use {
    counters::LaneCounters,
    create::{LaneConfig, LaneParts, Side, SideFds, create},
    lane::{Lane, LaneOptions},
    spin::{SpinConfig, Spinner},
    wait::Waited,
};
