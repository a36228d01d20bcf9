//! Targets about version 2: its frames against a slow reader, and the router between peers of both versions.

#[path = "../../crates/bro-proto/tests/oracle/v2.rs"]
mod oracle;

use bro_proto::Now;
use bro_proto::limits::{CHAIN_LEN_MAX, CONTEXT_BYTES_MAX};
use bro_proto::v1;
use bro_proto::v2::{self, Frame, FrameKind, Section, WireError, section};
use bro_router::{
    CloseReason, Counters, Event, EventMask, LaneOffer, Outbox, Part, PeerId, PeerIdentity, Router, RouterConfig,
};
use oracle::{Body, Wrong};
use std::collections::BTreeMap;

/// A frame of version 2: the input is one whole, or what stands behind the mark.
pub(crate) fn v2_frame(input: &[u8]) {
    let body = if input.get(4) == Some(&v2::MARK) { &input[5..] } else { input };
    let length = u32::try_from(body.len() + 1).expect("inputs are short");
    let frame = [&length.to_be_bytes()[..], &[v2::MARK], body].concat();
    match (v2::parse(&frame), oracle::read(&frame)) {
        (Ok(read), Ok(slow)) => compare(&frame, &read, &slow),
        (Err(error), Err(wrong)) => assert_eq!(class_of(error), wrong, "{error}"),
        (read, slow) => panic!("{read:?}, but read slowly {slow:?}"),
    }
}

fn class_of(error: WireError) -> Wrong {
    match error {
        WireError::Short { .. } => Wrong::Short,
        WireError::UnknownKind { .. } => Wrong::Kind,
        WireError::BadName => Wrong::Name,
        WireError::BadContext => Wrong::Context,
        WireError::BadText => Wrong::Text,
    }
}

fn compare(bytes: &[u8], read: &Frame<'_>, slow: &oracle::Frame) {
    let call = match (read, &slow.body) {
        (Frame::Call(call), Body::Call(own)) if slow.kind == oracle::CALL => Some((call, own)),
        (Frame::Notify(call), Body::Call(own)) if slow.kind == oracle::NOTIFY => Some((call, own)),
        (Frame::Response { id, codec, payload }, Body::Payload(own)) => {
            assert_eq!((*id, codec.0, *payload), (slow.id, slow.codec, own.as_slice()));
            None
        }
        (Frame::Error { id, is_from_gateway, failure }, Body::Failure { code, message, stack }) => {
            assert_eq!((*id, *is_from_gateway), (slow.id, slow.flags & 1 != 0));
            assert_eq!(
                (failure.code, failure.message, failure.stack),
                (code.as_str(), message.as_str(), stack.as_str())
            );
            None
        }
        (Frame::Resolve { route: id, service } | Frame::Name { number: id, service, .. }, Body::Name(name)) => {
            assert_eq!((*id, *service), (slow.id, name.as_str()));
            None
        }
        (Frame::Cancel { id, .. } | Frame::Ping { id } | Frame::Pong { id }, Body::Nothing) => {
            assert_eq!(*id, slow.id);
            None
        }
        (Frame::Drain | Frame::Ignored, Body::Nothing) => None,
        (Frame::Other { kind, id, payload }, Body::Other(own)) => {
            assert_eq!((*kind as u8, *id, *payload), (slow.kind, slow.id, own.as_slice()));
            None
        }
        (read, slow) => panic!("{read:?}, but read slowly {slow:?}"),
    };
    let Some((call, own)) = call else { return };
    assert_eq!((call.id, call.codec.0), (slow.id, slow.codec));
    assert_eq!((call.origin, call.root, call.peer, call.timeout_ms), (own.origin, own.root, own.peer, own.timeout_ms));
    assert_eq!((call.method, call.payload), (own.method.as_str(), own.payload.as_slice()));
    assert_eq!(&bytes[call.payload_at..], call.payload);
    match (&call.section, &own.section) {
        (None, None) => {}
        (Some(section), Some(own)) => compare_sections(section, own),
        (section, own) => panic!("{section:?}, but read slowly {own:?}"),
    }
    // On its way through the gateway only the head changes.
    let mut passed_on = bytes.to_vec();
    v2::encode::complete_call(&mut passed_on, 1, 2, 3, 4, 5);
    let (Ok(Frame::Call(after) | Frame::Notify(after)), false) = (v2::parse(&passed_on), passed_on.is_empty()) else {
        panic!("a call that cannot be passed on");
    };
    assert_eq!((after.id, after.origin, after.root, after.peer, after.timeout_ms), (1, 2, 3, 4, 5));
    assert_eq!((after.method, after.section, after.payload), (call.method, call.section, call.payload));
}

fn compare_sections(section: &Section<'_>, own: &oracle::Section) {
    assert_eq!((section.root, section.depth), (own.root.as_str(), own.depth));
    assert!(section.chain().eq(own.chain.iter().map(String::as_str)));
}

