//! Lanes: offered to busy pairs, opened by both, taken back.

mod support;

use bro_proto::limits::{
    LANE_BUSY_CALLS, LANE_BUSY_WINDOW_MS, LANE_BYTES, LANE_OPEN_TIMEOUT_MS, LANE_RETRY_MS, LANES_PER_PEER_MAX,
};
use bro_proto::v2::encode::{self, CallHead};
use bro_proto::v2::lane::{CloseLane, LaneStats, Offer};
use bro_proto::v2::{self, Codec, Frame, FrameKind};
use bro_router::{EventMask, LaneOffer, LanePolicy, PeerId, PeerIdentity, Router, RouterConfig};
use serde_json::json;
use support::Gateway;

/// A gateway that nobody watches.
fn gateway(lanes: LanePolicy) -> Gateway {
    let mut gateway = Gateway::with(RouterConfig { lanes, ..RouterConfig::default() });
    gateway.router.set_events(EventMask::NONE);
    gateway
}

impl Gateway {
    /// A peer that takes lanes, with a route to `to`.
    fn lane_peer(&mut self, name: &str, to: &str) -> PeerId {
        self.lane_peer_of(8, name, to)
    }

    fn lane_peer_of(&mut self, uid: u32, name: &str, to: &str) -> PeerId {
        let peer = self.connect_as(PeerIdentity { pid: Some(7), uid: Some(uid), ..PeerIdentity::default() });
        let metadata = json!({"bro": {"v": 2, "lanes": true}});
        self.send_json(peer, &json!({"type": "REGISTER", "serviceName": name, "methods": [], "metadata": metadata}));
        self.take_frames(peer);
        let mut resolve = Vec::new();
        encode::resolve(&mut resolve, 0, to);
        self.send_frame(peer, resolve);
        peer
    }

    /// Makes calls that end at once.
    fn call_often(&mut self, caller: PeerId, callee: PeerId, count: u32) {
        for number in 0..count {
            let head = CallHead {
                kind: FrameKind::Call,
                id: u64::from(number) + 1,
                origin: 0,
                root: 0,
                peer: 0,
                timeout_ms: 1000,
                method: "get",
                section: &[],
                codec: Codec::ABSENT,
            };
            let mut frame = Vec::new();
            encode::call_head(&mut frame, &head, 0);
            self.send_frame(caller, frame);
            let asked = self.take_frames(callee);
            let Ok(Frame::Call(call)) = v2::parse(asked.last().expect("a call")) else { panic!("{asked:?}") };
            let mut answer = Vec::new();
            encode::response_head(&mut answer, call.id, Codec::ABSENT, 0);
            self.send_frame(callee, answer);
            assert!(!self.take_frames(caller).is_empty());
        }
    }

    fn say(&mut self, peer: PeerId, kind: FrameKind, lane: u64) {
        let mut frame = Vec::new();
        encode::other(&mut frame, kind, lane, &[]);
        self.send_frame(peer, frame);
    }

    /// The kinds of frames about lanes that a peer got, with the reason of a close.
    fn told(&mut self, peer: PeerId) -> Vec<(FrameKind, u64, Option<CloseLane>)> {
        let frames = self.take_frames(peer);
        let told = frames.iter().filter_map(|frame| match v2::parse(frame) {
            Ok(Frame::Other { kind, id, payload }) => {
                Some((kind, id, (kind == FrameKind::LaneClose).then(|| CloseLane::parse(payload))))
            }
            _ => None,
        });
        told.collect()
    }

    /// A lane between two fresh peers, opened by both.
    fn open_lane(&mut self) -> (PeerId, PeerId, u64) {
        let user = self.lane_peer("user", "order");
        let order = self.lane_peer("order", "user");
        self.call_often(order, user, LANE_BUSY_CALLS);
        let offer = self.orders.offers.pop().expect("an offer");
        for peer in [order, user] {
            self.say(peer, FrameKind::LaneReady, offer.number);
        }
        for peer in [order, user] {
            assert_eq!(self.told(peer), [(FrameKind::LaneReady, offer.number, None)]);
        }
        (order, user, offer.number)
    }
}

