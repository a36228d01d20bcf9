//! What it costs to route one call and its answer, in process, beside 2, 100 and 10,000 services, in both versions of the protocol.
//!
//! Every call is from a service to another one, in an order that jumps about, so that the tables of a large router are met cold.
//! The two frames lie in one place, as they do in a gateway's read buffer; only names and numbers in them change, and how
//! long changing them takes is measured alone and taken off.

use crate::figures::{Case, Figure, Measurement};
use crate::route_frames::{Dialect, Frames};
use crate::rows::Plan;
use crate::window::clock_ns_of;
use anyhow::{Result, anyhow, ensure};
use bro_proto::Now;
use bro_proto::v1::Encoding;
use bro_router::{CloseReason, Event, LaneOffer, Outbox, Part, PeerId, PeerIdentity, Router, RouterConfig};
use rustix::time::ClockId;
use std::hint::black_box;

const SERVICES: [usize; 3] = [2, 100, 10_000];
const DIALECTS: [(&str, Dialect); 2] = [("route", Dialect::V1(Encoding::Json)), ("route-v2", Dialect::V2)];
/// Each table is used this often in turn, so that all of them meet the same disturbances.
const TURNS: usize = 20;
const CALLS_PER_TURN: usize = 20_000;
const NOW: Now = Now { mono_us: 1_000_000, wall_ms: 1_700_000_000_000 };
/// Prime to every number of services, so that a walk with this stride meets all.
const STRIDE: usize = 7919;

/// The rows that the others are compared with.
pub(crate) const BASE: &str = "route-2";
pub(crate) const BASE_V2: &str = "route-v2-2";

/// Rows `route-2`, `route-100`, `route-10000`, and the same with `route-v2`.
pub(crate) fn measure(_plan: &Plan) -> Result<Vec<Measurement>> {
    let mut tables = Vec::new();
    for (row, dialect) in DIALECTS {
        for services in SERVICES {
            let mut table = Table::new(services, dialect)?;
            table.route(2 * SERVICES[2])?; // every service has been met before the clock runs
            tables.push((format!("{row}-{services}"), table, Vec::new()));
        }
    }
    for _ in 0..TURNS {
        for (_, table, times_ns) in &mut tables {
            let start_ns = clock_ns_of(ClockId::ThreadCPUTime);
            table.route(CALLS_PER_TURN)?;
            let routed_ns = clock_ns_of(ClockId::ThreadCPUTime);
            table.write_frames(CALLS_PER_TURN);
            let ns = (routed_ns - start_ns).saturating_sub(clock_ns_of(ClockId::ThreadCPUTime) - routed_ns);
            times_ns.push(ns as f64 / CALLS_PER_TURN as f64);
        }
    }
    let measured = tables.into_iter().map(|(row, _, mut times_ns)| {
        times_ns.sort_by(f64::total_cmp);
        let case = Case { name: "routing a call and its answer in process".to_owned(), is_pinned: None };
        Measurement { row, case, figures: vec![(Figure::RouteNs, times_ns[TURNS / 2])] }
    });
    Ok(measured.collect())
}

/// A router with services, and frames between them.
pub(crate) struct Table {
    router: Router,
    peers: Vec<PeerId>,
    frames: Frames,
    at: usize,
    number: usize,
    sink: Sink,
}

impl Table {
    /// Registers so many services.
    pub(crate) fn new(services: usize, dialect: Dialect) -> Result<Table> {
        let mut router = Router::new(RouterConfig::default(), 7, NOW);
        let mut sink = Sink::default();
        let mut peers = Vec::new();
        for number in 0..services {
            let peer = router.handle_connect(PeerIdentity::default(), NOW, &mut sink);
            let peer = peer.map_err(|refused| anyhow!(refused.message))?;
            sink.forget();
            router.handle_frame(peer, &mut dialect.register(number)?, NOW, &mut sink);
            ensure!(sink.to == Some(peer), "service {number} was not acknowledged");
            router.handle_written(peer, sink.bytes, NOW, &mut sink);
            if let Some(mut resolve) = dialect.resolve(callee_of(number, services)) {
                router.handle_frame(peer, &mut resolve, NOW, &mut sink);
            }
            peers.push(peer);
        }
        let frames = Frames::new(dialect, NOW.wall_ms + 30_000)?;
        Ok(Table { router, peers, frames, at: 0, number: 0, sink })
    }

