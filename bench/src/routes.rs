//! What it costs to route one call and its answer, in process, beside 2, 100 and 10,000 services.
//!
//! Every call is from another service to another one, in an order that jumps about, so that the tables of a large router are met cold.
//! The two frames lie in one place, as they do in a gateway's read buffer; only the names and the id in them change, and how
//! long changing them takes is measured alone and taken off.

use crate::figures::{Case, Figure, Measurement};
use crate::rows::Plan;
use crate::v1::{self, Shape};
use crate::window::clock_ns_of;
use anyhow::{Result, anyhow, ensure};
use bro_proto::v1::encode::{
    CallFields, ContextSource, Outcome, RegisterFields, ResponseFields, encode_call, encode_register, encode_response,
};
use bro_proto::v1::rewrite::TranscodeError;
use bro_proto::v1::{Encoding, Payload};
use bro_proto::{CallContext, Now};
use bro_router::{CloseReason, Event, LaneOffer, Outbox, Part, PeerId, PeerIdentity, Router, RouterConfig};
use memchr::memmem::find_iter;
use rustix::time::ClockId;
use std::hint::black_box;

const SERVICES: [usize; 3] = [2, 100, 10_000];
/// Each table is used this often in turn, so that all of them meet the same disturbances.
const TURNS: usize = 20;
const CALLS_PER_TURN: usize = 20_000;
const FRAME_BYTES: usize = 454;
const NOW: Now = Now { mono_us: 1_000_000, wall_ms: 1_700_000_000_000 };
/// Prime to every number of services, so that a walk with this stride meets all.
const STRIDE: usize = 7919;

/// The row that the others are compared with.
pub(crate) const BASE: &str = "route-2";

/// Rows `route-2`, `route-100`, `route-10000`.
pub(crate) fn measure(_plan: &Plan) -> Result<Vec<Measurement>> {
    let mut tables: Vec<Table> =
        SERVICES.iter().map(|&services| Table::new(services, Encoding::Json)).collect::<Result<_>>()?;
    let mut times_ns = vec![Vec::new(); tables.len()];
    for table in &mut tables {
        table.route(2 * SERVICES[2])?; // every service has been met before the clock runs
    }
    for _ in 0..TURNS {
        for (table, times_ns) in tables.iter_mut().zip(&mut times_ns) {
            let start_ns = clock_ns_of(ClockId::ThreadCPUTime);
            table.route(CALLS_PER_TURN)?;
            let routed_ns = clock_ns_of(ClockId::ThreadCPUTime);
            table.write_frames(CALLS_PER_TURN);
            let ns = (routed_ns - start_ns).saturating_sub(clock_ns_of(ClockId::ThreadCPUTime) - routed_ns);
            times_ns.push(ns as f64 / CALLS_PER_TURN as f64);
        }
    }
    let measured = SERVICES.iter().zip(times_ns).map(|(services, mut times_ns)| {
        times_ns.sort_by(f64::total_cmp);
        Measurement {
            row: format!("route-{services}"),
            case: Case { name: "routing a call and its answer in process".to_owned(), is_pinned: None },
            figures: vec![(Figure::RouteNs, times_ns[TURNS / 2])],
        }
    });
    Ok(measured.collect())
}

/// A router with services, and frames between them.
pub(crate) struct Table {
    router: Router,
    peers: Vec<PeerId>,
    call: Frame,
    answer: Frame,
    at: usize,
    number: usize,
    sink: Sink,
}

impl Table {
    /// Registers so many services.
    pub(crate) fn new(services: usize, encoding: Encoding) -> Result<Table> {
        let mut router = Router::new(RouterConfig::default(), 7, NOW);
        let mut sink = Sink::default();
        let mut peers = Vec::new();
        for number in 0..services {
            let peer = router.handle_connect(PeerIdentity::default(), NOW, &mut sink);
            let peer = peer.map_err(|refused| anyhow!(refused.message))?;
            let mut register = Vec::new();
            let methods = ["getOrder".into()];
            let metadata = Payload { encoding: Encoding::Json, bytes: b"" };
            let service_name = &name(&format!("{number:05}"));
            encode_register(
                &mut register,
                encoding,
                &RegisterFields { service_name, methods: &methods, version: "1.0.0", metadata },
            )?;
            router.handle_frame(peer, &mut register, NOW, &mut sink);
            ensure!(sink.to == Some(peer), "service {number} was not acknowledged");
            router.handle_written(peer, sink.bytes, NOW, &mut sink);
            peers.push(peer);
        }
        Ok(Table {
            router,
            peers,
            call: Frame::call(encoding)?,
            answer: Frame::answer(encoding)?,
            at: 0,
            number: 0,
            sink,
        })
    }

