//! Calls that end together: no input ends more than it may, and each ends as it would have, once, whatever comes in between.

#![allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod support;

use bro_proto::ErrorCode;
use bro_proto::v2::{self, CancelReason, Frame};
use bro_router::state::RouterState;
use bro_router::{PeerId, Router, RouterConfig};
use std::collections::BTreeMap;
use support::Gateway;
use support::v2_peers::draft;

const MAX: usize = 8;
/// Calls that are made for the first one, and for each of these.
const WIDTH: u64 = 40;
const ALL: usize = 1 + WIDTH as usize * 3;

/// `root` calls `hub`, which makes `WIDTH` calls to `mid` for it, and `mid` two to `leaf` for each.
struct Scene {
    gateway: Gateway,
    root: PeerId,
    hub: PeerId,
    mid: PeerId,
    leaf: PeerId,
    /// Numbers of the gateway's: of the call to `hub`, of those to `mid`, and of those to `leaf`.
    first: u64,
    to_mid: Vec<u64>,
    to_leaf: Vec<u64>,
}

fn scene() -> Scene {
    let mut gateway = Gateway::with(RouterConfig { ends_per_input_max: MAX, ..RouterConfig::default() });
    let leaf = gateway.service_v2("leaf", &[]);
    let mid = gateway.service_v2("mid", &["leaf"]);
    let hub = gateway.service_v2("hub", &["mid"]);
    let root = gateway.service_v2("root", &["hub"]);
    gateway.call_v2(root, &draft(1));
    let first = numbers(&mut gateway, hub)[0];
    for id in 1..=WIDTH {
        gateway.call_v2(hub, &made_for(id, first));
    }
    let to_mid = numbers(&mut gateway, mid);
    for id in 1..=2 * WIDTH {
        gateway.call_v2(mid, &made_for(id, to_mid[(id as usize - 1) / 2]));
    }
    let to_leaf = numbers(&mut gateway, leaf);
    assert_eq!(gateway.router.in_flight_len(), ALL);
    Scene { gateway, root, hub, mid, leaf, first, to_mid, to_leaf }
}

fn made_for(id: u64, parent: u64) -> support::v2_peers::Draft {
    let mut draft = draft(id);
    draft.parent = parent;
    draft
}

/// The numbers of the calls that a peer was asked.
fn numbers(gateway: &mut Gateway, peer: PeerId) -> Vec<u64> {
    let frames = gateway.take_frames(peer);
    let number = |frame: &Vec<u8>| match v2::parse(frame) {
        Ok(Frame::Call(call)) => Some(call.id),
        _ => None,
    };
    frames.iter().filter_map(number).collect()
}

/// How often a peer was told what about each call: a code, or `CANCEL`.
fn told(gateway: &mut Gateway, peer: PeerId) -> BTreeMap<(u64, String), usize> {
    let mut told = BTreeMap::new();
    for frame in gateway.take_frames(peer) {
        let what = match v2::parse(&frame) {
            Ok(Frame::Error { id, is_from_gateway: true, failure }) => {
                (id, failure.to_body().code.expect("a code").as_str().to_owned())
            }
            Ok(Frame::Cancel { id, reason }) => (id, format!("CANCEL {reason:?}")),
            other => panic!("{other:?}"),
        };
        *told.entry(what).or_default() += 1;
    }
    told
}

fn once(ids: impl IntoIterator<Item = u64>, what: &str) -> BTreeMap<(u64, String), usize> {
    ids.into_iter().map(|id| ((id, what.to_owned()), 1)).collect()
}

fn cancel(id: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    v2::encode::cancel(&mut frame, id, CancelReason::Cancelled);
    frame
}

/// Gives an input, and the time as long as the router asks for it. Tells how many calls each of them ended.
fn ended(gateway: &mut Gateway, input: impl FnOnce(&mut Gateway)) -> Vec<usize> {
    let mut counts = Vec::new();
    let mut before = gateway.router.in_flight_len();
    let mut count = |gateway: &mut Gateway| {
        gateway.router.check_invariants();
        let present = gateway.router.in_flight_len();
        counts.push(std::mem::replace(&mut before, present) - present);
    };
    input(gateway);
    count(gateway);
    while is_due(gateway) {
        gateway.router.handle_time(gateway.now, &mut gateway.orders);
        count(gateway);
    }
    counts
}

fn is_due(gateway: &Gateway) -> bool {
    gateway.router.wakeup_ms().is_some_and(|at_ms| at_ms <= gateway.now.mono_ms())
}

