//! Two sessions with a lane between them. Each has a gateway of its own, which knows nothing of the other.

use crate::pair::{Pair, code, config, payload_value};
use crate::wire2::{self, LANE_CLOSE, LANE_OFFER, LANE_READY};
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::limits::{HEARTBEAT_INTERVAL_MS, REGISTER_BYTES_MAX};
use bro_proto::rng::Rng;
use bro_proto::v1::encode::Outcome;
use bro_proto::v1::{Encoding, Payload};
use bro_session::{CallRequest, ConnId, Request, SessionConfig, SessionEvent};
use serde_json::{Value, json};

const LANE: u64 = 0x1234_5678_9abc;

/// `order` and `user`, by number.
struct Lane {
    ends: [Pair; 2],
    conns: [ConnId; 2],
    vias: [ConnId; 2],
    is_cut: bool,
}

fn lane_config(name: &str) -> SessionConfig {
    SessionConfig { takes_lanes: true, service_name: name.into(), auto_reconnect: true, ..config() }
}

fn offer(is_first: bool, service: &str) -> Vec<u8> {
    let payload = [&[u8::from(!is_first)], service.as_bytes()].concat();
    wire2::frame(LANE_OFFER, 0, 0, LANE, &payload)
}

impl Lane {
    /// A lane that both use.
    fn open() -> Self {
        Self::open_with(|config| config)
    }

    fn open_with(configure: impl Fn(SessionConfig) -> SessionConfig) -> Self {
        let mut ends = ["order", "user"].map(|name| Pair::connected_v2(configure(lane_config(name))));
        let mut vias = [ConnId::default(); 2];
        let mut conns = [ConnId::default(); 2];
        for (at, other) in [(0, "user"), (1, "order")] {
            let end = &mut ends[at];
            vias[at] = end.conn(0);
            end.send_bytes(vias[at], &offer(at == 0, other));
            let (lane, via, is_first) = end.offered.pop_front().expect("an offer");
            assert_eq!((via, is_first), (vias[at], at == 0));
            conns[at] = lane.expect("it is wanted");
            end.session.handle_lane_opened(conns[at], end.now);
            end.drive();
            let ready = end.next_sent();
            assert_eq!((ready.0, &ready.1["kind"], &ready.1["id"]), (via, &json!("LANE_READY"), &json!(LANE)));
        }
        for (end, via) in ends.iter_mut().zip(vias) {
            end.send_bytes(via, &wire2::frame(LANE_READY, 0, 0, LANE, b""));
        }
        Self { ends, conns, vias, is_cut: false }
    }

    /// Carries bytes both ways until there are none.
    fn carry(&mut self) {
        for at in [0, 1].into_iter().cycle() {
            if self.ends.iter().all(|end| end.laned.is_empty()) {
                break;
            }
            for (_, bytes) in std::mem::take(&mut self.ends[at].laned) {
                if !self.is_cut {
                    self.ends[1 - at].send_bytes(self.conns[1 - at], &bytes);
                }
            }
        }
        for at in [0, 1] {
            // Who closes hangs up at the other end, once all is read.
            while let Some((conn, _)) = self.ends[at].closed.pop_front() {
                assert_eq!(conn, self.conns[at]);
                self.ends[1 - at].hang_up(self.conns[1 - at]);
            }
        }
    }

    fn asked(&mut self, at: usize) -> Request {
        self.carry();
        self.ends[at].next_request()
    }

    fn answer(&mut self, at: usize, request: &Request, json: &[u8]) {
        let end = &mut self.ends[at];
        let result = Payload { encoding: Encoding::Json, bytes: json };
        assert!(end.session.respond(request.id, Outcome::Success(result), end.now));
        end.drive();
        self.carry();
    }

    /// The kinds of frames that went to a gateway.
    fn told(&mut self, at: usize) -> Vec<Value> {
        std::mem::take(&mut self.ends[at].sent).into_iter().map(|(_, frame)| frame["kind"].clone()).collect()
    }
}