#[test]
fn a_busy_pair_is_offered_a_lane_and_uses_it_when_both_have_opened_it() {
    let mut gateway = gateway(LanePolicy::Auto);
    let user = gateway.lane_peer("user", "order");
    let order = gateway.lane_peer("order", "user");
    gateway.call_often(order, user, LANE_BUSY_CALLS - 1);
    assert!(gateway.orders.offers.is_empty());
    gateway.call_often(order, user, 1);
    let LaneOffer { number, peers, frames } = gateway.orders.offers.pop().expect("an offer");
    assert_eq!(peers, [order, user]);
    for (side, other) in [(0, "user"), (1, "order")] {
        let Ok(Frame::Other { kind: FrameKind::LaneOffer, id, payload }) = v2::parse(&frames[side]) else { panic!() };
        assert_eq!(id, number);
        assert_eq!(Offer::parse(payload), Some(Offer { is_first: side == 0, service: other }));
    }
    gateway.say(order, FrameKind::LaneReady, number);
    assert!(gateway.told(order).is_empty(), "one alone does not use it");
    gateway.say(user, FrameKind::LaneReady, number);
    assert_eq!(gateway.told(order), [(FrameKind::LaneReady, number, None)]);
    assert_eq!(gateway.told(user), [(FrameKind::LaneReady, number, None)]);
    gateway.call_often(order, user, 2 * LANE_BUSY_CALLS);
    gateway.pass(LANE_RETRY_MS + 1);
    gateway.call_often(order, user, 2 * LANE_BUSY_CALLS);
    gateway.call_often(user, order, 2 * LANE_BUSY_CALLS);
    assert!(gateway.orders.offers.is_empty(), "a pair has one lane, for both ways");
    let counters = gateway.router.counters();
    assert_eq!((counters.lanes_offered, counters.lanes_opened, counters.lanes_failed), (1, 1, 0));
}

#[test]
fn who_calls_now_and_then_gets_none() {
    let mut gateway = gateway(LanePolicy::Auto);
    let user = gateway.lane_peer("user", "order");
    let order = gateway.lane_peer("order", "user");
    for _ in 0..4 {
        gateway.call_often(order, user, LANE_BUSY_CALLS / 2);
        gateway.pass(LANE_BUSY_WINDOW_MS + 1);
    }
    assert!(gateway.orders.offers.is_empty());
}

#[test]
fn the_policy_decides() {
    for (policy, offers) in [(LanePolicy::Off, 0), (LanePolicy::Always, 1)] {
        let mut gateway = gateway(policy);
        let user = gateway.lane_peer("user", "order");
        let order = gateway.lane_peer("order", "user");
        gateway.call_often(order, user, 3);
        assert_eq!(gateway.orders.offers.len(), offers, "{policy:?}");
    }
    // Not to processes of different users.
    let mut strangers = gateway(LanePolicy::Always);
    let user = strangers.lane_peer_of(1, "user", "order");
    let order = strangers.lane_peer_of(2, "order", "user");
    strangers.call_often(order, user, 3);
    assert!(strangers.orders.offers.is_empty());
    // Not to those that did not ask for it.
    let mut gateway = gateway(LanePolicy::Always);
    let user = gateway.service_v2("user", &["order"]);
    let order = gateway.lane_peer("order", "user");
    gateway.call_often(order, user, 3);
    assert!(gateway.orders.offers.is_empty());
}