#[test]
fn no_input_ends_more_calls_than_it_may() {
    type Act = fn(&mut Gateway, &Scene);
    let inputs: [(&str, Act, usize); 6] = [
        ("CANCEL", |gateway, scene| gateway.send_frame(scene.root, cancel(1)), ALL),
        ("its caller goes", |gateway, scene| gateway.disconnect(scene.root), ALL),
        // What was made for it was made by who has gone.
        ("its callee goes", |gateway, scene| gateway.disconnect(scene.hub), ALL),
        ("who is both goes", |gateway, scene| gateway.disconnect(scene.mid), ALL - 1),
        ("the last callee goes", |gateway, scene| gateway.disconnect(scene.leaf), 2 * WIDTH as usize),
        ("deadlines pass", |gateway, _| gateway.now.mono_us += 6_000_000, ALL),
    ];
    for (what, input, all) in inputs {
        let mut scene = scene();
        let mut gateway = std::mem::replace(&mut scene.gateway, Gateway::new());
        let counts = ended(&mut gateway, |gateway| input(gateway, &scene));
        assert!(counts.iter().all(|&count| count <= MAX), "{what}: {counts:?}");
        assert_eq!(counts.iter().sum::<usize>(), all, "{what}: {counts:?}");
        assert!(counts.len() >= all / MAX && !gateway.router.is_ending(), "{what}: {counts:?}");
        if all == ALL {
            let told_mid = told(&mut gateway, scene.mid);
            let own = if what == "deadlines pass" { None } else { Some(once(1..=2 * WIDTH, "CANCELLED")) };
            if let Some(mut expected) = own {
                let reason = if what == "its callee goes" { "CANCEL CallerGone" } else { "CANCEL Cancelled" };
                expected.extend(once(scene.to_mid.iter().copied(), reason));
                assert_eq!(told_mid, expected, "{what}");
                assert_eq!(told(&mut gateway, scene.leaf), once(scene.to_leaf.iter().copied(), "CANCEL Cancelled"));
            }
        }
        if what == "its callee goes" {
            assert_eq!(told(&mut gateway, scene.root), once([1], "CONNECTION_LOST"));
        }
        if what == "the last callee goes" {
            assert_eq!(told(&mut gateway, scene.mid), once(1..=2 * WIDTH, "CONNECTION_LOST"));
        }
    }
}

#[test]
fn many_inputs_together_end_no_more_than_one() {
    let Scene { mut gateway, hub, mid, .. } = scene();
    let before = gateway.router.in_flight_len();
    // As if they had been read at once: no time is given in between.
    for id in 1..=WIDTH {
        gateway.send_frame(hub, cancel(id));
    }
    let ended_at_once = before - gateway.router.in_flight_len();
    assert!(ended_at_once <= MAX + WIDTH as usize, "{ended_at_once}: what each is about, and as many as one may end");
    assert!(gateway.router.is_ending());
    ended(&mut gateway, |_| {});
    assert_eq!(gateway.router.in_flight_len(), 1);
    let answers = told(&mut gateway, mid).into_iter().filter(|((_, what), _)| what == "CANCELLED");
    assert_eq!(answers.collect::<BTreeMap<_, _>>(), once(1..=2 * WIDTH, "CANCELLED"));
}

#[test]
fn whatever_comes_for_a_call_that_is_about_to_end_finds_it_ended() {
    let Scene { mut gateway, root, hub, mid, leaf, to_mid, to_leaf, .. } = scene();
    gateway.send_frame(root, cancel(1));
    for peer in [hub, mid, leaf] {
        gateway.take_frames(peer);
    }
    assert!(gateway.router.is_ending());
    // The stump of the first call loses its children from the last to the first, so these are still there.
    let (id, number) = (1, to_mid[0]);
    // A late answer: its caller is told what was decided, and the answer is dropped.
    let dropped = gateway.router.counters().responses_dropped;
    gateway.answer_v2(mid, number, b"1");
    assert_eq!(gateway.router.counters().responses_dropped, dropped + 1);
    assert_eq!(told(&mut gateway, hub), once([id], "CANCELLED"));
    assert_eq!(told(&mut gateway, mid), once([number], "CANCEL Cancelled"));
    // A CANCEL for one below.
    let cancelled = gateway.router.counters().calls_cancelled;
    gateway.send_frame(mid, cancel(1));
    assert_eq!(gateway.router.counters().calls_cancelled, cancelled + 1, "counted once, as it was given up");
    assert_eq!(told(&mut gateway, mid), once([1], "CANCELLED"));
    assert_eq!(told(&mut gateway, leaf), once([to_leaf[0]], "CANCEL Cancelled"));
    // Its number is given to another call.
    gateway.call_v2(mid, &draft(2));
    assert_eq!(told(&mut gateway, mid), once([2], "CANCELLED"));
    let frames = gateway.take_frames(leaf);
    assert!(matches!(v2::parse(&frames[0]), Ok(Frame::Cancel { id, .. }) if id == to_leaf[1]), "{frames:?}");
    assert!(matches!(v2::parse(frames.last().unwrap()), Ok(Frame::Call(_))), "the new one goes on");
    // Nothing is made for it any more.
    gateway.call_v2(mid, &made_for(1000, to_mid[1]));
    assert_eq!(gateway.failed_with(mid), (1000, ErrorCode::Cancelled));
    // Its deadline passes.
    gateway.now.mono_us += 6_000_000;
    ended(&mut gateway, |_| {});
    assert_eq!((gateway.router.in_flight_len(), gateway.router.is_ending()), (0, false));
    let codes: Vec<String> = told(&mut gateway, hub).into_keys().map(|(_, what)| what).collect();
    assert!(codes.iter().all(|what| what == "CANCELLED"), "{codes:?}");
}