#[test]
fn calls_go_both_ways_and_no_gateway_sees_them() {
    let mut lane = Lane::open();
    for round in 0..3 {
        for (caller, to, from) in [(0, "user", "order"), (1, "order", "user")] {
            let id = lane.ends[caller].call(to, "get", &json!({"round": round})).unwrap();
            let request = lane.asked(1 - caller);
            assert_eq!((&*request.from, &*request.method), (from, "get"));
            let context = request.context.to_context(from, to);
            assert_eq!((context.chain, context.depth), (vec![from.to_owned(), to.to_owned()], 2));
            assert!(context.root.starts_with("root-17000000"), "{}", context.root);
            lane.answer(1 - caller, &request, br#"{"b":2}"#);
            let (done, outcome) = lane.ends[caller].next_done();
            assert_eq!((done, payload_value(&outcome.unwrap())), (id, json!({"b": 2})));
        }
    }
    assert!(lane.told(0).is_empty() && lane.told(1).is_empty());
    // Calls to others go where they always went.
    lane.ends[0].call("role", "get", &json!(1)).unwrap();
    assert_eq!(lane.told(0), ["RESOLVE", "CALL"]);
}

#[test]
fn the_ids_that_people_see_are_the_same_at_both_ends() {
    let mut lane = Lane::open();
    lane.ends[0].call("user", "get", &json!(1)).unwrap();
    let request = lane.asked(1);
    lane.answer(1, &request, b"1");
    match lane.ends[0].take_event(|event| matches!(event, SessionEvent::CallDone { .. })) {
        SessionEvent::CallDone { request_id, .. } => assert_eq!(request_id.to_string(), request.request_id.to_string()),
        _ => unreachable!("just matched"),
    }
}

#[test]
fn errors_cancels_and_deadlines_cross_a_lane() {
    let mut lane = Lane::open();
    lane.ends[0].call("user", "get", &json!(1)).unwrap();
    let request = lane.asked(1);
    let error = ErrorBody::new(ErrorCode::Custom("OUT".into()), "none left");
    let end = &mut lane.ends[1];
    assert!(end.session.respond(request.id, Outcome::Error(&error), end.now));
    end.drive();
    lane.carry();
    assert_eq!(code(lane.ends[0].next_done().1), ErrorCode::Custom("OUT".into()));

    let id = lane.ends[0].call("user", "get", &json!(1)).unwrap();
    let request = lane.asked(1);
    let end = &mut lane.ends[0];
    assert!(end.session.cancel(id, end.now));
    end.drive();
    lane.carry();
    let expired = lane.ends[1].next_event();
    assert!(
        matches!(&expired, SessionEvent::RequestExpired { id, reason: ErrorCode::Cancelled } if *id == request.id),
        "{expired:?}"
    );

    // Nobody but the two ends keeps the deadline.
    lane.ends[0].call("user", "get", &json!(1)).unwrap();
    lane.asked(1);
    lane.ends[0].pass_ms(30_001);
    assert_eq!(code(lane.ends[0].next_done().1), ErrorCode::Timeout);
    lane.carry();
    let expired = lane.ends[1].next_event();
    assert!(matches!(&expired, SessionEvent::RequestExpired { reason: ErrorCode::Timeout, .. }), "{expired:?}");

    lane.ends[0].call("user", "unknown", &json!(1)).unwrap();
    lane.carry();
    assert_eq!(code(lane.ends[0].next_done().1), ErrorCode::MethodNotFound);
}

#[test]
fn a_call_for_a_request_of_a_lane_carries_its_chain_and_ends_with_it() {
    let mut lane = Lane::open();
    let id = lane.ends[0].call("user", "get", &json!(1)).unwrap();
    let request = lane.asked(1);
    let end = &mut lane.ends[1];
    let nested = CallRequest {
        request: Some(request.id),
        ..CallRequest::new("role", "get", Payload { encoding: Encoding::Json, bytes: b"1" })
    };
    let nested = end.session.call(nested, end.now).unwrap();
    end.drive();
    let call = end.sent.pop_back().unwrap().1;
    assert_eq!(call["parent"], 0, "the gateway does not know the parent");
    assert_eq!((&call["section"]["chain"], &call["section"]["depth"]), (&json!(["order", "user", "role"]), &json!(3)));
    end.sent.clear();
    // The first caller gives up.
    let end = &mut lane.ends[0];
    assert!(end.session.cancel(id, end.now));
    end.drive();
    lane.carry();
    let (done, outcome) = lane.ends[1].next_done();
    assert_eq!((done, code(outcome)), (nested, ErrorCode::Cancelled));
    assert_eq!(lane.told(1), ["CANCEL"], "whoever works on it is told");
}

#[test]
fn the_lane_outlives_the_gateway_and_the_next_one_is_told_of_it() {
    let mut lane = Lane::open();
    for at in [0, 1] {
        let via = lane.vias[at];
        lane.ends[at].hang_up(via);
        assert!(!lane.ends[at].session.is_connected());
    }
    lane.ends[0].call("user", "get", &json!(1)).unwrap();
    assert_eq!(code(lane.ends[0].call("role", "get", &json!(1))), ErrorCode::NotConnected);
    assert_eq!(["user", "role"].map(|service| lane.ends[0].session.can_call(service)), [true, false]);
    let request = lane.asked(1);
    lane.answer(1, &request, b"1");
    assert!(lane.ends[0].next_done().1.is_ok());
    // The gateway is back.
    let end = &mut lane.ends[0];
    while end.asked.is_empty() {
        end.pass_ms(1000);
    }
    end.sent.clear();
    let conns = end.accept_all_v2();
    let told: Vec<_> = end.sent.iter().filter(|(_, frame)| frame["kind"] == "LANE_READY").collect();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].0, &told[0].1["id"]), (conns[0], &json!(LANE)));
}

