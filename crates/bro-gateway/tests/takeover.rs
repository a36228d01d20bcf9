//! One gateway takes over from another: nobody who is connected notices, and when it comes to nothing the old one goes on.

mod common;

use bro_gateway::{Embedding, Gateway, GatewayConfig, RouterConfig, StartError, StopReason, Takeover};
use bro_proto::limits;
use common::{RawPeer, TempDir, frame, until};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

fn config(socket: &Path) -> GatewayConfig {
    GatewayConfig { router: RouterConfig { hands_over: true, ..RouterConfig::default() }, ..GatewayConfig::new(socket) }
}

fn start() -> (TempDir, Gateway) {
    let directory = TempDir::new();
    let gateway = Gateway::start(config(&directory.socket())).unwrap();
    (directory, gateway)
}

fn successor(socket: &Path) -> Result<Gateway, StartError> {
    Gateway::start(GatewayConfig { takeover: Takeover::IfRunning, ..config(socket) })
}

/// The gateway that takes over; the other one must have ended by that.
fn take_over(old: Gateway, socket: &Path) -> Gateway {
    let new = successor(socket).unwrap();
    assert_eq!(old.wait(), StopReason::TakenOver { pid: Some(std::process::id()) });
    assert!(old.status().is_err() && !old.is_running());
    new
}

/// Nothing has happened to a gateway that was to be taken over.
fn assert_goes_on(gateway: &Gateway, caller: &mut RawPeer, callee: &mut RawPeer) {
    assert!(gateway.is_running());
    caller.call("still", &callee.name, json!(1));
    let call = callee.receive();
    callee.answer(&call);
    assert_eq!(caller.receive()["id"], "still");
}

fn refusal(result: Result<Gateway, StartError>) -> String {
    match result {
        Err(error @ StartError::Takeover { .. }) => error.to_string(),
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it has taken over"),
    }
}

#[test]
fn an_idle_gateway_is_taken_over_with_its_socket() {
    let (directory, old) = start();
    let socket = directory.socket();
    let mut caller = RawPeer::registered(&socket, "caller");
    let mut callee = RawPeer::registered(&socket, "callee");
    let counted = old.status().unwrap().counters.registrations;
    let new = take_over(old, &socket);
    assert_eq!(directory.entries(), ["gateway.sock"], "the old one leaves the file alone");
    let status = new.status().unwrap();
    assert_eq!((status.peers, status.services.len()), (2, 2));
    assert_eq!(status.counters.registrations, counted + 1, "the totals go on; the new gateway registered, too");
    assert_goes_on(&new, &mut caller, &mut callee);
    let mut later = RawPeer::registered(&socket, "later");
    assert_goes_on(&new, &mut later, &mut callee);
    assert!(matches!(Gateway::start(config(&socket)), Err(StartError::AlreadyRunning { .. })));
    new.stop().unwrap();
    assert_eq!(directory.entries(), Vec::<String>::new(), "the new one removes it");
    assert!(caller.try_receive().is_none());
}

