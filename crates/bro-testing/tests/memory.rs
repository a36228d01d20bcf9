//! Peers that want all of a gateway's memory: it keeps to its ceiling, and goes on serving those who behave.

use bro_testing::gateway::wait_until;
use bro_testing::{Encoding, GatewayOptions, ReceiveError, TempGateway, V1Peer};
use serde_json::{Value, json};
use std::time::Duration;

const MEMORY_MAX: usize = 64 << 20;
const SMALL_MEMORY_MAX: usize = 16 << 20;
/// What a gateway takes beside what it counts: the program, buffers for reading and writing, and what the allocator holds back. See
/// docs/decisions/0006-accounts.md.
const SLACK_KIB: u64 = 48 << 10;

fn start(memory_max: usize) -> TempGateway {
    GatewayOptions { memory_max: Some(memory_max), ..GatewayOptions::default() }.start()
}

fn check_memory(gateway: &TempGateway, memory_max: usize) {
    let (used, limit) = (gateway.memory_kib(), (memory_max >> 10) as u64 + SLACK_KIB);
    assert!(used <= limit, "the gateway has {used} KiB, of at most {limit}");
}

fn status(peer: &mut V1Peer) -> Value {
    let id = peer.start_call("bro.gateway", "status", Value::Null);
    peer.expect_success(&id)
}

/// Two that behave.
fn pair(gateway: &TempGateway) -> (V1Peer, V1Peer) {
    let callee = V1Peer::register(gateway.socket_path(), Encoding::Json, "user", &["get"]);
    let caller = V1Peer::register(gateway.socket_path(), Encoding::Json, "order", &[]);
    (caller, callee)
}

/// One call from one to the other; false when it was refused since memory is short.
fn is_served((caller, callee): &mut (V1Peer, V1Peer)) -> bool {
    let id = caller.start_call("user", "get", json!({"id": 1}));
    loop {
        if let Ok(call) = callee.try_receive(Duration::from_millis(1)) {
            callee.respond(&call, json!("served"));
        }
        match caller.try_receive(Duration::from_millis(1)) {
            Ok(answer) => {
                assert_eq!(answer["id"], id);
                let is_short = answer["error"]["code"] == "RESOURCE_EXHAUSTED";
                assert!(is_short || answer["data"] == "served", "{answer}");
                return !is_short;
            }
            Err(error) => assert_eq!(error, ReceiveError::Silence),
        }
    }
}

#[test]
fn unfinished_frames() {
    let gateway = start(MEMORY_MAX);
    let mut pair = pair(&gateway);
    let part = vec![b' '; 5 << 20];
    let mut holders = Vec::new();
    for _ in 0..60 {
        let mut holder = V1Peer::connect(gateway.socket_path(), Encoding::Json);
        // A frame of 16 MiB, of which a third comes.
        if holder.try_send_bytes(&(16_u32 << 20).to_be_bytes()).is_ok() {
            let _ = holder.try_send_bytes(&part); // it may be closed meanwhile
        }
        holders.push(holder);
        check_memory(&gateway, MEMORY_MAX);
        assert!(is_served(&mut pair), "those who behave notice nothing");
    }
    let status = status(&mut pair.0);
    let memory = status["memoryBytes"].as_u64().unwrap();
    assert!(memory > 20 << 20 && memory <= MEMORY_MAX as u64, "{status}");
    assert!(status["counters"]["peersEvicted"].as_u64().unwrap() >= 40, "{status}");
    assert_eq!(status["users"][0]["memoryBytes"], memory, "{status}");
    let told = holders.iter_mut().filter_map(|holder| holder.try_receive(Duration::from_millis(1)).ok());
    let codes: Vec<Value> = told.map(|error| error["error"]["code"].clone()).collect();
    assert!(codes.len() >= 40 && codes.iter().all(|code| code == "RESOURCE_EXHAUSTED"), "{codes:?}");
    drop(holders);
    wait_until("the memory of those who have gone is given back", || {
        self::status(&mut pair.0)["memoryBytes"].as_u64().unwrap() < 1 << 20
    });
}