#[test]
fn a_lane_that_is_taken_back_is_left_when_what_is_on_it_has_ended() {
    let mut lane = Lane::open();
    lane.ends[0].call("user", "get", &json!(1)).unwrap();
    let first = lane.asked(1);
    lane.ends[1].call("order", "get", &json!(2)).unwrap();
    // Both gateways take it back; the second call is still on its way.
    for at in [0, 1] {
        let via = lane.vias[at];
        lane.ends[at].send_bytes(via, &wire2::frame(LANE_CLOSE, 0, 0, LANE, &[1]));
    }
    let second = lane.asked(0);
    lane.ends[0].call("user", "get", &json!(3)).unwrap();
    assert_eq!(lane.told(0), ["RESOLVE", "CALL"], "new calls go through the gateway");
    lane.answer(1, &first, b"1");
    assert!(lane.ends[0].next_done().1.is_ok());
    assert_eq!(lane.ends[0].session.status().lanes, 1, "something is left on it");
    lane.answer(0, &second, b"2");
    assert!(lane.ends[1].next_done().1.is_ok());
    for end in &mut lane.ends {
        end.drive();
    }
    lane.carry();
    for end in &lane.ends {
        assert_eq!(end.session.status().lanes, 0);
        assert_eq!(end.session.counters().lanes_lost, 0);
    }
    // Another one may be offered.
    let via = lane.vias[0];
    lane.ends[0].send_bytes(via, &offer(true, "user"));
    assert!(lane.ends[0].offered.pop_front().unwrap().0.is_some());
}

#[test]
fn a_lane_that_breaks_ends_what_was_on_it_and_calls_go_through_the_gateway() {
    let mut lane = Lane::open();
    lane.ends[0].call("user", "get", &json!(1)).unwrap();
    let request = lane.asked(1);
    lane.is_cut = true;
    for at in [0, 1] {
        let conn = lane.conns[at];
        lane.ends[at].hang_up(conn);
        assert_eq!(lane.told(at), ["LANE_CLOSE"]);
    }
    assert_eq!(code(lane.ends[0].next_done().1), ErrorCode::ConnectionLost);
    let expired = lane.ends[1].next_event();
    assert!(matches!(&expired, SessionEvent::RequestExpired { id, .. } if *id == request.id), "{expired:?}");
    lane.ends[0].call("user", "get", &json!(1)).unwrap();
    assert_eq!(lane.told(0), ["RESOLVE", "CALL"]);
    assert_eq!(lane.ends[0].session.counters().lanes_lost, 1);
}