#[test]
fn what_is_on_its_way_arrives() {
    let (directory, old) = start();
    let socket = directory.socket();
    let mut caller = RawPeer::registered(&socket, "caller");
    let mut callee = RawPeer::registered(&socket, "callee");
    // A call in flight, and a call of which one half has come.
    caller.call("in-flight", "callee", json!("a"));
    let in_flight = callee.receive();
    let large = "x".repeat(3 << 20);
    let bytes = frame(&caller.call_value("half", "callee", json!(large)));
    let (first, second) = bytes.split_at(bytes.len() / 2);
    caller.stream.write_all(first).unwrap();
    // Answers that nobody reads, more than a socket holds.
    let mut slow = RawPeer::registered(&socket, "slow");
    let calls: Vec<Value> = (0..6)
        .map(|id| {
            slow.call(&format!("slow-{id}"), "callee", json!(1));
            callee.receive()
        })
        .collect();
    for call in calls {
        let mut answer = callee.answer_value(&call);
        answer["data"] = json!("x".repeat(1 << 20));
        callee.send(&answer);
    }
    until("the answers are queued", || old.status().unwrap().queued_bytes > 4 << 20);
    // Somebody waits for a service, and somebody was told why it is refused and has not read it.
    let mut waiter = RawPeer::registered(&socket, "waiter");
    let mut wait = waiter.call_value("wait", "bro.gateway", json!({"service": "later"}));
    wait["method"] = json!("waitFor");
    waiter.send(&wait);
    let mut refused = RawPeer::connect(&socket);
    refused.register("callee");
    until("all that has been done", || old.status().unwrap().counters.registrations_refused == 1);
    let uptime_ms = old.status().unwrap().uptime_ms;

    let new = take_over(old, &socket);
    assert!(new.status().unwrap().uptime_ms >= uptime_ms, "the clock goes on");
    // The rest of the frame is the first thing that the new one reads.
    caller.stream.write_all(second).unwrap();
    let half = callee.receive();
    assert_eq!((&half["id"], half["params"].as_str().map(str::len)), (&json!("half"), Some(large.len())));
    callee.answer(&in_flight);
    assert_eq!(caller.receive()["id"], "in-flight");
    callee.answer(&half);
    assert_eq!(caller.receive()["data"].as_str(), Some(&*large));
    for id in 0..6 {
        let answer = slow.receive();
        assert_eq!(
            (answer["id"].as_str(), answer["data"].as_str().map(str::len)),
            (Some(&*format!("slow-{id}")), Some(1 << 20))
        );
    }
    let _later = RawPeer::registered(&socket, "later");
    let found = waiter.receive();
    assert_eq!((&found["id"], &found["data"]["name"]), (&json!("wait"), &json!("later")));
    assert_eq!(refused.receive()["error"]["code"], "DUPLICATE_SERVICE");
    assert!(refused.try_receive().is_none());
    until("nothing is left", || new.status().unwrap().queued_bytes == 0);
    new.stop().unwrap();
}

/// The new gateway begins in the middle of what the old one skips.
#[test]
fn a_frame_above_the_limit_is_skipped_by_both() {
    let (directory, old) = start();
    let socket = directory.socket();
    let mut caller = RawPeer::registered(&socket, "caller");
    let mut callee = RawPeer::registered(&socket, "callee");
    let bytes = limits::FRAME_BYTES_MAX + 1000;
    let mut large = u32::try_from(bytes).unwrap().to_be_bytes().to_vec();
    large.extend_from_slice(br#"{"type":"CALL","id":"large","from":"caller","to":"callee","method":"m","params":""#);
    large.resize(bytes + 4, b'x');
    let (first, second) = large.split_at(bytes / 2);
    caller.stream.write_all(first).unwrap();
    let refused = caller.receive();
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("large"), &json!("PAYLOAD_TOO_LARGE")));
    // All of the first half is read before the sockets change hands, or in them: either way it is counted.
    let new = take_over(old, &socket);
    caller.stream.write_all(second).unwrap();
    assert_goes_on(&new, &mut caller, &mut callee);
    assert_eq!(new.status().unwrap().counters.refused_too_large, 1);
    new.stop().unwrap();
}

