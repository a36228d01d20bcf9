//! What it costs to route one call and its answer (450 B each, JSON), beside 2, 100 and 10,000 services.
//!
//! `cargo bench -p bro-router`

use bro_proto::Now;
use bro_router::{CloseReason, Event, LaneOffer, Outbox, Part, PeerId, PeerIdentity, Router, RouterConfig};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

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
    fn pause(&mut self, _peer: PeerId) {}
    fn resume(&mut self, _peer: PeerId) {}
    fn offer_lane(&mut self, _: LaneOffer) {
        unreachable!("peers of version 1 get no lanes");
    }

    fn event(&mut self, _event: Event<'_>) {}
}

const NOW: Now = Now { mono_us: 1_000_000, wall_ms: 1_700_000_000_000 };
const FRAME_BYTES: usize = 450;

fn frame(body: &str) -> Vec<u8> {
    [&u32::try_from(body.len()).expect("small").to_be_bytes(), body.as_bytes()].concat()
}

/// One frame of about [`FRAME_BYTES`]: `start`, a payload, `end`.
fn padded(start: &str, end: &str) -> Vec<u8> {
    let padding = "lorem ipsum ".repeat(40);
    let room = FRAME_BYTES - 4 - start.len() - end.len() - 2;
    frame(&format!("{start}\"{}\"{end}", &padding[..room]))
}

fn router(services: usize) -> (Router, Vec<PeerId>) {
    let mut router = Router::new(RouterConfig::default(), 7, NOW);
    let mut sink = Sink::default();
    let peers = (0..services)
        .map(|number| {
            let peer = router.handle_connect(PeerIdentity::default(), NOW, &mut sink).expect("there is room");
            let register = format!(
                r#"{{"type":"REGISTER","serviceName":"service-{number}","methods":["getUserById"],"version":"1.0.0","metadata":{{}}}}"#
            );
            router.handle_frame(peer, &mut frame(&register), NOW, &mut sink);
            router.handle_written(peer, sink.bytes, NOW, &mut sink);
            peer
        })
        .collect();
    (router, peers)
}

fn route(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    group.throughput(Throughput::Elements(2));
    for services in [2, 100, 10_000] {
        let (mut router, peers) = router(services);
        // Every pair of neighbours calls once before any calls again, so that the tables are met cold as well as warm.
        let mut pairs: Vec<(PeerId, Vec<u8>, PeerId, Vec<u8>)> = (0..services.min(1000))
            .map(|number| {
                let (from, to) = (number, (number + 1) % services);
                let id = format!("req-1699005123456-{number:06}");
                let context = format!(
                    r#""context":{{"root":"root-1699005123456-abc123","chain":["service-{from}","service-{to}"],"depth":2,"deadline":1700000030000}}}}"#
                );
                let call = padded(
                    &format!(
                        r#"{{"type":"CALL","id":"{id}","from":"service-{from}","to":"service-{to}","method":"getUserById","params":"#
                    ),
                    &format!(",{context}"),
                );
                let answer = padded(
                    &format!(
                        r#"{{"type":"RESPONSE","id":"{id}","from":"service-{to}","to":"service-{from}","status":"success","data":"#
                    ),
                    &format!(",{context}"),
                );
                (peers[from], call, peers[to], answer)
            })
            .collect();
        let mut sink = Sink::default();
        let (mut at, len) = (0, pairs.len());
        group.bench_function(BenchmarkId::new("call+response", services), |b| {
            b.iter(|| {
                let (caller, call, callee, answer) = &mut pairs[at];
                at = (at + 1) % len;
                router.handle_frame(*caller, call, NOW, &mut sink);
                assert_eq!(sink.to, Some(*callee));
                router.handle_written(*callee, sink.bytes, NOW, &mut sink);
                router.handle_frame(*callee, answer, NOW, &mut sink);
                assert_eq!(sink.to, Some(*caller));
                router.handle_written(*caller, sink.bytes, NOW, &mut sink);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, route);
criterion_main!(benches);
