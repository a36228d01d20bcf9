//! A router that was made from the state of another one goes on where that one stopped, and believes nothing that contradicts itself.

mod support;

use bro_proto::Now;
use bro_proto::limits::{LANE_OPEN_TIMEOUT_MS, WRITE_STALL_TIMEOUT_MS};
use bro_proto::rng::Rng;
use bro_proto::v1::Encoding;
use bro_proto::v2::{self, CancelReason};
use bro_router::state::{CallerIdState, ImportError, RouterState};
use bro_router::{CloseReason, EventMask, LanePolicy, PeerId, PeerIdentity, Router, RouterConfig};
use serde_json::{Value, json};
use std::num::NonZeroU64;
use support::v2_peers::{draft, section};
use support::{Gateway, START, answer, frame};

/// One of everything that a router can know.
struct Scene {
    gateway: Gateway,
    /// Version 1, in JSON and in msgpack.
    order: PeerId,
    user: PeerId,
    /// Version 2; `stock` has two instances.
    cart: PeerId,
    stock: [PeerId; 2],
    stranger: PeerId,
    names: Vec<String>,
    /// The number of the call from `cart` that `stock` works on.
    asked: u64,
}

fn scene() -> Scene {
    let config = RouterConfig { lanes: LanePolicy::Always, ..RouterConfig::default() };
    let mut gateway = Gateway::with(config);
    gateway.router.set_events(EventMask::NONE);
    // A slot that was used before, so that generations differ.
    let gone = gateway.connect();
    gateway.disconnect(gone);
    let order = gateway.service("order", Encoding::Json);
    let user = gateway.service("user", Encoding::Msgpack);
    let pidfd_id = NonZeroU64::new(7000);
    let cart = gateway.connect_as(PeerIdentity { pid: Some(70), pidfd_id, uid: Some(8), gid: Some(9) });
    gateway.register_v2(cart, "cart", &["stock", "user", "bro.gateway"]);
    let stock = [0, 1].map(|index| {
        let peer = gateway.connect();
        let register = json!({
            "type": "REGISTER", "serviceName": "stock", "methods": ["get", "put"], "version": "2.0",
            "metadata": {"bro": {"v": 2, "lanes": true}, "poolSize": 2, "poolIndex": index, "room": "b"},
        });
        gateway.send_json(peer, &register);
        gateway.take(peer);
        gateway.send_frame(peer, v2_resolve(0, "cart"));
        peer
    });
    let lane_peer = gateway.connect();
    let register =
        json!({"type": "REGISTER", "serviceName": "till", "methods": [], "metadata": {"bro": {"v": 2, "lanes": true}}});
    gateway.send_json(lane_peer, &register);
    gateway.take(lane_peer);
    gateway.send_frame(lane_peer, v2_resolve(0, "stock"));
    let stranger = gateway.connect();

    // Calls of every kind: 1 to 1 with a context to echo, 2 to 1, 1 to 2, and a tree of 2 to 2. One callee is owed an answer under an
    // id that was given up.
    gateway.send_json(order, &gateway.call("gone", "order", "user"));
    let callee = gateway.take_one(user);
    gateway.pass(5001);
    gateway.take(order);
    assert_eq!(callee["id"], "gone");
    gateway.send_json(order, &gateway.call("req-1", "order", "user"));
    gateway.send_json(order, &gateway.call("req-2", "order", "cart"));
    gateway.call_v2(cart, &draft_on(1, 11));
    let mut given = draft(12);
    given.section = section(&["a", "cart"], 4);
    gateway.call_v2(cart, &given);
    let mut names = Vec::new();
    let asked = gateway.asked(stock[0], "stock", &mut names).id;
    let mut child = draft(21);
    child.parent = asked;
    gateway.call_v2(stock[0], &child);
    // A lane that is offered and not open.
    gateway.call_v2(lane_peer, &draft(31));
    assert_eq!(gateway.orders.offers.len(), 1);
    // Who waits for what is not there.
    let mut wait = gateway.call("wait", "order", "bro.gateway");
    wait["method"] = json!("waitFor");
    wait["params"] = json!({"service": "later", "timeoutMs": 4000});
    gateway.send_json(order, &wait);
    // A frame that was begun, and a queue that is not taken.
    gateway.router.handle_partial(user, true, gateway.now);
    gateway.router.check_invariants();
    Scene { gateway, order, user, cart, stock, stranger, names, asked }
}