    /// Routes calls and their answers.
    pub(crate) fn route(&mut self, calls: usize) -> Result<()> {
        for _ in 0..calls {
            let (caller, callee) = self.next_pair();
            let (caller, callee) = (self.peers[caller], self.peers[callee]);
            self.router.handle_frame(caller, &mut self.call.bytes, NOW, &mut self.sink);
            ensure!(self.sink.to == Some(callee), "the call went elsewhere");
            self.router.handle_written(callee, self.sink.bytes, NOW, &mut self.sink);
            self.router.handle_frame(callee, &mut self.answer.bytes, NOW, &mut self.sink);
            ensure!(self.sink.to == Some(caller), "the answer went elsewhere");
            self.router.handle_written(caller, self.sink.bytes, NOW, &mut self.sink);
        }
        Ok(())
    }

    /// Only what [`Table::route`] does around the router.
    fn write_frames(&mut self, calls: usize) {
        for _ in 0..calls {
            let (caller, callee) = self.next_pair();
            black_box((self.peers[caller], self.peers[callee], &self.call.bytes, &self.answer.bytes));
        }
    }

    fn next_pair(&mut self) -> (usize, usize) {
        let count = self.peers.len();
        let caller = self.at;
        let callee = (caller + count / 2) % count;
        self.at = (self.at + STRIDE) % count;
        self.number = (self.number + 1) % 100_000;
        self.call.write(self.number, caller, callee);
        self.answer.write(self.number, caller, callee);
        (caller, callee)
    }
}

/// A driver whose sockets take everything at once.
#[derive(Default)]
struct Sink {
    to: Option<PeerId>,
    bytes: usize,
}

impl Outbox for Sink {
    fn send(&mut self, peer: PeerId, parts: &[Part<'_>]) {
        self.to = Some(peer);
        self.bytes = parts.iter().map(|part| black_box(part.bytes()).len()).sum();
    }
    fn close(&mut self, peer: PeerId, reason: CloseReason) {
        panic!("{peer:?} was closed: {reason}");
    }
    fn offer_lane(&mut self, _offer: LaneOffer) {}
    fn pause(&mut self, _peer: PeerId) {}
    fn resume(&mut self, _peer: PeerId) {}
    fn event(&mut self, _event: Event<'_>) {}
}

/// A frame with five digits in it for the caller, the callee and the call.
struct Frame {
    bytes: Vec<u8>,
    caller_at: Vec<usize>,
    callee_at: Vec<usize>,
    number_at: Vec<usize>,
}

const CALLER: &str = "11111";
const CALLEE: &str = "22222";
const NUMBER: &str = "33333";

impl Frame {
    fn call(encoding: Encoding) -> Result<Frame> {
        Frame::new(encoding, |out, payload, context| {
            let (id, from, to) = (id(), name(CALLER), name(CALLEE));
            let context = ContextSource::Owned(context);
            encode_call(
                out,
                encoding,
                &CallFields { id: &id, from: &from, to: &to, method: "getOrder", params: payload, context },
            )
        })
    }

    fn answer(encoding: Encoding) -> Result<Frame> {
        Frame::new(encoding, |out, payload, context| {
            let (id, from, to) = (id(), name(CALLEE), name(CALLER));
            let (outcome, context) = (Outcome::Success(payload), Some(ContextSource::Owned(context)));
            encode_response(out, encoding, &ResponseFields { id: &id, from: &from, to: &to, outcome, context })
        })
    }

    fn new(
        encoding: Encoding,
        write: impl Fn(&mut Vec<u8>, Payload<'_>, &CallContext) -> Result<(), TranscodeError>,
    ) -> Result<Frame> {
        let context = CallContext {
            root: "root-1699005123456-k3v9x2".to_owned(),
            chain: vec![name(CALLER), name(CALLEE)],
            depth: 2,
            deadline_ms: NOW.wall_ms + 30_000,
        };
        let bytes = v1::exact(encoding, Shape::Order, FRAME_BYTES, |payload| {
            let mut bytes = Vec::new();
            write(&mut bytes, payload, &context)?;
            Ok(bytes)
        })?;
        let places = |text: &str| find_iter(&bytes, text).collect();
        Ok(Frame { caller_at: places(CALLER), callee_at: places(CALLEE), number_at: places(NUMBER), bytes })
    }

    fn write(&mut self, number: usize, caller: usize, callee: usize) {
        for (places, number) in [(&self.number_at, number), (&self.caller_at, caller), (&self.callee_at, callee)] {
            let digits = digits(number);
            for &at in places {
                self.bytes[at..at + digits.len()].copy_from_slice(&digits);
            }
        }
    }
}

fn id() -> String {
    format!("req-1699005123456-{NUMBER}")
}

fn name(number: &str) -> String {
    format!("service-{number}")
}

fn digits(mut number: usize) -> [u8; 5] {
    let mut digits = [b'0'; 5];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).expect("a digit");
        number /= 10;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_is_met_and_no_two_calls_are_alike() {
        for encoding in [Encoding::Json, Encoding::Msgpack] {
            let mut table = Table::new(100, encoding).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..100 {
                let (caller, callee) = table.next_pair();
                assert_ne!(caller, callee);
                assert!(seen.insert(caller), "{caller} comes twice");
            }
            table.route(1000).unwrap();
            assert_eq!(table.call.bytes.len(), FRAME_BYTES);
            assert_eq!(table.answer.bytes.len(), FRAME_BYTES);
        }
    }
}
