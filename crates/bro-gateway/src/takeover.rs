//! A gateway takes over from a running one: the listening socket, every connection, and what the router knows.
//!
//! The new gateway connects like any peer, registers, and calls `takeover` of `bro.gateway`. When the running one accepts, its loop stands still,
//! and this follows on the same connection:
//!
//! 1. the bytes of a [`Handover`], as a u64 (little-endian), then the [`Handover`] as msgpack;
//! 2. for each connection in it the bytes of its unfinished inbound frame and then those that are queued to it, for each lingering one those that are
//!    queued to it;
//! 3. descriptors, at most [`limits::TAKEOVER_DESCRIPTORS_PER_MESSAGE`] with each byte [`BATCH`], each of which the new gateway answers with [`BATCH`]: the listening socket,
//!    the connections, the lingering ones, in the order of the [`Handover`].
//!
//! The new gateway builds everything that can fail, and then sends [`TAKEN`]: at that moment it is the gateway. Until then the old one has touched nothing, and
//! goes on when anything fails, or after [`limits::TAKEOVER_TIMEOUT_MS`]. It gives up by shutting the connection down, so that the kernel decides: either `TAKEN` was
//! sent before, and the old one finds it, or sending it fails, and the new one closes what it was given.
//!
//! `give` is the old one's side, `take` the new one's, `link` the connection between them.

mod give;
mod link;
mod take;

pub(crate) use give::{Given, give};
pub(crate) use take::{Commit, Taken, TakenConn, TakenLinger, take_over};

#[cfg(doc)]
use bro_proto::limits;
use bro_router::PeerIdentity;
use serde::{Deserialize, Serialize};

/// Comes with descriptors, and says that they have come.
const BATCH: u8 = b'B';
/// Says that the new gateway has everything, and serves from now on.
const TAKEN: u8 = b'T';

/// What the running gateway hands on, bytes on their way and descriptors not included. Its format is that of the router's state.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Handover {
    /// Of the running gateway.
    pid: u32,
    /// Device and inode of the socket's file; absent where the file is not the gateway's.
    socket_file: Option<(u64, u64)>,
    /// The kernel's monotonic clock when the router was exported, in nanoseconds.
    clock_ns: u64,
    /// The router's state.
    #[serde(with = "serde_bytes")]
    router: Vec<u8>,
    conns: Vec<ConnState>,
    lingering: Vec<LingerState>,
}

/// A connection.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ConnState {
    slot: u32,
    generation: u32,
    /// It is not read from until its peer has read.
    is_paused: bool,
    /// Bytes of a frame whose end has not arrived.
    partial_bytes: u64,
    /// Bytes of a frame above the limit that are still to be skipped. A gateway that does not know this field refuses to take over a connection
    /// where it is not 0: there is no unfinished frame, and the router says that there is one.
    #[serde(default)]
    skipping_bytes: u64,
    /// Bytes that its socket did not take.
    queued_bytes: u64,
}

/// A connection that the gateway has closed, and whose peer may still want what is queued.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct LingerState {
    queued_bytes: u64,
    /// Bytes that were read from it and thrown away.
    discarded_bytes: u64,
    /// Time until it is cut off.
    left_us: u64,
    /// The end of the stream was sent.
    is_finished: bool,
}

/// Whether a process of that user may be given the connections of a gateway of this one.
pub(crate) fn may_take_over(other: &PeerIdentity, own_uid: u32) -> bool {
    other.uid.is_some_and(|uid| uid == own_uid || uid == 0)
}

/// Whether that process is in the control group of this one, as far as the kernel tells.
pub(crate) fn shares_control_group(pid: Option<u32>) -> bool {
    let group = |process: &str| std::fs::read(format!("/proc/{process}/cgroup")).ok();
    let own = group("self");
    own.is_some() && own == pid.and_then(|pid| group(&pid.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_shares_the_control_group_and_who_is_not_there_does_not() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(shares_control_group(Some(child.id())));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!shares_control_group(Some(child.id())) && !shares_control_group(None));
    }

    #[test]
    fn only_the_same_user_and_root_may_take_over() {
        let of = |uid| PeerIdentity { pid: Some(1), uid, gid: Some(1000), ..PeerIdentity::default() };
        assert!(may_take_over(&of(Some(1000)), 1000) && may_take_over(&of(Some(0)), 1000));
        assert!(!may_take_over(&of(Some(1001)), 1000) && !may_take_over(&of(None), 1000));
        assert!(!may_take_over(&of(Some(1000)), 0), "root's gateway is root's");
    }
}