#[test]
fn what_was_decided_first_counts() {
    for is_lost_first in [true, false] {
        let Scene { mut gateway, root, hub, mid, leaf, .. } = scene();
        if is_lost_first {
            gateway.disconnect(leaf);
            gateway.send_frame(root, cancel(1));
        } else {
            gateway.send_frame(root, cancel(1));
            gateway.disconnect(leaf);
        }
        ended(&mut gateway, |_| {});
        let of_leaf = if is_lost_first { "CONNECTION_LOST" } else { "CANCELLED" };
        let answers = told(&mut gateway, mid).into_iter().filter(|((_, what), _)| !what.starts_with("CANCEL "));
        assert_eq!(answers.collect::<BTreeMap<_, _>>(), once(1..=2 * WIDTH, of_leaf));
        let answers = told(&mut gateway, hub).into_iter().filter(|((_, what), _)| !what.starts_with("CANCEL "));
        assert_eq!(answers.collect::<BTreeMap<_, _>>(), once(1..=WIDTH, "CANCELLED"));
    }
}

#[test]
fn others_are_served_and_deadlines_kept_while_calls_are_about_to_end() {
    let Scene { mut gateway, root, leaf, .. } = scene();
    let other = gateway.service_v2("other", &["leaf", "patient"]);
    let _patient = gateway.service_v2("patient", &[]);
    for id in 1..=20 {
        let mut short = draft(id);
        (short.timeout_ms, short.route) = (10, 1);
        gateway.call_v2(other, &short);
    }
    gateway.send_frame(root, cancel(1));
    gateway.take_frames(leaf);
    gateway.call_v2(other, &draft(100));
    assert_eq!(numbers(&mut gateway, leaf).len(), 1, "others call meanwhile");
    gateway.now.mono_us += 20_000;
    for _ in 0..5 {
        gateway.router.handle_time(gateway.now, &mut gateway.orders);
    }
    assert!(gateway.router.is_ending());
    assert_eq!(told(&mut gateway, other), once(1..=20, "TIMEOUT"), "they do not wait until all else has ended");
}

#[test]
fn what_was_made_for_a_call_that_is_answered_goes_on() {
    let Scene { mut gateway, root, hub, mid, first, to_mid, .. } = scene();
    gateway.answer_v2(hub, first, b"1");
    assert_eq!((gateway.router.in_flight_len(), gateway.take_frames(root).len()), (ALL - 1, 1));
    gateway.router.check_invariants();
    // Its place is used again, for a call with children of its own.
    gateway.call_v2(root, &draft(2));
    let again = numbers(&mut gateway, hub)[0];
    assert_eq!(v2::CallNumber::from_wire(again).slot, v2::CallNumber::from_wire(first).slot);
    gateway.call_v2(hub, &made_for(WIDTH + 1, again));
    gateway.answer_v2(mid, to_mid[WIDTH as usize - 1], b"1");
    gateway.answer_v2(mid, to_mid[0], b"1");
    assert_eq!(gateway.take_frames(hub).len(), 2);
    gateway.send_frame(root, cancel(2));
    assert_eq!(gateway.router.in_flight_len(), ALL - 3, "the new one and its child have ended, nothing else has");
    gateway.router.check_invariants();
}

#[test]
fn before_a_takeover_all_that_is_about_to_end_ends() {
    let Scene { mut gateway, root, hub, mid, leaf, .. } = scene();
    gateway.disconnect(leaf);
    gateway.send_frame(root, cancel(1));
    assert!(gateway.router.is_ending());
    gateway.router.finish_ends(gateway.now, &mut gateway.orders);
    assert!(!gateway.router.is_ending() && !is_due(&gateway));
    let state = RouterState::decode(&gateway.router.export(gateway.now).encode()).expect("its own state");
    let config = RouterConfig { ends_per_input_max: MAX, ..RouterConfig::default() };
    gateway.router = Router::import(config, state, gateway.now).expect("its own state");
    gateway.router.check_invariants();
    assert_eq!(gateway.router.in_flight_len(), 0);
    assert_eq!(told(&mut gateway, hub).len(), WIDTH as usize + 1);
    assert_eq!(told(&mut gateway, mid).len(), WIDTH as usize * 3);
}
