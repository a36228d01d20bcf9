//! Everything that a router knows, as plain values: for a gateway that takes over from another one.
//!
//! [`Router::export`] writes a [`RouterState`], [`Router::import`] makes a router of one that goes on where the other stopped. Peers, calls and
//! lanes keep their numbers, since other programs know them. What can be found anew (hashes, links, places in rings) is not in here.
//!
//! Moments are those of the exporting router's clocks; `exported_at` ties them to the importing one's. As bytes a state is one msgpack map
//! with named fields, which says its format: [`RouterState::encode`], [`RouterState::decode`].
//!
//! **Who adds a field to the router** is made by the compiler to think of it here, since `export` takes every struct apart by name. Give the
//! field of the state `#[serde(default)]` when a router can go on without it, and leave the formats alone; otherwise raise [`FORMAT`], and
//! [`READS_FROM`] when older states cannot be read any more, or [`READABLE_FROM`] when older gateways would misunderstand the new ones.

pub(crate) mod checks;
pub(crate) mod router;

use crate::counters::Counters;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;

#[cfg(doc)]
use crate::Router;

/// The format that is written. It counts for the gateway's part of what is handed over, too.
pub const FORMAT: u32 = 1;
/// The oldest format that can be read.
pub const READS_FROM: u32 = 1;
/// The oldest format whose readers understand what is written.
pub const READABLE_FROM: u32 = 1;

/// Whether a reader of formats `reads_from` to `reads_to` understands what a writer of `format` has written for readers from `readable_from` on.
pub fn is_readable(format: u32, readable_from: u32, reads_from: u32, reads_to: u32) -> bool {
    if format <= reads_to { format >= reads_from } else { readable_from <= reads_to }
}

/// Why no router was made from a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The bytes are no state.
    #[error("the state cannot be read: {why}")]
    Unreadable {
        /// What is wrong with them.
        why: String,
    },
    /// They are of a format that this version does not know.
    #[error(
        "the state has format {format}, for readers from {readable_from} on; this version reads {READS_FROM} to {FORMAT}"
    )]
    Format {
        /// The format of the state.
        format: u32,
        /// The oldest format whose readers understand it.
        readable_from: u32,
    },
    /// Parts of it do not fit together.
    #[error("the state contradicts itself: {what}")]
    Contradiction {
        /// What does not hold.
        what: &'static str,
    },
    /// There is more than the options of the new router allow.
    #[error("{name} is {limit}, and there are {present}: raise it, or take over when there is less")]
    Limit {
        /// The option or limit.
        name: &'static str,
        /// Its value.
        limit: usize,
        /// What is there.
        present: usize,
    },
}

/// A router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouterState {
    /// The format that it is written in.
    pub format: u32,
    /// The oldest format whose readers understand it.
    pub readable_from: u32,
    /// When it was exported.
    pub exported_at: Moment,
    /// When the first of the gateways that handed it on started.
    pub started: Moment,
    /// Keys of the hash of names and ids. Secret: who knows them can make texts that collide.
    pub hash_keys: [u64; 3],
    /// What a known text hashes to: tells whether the hash is still the same function.
    pub hash_probe: u64,
    /// State of the generator of ids.
    pub rng: u64,
    /// Chains of version 2 that began here.
    pub roots: u64,
    /// How far its end has come.
    pub phase: PhaseState,
    /// Totals since the start.
    pub counters: Counters,
    /// Its connections.
    pub peers: PeersState,
    /// Its services.
    pub registry: RegistryState,
    /// Its calls in flight.
    pub calls: CallsState,
    /// Introspection calls that wait, in the order of their places.
    pub parked: Vec<ParkedState>,
    /// Lanes, in the order of their places.
    pub lanes: Vec<LaneState>,
    /// Events kept for those who watch.
    pub event_log: EventLogState,
}

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Monotonic microseconds.
    pub mono_us: u64,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
}

/// How far the end of a gateway has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PhaseState {
    /// It serves.
    Running,
    /// It takes nothing new.
    Draining {
        /// Monotonic milliseconds at which all connections are closed.
        deadline_ms: u64,
    },
    /// Every connection is closed.
    Ended,
}

/// An encoding of version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EncodingState {
    /// JSON.
    Json,
    /// msgpack.
    Msgpack,
}

/// Connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeersState {
    /// Of every slot, also the free ones: no id may come twice.
    pub generations: Vec<u32>,
    /// In the order of their slots.
    pub live: Vec<PeerState>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerState {
    /// Its slot.
    pub slot: u32,
    /// It is not read from until it has read.
    pub is_paused: bool,
    /// A frame was begun and is not complete.
    pub is_mid_frame: bool,
    /// It takes no more calls.
    pub is_leaving: bool,
    /// Of its REGISTER, or of its last frame before that.
    pub encoding: EncodingState,
    /// Its place in a pool.
    pub pool_index: Option<u8>,
    /// Process id by peer credentials.
    pub pid: Option<u32>,
    /// The kernel's number of this process.
    #[serde(default)]
    pub pidfd_id: Option<NonZeroU64>,
    /// User id by peer credentials.
    pub uid: Option<u32>,
    /// Group id by peer credentials.
    pub gid: Option<u32>,
    /// When it connected, milliseconds since 1970.
    pub connected_at_ms: u64,
    /// When its last frame came, milliseconds since 1970.
    pub last_frame_at_ms: u64,
    /// Bytes queued and not yet taken.
    pub queued_bytes: u64,
    /// How many of them are not CALLs.
    pub answer_bytes: u64,
    /// Ids of calls that ended without its answer.
    pub abandoned: Option<AbandonedState>,
    /// What the two sides have told each other in version 2.
    pub v2: Option<V2PeerState>,
    /// Monotonic milliseconds when the queue became non-empty or was last taken from.
    pub progress_ms: u64,
    /// Until when it has to register, monotonic milliseconds.
    pub register_deadline_ms: Option<u64>,
    /// Until when it has to finish its frame, monotonic milliseconds.
    pub partial_deadline_ms: Option<u64>,
    /// When its queue is looked at, monotonic milliseconds.
    pub stall_deadline_ms: Option<u64>,
}

/// Abandoned ids of one callee.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AbandonedState {
    /// Their hashes, in order.
    pub hashes: Vec<u64>,
    /// There were more than are kept: every id counts as abandoned.
    pub is_full: bool,
}

/// What the two sides of a connection of version 2 have told each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct V2PeerState {
    /// Names of services by route number.
    pub routes: Vec<String>,
    /// Serials of the services whose names were told, by the number of the name.
    pub names: Vec<u64>,
    /// It can use lanes.
    pub takes_lanes: bool,
    /// Peers that it called lately.
    pub busy: Vec<BusyPeerState>,
    /// The entry of them that was used last.
    pub busy_last: u32,
}

/// A peer that another one called lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyPeerState {
    /// Slot of the callee.
    pub slot: u32,
    /// Generation of the callee.
    pub generation: u32,
    /// Calls since then.
    pub calls: u32,
    /// When the count began or may begin, monotonic milliseconds.
    pub since_ms: u64,
}

/// Services.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RegistryState {
    /// Registrations of services so far.
    pub serials: u64,
    /// In the order of their places.
    pub services: Vec<ServiceState>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceState {
    /// Of this registration.
    pub serial: u64,
    /// Its name.
    pub name: String,
    /// Its methods.
    pub methods: Vec<String>,
    /// As the service said.
    pub version: Option<String>,
    /// Text of a JSON object; empty stands for `{}`.
    pub metadata_json: String,
    /// Slots of its instances, the one that is asked next first.
    pub instances: Vec<u32>,
    /// 1 for a service without a pool.
    pub pool_size: u8,
    /// When its first instance registered, milliseconds since 1970.
    pub connected_at_ms: u64,
    /// The last sign of life, monotonic milliseconds.
    pub last_frame_ms: u64,
    /// When it is looked for the next one, monotonic milliseconds.
    pub liveness_deadline_ms: u64,
}

/// Calls in flight.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CallsState {
    /// The generation that a new slot begins with.
    pub first_generation: u32,
    /// Of every slot, also the free ones: a late answer must not find another call.
    pub generations: Vec<u32>,
    /// In the order of their slots.
    pub live: Vec<CallState>,
}

/// What a caller knows its call by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallerIdState {
    /// A caller of version 1.
    Text(String),
    /// A caller of version 2.
    Number(u64),
}

/// One call in flight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallState {
    /// Its slot; with the generation it is the number that a callee of version 2 knows.
    pub slot: u32,
    /// Slot of the peer that waits for the answer.
    pub caller: u32,
    /// Slot of the peer that was asked.
    pub callee: u32,
    /// What the caller knows it by.
    pub caller_id: CallerIdState,
    /// What a callee of version 1 knows it by.
    pub callee_id: Option<String>,
    /// The method.
    pub method: String,
    /// The caller's context as it was written, if it is to be echoed.
    #[serde(with = "serde_bytes")]
    pub context: Vec<u8>,
    /// Its encoding.
    pub context_encoding: EncodingState,
    /// The context section, if calls may be made for this one and it did not begin its chain.
    #[serde(with = "serde_bytes")]
    pub section: Vec<u8>,
    /// Stamp of the chain that begins with this call; 0 when there is a context or a section.
    pub root: u64,
    /// Slot of the call that this one was made for.
    pub parent: Option<u32>,
    /// Monotonic milliseconds of its end.
    pub deadline_ms: u64,
    /// Monotonic microseconds when it was routed.
    pub started_us: u64,
    /// Milliseconds that it was given.
    pub timeout_ms: u64,
}