#[test]
fn offers_that_are_not_wanted_or_cannot_be_opened_are_refused() {
    let mut pair = Pair::connected_v2(config());
    let via = pair.conn(0);
    pair.send_bytes(via, &offer(true, "user"));
    assert_eq!(pair.offered.pop_front(), Some((None, via, true)), "the descriptors have to be taken off");
    assert_eq!(pair.next_sent().1["kind"], "LANE_CLOSE");

    let mut pair = Pair::connected_v2(lane_config("order"));
    let via = pair.conn(0);
    pair.send_bytes(via, &offer(true, "user"));
    let lane = pair.offered.pop_front().unwrap().0.unwrap();
    pair.send_bytes(via, &offer(true, "user"));
    assert_eq!(pair.offered.pop_front().unwrap().0, None, "one to each service");
    assert_eq!(pair.next_sent().1["kind"], "LANE_CLOSE");
    pair.session.handle_lane_failed(lane, pair.now);
    pair.drive();
    assert_eq!(pair.next_sent().1["kind"], "LANE_CLOSE");
    assert_eq!(pair.session.status().lanes, 0);
    // Withdrawn before it was open at both ends.
    pair.send_bytes(via, &offer(false, "user"));
    let lane = pair.offered.pop_front().unwrap().0.unwrap();
    pair.session.handle_lane_opened(lane, pair.now);
    pair.drive();
    pair.sent.clear();
    pair.send_bytes(via, &wire2::frame(LANE_CLOSE, 0, 0, LANE, b""));
    assert_eq!(pair.session.status().lanes, 0);
    assert_eq!(pair.closed.pop_front().map(|(conn, _)| conn), Some(lane), "the driver does not keep it for ever");
    pair.send_bytes(via, &wire2::frame(LANE_READY, 0, 0, LANE, b""));
    pair.call("user", "get", &json!(1)).unwrap();
    assert!(pair.sent.iter().any(|(_, frame)| frame["kind"] == "CALL"));
    // Nonsense costs the connection.
    pair.send_bytes(via, &wire2::frame(LANE_OFFER, 0, 0, LANE, b""));
    assert_eq!(pair.closed.pop_front().map(|(conn, _)| conn), Some(via));
}

#[test]
fn what_was_done_is_told_with_the_heartbeat() {
    let mut lane = Lane::open();
    for _ in 0..5 {
        lane.ends[0].call("user", "get", &json!(1)).unwrap();
        let request = lane.asked(1);
        lane.answer(1, &request, b"1");
    }
    lane.ends[0].call("user", "unknown", &json!(1)).unwrap();
    lane.carry();
    lane.ends[0].pass_ms(HEARTBEAT_INTERVAL_MS + 1);
    let sent = std::mem::take(&mut lane.ends[0].sent);
    let stats = sent.iter().find(|(_, frame)| frame["kind"] == "STATS").expect("STATS");
    assert_eq!((&stats.1["id"], &stats.1["stats"][0], &stats.1["stats"][1]), (&json!(LANE), &json!(6), &json!(1)));
    assert!(stats.1["stats"][2].as_u64().unwrap() > 100);
}

#[test]
fn a_stranger_on_a_lane_only_loses_the_lane() {
    let frames: [Vec<u8>; 6] = [
        wire2::frame(LANE_READY, 0, 0, LANE, b""),
        wire2::name(0, "admin"),
        vec![0, 0, 0, 1, b'{'],
        wire2::frame(99, 0, 0, 1, b""),
        vec![0xff; 64],
        wire2::Call { id: 0, ..wire2::call(0) }.frame(),
    ];
    for frame in frames {
        let mut lane = Lane::open();
        let conn = lane.conns[0];
        lane.ends[0].send_bytes(conn, &frame);
        assert_eq!(lane.ends[0].closed.pop_front().map(|(closed, _)| closed), Some(conn), "{frame:?}");
        assert!(lane.ends[0].session.is_connected());
    }
    // An error that claims to be the gateway's is the callee's.
    let mut lane = Lane::open();
    lane.ends[0].call("user", "get", &json!(1)).unwrap();
    let request = lane.asked(1);
    let number = match request.request_id {
        bro_session::RequestKey::V2(number) => number.to_wire(),
        other => panic!("{other:?}"),
    };
    let conn = lane.conns[0];
    lane.ends[0].send_bytes(conn, &wire2::error(number, 1, "TIMEOUT", "says the gateway", ""));
    let event = lane.ends[0].next_event();
    assert!(
        matches!(&event, SessionEvent::CallDone { origin: bro_session::Origin::Service, .. }),
        "no GatewayError: {event:?}"
    );
}