    /// Routes calls and their answers.
    pub(crate) fn route(&mut self, calls: usize) -> Result<()> {
        for _ in 0..calls {
            let (caller, callee) = self.next_pair();
            let (caller, callee) = (self.peers[caller], self.peers[callee]);
            // As a driver does that knows which connections are ready.
            self.router.expect(&[0, STRIDE].map(|ahead| self.peers[(self.at + ahead) % self.peers.len()]));
            self.sink.forget();
            self.router.handle_frame(caller, self.frames.call(), NOW, &mut self.sink);
            ensure!(self.sink.to == Some(callee), "the call went elsewhere");
            self.router.handle_written(callee, self.sink.bytes, NOW, &mut self.sink);
            self.sink.forget();
            self.router.handle_frame(callee, self.frames.answer(), NOW, &mut self.sink);
            ensure!(self.sink.to == Some(caller), "the answer went elsewhere");
            self.router.handle_written(caller, self.sink.bytes, NOW, &mut self.sink);
        }
        Ok(())
    }

    /// Only what [`Table::route`] does around the router.
    fn write_frames(&mut self, calls: usize) {
        for _ in 0..calls {
            let (caller, callee) = self.next_pair();
            black_box((self.peers[caller], self.peers[callee]));
            black_box(self.frames.call());
            black_box(self.frames.answer());
        }
    }

    fn next_pair(&mut self) -> (usize, usize) {
        let count = self.peers.len();
        let caller = self.at;
        let callee = callee_of(caller, count);
        self.at = (self.at + STRIDE) % count;
        self.number = (self.number + 1) % 100_000;
        self.frames.write(self.number, caller, callee);
        (caller, callee)
    }
}

/// Everybody calls one other service.
fn callee_of(caller: usize, services: usize) -> usize {
    (caller + services / 2) % services
}

/// A driver whose sockets take everything at once.
#[derive(Default)]
struct Sink {
    to: Option<PeerId>,
    bytes: usize,
}

impl Sink {
    /// What was sent before.
    fn forget(&mut self) {
        *self = Sink::default();
    }
}

impl Outbox for Sink {
    fn send(&mut self, peer: PeerId, parts: &[Part<'_>]) {
        assert!(self.to.is_none_or(|to| to == peer), "one frame goes to one peer");
        self.to = Some(peer);
        self.bytes += parts.iter().map(|part| black_box(part.bytes()).len()).sum::<usize>();
    }
    fn close(&mut self, peer: PeerId, reason: CloseReason) {
        panic!("{peer:?} was closed: {reason}");
    }
    fn offer_lane(&mut self, _offer: LaneOffer) {}
    fn pause(&mut self, _peer: PeerId) {}
    fn resume(&mut self, _peer: PeerId) {}
    fn event(&mut self, _event: Event<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route_frames::FRAME_BYTES;

    #[test]
    fn every_service_is_met_and_no_two_calls_are_alike() {
        for dialect in [Dialect::V1(Encoding::Json), Dialect::V1(Encoding::Msgpack), Dialect::V2] {
            let mut table = Table::new(100, dialect).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..100 {
                let (caller, callee) = table.next_pair();
                assert_ne!(caller, callee);
                assert!(seen.insert(caller), "{caller} comes twice");
            }
            table.route(1000).unwrap();
            assert_eq!(table.frames.call().len(), FRAME_BYTES);
            assert_eq!(table.frames.answer().len(), FRAME_BYTES);
        }
    }
}