#[test]
fn callees_that_do_not_read() {
    let gateway = start(SMALL_MEMORY_MAX);
    let mut pair = pair(&gateway);
    let mut stuck: Vec<V1Peer> = Vec::new();
    let large = "x".repeat(256 << 10);
    let mut refused = 0;
    for number in 0..3 {
        let name = format!("stuck-{number}");
        stuck.push(V1Peer::register(gateway.socket_path(), Encoding::Json, &name, &[]));
        for _ in 0..40 {
            let call = pair.0.start_call(&name, "get", json!(large));
            // Whatever was refused is told before the answer to a question.
            let asked = pair.0.start_call("bro.gateway", "ping", Value::Null);
            loop {
                let answer = pair.0.receive();
                if answer["id"] == asked {
                    break;
                }
                match answer["error"]["code"].as_str() {
                    Some("OVERLOADED" | "RESOURCE_EXHAUSTED") if answer["id"] == call => refused += 1,
                    // The callee of an earlier call was closed.
                    Some("CONNECTION_LOST" | "TIMEOUT") => {}
                    _ => panic!("{answer}"),
                }
            }
        }
        check_memory(&gateway, SMALL_MEMORY_MAX);
    }
    assert!(refused > 0, "queues have a bound");
    // Who holds memory and does not move has to go for those who need it.
    let mut callee = V1Peer::register(gateway.socket_path(), Encoding::Json, "fresh", &[]);
    wait_until("a call is served", || {
        let id = pair.0.start_call("fresh", "get", json!(large));
        loop {
            if let Ok(call) = callee.try_receive(Duration::from_millis(1)) {
                callee.respond(&call, json!("served"));
            }
            match pair.0.try_receive(Duration::from_millis(1)) {
                Ok(answer) if answer["id"] == id => return answer["data"] == "served",
                Ok(_) | Err(ReceiveError::Silence) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    });
    check_memory(&gateway, SMALL_MEMORY_MAX);
    assert!(status(&mut pair.0)["counters"]["peersEvicted"].as_u64().unwrap() > 0);
}

#[test]
fn registrations() {
    let gateway = start(SMALL_MEMORY_MAX);
    let mut pair = pair(&gateway);
    let methods: Vec<String> = (0..1500).map(|number| format!("{number:0>240}")).collect();
    let methods: Vec<&str> = methods.iter().map(String::as_str).collect();
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for number in 0..60 {
        let mut peer = V1Peer::connect(gateway.socket_path(), Encoding::Json);
        peer.send_register(&format!("large-{number}"), &methods, json!({}));
        match peer.receive() {
            answer if answer["type"] == "REGISTER_ACK" => accepted.push(peer),
            answer => {
                assert_eq!(answer["error"]["code"], "RESOURCE_EXHAUSTED", "{answer}");
                refused += 1;
            }
        }
        check_memory(&gateway, SMALL_MEMORY_MAX);
    }
    assert!(accepted.len() > 20 && refused > 20, "{} accepted, {refused} refused", accepted.len());
    let _ = is_served(&mut pair); // it is answered in any case
    accepted.clear();
    wait_until("those who have gone make room", || is_served(&mut pair));
}

/// One user of many is told apart by its credentials; here all are one, and have at most so many connections.
#[test]
fn connections_of_one_user() {
    let gateway = GatewayOptions { connections_per_uid_max: Some(5), ..GatewayOptions::default() }.start();
    let mut open: Vec<V1Peer> =
        (0..5).map(|n| V1Peer::register(gateway.socket_path(), Encoding::Json, &format!("s{n}"), &[])).collect();
    let mut sixth = V1Peer::connect(gateway.socket_path(), Encoding::Json);
    sixth.expect_error_and_close("RESOURCE_EXHAUSTED");
    assert_eq!(status(&mut open[0])["counters"]["connectionsRefused"], 1);
    open.pop();
    wait_until("there is room for another one", || {
        let mut peer = V1Peer::connect(gateway.socket_path(), Encoding::Json);
        peer.send_register("again", &[], json!({}));
        peer.receive()["type"] == "REGISTER_ACK"
    });
}
