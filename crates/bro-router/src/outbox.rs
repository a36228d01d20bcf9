//! What the router tells its driver to do.

use crate::event::{CloseReason, Event};

/// Names a connection. An id is never used again: the slot is, with another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId {
    /// Dense index, reused after the peer has gone; good for a driver's own table.
    pub slot: u32,
    /// Tells the users of one slot apart.
    pub generation: u32,
}

/// A piece of an outbound frame.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// Bytes of the inbound frame that is being handled: the driver may send them from where they lie.
    Inbound(&'a [u8]),
    /// Bytes that live only during the call: the driver copies them.
    Scratch(&'a [u8]),
}

impl<'a> Part<'a> {
    /// The bytes, wherever they lie.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Part::Inbound(bytes) | Part::Scratch(bytes) => bytes,
        }
    }
}

/// A lane to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneOffer {
    /// Names the lane.
    pub number: u64,
    /// Who gets the first side, and who the second.
    pub peers: [PeerId; 2],
    /// What each is told, along with its descriptors.
    pub frames: [Vec<u8>; 2],
}

/// The driver's side of the router's outputs. Calls come in the order in which they must take effect.
pub trait Outbox {
    /// Queue one whole frame, the concatenation of `parts`, to `peer`. The router has charged the bytes to the peer;
    /// the driver reports them by `handle_written` as the socket takes them.
    fn send(&mut self, peer: PeerId, parts: &[Part<'_>]);

    /// Close `peer`, after what is queued has been tried once. The router has already forgotten the peer: there will
    /// be no `handle_disconnect` for it.
    fn close(&mut self, peer: PeerId, reason: CloseReason);

    /// Stop reading from `peer` until [`Outbox::resume`].
    fn pause(&mut self, peer: PeerId);

    /// Read from `peer` again.
    fn resume(&mut self, peer: PeerId);

    /// Make a lane and hand it to two peers: to each its frame with its half of the lane, right behind what is queued. What the router
    /// has not charged must not wait: where that is impossible, none is handed out, and the driver says so by
    /// [`crate::Router::handle_offer_failed`], not from in here.
    fn offer_lane(&mut self, offer: LaneOffer);

    /// Something happened that somebody asked for with [`crate::EventMask`].
    fn event(&mut self, event: Event<'_>);
}
