//! What one user may take, what another one finds left, and who goes when there is no memory.

mod support;

use bro_policy::Policy;
use bro_proto::ErrorCode;
use bro_proto::limits::CROWDED_CALLS_PER_PEER_MAX;
use bro_proto::v1::Encoding;
use bro_router::{CloseReason, PeerId, PeerIdentity, RouterConfig, UserView};
use serde_json::{Value, json};
use support::{Gateway, answer, code};

fn of_user(uid: u32) -> PeerIdentity {
    PeerIdentity { pid: Some(1000 + uid), uid: Some(uid), ..PeerIdentity::default() }
}

fn service_of(gateway: &mut Gateway, uid: u32, name: &str) -> PeerId {
    let peer = gateway.connect_as(of_user(uid));
    gateway.send_json(peer, &json!({"type": "REGISTER", "serviceName": name, "methods": []}));
    assert_eq!(gateway.take_one(peer)["type"], "REGISTER_ACK");
    peer
}

fn user(gateway: &Gateway, uid: u32) -> UserView {
    gateway.router.users().into_iter().find(|user| user.uid == Some(uid)).expect("it has something")
}

fn call(gateway: &mut Gateway, peer: PeerId, id: &str, from: &str, to: &str) {
    let call = gateway.call(id, from, to);
    gateway.send_json(peer, &call);
}

#[test]
fn a_user_at_its_limit_of_calls_leaves_some_for_another() {
    let mut gateway = Gateway::with(RouterConfig { in_flight_max: 20, ..RouterConfig::default() });
    let callee = service_of(&mut gateway, 1, "user");
    let greedy = [service_of(&mut gateway, 2, "a"), service_of(&mut gateway, 2, "b")];
    let modest = service_of(&mut gateway, 3, "c");
    for number in 0..16 {
        call(&mut gateway, greedy[number % 2], &format!("req-{number}"), "x", "user");
    }
    assert_eq!(code(&gateway.take_one(greedy[1])), "RESOURCE_EXHAUSTED");
    assert!(gateway.take(greedy[0]).is_empty(), "15 of 20 were its share");
    assert_eq!(user(&gateway, 2).in_flight, 15);
    call(&mut gateway, modest, "req-0", "c", "user");
    let asked = gateway.take(callee).pop().expect("it was asked");
    assert_eq!(asked["from"], "c");
    gateway.send_json(callee, &answer(&asked, json!(1)));
    assert_eq!(gateway.take_one(modest)["data"], 1);
    assert_eq!(gateway.router.counters().refused_quota, 1);
}

#[test]
fn connections_are_counted_by_user_and_in_time() {
    let config = RouterConfig {
        peers_max: 40,
        peers_per_uid_max: 12,
        connect_burst: 10,
        connect_rate_per_s: 2,
        ..RouterConfig::default()
    };
    let mut gateway = Gateway::with(config);
    let connect =
        |gateway: &mut Gateway, uid| gateway.router.handle_connect(of_user(uid), gateway.now, &mut gateway.orders);
    for _ in 0..10 {
        connect(&mut gateway, 1).expect("a burst");
    }
    let too_fast = connect(&mut gateway, 1).unwrap_err();
    assert!(too_fast.message.contains("2 a second"), "{}", too_fast.message);
    connect(&mut gateway, 2).expect("another user has a bucket of its own");
    gateway.pass(1000);
    for _ in 0..2 {
        connect(&mut gateway, 1).expect("two a second");
    }
    gateway.pass(5000);
    let too_many = connect(&mut gateway, 1).unwrap_err();
    assert!(too_many.message.contains("12 connections"), "{}", too_many.message);
    assert_eq!((user(&gateway, 1).connections, gateway.router.counters().connections_refused), (12, 2));
    gateway.router.check_invariants();
}

/// A user of whom no rule speaks was denied as often as it connected, and each time operators were told.
#[test]
fn who_is_denied_is_rated_as_all_others_are() {
    let config = RouterConfig { connect_burst: 10, connect_rate_per_s: 2, ..RouterConfig::default() };
    let mut gateway = Gateway::with(config);
    gateway.router.set_policy(Policy::only_user(1), None, |_| &[], None, gateway.now, &mut gateway.orders);
    let connect =
        |gateway: &mut Gateway, uid| gateway.router.handle_connect(of_user(uid), gateway.now, &mut gateway.orders);
    let refusals = |gateway: &mut Gateway| {
        let codes = (0..15).map(|_| connect(gateway, 2).expect_err("no rule speaks of it").code);
        codes.filter(|code| *code == Some(ErrorCode::PermissionDenied)).count()
    };
    assert_eq!(refusals(&mut gateway), 10, "a burst is told what is wrong, and the rest that it is too much");
    gateway.pass(1000);
    assert_eq!(refusals(&mut gateway), 2);
    let counters = gateway.router.counters();
    assert_eq!((counters.permission_denied, counters.connections_refused), (12, 18));
    connect(&mut gateway, 1).expect("others are none the worse");
    gateway.router.check_invariants();
}