#[test]
fn who_watches_sees_every_call() {
    let mut gateway = gateway(LanePolicy::Auto);
    let (order, user, lane) = gateway.open_lane();
    gateway.router.set_events(EventMask::CALLS);
    gateway.pass(0);
    for peer in [order, user] {
        assert_eq!(gateway.told(peer), [(FrameKind::LaneClose, lane, Some(CloseLane::Revoked))]);
    }
    gateway.call_often(order, user, 2 * LANE_BUSY_CALLS);
    assert!(gateway.orders.offers.is_empty());
    // A peer that comes from an earlier gateway with a lane has to give it up.
    gateway.say(order, FrameKind::LaneReady, 77);
    assert_eq!(gateway.told(order), [(FrameKind::LaneClose, 77, Some(CloseLane::Revoked))]);
    gateway.router.set_events(EventMask::NONE);
    gateway.call_often(order, user, 2 * LANE_BUSY_CALLS);
    assert_eq!(gateway.orders.offers.len(), 1, "afterwards there are lanes again");
    // Whoever asks for events watches, too.
    gateway.orders.offers.clear();
    let watcher = gateway.service("watcher", bro_proto::v1::Encoding::Json);
    gateway.ask(watcher, "events", json!({}));
    let told = gateway.told(order);
    assert!(matches!(told[..], [(FrameKind::LaneClose, _, Some(CloseLane::Revoked))]), "{told:?}");
}

#[test]
fn a_lane_goes_with_either_peer() {
    for gone in [0, 1] {
        let mut gateway = gateway(LanePolicy::Auto);
        let (order, user, lane) = gateway.open_lane();
        let peers = [order, user];
        gateway.disconnect(peers[gone]);
        assert_eq!(gateway.told(peers[1 - gone]), [(FrameKind::LaneClose, lane, Some(CloseLane::Gone))]);
        assert_eq!(gateway.router.lanes_len(), 0);
    }
}

#[test]
fn an_offer_that_comes_to_nothing_is_forgotten() {
    for how in ["refused", "late", "not handed out"] {
        let mut gateway = gateway(LanePolicy::Always);
        let user = gateway.lane_peer("user", "order");
        let order = gateway.lane_peer("order", "user");
        gateway.call_often(order, user, 1);
        let offer = gateway.orders.offers.pop().expect("an offer");
        gateway.say(order, FrameKind::LaneReady, offer.number);
        match how {
            "refused" => gateway.say(user, FrameKind::LaneClose, offer.number),
            "late" => gateway.pass(LANE_OPEN_TIMEOUT_MS + 1),
            _ => gateway.router.handle_offer_failed(offer.number, gateway.now, &mut gateway.orders),
        }
        gateway.router.check_invariants();
        assert_eq!(gateway.told(order), [(FrameKind::LaneClose, offer.number, Some(CloseLane::Gone))], "{how}");
        assert_eq!(gateway.router.lanes_len(), 0, "{how}");
        // What is said of it later means nothing, and another peer cannot take part in it.
        let thief = gateway.lane_peer("thief", "user");
        gateway.say(thief, FrameKind::LaneClose, offer.number);
        gateway.pass(LANE_RETRY_MS + 1);
        gateway.call_often(order, user, 1);
        assert_eq!(gateway.orders.offers.len(), 1, "{how}: it is tried again");
    }
}

#[test]
fn only_the_two_peers_have_a_say_in_their_lane() {
    let mut gateway = gateway(LanePolicy::Auto);
    let (order, user, lane) = gateway.open_lane();
    let thief = gateway.lane_peer("thief", "user");
    gateway.say(thief, FrameKind::LaneClose, lane);
    gateway.say(thief, FrameKind::LaneReady, lane);
    assert_eq!(gateway.told(thief), [(FrameKind::LaneClose, lane, Some(CloseLane::Gone))]);
    assert!(gateway.told(order).is_empty() && gateway.told(user).is_empty());
    assert_eq!(gateway.router.lanes_len(), 1);
}

#[test]
fn a_new_gateway_is_told_of_lanes_that_are_in_use() {
    let mut gateway = gateway(LanePolicy::Auto);
    let user = gateway.lane_peer("user", "order");
    let order = gateway.lane_peer("order", "user");
    gateway.say(order, FrameKind::LaneReady, 77);
    assert!(gateway.told(order).is_empty());
    gateway.pass(3 * LANE_OPEN_TIMEOUT_MS);
    gateway.say(user, FrameKind::LaneReady, 77);
    assert_eq!(gateway.told(order), [(FrameKind::LaneReady, 77, None)]);
    assert_eq!(gateway.told(user), [(FrameKind::LaneReady, 77, None)]);
    for number in 1..2 * LANES_PER_PEER_MAX as u64 {
        gateway.say(order, FrameKind::LaneReady, 1000 + number);
    }
    assert_eq!(gateway.router.lanes_len(), LANES_PER_PEER_MAX, "what a peer tells is bounded");
}

