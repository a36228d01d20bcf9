//! What the gateway has allocated, counted to the byte: when a wave of peers, honest or hostile, has gone, it is what it was before.
//!
//! The gateway is one of this process, and a global allocator marks what its thread allocates, whoever frees it.

use bro_testing::client::{block_on, builder};
use bro_testing::gateway::wait_until;
use bro_testing::{Encoding, V1Peer, for_each_encoding};
use ipc_bro::{Context, Embedding, Error, Gateway, GatewayConfig, LanePolicy, Pulse, RouterConfig};
use serde_json::{Value, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

/// How many waves of each kind are let in first: tables and buffers that are kept for the next time have their size then.
const WARM_UP_WAVES: usize = 2;
/// How many of each kind are counted.
const WAVES: usize = 8;
/// How much more may be allocated after some waves than before them, in bytes, if not each of them has left something behind. Buffers in which frames are
/// made and lists of what is to be written are kept, up to this size; how much of it is needed depends on how the threads of the peers happen to run.
const KEPT_BYTES_MAX: isize = 600 * 1024;

thread_local! {
    /// Whether this is the gateway's thread.
    static IS_GATEWAY: Cell<bool> = const { Cell::new(false) };
}

/// Bytes that the gateway's thread has allocated, and nobody has freed.
static LIVE_BYTES: AtomicIsize = AtomicIsize::new(0);

struct Counting;

/// Room for the mark in front of what is allocated.
fn marked(layout: Layout) -> (Layout, usize) {
    let align = layout.align().max(16);
    (Layout::from_size_align(layout.size() + align, align).expect("what fits with a mark"), align)
}

// SAFETY: the system's allocator is asked for more room in front, aligned as is what follows; the mark is the byte before what is given out. The
// counter of this thread is a thread-local of a type without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (whole, offset) = marked(layout);
        let is_gateway = IS_GATEWAY.get();
        // SAFETY: the layout has a size that is not zero.
        let memory = unsafe { System.alloc(whole) };
        if memory.is_null() {
            return memory;
        }
        if is_gateway {
            LIVE_BYTES.fetch_add(layout.size().cast_signed(), Ordering::Relaxed);
        }
        // SAFETY: `offset` bytes are there before what is given out.
        unsafe {
            let given = memory.add(offset);
            given.sub(1).write(is_gateway.into());
            given
        }
    }

    unsafe fn dealloc(&self, given: *mut u8, layout: Layout) {
        let (whole, offset) = marked(layout);
        // SAFETY: `alloc` gave it out, with the mark and the same layout.
        unsafe {
            if given.sub(1).read() != 0 {
                LIVE_BYTES.fetch_sub(layout.size().cast_signed(), Ordering::Relaxed);
            }
            System.dealloc(given.sub(offset), whole);
        }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A gateway whose thread is known to the allocator from its first beat on.
fn start(dir: &Path) -> Gateway {
    let config = GatewayConfig {
        router: RouterConfig { lanes: LanePolicy::Always, register_timeout_ms: 500, ..RouterConfig::default() },
        ..GatewayConfig::new(dir.join("gateway.sock"))
    };
    let pulse = Pulse { every: Duration::from_secs(3600), beat: Box::new(|_| IS_GATEWAY.set(true)) };
    let gateway = Gateway::start_embedded(config, Embedding { pulse: Some(pulse), ..Embedding::default() });
    gateway.expect("a gateway can be started")
}

/// Peers of one kind come, do what they do, and go.
type Wave = fn(&Gateway);

const KINDS: &[(&str, Wave)] = &[
    ("old programs", old_programs),
    ("programs with lanes", programs_with_lanes),
    ("calls without an answer", unanswered_calls),
    ("a flood of calls", |gateway| flood_of_calls(gateway, 3000)),
    ("a larger flood of calls", |gateway| flood_of_calls(gateway, 6000)),
    ("slow readers", slow_readers),
    ("half frames", half_frames),
    ("garbage", garbage),
    ("connections", connections),
    ("registrations", registrations),
    ("those who wait and watch", questions),
];

#[test]
fn when_a_wave_of_peers_has_gone_the_gateway_has_allocated_what_it_had_before() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let gateway = start(dir.path());
    block_on(async {}); // the runtime keeps some descriptors for all that come later
    drop(V1Peer::connect(gateway.socket_path(), Encoding::Json));
    wait_until("the gateway's thread is known", || live_bytes() != 0);
    for (kind, wave) in KINDS {
        for _ in 0..WARM_UP_WAVES {
            come_and_go(&gateway, kind, *wave);
        }
        let before = live_bytes();
        let (mut last, mut growing) = (before, 0);
        for _ in 0..WAVES {
            come_and_go(&gateway, kind, *wave);
            let now = live_bytes();
            growing += usize::from(now > last);
            last = now;
        }
        // A leak grows with every wave, however small it is. While somebody watches, so does the log of events: it goes when nobody asks any more.
        let allowance = if growing == WAVES { 0 } else { KEPT_BYTES_MAX };
        wait_until(&format!("what {kind} used is given back: {before} bytes before, {last} afterwards"), || {
            live_bytes() <= before + allowance
        });
    }
}