/// Who floods a callee that does not keep up is refused; who calls it now and then is not.
#[test]
fn a_flood_is_refused_before_a_sequential_caller() {
    let config = RouterConfig {
        queue_pause_bytes: 2048,
        queue_calls_bytes_max: 16 * 1024,
        queue_bytes_max: 64 * 1024,
        frame_bytes_max: 8 * 1024,
        ..RouterConfig::default()
    };
    let mut gateway = Gateway::with(config);
    let callee = service_of(&mut gateway, 1, "user");
    let flood = service_of(&mut gateway, 1, "flood");
    let modest = service_of(&mut gateway, 1, "modest");
    let refused = (0..1000).find_map(|number| {
        call(&mut gateway, flood, &format!("req-{number}"), "flood", "user");
        gateway.take(flood).pop()
    });
    assert_eq!(code(&refused.expect("the queue has a bound")), "OVERLOADED");
    for number in 0..4 {
        call(&mut gateway, modest, &format!("req-{number}"), "modest", "user");
        assert!(gateway.take(modest).is_empty(), "it is passed on");
    }
    let asked = gateway.take(callee);
    assert_eq!(asked.iter().filter(|call| call["from"] == "modest").count(), 4);
    assert_eq!(gateway.router.counters().refused_overloaded, 1);
}

/// A callee that reads all and answers late took 65,536 calls of one caller, and then refused everybody's.
#[test]
fn a_flood_to_a_slow_callee_is_refused_before_a_sequential_caller() {
    let mut gateway = Gateway::with(RouterConfig { in_flight_per_callee_max: 100, ..RouterConfig::default() });
    let callee = service_of(&mut gateway, 1, "user");
    let flood = service_of(&mut gateway, 1, "flood");
    for number in 0..120 {
        call(&mut gateway, flood, &format!("req-{number}"), "flood", "user");
        gateway.take(callee);
    }
    let refused = gateway.take(flood);
    assert_eq!((refused.len(), code(&refused[0])), (20, "OVERLOADED"));
    assert!(refused[0]["error"]["message"].as_str().is_some_and(|message| message.contains("100 calls in flight")));
    let modest: Vec<PeerId> = (0..3).map(|number| service_of(&mut gateway, 2, &format!("modest-{number}"))).collect();
    let mut passed_on = 0;
    for number in 0..CROWDED_CALLS_PER_PEER_MAX {
        for &peer in &modest {
            call(&mut gateway, peer, &format!("req-{number}"), "x", "user");
            passed_on += gateway.take(callee).len();
            gateway.take(peer);
        }
    }
    assert_eq!(passed_on, 25, "a quarter as many again");
    call(&mut gateway, modest[0], "late", "x", "user");
    assert_eq!(code(&gateway.take_one(modest[0])), "OVERLOADED", "and that is all there is");
    assert_eq!(gateway.router.in_flight_len(), 125);
}

/// Unfinished frames of many connections: the worst of them goes, and is told; the memory keeps to its ceiling after every input.
#[test]
fn whoever_has_kept_most_for_longest_goes() {
    const MEMORY_MAX: usize = 8 << 20;
    let mut gateway = Gateway::with(RouterConfig { memory_max: MEMORY_MAX, ..RouterConfig::default() });
    let callee = service_of(&mut gateway, 1, "user");
    let caller = service_of(&mut gateway, 1, "order");
    let (mut closed, mut holders) = (Vec::new(), std::collections::VecDeque::new());
    for round in 0..40 {
        let holder = gateway.connect_as(of_user(1));
        holders.push_back(holder);
        gateway.router.handle_partial(holder, true, gateway.now);
        gateway.router.handle_kept(holder, 1 << 20, gateway.now, &mut gateway.orders);
        gateway.router.check_invariants();
        assert!(gateway.router.memory_bytes() < MEMORY_MAX / 8 * 7);
        gateway.pass(10);
        for (peer, reason) in std::mem::take(&mut gateway.orders.closed) {
            assert_eq!(reason, CloseReason::Exhausted);
            assert_eq!(holders.pop_front(), Some(peer), "who has kept it for longest goes first");
            closed.push(peer);
        }
        call(&mut gateway, caller, &format!("req-{round}"), "order", "user");
        let asked = gateway.take_one(callee);
        gateway.send_json(callee, &answer(&asked, json!(round)));
        assert_eq!(gateway.take_one(caller)["data"], round, "those who behave notice nothing");
    }
    assert!(closed.len() >= 34, "{}", closed.len());
    assert_eq!(gateway.router.counters().peers_evicted, closed.len() as u64);
}

