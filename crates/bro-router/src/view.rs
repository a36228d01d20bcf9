//! Snapshots of what is registered, for drivers and introspection.

use crate::outbox::PeerId;
use bro_proto::v1::Encoding;
use std::num::NonZeroU64;

/// A registered service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Its methods, as registered last.
    pub methods: Vec<Box<str>>,
    /// As the service said.
    pub version: Option<String>,
    /// As the service said, as the text of a JSON object.
    pub metadata_json: String,
    /// When its first instance registered, in milliseconds since 1970.
    pub connected_at_ms: u64,
    /// When the last frame came from any of its instances, in milliseconds since 1970.
    pub last_heartbeat_ms: u64,
    /// Its connections.
    pub instances: Vec<InstanceView>,
}

/// One connection that serves a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceView {
    /// The connection.
    pub peer: PeerId,
    /// The version of the protocol that the connection speaks: 1 or 2.
    pub protocol: u8,
    /// Its lanes to other peers.
    pub lanes: usize,
    /// Bytes of shared memory that these lanes take when they are used to the full.
    pub lane_bytes: usize,
    /// Process id by peer credentials, where known.
    pub pid: Option<u32>,
    /// The kernel's number of this process, where known; see [`PeerIdentity::pidfd_id`](crate::PeerIdentity::pidfd_id).
    pub pidfd_id: Option<NonZeroU64>,
    /// User id by peer credentials, where known.
    pub uid: Option<u32>,
    /// Group id by peer credentials, where known.
    pub gid: Option<u32>,
    /// What the gateway speaks to it.
    pub encoding: Encoding,
    /// Its place in a pool.
    pub pool_index: Option<u32>,
    /// When it connected, in milliseconds since 1970.
    pub connected_at_ms: u64,
    /// When its last frame came, in milliseconds since 1970.
    pub last_heartbeat_ms: u64,
    /// Bytes queued to it.
    pub queued_bytes: usize,
    /// Calls that it works on.
    pub in_flight: usize,
}

/// How fast the driver's thread comes round: what it measures, and `status` tells. All zero until the driver says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoopView {
    /// Wakeups since the start.
    pub wakeups: u64,
    /// Of the last one to two [`bro_proto::limits::LOOP_LAG_WINDOW_MS`]: how long what was ready waited until it was handled, in
    /// microseconds. One lag a wakeup: how long it took, and how late it came where a timer was due.
    pub lag_p50_us: u64,
    /// The same, of the slowest hundredth.
    pub lag_p99_us: u64,
    /// The same, of the slowest.
    pub lag_max_us: u64,
    /// The wakeup that took longest since the start, once there was one.
    pub longest: Option<WakeupView>,
}

/// One wakeup of the driver's thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WakeupView {
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// When it ended, in milliseconds since 1970.
    pub at_ms: u64,
    /// Connections that were read from.
    pub connections_read: u64,
    /// Frames that arrived.
    pub frames_in: u64,
    /// Bytes of these frames.
    pub bytes_in: u64,
    /// Frames that were sent.
    pub frames_out: u64,
    /// Connections that were accepted.
    pub accepted: u64,
}
