//! Where routes of version 2 lead when services, their instances and route numbers change between two calls: what a connection
//! remembers of its last call is never believed wrongly.

mod support;

use bro_proto::ErrorCode;
use bro_proto::v2::{self, Frame, encode};
use bro_router::{CloseReason, PeerId};
use serde_json::json;
use support::Gateway;
use support::v2_peers::{Draft, draft};

/// Joins a pool of two.
fn member(gateway: &mut Gateway, index: u32) -> PeerId {
    let peer = gateway.connect();
    let metadata = json!({"bro": {"v": 2}, "poolSize": 2, "poolIndex": index});
    gateway.send_json(peer, &json!({"type": "REGISTER", "serviceName": "pool", "metadata": metadata}));
    gateway.take(peer);
    peer
}

/// Calls and answers once. Says who was asked.
fn ask(gateway: &mut Gateway, caller: PeerId, callees: &[PeerId], id: u64) -> PeerId {
    gateway.call_v2(caller, &draft(id));
    let to: Vec<PeerId> =
        gateway.orders.frames.iter().map(|(peer, _)| *peer).filter(|peer| callees.contains(peer)).collect();
    let frames = gateway.take_frames(to[0]);
    let Ok(Frame::Call(asked)) = v2::parse(frames.last().expect("a call")) else { panic!("{frames:?}") };
    gateway.answer_v2(to[0], asked.id, b"1");
    assert_eq!(gateway.take_frames(caller).len(), 1);
    to[0]
}

#[test]
fn an_instance_that_joins_gets_its_share_of_a_route_that_is_in_use() {
    let mut gateway = Gateway::new();
    let first = member(&mut gateway, 0);
    let caller = gateway.service_v2("caller", &["pool"]);
    assert_eq!([1, 2].map(|id| ask(&mut gateway, caller, &[first], id)), [first; 2]);
    let second = member(&mut gateway, 1);
    let both = [first, second];
    let asked = [3, 4, 5, 6].map(|id| ask(&mut gateway, caller, &both, id));
    assert_eq!(both.map(|member| asked.iter().filter(|&&peer| peer == member).count()), [2, 2]);
    gateway.disconnect(first);
    assert_eq!([7, 8].map(|id| ask(&mut gateway, caller, &[second], id)), [second; 2]);
}

#[test]
fn a_connection_that_takes_the_place_of_a_callee_is_not_mistaken_for_it() {
    let mut gateway = Gateway::new();
    let caller = gateway.service_v2("caller", &["user"]);
    for round in 0..3 {
        let user = gateway.service_v2("user", &[]);
        gateway.call_v2(caller, &draft(2 * round + 1));
        let asked = gateway.asked(user, "user", &mut Vec::new());
        gateway.answer_v2(user, asked.id, b"1");
        gateway.take_frames(caller);
        gateway.disconnect(user);
        let other = gateway.service_v2("other", &[]);
        assert_eq!(other.slot, user.slot, "it has the place of the one that left");
        gateway.call_v2(caller, &draft(2 * round + 2));
        assert_eq!(gateway.failed_with(caller), (2 * round + 2, ErrorCode::ServiceNotFound));
        assert!(gateway.take_frames(other).is_empty());
        gateway.disconnect(other);
    }
}

#[test]
fn a_route_number_that_is_bound_again_leads_elsewhere_at_once() {
    let mut gateway = Gateway::new();
    let [user, other] = ["user", "other"].map(|name| gateway.service_v2(name, &[]));
    let caller = gateway.service_v2("caller", &["user"]);
    for (id, name, callee) in [(1, "user", user), (2, "other", other), (3, "user", user)] {
        let mut resolve = Vec::new();
        encode::resolve(&mut resolve, 0, name);
        gateway.send_frame(caller, resolve);
        gateway.call_v2(caller, &draft(id));
        gateway.call_v2(caller, &Draft { route: 0, ..draft(id + 10) });
        let frames = gateway.take_frames(callee);
        assert!(frames.len() >= 2, "{name} was not asked twice");
    }
}

/// The last sign of life came on a connection that has left: the service has it still.
#[test]
fn signs_of_life_outlast_the_instance_that_gave_them() {
    let mut gateway = Gateway::new();
    let silent = member(&mut gateway, 0);
    let lively = member(&mut gateway, 1);
    gateway.pass(80_000);
    gateway.send_json(lively, &json!({"type": "HEARTBEAT", "from": "pool", "timestamp": 1}));
    gateway.disconnect(lively);
    gateway.pass(89_999);
    assert!(gateway.router.is_peer(silent));
    gateway.pass(1);
    assert_eq!(gateway.orders.closed, [(silent, CloseReason::Silent)]);
}
