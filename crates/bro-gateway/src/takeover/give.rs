//! The running gateway's side: it gives everything away, and keeps it until the other one has taken it.

use super::link::{Link, LinkError};
use super::{ConnState, Handover, LingerState, TAKEN};
use crate::conns::HandedOn;
use crate::linger::HandedOnLinger;
use bro_proto::limits;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Everything that there is to give.
pub(crate) struct Given<'a> {
    pub(crate) listener: BorrowedFd<'a>,
    pub(crate) socket_file: Option<(u64, u64)>,
    /// The router's state, as bytes.
    pub(crate) router: Vec<u8>,
    pub(crate) conns: Vec<HandedOn<'a>>,
    pub(crate) lingering: Vec<HandedOnLinger<'a>>,
}

/// Small pieces are sent together.
const GATHERED_BYTES: usize = 64 * 1024;

/// Gives it to the gateway at the other end of a connection. After `Ok` that one serves. After an error it does not and will not: the
/// text says why.
pub(crate) fn give(socket: OwnedFd, given: Given<'_>) -> Result<(), String> {
    let link = Link::new(socket, Duration::from_millis(limits::TAKEOVER_TIMEOUT_MS));
    match send(&link, given) {
        Ok(()) => Ok(()),
        Err(_) if link.shut_down(TAKEN) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn send(link: &Link, given: Given<'_>) -> Result<(), LinkError> {
    let Given { listener, socket_file, router, conns, lingering } = given;
    let handover = Handover {
        pid: std::process::id(),
        socket_file,
        clock_ns: clock_ns(),
        router,
        conns: conns.iter().map(state_of).collect(),
        lingering: lingering.iter().map(linger_state_of).collect(),
    };
    let head = rmp_serde::to_vec_named(&handover).expect("plain values can be written");
    link.send_all(&(head.len() as u64).to_le_bytes())?;
    link.send_all(&head)?;
    let mut gathered = Vec::new();
    let pieces = conns.iter().flat_map(|conn| std::iter::once(conn.partial).chain(conn.outgoing.queued()));
    for piece in pieces.chain(lingering.iter().flat_map(|linger| linger.outgoing.queued())) {
        if gathered.len() + piece.len() > GATHERED_BYTES {
            link.send_all(&gathered)?;
            gathered.clear();
        }
        if piece.len() > GATHERED_BYTES {
            link.send_all(piece)?;
        } else {
            gathered.extend_from_slice(piece);
        }
    }
    link.send_all(&gathered)?;
    let sockets = conns.iter().map(|conn| conn.socket).chain(lingering.iter().map(|linger| linger.socket));
    let descriptors: Vec<BorrowedFd<'_>> = std::iter::once(listener).chain(sockets).collect();
    link.send_descriptors(&descriptors)?;
    link.expect(TAKEN)
}

fn state_of(conn: &HandedOn<'_>) -> ConnState {
    let HandedOn { peer, socket: _, partial, skipping_bytes, outgoing, is_paused } = conn;
    ConnState {
        slot: peer.slot,
        generation: peer.generation,
        is_paused: *is_paused,
        partial_bytes: partial.len() as u64,
        skipping_bytes: *skipping_bytes as u64,
        queued_bytes: outgoing.queued().map(<[u8]>::len).sum::<usize>() as u64,
    }
}

fn linger_state_of(linger: &HandedOnLinger<'_>) -> LingerState {
    let HandedOnLinger { socket: _, outgoing, discarded_bytes, left_us, is_finished } = linger;
    LingerState {
        queued_bytes: outgoing.queued().map(<[u8]>::len).sum::<usize>() as u64,
        discarded_bytes: *discarded_bytes as u64,
        left_us: *left_us,
        is_finished: *is_finished,
    }
}

/// The kernel's monotonic clock, which both gateways read.
pub(super) fn clock_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let parts = u64::try_from(now.tv_sec).ok().zip(u64::try_from(now.tv_nsec).ok());
    parts.map_or(0, |(seconds, nanos)| seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}