/// A gateway without lanes has none by inheritance either.
#[test]
fn without_lanes_those_of_the_gateway_before_are_taken_back() {
    let mut gateway = gateway(LanePolicy::Auto);
    let (order, user, lane) = gateway.open_lane();
    let exported = gateway.router.export(gateway.now);
    let config = RouterConfig { lanes: LanePolicy::Off, ..RouterConfig::default() };
    gateway.router = Router::import(config, exported, gateway.now).expect("another gateway can take over");
    let now = gateway.now;
    gateway.router.set_events(EventMask::NONE);
    gateway.router.handle_time(now, &mut gateway.orders);
    for peer in [order, user] {
        assert_eq!(gateway.told(peer), [(FrameKind::LaneClose, lane, Some(CloseLane::Revoked))]);
    }
    // Nor by what peers tell that had one under a gateway that was killed.
    gateway.say(order, FrameKind::LaneReady, 77);
    assert_eq!(gateway.told(order), [(FrameKind::LaneClose, 77, Some(CloseLane::Revoked))]);
    assert_eq!(gateway.router.lanes_len(), 0);
    gateway.router.check_invariants();
}

#[test]
fn what_is_done_on_lanes_is_counted() {
    let mut gateway = gateway(LanePolicy::Auto);
    let (order, user, lane) = gateway.open_lane();
    for (peer, calls) in [(order, 10), (order, 25), (user, 5)] {
        let mut frame = Vec::new();
        LaneStats { calls, errors: calls / 5, bytes: 100 * calls }.write(&mut frame, lane);
        gateway.send_frame(peer, frame);
    }
    let counters = gateway.router.counters();
    assert_eq!((counters.lane_calls, counters.lane_errors, counters.lane_bytes), (30, 6, 3000));
}

#[test]
fn lanes_outlive_a_gateway_that_stops() {
    let mut gateway = gateway(LanePolicy::Auto);
    let (order, user, _) = gateway.open_lane();
    let now = gateway.now;
    gateway.router.stop(now, &mut gateway.orders);
    gateway.router.check_invariants();
    assert_eq!(gateway.router.lanes_len(), 0);
    for peer in [order, user] {
        let frames = gateway.take_frames(peer);
        let close =
            frames.iter().any(|frame| matches!(v2::parse(frame), Ok(Frame::Other { kind: FrameKind::LaneClose, .. })));
        assert!(!close, "nobody is told to leave it");
    }
}

/// Found by the simulation: who told of a lane second was not asked whether it may have it.
#[test]
fn a_lane_that_peers_tell_of_joins_no_more_than_a_peer_may_have_and_only_two_of_one_user() {
    let mut gateway = gateway(LanePolicy::Auto);
    let others = ["order", "role"].map(|name| gateway.lane_peer(name, "user"));
    let user = gateway.lane_peer("user", "order");
    let stranger = gateway.lane_peer_of(9, "mail", "order");
    let per_peer = u64::try_from(LANES_PER_PEER_MAX).unwrap();
    for (at, other) in others.into_iter().enumerate() {
        for number in 1..=per_peer {
            gateway.say(other, FrameKind::LaneReady, at as u64 * per_peer + number);
        }
        assert!(gateway.told(other).is_empty());
    }
    gateway.say(stranger, FrameKind::LaneReady, 1);
    assert_eq!(gateway.told(stranger), [(FrameKind::LaneClose, 1, Some(CloseLane::Gone))]);
    for number in 1..=2 * per_peer {
        gateway.say(user, FrameKind::LaneReady, number);
        let expected = if number <= per_peer {
            (FrameKind::LaneReady, number, None)
        } else {
            (FrameKind::LaneClose, number, Some(CloseLane::Gone))
        };
        assert_eq!(gateway.told(user), [expected]);
    }
    gateway.router.check_invariants();
}