fn v2_resolve(number: u64, service: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    v2::encode::resolve(&mut frame, number.try_into().expect("small"), service);
    frame
}

fn draft_on(route: u32, id: u64) -> support::v2_peers::Draft {
    let mut draft = draft(id);
    draft.route = route;
    draft
}

/// The gateway goes on with a router made from the state of its own, as bytes.
fn take_over(gateway: &mut Gateway, config: RouterConfig) {
    let state = RouterState::decode(&gateway.router.export(gateway.now).encode()).expect("its own state");
    gateway.router = Router::import(config, state, gateway.now).expect("its own state");
    gateway.router.check_invariants();
}

fn config() -> RouterConfig {
    RouterConfig { lanes: LanePolicy::Always, ..RouterConfig::default() }
}

#[test]
fn what_is_imported_is_what_was_exported() {
    let Scene { mut gateway, .. } = scene();
    let exported = gateway.router.export(gateway.now);
    assert!(exported.calls.live.len() >= 6 && exported.lanes.len() == 1 && exported.parked.len() == 1);
    assert!(exported.calls.live.iter().any(|call| call.parent.is_some()));
    assert!(exported.peers.live.iter().any(|peer| peer.abandoned.is_some()));
    let (timers, wakeup) = (gateway.router.timers_len(), gateway.router.wakeup_ms());
    take_over(&mut gateway, config());
    assert_eq!(gateway.router.export(gateway.now), exported);
    assert_eq!((gateway.router.timers_len(), gateway.router.wakeup_ms()), (timers, wakeup));
}

#[test]
fn calls_of_both_versions_end_as_if_nothing_had_been() {
    let Scene { mut gateway, order, user, cart, stock, mut names, asked, .. } = scene();
    take_over(&mut gateway, config());
    gateway.router.handle_partial(user, false, gateway.now);
    // Version 1: under the id that both know, with the context that was kept.
    let calls = gateway.take(user);
    let call = calls.iter().find(|call| call["id"] == "req-1").expect("it was queued before");
    gateway.send(user, &answer(call, json!(1)), Encoding::Msgpack);
    let answers = gateway.take(order);
    assert!(answers.iter().any(|answer| answer["id"] == "req-1" && answer["data"] == 1), "{answers:?}");
    // The late answer under the id that was given up ends no other call: a new call with it gets another id.
    gateway.send_json(order, &gateway.call("gone", "order", "user"));
    let renamed = gateway.take_one(user);
    assert_ne!(renamed["id"], "gone");
    // Version 2: the child is given up with its parent, whose callee is told by the number that it knows.
    let before = gateway.take_frames(cart);
    assert!(before.iter().any(|frame| matches!(v2::parse(frame), Ok(v2::Frame::Call(_)))));
    let mut cancel = Vec::new();
    v2::encode::cancel(&mut cancel, 12, CancelReason::Cancelled);
    gateway.send_frame(cart, cancel);
    let told = gateway.take_frames(stock[0]);
    assert!(
        told.iter()
            .any(|frame| v2::parse(frame) == Ok(v2::Frame::Cancel { id: asked, reason: CancelReason::Cancelled }))
    );
    // The next instance of the pool is asked, and the name of the caller is told once, as before.
    gateway.take_frames(stock[1]);
    gateway.call_v2(cart, &draft(13));
    gateway.call_v2(cart, &draft(14));
    let asked = gateway.asked(stock[0], "stock", &mut names);
    assert_eq!((asked.chain, names), (vec!["cart".to_owned(), "stock".to_owned()], vec!["cart".to_owned()]));
    gateway.router.check_invariants();
}

