//! Snapshots of what is registered, for drivers and introspection.

use crate::outbox::PeerId;
use bro_proto::v1::Encoding;

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
    /// Process id by peer credentials, where known.
    pub pid: Option<u32>,
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