/// Lets a wave in, and waits until nothing is left of it: no peer, nothing that is charged, and no socket, so that none lingers either.
fn come_and_go(gateway: &Gateway, kind: &str, wave: Wave) {
    let descriptors = descriptors();
    wave(gateway);
    wait_until(&format!("{kind} are gone"), || {
        let status = gateway.status().expect("it runs");
        (status.peers, status.in_flight, status.lanes, status.memory_bytes) == (0, 0, 0, 0)
            && self::descriptors() <= descriptors
    });
}

fn live_bytes() -> isize {
    LIVE_BYTES.load(Ordering::Relaxed)
}

/// Open file descriptors of this process: the peers' and the gateway's.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("a process has descriptors").count()
}

fn old_programs(gateway: &Gateway) {
    for_each_encoding(|encoding| {
        let callee = V1Peer::register(gateway.socket_path(), encoding, "user", &["get"])
            .serve(|call| Ok(call["params"].clone()));
        let mut caller = V1Peer::register(gateway.socket_path(), encoding, "order", &[]);
        for size in [10, 1000, 100_000] {
            let value = json!("x".repeat(size));
            for _ in 0..20 {
                assert_eq!(caller.call("user", "get", value.clone())["data"], value);
            }
        }
        drop(callee);
    });
}

fn programs_with_lanes(gateway: &Gateway) {
    block_on(async {
        let echo = async |params: Value, _: Context| Ok::<_, Error>(params);
        let user = builder("user", gateway.socket_path(), Encoding::Json)
            .method("get", echo)
            .connect()
            .await
            .expect("it connects");
        let order = builder("order", gateway.socket_path(), Encoding::Json).connect().await.expect("it connects");
        for size in [10, 1000, 100_000] {
            for _ in 0..100 {
                let value = json!("x".repeat(size));
                assert_eq!(order.call::<Value>("user", "get", &value).await.expect("it answers"), value);
            }
        }
        order.disconnect().await;
        user.disconnect().await;
    });
}

/// Their deadlines pass, or their caller goes; their ids are remembered as long as their callee might answer.
fn unanswered_calls(gateway: &Gateway) {
    let mut callee = V1Peer::register(gateway.socket_path(), Encoding::Msgpack, "user", &["get"]);
    let mut caller = V1Peer::register(gateway.socket_path(), Encoding::Msgpack, "order", &[]);
    for _ in 0..20 {
        caller.start_short_call(|caller, timeout_ms| {
            let context = caller.old_context(timeout_ms);
            caller.start_call_with("user", "get", json!({}), context)
        });
    }
    for _ in 20..500 {
        caller.start_call("user", "get", json!({}));
    }
    let calls: Vec<Value> = (0..500).map(|_| callee.expect_call()).collect();
    for _ in 0..20 {
        assert_eq!(caller.receive()["error"]["code"], "TIMEOUT");
    }
    caller.close();
    wait_until("no call is in flight", || gateway.status().expect("it runs").in_flight == 0);
    calls.iter().take(300).for_each(|call| callee.respond(call, json!("late")));
    callee.expect_nothing_before_now();
}