/// Found by the simulation: what peers tell may be any numbers. Their sum was not bounded, and then no gateway could take over.
#[test]
fn what_is_told_of_a_lane_cannot_overflow_the_counters() {
    let mut gateway = gateway(LanePolicy::Auto);
    let (order, _, number) = gateway.open_lane();
    for calls in [u64::MAX, 0, u64::MAX] {
        let mut frame = Vec::new();
        LaneStats { calls, errors: calls, bytes: calls }.write(&mut frame, number);
        gateway.send_frame(order, frame);
    }
    let counters = gateway.router.counters();
    assert_eq!([counters.lane_calls, counters.lane_errors, counters.lane_bytes], [u64::MAX / 2; 3]);
    let exported = gateway.router.export(gateway.now);
    Router::import(RouterConfig { lanes: LanePolicy::Auto, ..RouterConfig::default() }, exported, gateway.now)
        .expect("another gateway can take over");
}

/// Of eight lanes' memory one user may have six, and another one of the two that are left.
#[test]
fn the_memory_of_lanes_is_charged_to_a_user_once_and_no_more_than_its_share() {
    let lanes_bytes_max = 8 * LANE_BYTES;
    let mut gateway = Gateway::with(RouterConfig { lanes_bytes_max, ..RouterConfig::default() });
    gateway.router.set_events(EventMask::NONE);
    let (order, user, lane) = gateway.open_lane();
    let other = gateway.lane_peer("role", "user");
    let stranger = gateway.lane_peer_of(9, "mail", "order");
    for number in 1..=6 {
        gateway.say(other, FrameKind::LaneReady, number);
    }
    assert_eq!(gateway.told(other), [(FrameKind::LaneClose, 6, Some(CloseLane::Revoked))]);
    for number in 11..=12 {
        gateway.say(stranger, FrameKind::LaneReady, number);
    }
    assert_eq!(gateway.told(stranger), [(FrameKind::LaneClose, 12, Some(CloseLane::Revoked))]);
    let taken = |gateway: &Gateway| {
        let mut users = gateway.router.users();
        users.sort_by_key(|user| user.uid);
        users.iter().map(|user| (user.lanes, user.lane_bytes / LANE_BYTES)).collect::<Vec<_>>()
    };
    assert_eq!(taken(&gateway), [(6, 6), (1, 1)]);
    assert_eq!(gateway.router.lane_bytes(), 7 * LANE_BYTES);
    // Both ends have mapped it.
    for name in ["order", "user"] {
        let view = gateway.router.service(name).expect("it is registered");
        assert_eq!((view.instances[0].lanes, view.instances[0].lane_bytes), (1, LANE_BYTES));
    }
    // A busy pair of a user that has its share gets none, and its calls go through the gateway.
    let item = gateway.lane_peer("item", "user");
    gateway.call_often(item, user, 2 * LANE_BUSY_CALLS);
    assert!(gateway.orders.offers.is_empty());
    gateway.say(order, FrameKind::LaneClose, lane);
    assert_eq!(taken(&gateway), [(5, 5), (1, 1)]);
    // What there is goes over to another gateway with its size; one that may have less does not take over.
    let exported = gateway.router.export(gateway.now);
    let less = RouterConfig { lanes_bytes_max: 6 * LANE_BYTES - 1, ..RouterConfig::default() };
    let refused = Router::import(less, exported.clone(), gateway.now).expect_err("there is more");
    assert!(refused.to_string().starts_with("lanes_bytes_max is "), "{refused}");
    let taken_over = Router::import(RouterConfig::default(), exported, gateway.now).expect("it takes over");
    assert_eq!(taken_over.lane_bytes(), 6 * LANE_BYTES);
    gateway.disconnect(stranger);
    gateway.disconnect(other);
    assert_eq!(gateway.router.lane_bytes(), 0);
}