/// A context section, and what is made of it.
pub(crate) fn v2_section(input: &[u8]) {
    let (read, slow) = (Section::parse(input), oracle::read_section(input));
    let (Ok(read), Ok(slow)) = (&read, &slow) else {
        assert!(read.is_err() && slow.is_err(), "{read:?}, but read slowly {slow:?}");
        return;
    };
    compare_sections(read, slow);
    assert_eq!(oracle::write_section(slow), input);
    let mut again = Vec::new();
    let chain: Vec<&str> = read.chain().collect();
    section::write(&mut again, read.root, read.depth, chain.iter().copied()).expect("it was read");
    assert_eq!(again, input);
    let mut child = Vec::new();
    match read.extend("child", &mut child) {
        Ok(()) => {
            let child = Section::parse(&child).expect("it was written");
            assert_eq!((child.root, child.depth), (read.root, read.depth.saturating_add(1)));
            assert!(child.chain().eq(chain.iter().copied().chain(["child"])));
        }
        Err(_) => assert!(chain.len() == CHAIN_LEN_MAX || input.len() + 7 > CONTEXT_BYTES_MAX),
    }
}

/// Peers of the `router` target.
const PEERS: usize = 4;
/// Body limit, in bytes: small, so that inputs meet it.
const BODY_BYTES_MAX: usize = 2048;

/// What the router has done to the peers.
#[derive(Default)]
struct Drivers {
    /// Bytes queued to each, and whether it speaks version 2.
    held: BTreeMap<PeerId, (usize, bool)>,
}