/// Answers may take more than new work, and not all: somebody who does not read goes, of the user that has most.
#[test]
fn a_peer_that_does_not_read_goes_before_its_user_has_everything() {
    const MEMORY_MAX: usize = 2 << 20;
    let mut gateway = Gateway::with(RouterConfig { memory_max: MEMORY_MAX, ..RouterConfig::default() });
    let callee = service_of(&mut gateway, 1, "user");
    let readers: Vec<PeerId> = (0..40).map(|n| service_of(&mut gateway, 2, &format!("stuck-{n}"))).collect();
    let mut asked: Vec<Value> = Vec::new();
    for (number, &reader) in readers.iter().enumerate() {
        call(&mut gateway, reader, "req-1", &format!("stuck-{number}"), "user");
        asked.extend(gateway.take(callee));
    }
    let large = "x".repeat(100_000);
    for call in &asked {
        gateway.send_json(callee, &answer(call, json!(large)));
        assert!(gateway.router.memory_bytes() <= MEMORY_MAX);
        gateway.pass(1);
    }
    let gone: Vec<PeerId> = gateway.orders.closed.iter().map(|(peer, _)| *peer).collect();
    assert!(gone.len() >= 20 && gone.iter().all(|peer| readers.contains(peer)), "{gone:?}");
    assert!(gateway.orders.closed.iter().all(|(_, reason)| *reason == CloseReason::Exhausted));
    // Another user is served meanwhile.
    let modest = service_of(&mut gateway, 3, "modest");
    call(&mut gateway, modest, "req-1", "modest", "user");
    let asked = gateway.take_one(callee);
    gateway.send_json(callee, &answer(&asked, json!("served")));
    assert_eq!(gateway.take_one(modest)["data"], "served");
    for peer in readers.into_iter().chain([callee, modest]) {
        gateway.router.handle_disconnect(peer, gateway.now, &mut gateway.orders);
    }
    assert_eq!((gateway.router.memory_bytes(), gateway.router.users()), (0, Vec::new()), "all accounts are empty");
    gateway.router.check_invariants();
}

/// Tables of names had a bound for each connection, and none for all.
#[test]
fn names_are_forgotten_where_there_is_no_memory_for_them() {
    const MEMORY_MAX: usize = 256 << 10;
    let mut gateway = Gateway::with(RouterConfig { memory_max: MEMORY_MAX, ..RouterConfig::default() });
    let names: Vec<String> = (0..48).map(|number| format!("callee-{number}")).collect();
    let callees: Vec<PeerId> = names.iter().map(|name| gateway.service_v2(name, &[])).collect();
    let mut forgotten = 0;
    for number in 0..120 {
        let caller = service_of(&mut gateway, 8, &format!("caller-{number}"));
        for (name, &callee) in names.iter().zip(&callees) {
            call(&mut gateway, caller, name, "x", name);
            for frame in gateway.take_frames(callee) {
                // NAME, with the flag that those told before are forgotten.
                forgotten += usize::from(frame[5] == 8 && frame[6] & 1 != 0);
            }
        }
        gateway.disconnect(caller);
        gateway.pass(10);
        assert!(gateway.router.memory_bytes() <= MEMORY_MAX);
    }
    assert!(forgotten > 16, "{forgotten}");
    gateway.router.check_invariants();
}

#[test]
fn msgpack_and_json_peers_of_a_user_share_its_account() {
    let mut gateway = Gateway::new();
    gateway.service("user", Encoding::Msgpack);
    gateway.service("order", Encoding::Json);
    assert_eq!((gateway.router.users().len(), user(&gateway, 8).connections), (1, 2));
}
