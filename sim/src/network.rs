//! What a driver holds: connections, queues, and the router's orders in the order in which they were given.

use crate::traffic::Planned;
use bro_proto::frame::Deframer;
use bro_proto::v1::Encoding;
use bro_router::{CloseReason, Event, EventMask, LaneOffer, Outbox, Part, PeerId, PeerIdentity};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};

/// Something that the router told its driver to do.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    Send { peer: PeerId, frame: Vec<u8> },
    Close { peer: PeerId, reason: CloseReason },
    Pause(PeerId),
    Resume(PeerId),
    Event(EventMask),
    Offer(LaneOffer),
}

/// Collects orders while the router handles one input.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    pub(crate) list: Vec<Order>,
    /// Where the inbound frame lies, to check what the router claims to be part of it.
    pub(crate) inbound: Option<(usize, usize)>,
    pub(crate) is_stray_part: bool,
}

impl Outbox for Orders {
    fn send(&mut self, peer: PeerId, parts: &[Part<'_>]) {
        for part in parts {
            if let Part::Inbound(bytes) = part
                && !bytes.is_empty()
            {
                let start = bytes.as_ptr() as usize;
                let end = start + bytes.len();
                self.is_stray_part |= !self.inbound.is_some_and(|(from, to)| from <= start && end <= to);
            }
        }
        let frame = parts.iter().flat_map(|part| part.bytes()).copied().collect();
        self.list.push(Order::Send { peer, frame });
    }

    fn close(&mut self, peer: PeerId, reason: CloseReason) {
        self.list.push(Order::Close { peer, reason });
    }

    fn pause(&mut self, peer: PeerId) {
        self.list.push(Order::Pause(peer));
    }

    fn resume(&mut self, peer: PeerId) {
        self.list.push(Order::Resume(peer));
    }

    fn offer_lane(&mut self, offer: LaneOffer) {
        self.list.push(Order::Offer(offer));
    }

    fn event(&mut self, event: Event<'_>) {
        self.list.push(Order::Event(event.kind()));
    }
}

/// How a peer behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Follows the protocol.
    Honest,
    /// Breaks it now and then.
    Hostile,
    /// Follows it, but reads little of what it is sent.
    Slow,
}

/// What one end of a call knows it by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Id {
    /// In version 1.
    Text(String),
    /// In version 2.
    Number(u64),
}

impl Id {
    pub(crate) fn is_text(&self, text: &str) -> bool {
        matches!(self, Id::Text(own) if own == text)
    }

    pub(crate) fn number(&self) -> Option<u64> {
        match self {
            Id::Text(_) => None,
            Id::Number(number) => Some(*number),
        }
    }
}

/// A CALL that arrived at a peer and waits for its answer.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Of the call that it belongs to.
    pub(crate) serial: u64,
    pub(crate) id: Id,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) context: Value,
}

/// What a frame means to the peer that takes it, as far as that changes what it does.
#[derive(Clone, Debug)]
pub(crate) enum Arrival {
    Request(Request),
    /// REGISTER_ACK; with whether it agrees to version 2.
    Accepted(bool),
    /// CANCEL.
    Cancelled(u64),
    /// LANE_OFFER, of which the router has charged nothing.
    Offered(u64),
}