/// All of them are in flight at once. Then some are answered, and caller and callee go with the others.
fn flood_of_calls(gateway: &Gateway, count: usize) {
    let mut callee = V1Peer::register(gateway.socket_path(), Encoding::Json, "user", &["get"]);
    let mut caller = V1Peer::register(gateway.socket_path(), Encoding::Json, "order", &[]);
    for number in 0..count {
        caller.start_call("user", "get", json!(number));
    }
    wait_until("all are in flight", || gateway.status().expect("it runs").in_flight == count);
    for _ in 0..500 {
        let call = callee.expect_call();
        callee.respond(&call, json!({}));
    }
    for _ in 0..500 {
        caller.receive();
    }
}

/// What nobody reads is queued, and goes with those who do not read.
fn slow_readers(gateway: &Gateway) {
    let callee = V1Peer::register(gateway.socket_path(), Encoding::Json, "user", &["get"]);
    let mut readers: Vec<V1Peer> =
        (0..4).map(|n| V1Peer::register(gateway.socket_path(), Encoding::Json, &format!("slow-{n}"), &[])).collect();
    let callee = callee.serve(|call| Ok(call["params"].clone()));
    for reader in &mut readers {
        for _ in 0..40 {
            reader.start_call("user", "get", json!("x".repeat(30_000)));
        }
    }
    drop(readers);
    drop(callee);
}

fn half_frames(gateway: &Gateway) {
    for length in [1_usize, 5, 1000, 300_000] {
        let mut peer = V1Peer::register(gateway.socket_path(), Encoding::Json, &format!("half-{length}"), &[]);
        let mut part = vec![b' '; length + 4];
        part[..4].copy_from_slice(&1_000_000_u32.to_be_bytes());
        peer.send_bytes(&part[..length]);
        peer.close();
    }
}

fn garbage(gateway: &Gateway) {
    for round in 0..20 {
        let mut peer = V1Peer::connect(gateway.socket_path(), Encoding::Json);
        if round % 2 == 0 {
            peer.send_register(&format!("garbage-{round}"), &[], json!({}));
            peer.expect_ack();
        }
        match round % 4 {
            0 | 1 => peer.send_body(b"{\"type\":\"CALL\",\"type\":\"CALL\"}"),
            2 => peer.send_bytes(&[0xff; 9]),
            _ => peer.send_body(&[0xc1; 100]),
        }
        while peer.try_receive_any(Duration::from_secs(30)).is_ok() {}
    }
}

fn connections(gateway: &Gateway) {
    let mut silent: Vec<V1Peer> = (0..200).map(|_| V1Peer::connect(gateway.socket_path(), Encoding::Json)).collect();
    silent.truncate(100);
    // Those who say nothing are told to go.
    silent.last_mut().expect("some are left").expect_error_and_close("TIMEOUT");
}

fn registrations(gateway: &Gateway) {
    let methods: Vec<String> = (0..200).map(|number| format!("method-{number:0>60}")).collect();
    let methods: Vec<&str> = methods.iter().map(String::as_str).collect();
    let peers: Vec<V1Peer> = (0..60)
        .map(|number| {
            let mut peer = V1Peer::connect(gateway.socket_path(), Encoding::Msgpack);
            peer.send_register(&format!("service-{}", number % 50), &methods, json!({"about": "x".repeat(500)}));
            peer.receive();
            peer
        })
        .collect();
    drop(peers);
}

fn questions(gateway: &Gateway) {
    let mut watcher = V1Peer::register(gateway.socket_path(), Encoding::Json, "watcher", &[]);
    let mut waiter = V1Peer::register(gateway.socket_path(), Encoding::Msgpack, "waiter", &[]);
    for number in 0..50 {
        waiter.start_call(
            "bro.gateway",
            "waitFor",
            json!({"service": format!("absent-{number}"), "timeoutMs": 60_000}),
        );
    }
    for _ in 0..3 {
        let id = watcher.start_call("bro.gateway", "events", json!({"timeoutMs": 50}));
        watcher.expect_success(&id);
    }
}