/// An introspection call that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParkedState {
    /// Slot of who waits.
    pub caller: u32,
    /// What the caller knows the call by.
    pub id: CallerIdState,
    /// Monotonic milliseconds of its end.
    pub deadline_ms: u64,
    /// Milliseconds that it waits.
    pub timeout_ms: u64,
    /// The context, to be echoed.
    #[serde(with = "serde_bytes")]
    pub context: Vec<u8>,
    /// Its encoding.
    pub context_encoding: EncodingState,
    /// What it waits for.
    pub wait: WaitState,
}

/// What an introspection call waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WaitState {
    /// The registration of a service.
    Service {
        /// Its name.
        name: String,
        /// It is told only that the service is there.
        is_brief: bool,
    },
    /// The policy to be read again.
    Policy,
    /// The next event.
    Events {
        /// The first that was not seen.
        cursor: u64,
        /// Most that are wanted.
        max: u64,
    },
}

/// A lane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneState {
    /// Its number.
    pub number: u64,
    /// Slots of its peers; absent for one that has not told of it.
    pub ends: [Option<u32>; 2],
    /// Bytes of its shared memory, all of it used. An older gateway made no others than of this size.
    #[serde(default = "older_lane_bytes")]
    pub bytes: u64,
    /// Who has opened it.
    pub is_ready: [bool; 2],
    /// Both were told to use it.
    pub is_open: bool,
    /// Until when it has to be open, monotonic milliseconds.
    pub deadline_ms: Option<u64>,
    /// What was told last of what was done on it.
    pub stats: [LaneStatsState; 2],
}

fn older_lane_bytes() -> u64 {
    8_654_848
}

/// What one end has done on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneStatsState {
    /// Calls that ended.
    pub calls: u64,
    /// How many of them failed.
    pub errors: u64,
    /// Bytes sent.
    pub bytes: u64,
}

/// Events kept for those who watch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventLogState {
    /// JSON objects, oldest first.
    pub entries: Vec<String>,
    /// The number of the next one.
    pub next_seq: u64,
    /// Until when a watcher counts as watching, monotonic milliseconds.
    pub lease_until_ms: u64,
    /// Somebody watches.
    pub is_recording: bool,
}

impl RouterState {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("plain values can be written")
    }

    /// From bytes. Whatever they are, it allocates in proportion to them.
    pub fn decode(bytes: &[u8]) -> Result<RouterState, ImportError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
            readable_from: u32,
        }
        let Head { format, readable_from } = read(bytes)?;
        if !is_readable(format, readable_from, READS_FROM, FORMAT) {
            return Err(ImportError::Format { format, readable_from });
        }
        read(bytes)
    }
}

/// Deeper than any state, also one of a later version; what is skipped is nested no deeper either.
const NESTING_MAX: usize = 32;

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ImportError> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    reader.set_max_depth(NESTING_MAX);
    T::deserialize(&mut reader).map_err(|error| ImportError::Unreadable { why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_and_older_formats_are_told_apart() {
        assert!(is_readable(3, 3, 2, 4), "an older one that is still read");
        assert!(!is_readable(1, 1, 2, 4), "an older one that is not");
        assert!(is_readable(6, 4, 2, 4), "a newer one that says older readers understand it");
        assert!(!is_readable(6, 5, 2, 4), "a newer one");
        assert!(is_readable(FORMAT, READABLE_FROM, READS_FROM, FORMAT));
    }

    #[test]
    fn a_format_that_is_not_known_is_named() {
        let router = crate::Router::new(crate::RouterConfig::default(), 1, bro_proto::Now::default());
        let mut state = router.export(bro_proto::Now::default());
        (state.format, state.readable_from) = (FORMAT + 1, FORMAT + 1);
        let refused = RouterState::decode(&state.encode());
        assert_eq!(refused, Err(ImportError::Format { format: FORMAT + 1, readable_from: FORMAT + 1 }));
        state.readable_from = FORMAT;
        assert!(RouterState::decode(&state.encode()).is_ok());
        assert!(matches!(RouterState::decode(b"\x93"), Err(ImportError::Unreadable { .. })));
    }
}