/// One connection, both ends.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) manner: Manner,
    pub(crate) encoding: Encoding,
    pub(crate) identity: PeerIdentity,
    /// Its supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// What the peer has written and the gateway has not read.
    pub(crate) outgoing: Vec<u8>,
    /// The whole frames in `outgoing` and in the deframer, in order.
    pub(crate) planned: VecDeque<Planned>,
    pub(crate) deframer: Deframer,
    pub(crate) is_paused: bool,
    /// Bytes that the gateway holds for the peer.
    pub(crate) held: usize,
    /// How many of them are not of CALLs, if both are taken in proportion.
    pub(crate) answers: usize,
    /// Frames that are held, with the bytes of each that are not yet taken.
    pub(crate) queue: VecDeque<(usize, Option<Arrival>)>,
    /// CALLs that have arrived.
    pub(crate) requests: Vec<Request>,
    /// Its REGISTER will offer version 2.
    pub(crate) offers_v2: bool,
    /// The gateway has agreed to version 2.
    pub(crate) speaks_v2: bool,
    /// The peer has read that it was accepted, and whether with version 2.
    pub(crate) accepted: Option<bool>,
    /// The peer takes no more calls.
    pub(crate) is_leaving: bool,
    /// By route number: what the gateway has read, and what the peer has written.
    pub(crate) routes: Vec<String>,
    pub(crate) routes_written: Vec<String>,
    /// By number: the names that the gateway has told, with the serial of the service.
    pub(crate) names: BTreeMap<u32, (String, u64)>,
    /// Numbers that the peer has lately given to calls, and under which it was lately asked.
    pub(crate) made: VecDeque<u64>,
    pub(crate) asked: VecDeque<u64>,
    /// It says in its REGISTER that it can use lanes, as far as version 2 is agreed on.
    pub(crate) takes_lanes: bool,
    /// Lanes that it was offered and has not answered, and those that it lately had to do with.
    pub(crate) lane_offers: Vec<u64>,
    pub(crate) lanes: VecDeque<u64>,
    /// Of the last one that it gave a call.
    pub(crate) last_id: u64,
    pub(crate) connected_ms: u64,
    /// When the present frame was begun, as far as the gateway could see.
    pub(crate) mid_frame_since_ms: Option<u64>,
    /// When the queue was last taken from, or became non-empty.
    pub(crate) progress_ms: u64,
}

impl Connection {
    pub(crate) fn new(manner: Manner, encoding: Encoding, identity: PeerIdentity, now_ms: u64) -> Self {
        Self {
            manner,
            encoding,
            identity,
            groups: Vec::new(),
            outgoing: Vec::new(),
            planned: VecDeque::new(),
            deframer: Deframer::new(),
            is_paused: false,
            held: 0,
            answers: 0,
            queue: VecDeque::new(),
            requests: Vec::new(),
            offers_v2: false,
            speaks_v2: false,
            accepted: None,
            is_leaving: false,
            routes: Vec::new(),
            routes_written: Vec::new(),
            names: BTreeMap::new(),
            made: VecDeque::new(),
            asked: VecDeque::new(),
            takes_lanes: false,
            lane_offers: Vec::new(),
            lanes: VecDeque::new(),
            last_id: 0,
            connected_ms: now_ms,
            mid_frame_since_ms: None,
            progress_ms: now_ms,
        }
    }

    /// The peer takes `bytes` of what is held for it; CALLs that become whole are its to answer.
    pub(crate) fn take(&mut self, mut bytes: usize, now_ms: u64) {
        assert!(bytes <= self.held);
        self.answers -= (bytes * self.answers).div_ceil(self.held.max(1));
        self.held -= bytes;
        self.progress_ms = now_ms;
        while let Some((left, arrival)) = self.queue.front_mut().filter(|front| bytes > 0 || front.0 == 0) {
            if bytes < *left {
                *left -= bytes;
                return;
            }
            bytes -= *left;
            match arrival.take() {
                None => {}
                Some(Arrival::Request(request)) => {
                    if let Id::Number(number) = request.id {
                        remember(&mut self.asked, number);
                    }
                    self.requests.push(request);
                }
                Some(Arrival::Accepted(is_v2)) => self.accepted = Some(is_v2),
                // Half of them go on working, and answer.
                Some(Arrival::Cancelled(number)) if number >> 32 & 1 == 0 => {
                    self.requests.retain(|request| request.id != Id::Number(number));
                }
                Some(Arrival::Cancelled(_)) => {}
                Some(Arrival::Offered(number)) => self.lane_offers.push(number),
            }
            self.queue.pop_front();
        }
    }
}

/// Keeps a number, and forgets old ones.
pub(crate) fn remember(numbers: &mut VecDeque<u64>, number: u64) {
    const KEPT_MAX: usize = 16;
    if numbers.len() == KEPT_MAX {
        numbers.pop_front();
    }
    numbers.push_back(number);
}