#[test]
fn deadlines_go_on_on_another_clock() {
    let Scene { mut gateway, order, user, stranger, .. } = scene();
    let state = gateway.router.export(gateway.now);
    let left = |state: &RouterState| {
        let at_ms = state.exported_at.mono_us / 1000;
        let calls = state.calls.live.iter().map(|call| call.deadline_ms - at_ms);
        calls.chain(state.parked.iter().map(|call| call.deadline_ms - at_ms)).collect::<Vec<_>>()
    };
    for mono_us in [1_000_777, 900_000_000_123] {
        let now = Now { mono_us, wall_ms: gateway.now.wall_ms + 1 };
        let router = Router::import(config(), state.clone(), now).expect("its own state");
        router.check_invariants();
        assert_eq!(left(&router.export(now)), left(&state));
        if mono_us > gateway.now.mono_us {
            (gateway.now, gateway.router) = (now, router);
        }
    }
    let parked = gateway.router.parked_len();
    gateway.pass(4000);
    assert_eq!(gateway.router.parked_len(), parked - 1, "the wait has ended");
    let answers = gateway.take(order);
    assert!(answers.iter().any(|answer| answer["id"] == "wait" && answer["error"]["code"] == "TIMEOUT"), "{answers:?}");
    gateway.pass(1001);
    let timed_out = gateway.take(order);
    assert!(timed_out.iter().any(|answer| answer["id"] == "req-1" && answer["error"]["code"] == "TIMEOUT"));
    gateway.pass(LANE_OPEN_TIMEOUT_MS);
    assert_eq!(gateway.router.lanes_len(), 0, "nobody has opened the lane");
    assert!(gateway.orders.closed.contains(&(stranger, CloseReason::NeverRegistered)));
    gateway.pass(WRITE_STALL_TIMEOUT_MS);
    assert!(gateway.orders.closed.contains(&(user, CloseReason::SlowReader)));
}