#[test]
fn many_takeovers_while_calls_are_made_lose_none_and_double_none() {
    const TAKEOVERS: usize = 12;
    const CALLERS: usize = 4;
    let (directory, first) = start();
    let socket = directory.socket();
    let echoes: Vec<_> = (0..2).map(|at| RawPeer::registered(&socket, &format!("echo-{at}")).echo()).collect();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let answered = std::sync::atomic::AtomicUsize::new(0);
    let gateway = std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (socket, is_over, answered) = (&socket, &is_over, &answered);
            scope.spawn(move || {
                let mut peer = RawPeer::registered(socket, &format!("caller-{caller}"));
                let mut next = 0_usize;
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    // Several at once, of very different sizes.
                    let ids: Vec<String> = (0..8).map(|at| format!("{caller}-{next}-{at}")).collect();
                    for (at, id) in ids.iter().enumerate() {
                        let size = if at == 3 { 200_000 } else { at * 100 };
                        peer.call(id, &format!("echo-{}", at % 2), json!({"id": id, "x": "x".repeat(size)}));
                    }
                    let mut seen: Vec<String> = ids
                        .iter()
                        .map(|_| {
                            let answer = peer.receive();
                            assert_eq!((&answer["status"], &answer["data"]["id"]), (&json!("success"), &answer["id"]));
                            answer["id"].as_str().unwrap().to_owned()
                        })
                        .collect();
                    seen.sort();
                    assert_eq!(seen, ids, "each once");
                    next += 1;
                    answered.fetch_add(ids.len(), std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
        let mut gateway = first;
        for _ in 0..TAKEOVERS {
            let before = answered.load(std::sync::atomic::Ordering::Relaxed);
            until("calls go on", || answered.load(std::sync::atomic::Ordering::Relaxed) > before + 100);
            gateway = take_over(gateway, &socket);
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        gateway
    });
    let counters = gateway.status().unwrap().counters;
    assert_eq!(counters.calls_routed, counters.responses_routed);
    assert_eq!((counters.calls_lost, counters.calls_timed_out, counters.malformed), (0, 0, 0));
    drop(gateway);
    echoes.into_iter().for_each(|echo| echo.join().unwrap());
}

#[test]
fn where_nobody_is_running_it_starts_as_usual() {
    let directory = TempDir::new();
    let gateway = successor(&directory.socket()).unwrap();
    RawPeer::registered(&directory.socket(), "a");
    drop(gateway);
    // A file that a crash has left is no gateway either.
    drop(UnixListener::bind(directory.socket()).unwrap());
    let gateway = successor(&directory.socket()).unwrap();
    RawPeer::registered(&directory.socket(), "a");
    gateway.stop().unwrap();
}

#[test]
fn who_does_not_hand_over_goes_on() {
    let (directory, gateway) = common::start();
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    let why = refusal(successor(&directory.socket()));
    assert!(why.contains("part of another program") && why.contains("PERMISSION_DENIED"), "{why}");
    assert_goes_on(&gateway, &mut caller, &mut callee);
    assert_eq!(directory.entries(), ["gateway.sock"]);
    gateway.stop().unwrap();
}

/// A gateway that was started to take over started beside the running one, where it did not find that at its path.
#[test]
fn who_is_to_take_over_from_one_gateway_takes_nothing_else() {
    let (directory, gateway) = start();
    let from = |pid: u32, socket: &Path| {
        refusal(Gateway::start(GatewayConfig { takeover: Takeover::From(pid), ..config(socket) }))
    };
    let why = from(1, &directory.socket());
    assert!(why.contains("not in 1"), "{why}");
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    assert_goes_on(&gateway, &mut caller, &mut callee);
    let elsewhere = TempDir::new();
    let why = from(std::process::id(), &elsewhere.socket());
    assert!(why.contains("nobody answers there"), "{why}");
    assert_eq!(elsewhere.entries(), Vec::<String>::new());
    let takeover = Takeover::From(std::process::id());
    let new = Gateway::start(GatewayConfig { takeover, ..config(&directory.socket()) }).unwrap();
    assert_eq!((new.taken_from(), gateway.taken_from()), (Some(std::process::id()), None));
    assert_goes_on(&new, &mut caller, &mut callee);
    new.stop().unwrap();
}

#[test]
fn a_service_is_taken_over_by_processes_of_its_own_control_group() {
    let directory = TempDir::new();
    let embedding = Embedding { is_service: true, ..Embedding::default() };
    let old = Gateway::start_embedded(config(&directory.socket()), embedding).unwrap();
    take_over(old, &directory.socket()).stop().unwrap();
}

#[test]
fn a_gateway_that_is_stopping_is_not_taken_over() {
    let (directory, gateway) = start();
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    let mut asker = RawPeer::registered(&directory.socket(), "asker");
    caller.call("last", "callee", json!(1));
    let call = callee.receive();
    gateway.drain().unwrap();
    // The command is carried out by the wakeup after this at the latest.
    until("it drains", || {
        asker.call("late", "nobody", json!(1));
        asker.receive()["error"]["code"] == "SHUTTING_DOWN"
    });
    asker.ask_for_takeover(json!({"format": 1, "readsFrom": 1, "descriptorsMax": 1000}));
    assert_eq!(asker.receive()["error"]["code"], "SHUTTING_DOWN");
    callee.answer(&call);
    assert_eq!(caller.receive()["id"], "last");
    assert_eq!(gateway.wait(), StopReason::Requested);
}

trait Asker {
    fn ask_for_takeover(&mut self, params: Value);
}

impl Asker for RawPeer {
    fn ask_for_takeover(&mut self, params: Value) {
        let mut call = self.call_value("takeover", "bro.gateway", params);
        call["method"] = json!("takeover");
        self.send(&call);
    }
}

#[test]
fn formats_rooms_and_nonsense_are_refused_and_the_gateway_goes_on() {
    let (directory, gateway) = start();
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    let mut asker = RawPeer::registered(&directory.socket(), "asker");
    let refused = [
        (
            json!({"format": 99, "readsFrom": 98, "descriptorsMax": 1000}),
            "INVALID_ARGUMENT",
            "the new one reads 98 to 99",
        ),
        (json!({"format": 0, "readsFrom": 0, "descriptorsMax": 1000}), "INVALID_ARGUMENT", "the new one reads 0 to 0"),
        (json!({"format": 1, "readsFrom": 1, "descriptorsMax": 5}), "RESOURCE_EXHAUSTED", "limit of open files"),
        (json!({"format": 1, "readsFrom": 1}), "INVALID_ARGUMENT", "descriptorsMax"),
        (json!({"format": "x", "readsFrom": 1, "descriptorsMax": 1000}), "INVALID_ARGUMENT", "format"),
    ];
    for (params, code, why) in refused {
        asker.ask_for_takeover(params);
        let answer = asker.receive();
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(answer["error"]["code"] == code && message.contains(why), "{answer}");
        assert_goes_on(&gateway, &mut caller, &mut callee);
    }
    assert_eq!(gateway.status().unwrap().peers, 3, "who asked is connected as before");
    gateway.stop().unwrap();
}

/// Asks for everything, and reads what comes up to `bytes` of it.
fn take_bytes(socket: &Path, bytes: usize) -> (UnixStream, Vec<u8>) {
    let mut asker = RawPeer::registered(socket, "asker");
    asker.ask_for_takeover(json!({"format": 1, "readsFrom": 1, "descriptorsMax": 1000}));
    let answer = asker.receive();
    assert_eq!((&answer["status"], &answer["data"]["format"]), (&json!("success"), &json!(1)), "{answer}");
    let mut taken = vec![0; bytes];
    asker.stream.read_exact(&mut taken).unwrap();
    (asker.stream, taken)
}

/// What a gateway with two peers hands over, up to its descriptors; and it goes on.
fn handed_over() -> Vec<u8> {
    let (directory, gateway) = start();
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    let (mut stream, mut taken) = take_bytes(&directory.socket(), 8);
    let head_bytes = u64::from_le_bytes(*taken.first_chunk().unwrap());
    let mut head = vec![0; usize::try_from(head_bytes).unwrap()];
    stream.read_exact(&mut head).unwrap();
    taken.extend_from_slice(&head);
    drop(stream);
    assert_goes_on(&gateway, &mut caller, &mut callee);
    taken
}

#[test]
fn a_new_gateway_that_dies_at_any_step_changes_nothing() {
    let all = handed_over().len();
    let (directory, gateway) = start();
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    for bytes in [0, 1, 8, all / 2, all, all + 1] {
        drop(take_bytes(&directory.socket(), bytes));
        assert_goes_on(&gateway, &mut caller, &mut callee);
        assert_eq!(directory.entries(), ["gateway.sock"]);
    }
    // It acknowledges the descriptors, and dies before it has taken over; or says what nobody says.
    for last in [&b"B"[..], b"x", b"Bx"] {
        let (mut stream, _) = take_bytes(&directory.socket(), all + 1);
        stream.write_all(last).unwrap();
        drop(stream);
        assert_goes_on(&gateway, &mut caller, &mut callee);
    }
    // Then one that lives.
    let new = take_over(gateway, &directory.socket());
    assert_goes_on(&new, &mut caller, &mut callee);
    new.stop().unwrap();
}

#[test]
fn a_new_gateway_that_does_nothing_is_not_waited_for_for_ever() {
    let (directory, gateway) = start();
    let mut caller = RawPeer::registered(&directory.socket(), "caller");
    let mut callee = RawPeer::registered(&directory.socket(), "callee");
    caller.call("meanwhile", "callee", json!(1));
    let (mut stream, _) = take_bytes(&directory.socket(), 8);
    let call = callee.receive();
    callee.answer(&call);
    assert_eq!(caller.receive()["id"], "meanwhile");
    assert_goes_on(&gateway, &mut caller, &mut callee);
    // It comes to itself, and finds that it is too late.
    let mut rest = Vec::new();
    stream.set_read_timeout(Some(Duration::from_millis(4 * limits::TAKEOVER_TIMEOUT_MS))).unwrap();
    stream.read_to_end(&mut rest).unwrap();
    assert!(stream.write_all(b"T").is_err(), "it cannot say that it has taken over");
    gateway.stop().unwrap();
}

/// Plays a running gateway that answers the request with `answer`, sends `bytes` and dies.
fn play_old(directory: &TempDir, answer: Value, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    let _ = std::fs::remove_file(directory.socket());
    let listener = UnixListener::bind(directory.socket()).unwrap();
    std::thread::spawn(move || {
        let mut peer = RawPeer { stream: listener.accept().unwrap().0, name: "old".to_owned() };
        assert_eq!(peer.receive()["type"], "REGISTER");
        peer.send(&json!({"type": "REGISTER_ACK", "from": "bro.gateway"}));
        assert_eq!(peer.receive()["method"], "takeover");
        peer.send(&answer);
        let _ = peer.stream.write_all(&bytes); // the new one may have seen enough
    })
}

#[test]
fn an_old_gateway_that_dies_at_any_step_leaves_no_half_of_a_new_one() {
    let directory = TempDir::new();
    let all = handed_over();
    let accepted = json!({"type": "RESPONSE", "id": "takeover", "status": "success", "data": {}});
    for bytes in [0, 7, 8, 9, all.len() / 2, all.len()] {
        let old = play_old(&directory, accepted.clone(), all[..bytes].to_vec());
        let why = refusal(successor(&directory.socket()));
        assert!(why.contains("closed the connection"), "{why}");
        old.join().unwrap();
        // As after a crash: the next one starts as usual.
        let gateway = successor(&directory.socket()).unwrap();
        RawPeer::registered(&directory.socket(), "a");
        gateway.stop().unwrap();
    }
}

#[test]
fn what_an_old_gateway_says_is_not_believed() {
    let directory = TempDir::new();
    let all = handed_over();
    let accepted = json!({"type": "RESPONSE", "id": "takeover", "status": "success", "data": {}});
    let mut rng = bro_proto::rng::Rng::new(3);
    let mut reasons = std::collections::BTreeSet::new();
    for _ in 0..300 {
        let mut bytes = all.clone();
        for _ in 0..=rng.below(3) {
            let at = usize::try_from(rng.below(bytes.len() as u64)).unwrap();
            bytes[at] = u8::try_from(rng.below(256)).unwrap();
        }
        let old = play_old(&directory, accepted.clone(), bytes);
        reasons.insert(refusal(successor(&directory.socket())));
        old.join().unwrap();
    }
    assert!(reasons.len() > 5, "{reasons:?}");
    // What it says of its connections is not what its router says of its peers. The connections stand last.
    for (key, lie, says) in [
        (&b"\xa4slot"[..], 7, "a connection is that of another peer"),
        (b"\xaageneration", 7, "a connection is that of another peer"),
        (b"\xa9is_paused", 0xc3, "a connection's queue is not what its peer is charged for"),
        (b"\xacqueued_bytes", 7, "a connection's queue is not what its peer is charged for"),
        (b"\xadpartial_bytes", 7, "a connection is in the middle of a frame, and its peer is not"),
    ] {
        let mut bytes = all.clone();
        let at =
            bytes.windows(key.len()).rposition(|window| window == key).expect("the connections say so") + key.len();
        bytes[at] = lie;
        let old = play_old(&directory, accepted.clone(), bytes);
        let why = refusal(successor(&directory.socket()));
        assert!(why.contains(says), "{why}");
        old.join().unwrap();
    }
    let later = with_format(&all, 99);
    let old = play_old(&directory, accepted, later);
    let why = refusal(successor(&directory.socket()));
    assert!(why.contains("the state has format 99"), "{why}");
    old.join().unwrap();
    for (code, says) in [("METHOD_NOT_FOUND", "cannot hand over"), ("PERMISSION_DENIED", "because (PERMISSION_DENIED)")]
    {
        let error = json!({"type": "RESPONSE", "id": "takeover", "status": "error", "error": {"code": code, "message": "because"}});
        let old = play_old(&directory, error, Vec::new());
        let why = refusal(successor(&directory.socket()));
        assert!(why.contains(says), "{why}");
        old.join().unwrap();
    }
}

/// The same in another format, which no reader of ours understands.
fn with_format(handover: &[u8], format: u8) -> Vec<u8> {
    let mut bytes = handover.to_vec();
    for key in [&b"\xa6format"[..], b"\xadreadable_from"] {
        let at =
            bytes.windows(key.len()).position(|window| window == key).expect("the state names its format") + key.len();
        assert_eq!(bytes[at], 1);
        bytes[at] = format;
    }
    bytes
}