/// A lane that dies at every possible byte: every call ends once, and the callee's work never runs twice.
#[test]
fn whenever_a_lane_dies_every_call_ends_exactly_once() {
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let mut lane = Lane::open();
        let mut calls = Vec::new();
        for _ in 0..=rng.below(6) {
            calls.push(lane.ends[0].call("user", "get", &json!(1)).unwrap());
        }
        // Some bytes arrive, some answers are given, some of those arrive: then it is over.
        let outbound: Vec<u8> = lane.ends[0].laned.drain(..).flat_map(|(_, bytes)| bytes).collect();
        let cut = usize::try_from(rng.below(outbound.len() as u64 + 1)).unwrap();
        let conns = lane.conns;
        for piece in outbound[..cut].chunks(1 + usize::try_from(rng.below(40)).unwrap()) {
            lane.ends[1].send_bytes(conns[1], piece);
        }
        let mut asked = 0;
        while let Some(event) = lane.ends[1].events.pop_front() {
            let SessionEvent::Request(request) = event else { continue };
            asked += 1;
            let end = &mut lane.ends[1];
            let result = Payload { encoding: Encoding::Json, bytes: b"1" };
            assert!(end.session.respond(request.id, Outcome::Success(result), end.now));
            end.drive();
        }
        assert!(asked <= calls.len());
        let inbound: Vec<u8> = lane.ends[1].laned.drain(..).flat_map(|(_, bytes)| bytes).collect();
        let cut = usize::try_from(rng.below(inbound.len() as u64 + 1)).unwrap();
        for piece in inbound[..cut].chunks(1 + usize::try_from(rng.below(40)).unwrap()) {
            lane.ends[0].send_bytes(conns[0], piece);
        }
        lane.ends[0].hang_up(conns[0]);
        lane.ends[1].hang_up(conns[1]);
        let mut ended = Vec::new();
        while let Some(event) = lane.ends[0].events.pop_front() {
            if let SessionEvent::CallDone { id, outcome, .. } = event {
                ended.push(id);
                assert!(outcome.is_ok() || code(outcome) == ErrorCode::ConnectionLost, "seed {seed}");
            }
        }
        ended.sort_unstable();
        assert_eq!(ended, calls, "seed {seed}");
        assert_eq!(lane.ends[0].session.status().pending_calls, 0);
        assert_eq!(lane.ends[1].session.status().requests_in_work, 0);
    }
}

#[test]
fn a_lane_that_was_given_up_before_its_driver_opened_it_is_closed() {
    let mut end = Pair::connected_v2(lane_config("order"));
    let via = end.conn(0);
    end.send_bytes(via, &offer(true, "user"));
    let (lane, ..) = end.offered.pop_front().expect("an offer");
    let lane = lane.expect("it is wanted");
    // Who drains wants no lanes.
    end.session.drain(end.now);
    end.drive();
    end.session.handle_lane_opened(lane, end.now);
    end.drive();
    assert_eq!(end.closed.pop_front(), Some((lane, Vec::new())), "nobody else would");
}

/// One end accepts less than the other one sends.
#[test]
fn a_call_and_an_answer_above_the_limit_of_the_other_end_fail_alone() {
    let mut lane = Lane::open_with(|config| match &*config.service_name {
        "user" => SessionConfig { frame_bytes_max: REGISTER_BYTES_MAX, ..config },
        _ => config,
    });
    let large = serde_json::to_vec(&"x".repeat(REGISTER_BYTES_MAX)).unwrap();
    lane.ends[0].call("user", "get", &json!("x".repeat(REGISTER_BYTES_MAX))).unwrap();
    lane.carry();
    assert_eq!(code(lane.ends[0].next_done().1), ErrorCode::PayloadTooLarge);
    lane.ends[1].call("order", "get", &json!(1)).unwrap();
    let request = lane.asked(0);
    lane.answer(0, &request, &large);
    assert_eq!(code(lane.ends[1].next_done().1), ErrorCode::PayloadTooLarge);
    // What the smaller end itself cannot send is an error there, and an answer to its caller.
    let made = lane.ends[1].call("order", "get", &json!("x".repeat(REGISTER_BYTES_MAX)));
    assert_eq!(code(made), ErrorCode::PayloadTooLarge);
    lane.ends[0].call("user", "get", &json!(1)).unwrap();
    let request = lane.asked(1);
    lane.answer(1, &request, &large);
    assert_eq!(code(lane.ends[0].next_done().1), ErrorCode::PayloadTooLarge);
    for (caller, to) in [(0, "user"), (1, "order")] {
        lane.ends[caller].call(to, "get", &json!(1)).unwrap();
        let request = lane.asked(1 - caller);
        lane.answer(1 - caller, &request, b"2");
        assert_eq!(payload_value(&lane.ends[caller].next_done().1.unwrap()), json!(2));
    }
    assert!(lane.told(0).is_empty() && lane.told(1).is_empty(), "all of it went on the lane");
}