#[test]
fn who_watches_misses_nothing() {
    let mut gateway = Gateway::new();
    let order = gateway.service("order", Encoding::Json);
    let cursor = gateway.ask(order, "events", json!({}))["data"]["cursor"].clone();
    gateway.service("before", Encoding::Json);
    take_over(&mut gateway, RouterConfig::default());
    gateway.service("after", Encoding::Json);
    let seen = gateway.ask(order, "events", json!({"cursor": cursor}));
    let names: Vec<&str> = seen["data"]["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["event"] == "service-registered")
        .map(|event| event["serviceName"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["before", "after"]);
    assert_eq!(seen["data"]["dropped"], 0);
    // A watcher that waits is told across a takeover, too.
    let mut wait = gateway.call("watch", "order", "bro.gateway");
    (wait["method"], wait["params"]) = (json!("events"), json!({"cursor": seen["data"]["cursor"]}));
    gateway.send_json(order, &wait);
    take_over(&mut gateway, RouterConfig::default());
    assert!(gateway.take(order).is_empty());
    gateway.connect();
    assert_eq!(gateway.take_one(order)["id"], "watch");
    gateway.pass(20_001);
    take_over(&mut gateway, RouterConfig::default());
    assert!(!gateway.router.export(gateway.now).event_log.is_recording, "the lease has ended");
}

#[test]
fn a_drain_goes_on_and_comes_to_its_end() {
    let Scene { mut gateway, user, .. } = scene();
    gateway.router.begin_drain(3000, gateway.now, &mut gateway.orders);
    take_over(&mut gateway, config());
    assert!(gateway.router.is_draining());
    let call = gateway.call("late", "user", "order");
    gateway.send(user, &call, Encoding::Msgpack);
    gateway.pass(3000);
    assert!(gateway.router.is_drained());
    take_over(&mut gateway, config());
    assert!(gateway.router.is_drained() && gateway.router.peers_len() == 0);
}

#[test]
fn less_room_than_there_is_used_is_refused() {
    let Scene { gateway, .. } = scene();
    let state = gateway.router.export(gateway.now);
    let limits = [
        ("peers_max", RouterConfig { peers_max: 3, ..config() }),
        ("in_flight_max", RouterConfig { in_flight_max: 2, ..config() }),
        ("queue_bytes_max", RouterConfig { queue_bytes_max: 10, ..config() }),
    ];
    for (limit, config) in limits {
        match Router::import(config, state.clone(), START) {
            Err(ImportError::Limit { name, .. }) => assert_eq!(name, limit),
            other => panic!("{limit}: {other:?}"),
        }
    }
}

#[test]
fn a_hash_that_another_version_computes_otherwise_confuses_no_ids() {
    let Scene { gateway, .. } = scene();
    let mut state = gateway.router.export(gateway.now);
    state.hash_probe ^= 1;
    let router = Router::import(config(), state, gateway.now).expect("names are hashed anew");
    router.check_invariants();
    let again = router.export(gateway.now);
    let abandoned = again.peers.live.iter().find_map(|peer| peer.abandoned.as_ref()).expect("there are some");
    assert!(abandoned.is_full, "every id counts as given up");
}

#[test]
fn contradictions_have_names() {
    let Scene { gateway, .. } = scene();
    let state = gateway.router.export(gateway.now);
    type Spoil = fn(&mut RouterState);
    let spoil: [(&str, Spoil); 8] = [
        ("a call is one of nobody, or to nobody", |state| state.calls.live[0].caller = 99),
        ("two calls of a caller have one number", |state| {
            let id = CallerIdState::Number(12);
            let of_cart = |call: &&mut bro_router::state::CallState| call.caller_id == CallerIdState::Number(11);
            state.calls.live.iter_mut().find(of_cart).unwrap().caller_id = id;
        }),
        ("two services have one name", |state| state.registry.services[1].name = "order".to_owned()),
        ("an instance is none", |state| {
            let peer = state.registry.services[0].instances[0];
            state.registry.services[1].instances = vec![peer];
        }),
        ("more answers than bytes are queued", |state| state.peers.live[0].answer_bytes = u64::MAX),
        ("somebody waits for what is there", |state| {
            state.parked[0].wait = bro_router::state::WaitState::Service { name: "user".to_owned(), is_brief: false };
        }),
        ("calls are made for each other in a circle", |state| {
            let slot = state.calls.live[0].slot;
            let service = state.registry.services.iter().find(|service| service.instances.len() == 2).unwrap();
            let call = &mut state.calls.live[0];
            (call.caller, call.callee) = (service.instances[0], service.instances[1]);
            (call.caller_id, call.callee_id) = (CallerIdState::Number(99), None);
            call.parent = Some(slot);
        }),
        ("there are lanes although somebody watches", |state| state.event_log.is_recording = true),
    ];
    for (expected, spoil) in spoil {
        let mut spoilt = state.clone();
        spoil(&mut spoilt);
        match Router::import(config(), spoilt, gateway.now) {
            Err(ImportError::Contradiction { what }) => assert_eq!(what, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

/// Whatever stands in a state: it is refused, or the router that is made of it is one.
#[test]
fn no_state_makes_a_router_panic() {
    let Scene { gateway, .. } = scene();
    let state = gateway.router.export(gateway.now);
    let whole = serde_json::to_value(&state).expect("plain values");
    assert_eq!(serde_json::from_value::<RouterState>(whole.clone()).expect("the same"), state);
    let leaves = leaves_of(&whole);
    let mut rng = Rng::new(7);
    let (mut imported, mut refused) = (0, 0);
    for _ in 0..8_000 {
        let mut spoilt = whole.clone();
        for _ in 0..=rng.below(2) {
            let at = &leaves[index(&mut rng, leaves.len())];
            let other = whole.pointer(&leaves[index(&mut rng, leaves.len())]).expect("a leaf").clone();
            if let Some(place) = spoilt.pointer_mut(at) {
                spoil(place, other, &mut rng);
            }
        }
        let Ok(state) = serde_json::from_value::<RouterState>(spoilt) else { continue };
        let Ok(router) = Router::import(config(), state, gateway.now) else {
            refused += 1;
            continue;
        };
        imported += 1;
        live_on(router, gateway.now, &mut rng);
    }
    assert!(imported > 800 && refused > 800, "{imported} imported, {refused} refused");
}

/// What a router meets in its life, until everybody has gone.
fn live_on(router: Router, now: Now, rng: &mut Rng) {
    router.check_invariants();
    let mut gateway = Gateway { router, now, orders: support::Orders::default() };
    let peers: Vec<PeerId> =
        (0..12).flat_map(|slot| (0..2).map(move |generation| PeerId { slot, generation })).collect();
    gateway.pass(rng.below(6000));
    for &peer in &peers {
        let call = gateway.call("x", "order", "stock");
        gateway.router.handle_frame(peer, &mut frame(call.to_string().as_bytes()), gateway.now, &mut gateway.orders);
        gateway.router.handle_frame(peer, &mut draft(77).frame(), gateway.now, &mut gateway.orders);
        gateway.router.check_invariants();
    }
    gateway.pass(20_000);
    for peer in peers {
        gateway.disconnect(peer);
    }
    gateway.pass(1_000_000);
}

fn index(rng: &mut Rng, len: usize) -> usize {
    usize::try_from(rng.below(len as u64)).expect("small")
}

/// Pointers to all values that are not the whole.
fn leaves_of(value: &Value) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Array(items) => items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect(),
        Value::Object(entries) => entries.iter().map(|(key, item)| (key.clone(), item)).collect(),
        _ => Vec::new(),
    };
    children
        .into_iter()
        .flat_map(|(key, child)| {
            let below = leaves_of(child).into_iter().map(|rest| format!("/{key}{rest}")).collect::<Vec<_>>();
            std::iter::once(format!("/{key}")).chain(below)
        })
        .collect()
}

fn spoil(place: &mut Value, other: Value, rng: &mut Rng) {
    let numbers = [0, 1, 2, 5, 63, 64, 255, u64::from(u32::MAX), u64::MAX / 2, u64::MAX];
    match place {
        Value::Number(number) => {
            let number = number.as_u64().unwrap_or_default();
            let near = [number.wrapping_add(1), number.wrapping_sub(1)];
            *place = match rng.below(3) {
                0 => json!(numbers[index(rng, numbers.len())]),
                1 => json!(near[index(rng, 2)]),
                _ => other,
            };
        }
        Value::Bool(is) => *is = !*is,
        Value::Array(items) if !items.is_empty() && rng.below(3) > 0 => {
            let at = index(rng, items.len());
            if rng.below(2) == 0 { items.push(items[at].clone()) } else { drop(items.remove(at)) }
        }
        place if rng.below(2) == 0 => *place = Value::Null,
        place => *place = other,
    }
}

#[test]
fn what_is_not_known_is_skipped_and_counters_may_be_missing() {
    // A later version may write more; an earlier one wrote fewer counters.
    let router = Router::new(RouterConfig::default(), 1, START);
    let mut value = serde_json::to_value(router.export(START)).unwrap();
    value["more"] = json!({"a": [1, 2]});
    value["counters"] = json!({"connections": 3, "strange": 4});
    let bytes = rmp_serde::to_vec_named(&value).unwrap();
    let state = RouterState::decode(&bytes).unwrap();
    assert_eq!(state.counters.connections, 3);
}