impl Outbox for Drivers {
    fn send(&mut self, peer: PeerId, parts: &[Part<'_>]) {
        let frame: Vec<u8> = parts.iter().flat_map(|part| part.bytes()).copied().collect();
        assert!(frame.len() <= BODY_BYTES_MAX + 4, "a frame of {} bytes", frame.len());
        let length = u32::from_be_bytes(*frame.first_chunk().expect("a prefix"));
        assert_eq!(length as usize, frame.len() - 4);
        let (held, speaks_v2) = self.held.get_mut(&peer).expect("nothing is sent to who has gone");
        *held += frame.len();
        if v2::is_v2(&frame) {
            assert!(*speaks_v2, "{peer:?} does not speak version 2: {frame:?}");
            v2::parse(&frame).expect("what is sent is well-formed");
            return;
        }
        let header = v1::scan(&frame[4..]).expect("what is sent is well-formed");
        *speaks_v2 |= header.kind == v1::Kind::RegisterAck && find(&frame, b"bro\"") | find(&frame, b"\xa3bro\x81");
        assert!(!*speaks_v2 || !matches!(header.kind, v1::Kind::Call | v1::Kind::Response));
    }

    fn close(&mut self, peer: PeerId, _reason: CloseReason) {
        self.held.remove(&peer).expect("nobody is closed twice");
    }

    fn pause(&mut self, _peer: PeerId) {}

    fn resume(&mut self, _peer: PeerId) {}

    fn offer_lane(&mut self, _offer: LaneOffer) {}

    fn event(&mut self, _event: Event<'_>) {}
}

fn find(frame: &[u8], piece: &[u8]) -> bool {
    frame.windows(piece.len()).any(|window| window == piece)
}

struct World {
    router: Router,
    now: Now,
    drivers: Drivers,
    peers: [Option<PeerId>; PEERS],
}

impl World {
    fn connect(&mut self, at: usize) {
        let identity = PeerIdentity { pid: Some(1), uid: Some(1), ..PeerIdentity::default() };
        if let Ok(peer) = self.router.handle_connect(identity, self.now, &mut self.drivers) {
            self.drivers.held.insert(peer, (0, false));
            self.peers[at] = Some(peer);
            // "a" is a pool of both versions, "b" speaks version 2, "c" version 1.
            let register = [
                r#"{"type":"REGISTER","serviceName":"a","metadata":{"poolSize":2,"poolIndex":0,"bro":{"v":2}}}"#,
                r#"{"type":"REGISTER","serviceName":"b","metadata":{"bro":{"v":2}}}"#,
                r#"{"type":"REGISTER","serviceName":"c"}"#,
                r#"{"type":"REGISTER","serviceName":"a","metadata":{"poolSize":2,"poolIndex":1}}"#,
            ];
            self.frame(at, register[at].as_bytes());
            for (route, name) in [&b"a"[..], b"b", b"c", b"bro.gateway"].into_iter().enumerate().filter(|_| at < 2) {
                let head = [v2::MARK, FrameKind::Resolve as u8, 0, 0, u8::try_from(route).expect("small")];
                self.frame(at, &[&head[..], &[0; 7], name].concat());
            }
        }
    }

    fn frame(&mut self, at: usize, body: &[u8]) {
        let Some(peer) = self.peers[at] else { return };
        let length = u32::try_from(body.len()).expect("inputs are short");
        let mut frame = [&length.to_be_bytes()[..], body].concat();
        self.router.handle_frame(peer, &mut frame, self.now, &mut self.drivers);
    }

    /// A peer takes everything.
    fn take(&mut self, at: usize) {
        let Some(peer) = self.peers[at] else { return };
        if let Some((held, _)) = self.drivers.held.get_mut(&peer) {
            let held = std::mem::take(held);
            self.router.handle_written(peer, held, self.now, &mut self.drivers);
        }
    }

    fn check(&mut self) {
        self.router.check_invariants();
        let held: usize = self.drivers.held.values().map(|(held, _)| held).sum();
        assert_eq!(self.router.charged_bytes(), held);
        assert_eq!(self.router.peers_len(), self.drivers.held.len());
        for peer in &mut self.peers {
            *peer = peer.filter(|peer| self.drivers.held.contains_key(peer));
        }
    }
}

/// Records of a byte that says what happens to which peer, and what belongs to it. Frames have a byte for their length, two if it
/// is 255.
pub(crate) fn router(input: &[u8]) {
    play(input);
}

fn play(mut input: &[u8]) -> Counters {
    let now = Now { mono_us: 1_000_000, wall_ms: 1_700_000_000_000 };
    let config = RouterConfig { frame_bytes_max: BODY_BYTES_MAX, call_timeout_ms: 1000, ..RouterConfig::default() };
    let mut world =
        World { router: Router::new(config, 1, now), now, drivers: Drivers::default(), peers: [None; PEERS] };
    (0..PEERS).for_each(|at| world.connect(at));
    while let Some(what) = take_byte(&mut input) {
        let at = usize::from(what & 3);
        match what >> 2 & 15 {
            0..=9 => {
                let length = match take_byte(&mut input) {
                    Some(255) => take_byte(&mut input).map_or(0, usize::from) << 4,
                    length => length.map_or(0, usize::from),
                };
                let (body, rest) = input.split_at(length.min(input.len()));
                input = rest;
                world.frame(at, body);
            }
            10 => {
                let step_us = u64::from(take_byte(&mut input).unwrap_or(1)) * 16_000;
                world.now.mono_us += step_us;
                world.now.wall_ms += step_us / 1000;
                world.router.handle_time(world.now, &mut world.drivers);
            }
            11 | 12 => world.take(at),
            13 => {
                if let Some(peer) = world.peers[at].take() {
                    world.drivers.held.remove(&peer);
                    world.router.handle_disconnect(peer, world.now, &mut world.drivers);
                } else {
                    world.connect(at);
                }
            }
            14 if what & 128 != 0 => {
                world.router.set_events(EventMask::ALL);
                // As its documentation asks for: lanes go now.
                world.router.handle_time(world.now, &mut world.drivers);
            }
            14 => {
                if let Some(peer) = world.peers[at] {
                    world.router.handle_partial(peer, what & 64 != 0, world.now);
                }
            }
            _ => world.router.begin_drain(500, world.now, &mut world.drivers),
        }
        world.check();
    }
    (0..PEERS).for_each(|at| world.take(at));
    world.check();
    assert_eq!(world.router.charged_bytes(), 0, "all is written");
    world.router.stop(world.now, &mut world.drivers);
    world.check();
    let left = [world.router.in_flight_len(), world.router.parked_len(), world.router.peers_len()];
    assert_eq!(left, [0; 3], "all has ended");
    assert_eq!(world.router.charged_bytes(), 0);
    *world.router.counters()
}

fn take_byte(input: &mut &[u8]) -> Option<u8> {
    let (&byte, rest) = input.split_first()?;
    *input = rest;
    Some(byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus;

    /// A seed that is refused with its first frame leads nowhere.
    #[test]
    fn the_seeds_of_the_router_come_everywhere() {
        let seeds = corpus::own("router").expect("the corpus can be read");
        let played: Vec<Counters> = seeds.iter().map(|seed| play(seed)).collect();
        let sum = |count: fn(&Counters) -> u64| played.iter().map(count).sum::<u64>();
        assert!(sum(|counters| counters.calls_routed) > 20);
        assert!(sum(|counters| counters.responses_routed) >= 8);
        assert!(sum(|counters| counters.responses_dropped) > 3);
        assert!(sum(|counters| counters.calls_cancelled) > 2);
        assert!(sum(|counters| counters.calls_timed_out) > 0);
        assert!(sum(|counters| counters.calls_abandoned) > 0);
        assert!(sum(|counters| counters.notifications_routed) > 1);
        assert!(sum(|counters| counters.calls_introspection) > 2);
        assert!(sum(|counters| counters.lanes_opened) > 0);
        assert_eq!(sum(|counters| counters.malformed), 0, "{played:?}");
    }
}
