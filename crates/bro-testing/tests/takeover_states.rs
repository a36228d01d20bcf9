//! A takeover meets a gateway in every state: while it stops, by a gateway with less room, other lanes or another policy than are in use, and with all
//! that can be under way at once.

use bro_proto::limits::{FRAME_BYTES_MAX, QUEUE_PAUSE_BYTES};
use bro_testing::client::{block_on, builder, start_call};
use bro_testing::gateway::{Signal, signal, wait_for_exit, wait_until};
use bro_testing::stage::{Gateway, Stage, processes_of};
use bro_testing::{Encoding, V1Peer, codec, for_each_encoding};
use ipc_bro::{CallOptions, Client, Error};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(600);

fn peer(stage: &Stage, name: &str) -> V1Peer {
    V1Peer::register(&stage.socket(), Encoding::Json, name, &[])
}

fn status(peer: &mut V1Peer) -> Value {
    peer.call("bro.gateway", "status", json!({}))["data"].take()
}

/// The process that answers.
fn serves(gateway: &Gateway, peer: &mut V1Peer) -> bool {
    status(peer)["pid"] == json!(gateway.child.id())
}

async fn echo(name: &str, path: &Path) -> Client {
    let client = builder(name, path, Encoding::Json).method("echo", async |params: Value, _| Ok::<_, Error>(params));
    client.connect().await.expect("the gateway is there")
}

/// Told to stop, it is let finish, and nobody goes on in its place.
#[test]
fn a_gateway_that_stops_is_taken_over_by_nobody() {
    for_each_encoding(|encoding| {
        let mut stage = Stage::new();
        let mut gateway = stage.first_with(&["--drain-timeout", "600s"]);
        let mut caller = V1Peer::register(&stage.socket(), encoding, "caller", &[]);
        let (mut callee, mut other) = (peer(&stage, "callee"), peer(&stage, "other"));
        let id = caller.start_call("callee", "slow", json!(1));
        let asked = callee.expect_call();
        signal(&gateway.child, Signal::TERM);
        wait_until("it stops", || other.call("nobody", "late", json!(2))["error"]["code"] == "SHUTTING_DOWN");
        let said = stage.refuse(&[]);
        assert!(said.contains("SHUTTING_DOWN") && said.contains("is shutting down"), "{said}");
        signal(&gateway.child, Signal::USR2);
        assert!(stage.refuse(&[]).contains("is shutting down"));
        assert!(!gateway.has_ended(), "a call is in flight");
        callee.respond(&asked, json!("done"));
        assert_eq!(caller.expect_success(&id), json!("done"));
        assert_eq!(wait_for_exit(&mut gateway.child).code(), Some(0), "{}", gateway.log());
        assert!(!gateway.said("started the program that takes over"), "{}", gateway.log());
        assert_eq!(processes_of(stage.dir()), 0, "nobody was started");
        // Only now there is nobody, and the next one starts as usual.
        let next = stage.first_with(&["--takeover"]);
        assert!(next.said("starting as usual"), "{}", next.log());
    });
}

/// A client that takes no more calls is still such a client under the new gateway, and the call that it works on comes to its end.
#[test]
fn a_client_that_drains_goes_on_draining() {
    block_on(async {
        let mut stage = Stage::new();
        let mut gateway = stage.first();
        let path = stage.socket();
        let (begun, begin) = tokio::sync::oneshot::channel();
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        let once = std::sync::Mutex::new(Some((begun, finished)));
        let callee = builder("callee", &path, Encoding::Json).method("slow", move |params: Value, _| {
            let (begun, finished) = once.lock().expect("no panic").take().expect("it is called once");
            async move {
                begun.send(()).expect("somebody waits");
                finished.await.expect("somebody lets it finish");
                Ok::<_, Error>(params)
            }
        });
        let callee = callee.connect().await.expect("the gateway is there");
        let caller = builder("caller", &path, Encoding::Msgpack).connect().await.expect("the gateway is there");
        let call = start_call(&caller, "callee", "slow", json!(1));
        begin.await.expect("it is called");
        let draining = tokio::spawn({
            let callee = callee.clone();
            async move { callee.drain().await }
        });
        let refused = async || {
            let call = caller.call::<Value>("callee", "none", &json!(2)).await;
            call.expect_err("nobody takes it").code().as_str().to_owned()
        };
        let mut code = refused().await;
        while code == "METHOD_NOT_FOUND" {
            code = refused().await;
        }
        stage.replace(&mut gateway);
        assert_eq!(refused().await, code, "as before");
        finish.send(()).expect("it is at work");
        assert_eq!(call.await.expect("no panic").expect("it is answered"), json!(1));
        draining.await.expect("no panic").expect("it could finish");
        drop(caller);
    });
}

/// Half a frame is kept for a peer: more than the new gateway may keep at all.
#[test]
fn who_has_too_little_memory_is_refused_and_who_has_enough_takes_over() {
    let mut stage = Stage::new();
    let mut gateway = stage.first();
    let (mut caller, mut callee, mut observer) =
        (peer(&stage, "caller"), peer(&stage, "callee"), peer(&stage, "observer"));
    let text = "x".repeat(6 << 20);
    let context = caller.old_context(600_000);
    let call = json!({
        "type": "CALL", "id": "half", "from": "caller", "to": "callee", "method": "m", "params": text, "context": context
    });
    let frame = codec::frame(&codec::encode(Encoding::Json, &call));
    let (first, second) = frame.split_at(5 << 20);
    caller.send_bytes(first);
    wait_until("it is kept", || status(&mut observer)["memoryBytes"].as_u64() > Some(5 << 20));
    let said = stage.refuse(&["--memory-max", "4M"]);
    assert!(said.contains("memory_max is 4194304, and"), "{said}");
    wait_until("the gateway goes on", || gateway.said("this gateway goes on"));
    assert!(serves(&gateway, &mut observer));
    stage.replace_with(&mut gateway, &["--memory-max", "64M"]);
    assert!(serves(&gateway, &mut observer));
    assert_eq!(status(&mut observer)["memoryMax"], json!(64 << 20), "it has the room that it was given");
    caller.send_bytes(second);
    let asked = callee.expect_call();
    assert_eq!(asked["params"].as_str().map(str::len), Some(text.len()));
    callee.respond(&asked, json!("whole"));
    assert_eq!(caller.expect_success("half"), json!("whole"));
}

/// How many one user may have says who may still come: those who are there stay.
#[test]
fn fewer_connections_than_there_are_let_nobody_in_and_throw_nobody_out() {
    let mut stage = Stage::new();
    let mut gateway = stage.first();
    let (mut caller, callee, mut observer) = (peer(&stage, "caller"), peer(&stage, "callee"), peer(&stage, "observer"));
    let _callee = callee.serve(|call| Ok(call["params"].clone()));
    stage.replace_with(&mut gateway, &["--connections-per-uid-max", "2"]);
    assert!(serves(&gateway, &mut observer));
    assert_eq!(caller.call("callee", "m", json!(1))["data"], 1);
    V1Peer::connect(&stage.socket(), Encoding::Json).expect_error_and_close("RESOURCE_EXHAUSTED");
    // So nobody can take over either, and is told why.
    let said = stage.refuse(&[]);
    assert!(said.contains("RESOURCE_EXHAUSTED"), "{said}");
    assert_eq!(caller.call("callee", "m", json!(2))["data"], 2);
    drop(observer);
    wait_until("there is room for one", || status(&mut caller)["peers"] == 2);
    V1Peer::connect(&stage.socket(), Encoding::Json).expect_error_and_close("RESOURCE_EXHAUSTED");
}

#[test]
fn lanes_are_left_or_made_as_the_new_gateway_says() {
    block_on(async {
        let mut stage = Stage::new();
        let mut gateway = stage.first_with(&["--lanes", "always"]);
        let path = stage.socket();
        let mut observer = peer(&stage, "observer");
        let callee = echo("echo", &path).await;
        let caller = builder("caller", &path, Encoding::Json).connect().await.expect("the gateway is there");
        let call = async |n: u64| {
            let params = json!({"n": n});
            assert_eq!(caller.call::<Value>("echo", "echo", &params).await.expect("it is answered"), params);
        };
        for (lanes, wanted) in [("always", 1), ("off", 0), ("always", 1), ("auto", 1), ("off", 0)] {
            if lanes != "always" || gateway.said("took over from") {
                stage.replace_with(&mut gateway, &["--lanes", lanes]);
            }
            // No call fails on the way from one to the other.
            let mut calls = 0;
            while status(&mut observer)["lanes"] != json!(wanted) {
                call(calls).await;
                calls += 1;
            }
            call(calls).await;
            let routed = |observer: &mut V1Peer| status(observer)["counters"]["callsRouted"].as_u64();
            let before = routed(&mut observer);
            call(calls + 1).await;
            let is_direct = routed(&mut observer) == before;
            assert_eq!(is_direct, wanted == 1, "lanes {lanes}");
        }
        drop((callee, caller));
    });
}

fn policy(stage: &Stage, name: &str, text: &str) -> String {
    let path = stage.dir().join(name);
    std::fs::write(&path, text).expect("the directory is ours");
    path.into_os_string().into_string().expect("a path of text")
}

/// The new policy is in force with the first thing that the new gateway does: what it does not allow ends, what was begun goes on.
#[test]
fn another_policy_is_in_force_from_the_takeover_on() {
    let mut stage = Stage::new();
    let uid = std::fs::metadata("/proc/self").expect("this process").uid();
    let rule = |own: &str, call: &str| {
        format!(
            "trust_gateway_user = false\n[[rules]]\nusers = [{uid}]\nown = {own}\ncall = {call}\nwatch = true\nadminister = true\n"
        )
    };
    let wide = policy(&stage, "wide.toml", &rule(r#"["*"]"#, r#"["*"]"#));
    let narrow = policy(
        &stage,
        "narrow.toml",
        &rule(r#"["caller", "callee", "bro-*"]"#, r#"[{ service = "callee", methods = ["a"] }]"#),
    );
    let wrong = policy(&stage, "wrong.toml", "trust_gateway_user = 1\n");
    let mut gateway = stage.first_with(&["--policy", &wide]);
    let (mut caller, mut callee, mut stranger) =
        (peer(&stage, "caller"), peer(&stage, "callee"), peer(&stage, "stranger"));
    let id = caller.start_call("callee", "b", json!(1));
    let asked = callee.expect_call();
    // One that does not load takes nothing over.
    let mut new = stage.begin(&["--takeover", "--policy", &wrong], None);
    assert!(!wait_for_exit(&mut new.child).success() && !new.said("took over from"), "{}", new.log());
    assert_eq!(stranger.call("bro.gateway", "ping", json!({}))["data"]["pong"], true);
    stage.replace_with(&mut gateway, &["--policy", &narrow]);
    // Who may not have its name any more is told so; what was begun goes on; what is begun now has to be allowed.
    stranger.expect_error_and_close("PERMISSION_DENIED");
    let refused = caller.start_call("callee", "b", json!(2));
    caller.expect_failure(&refused, "PERMISSION_DENIED");
    callee.respond(&asked, json!("done"));
    assert_eq!(caller.expect_success(&id), json!("done"));
    let allowed = caller.start_call("callee", "a", json!(3));
    let asked = callee.expect_call();
    assert_eq!(asked["params"], 3);
    callee.respond(&asked, json!("allowed"));
    assert_eq!(caller.expect_success(&allowed), json!("allowed"));
    // And back: nothing of the narrow one is left.
    stage.replace_with(&mut gateway, &["--policy", &wide]);
    let id = caller.start_call("callee", "b", json!(4));
    let asked = callee.expect_call();
    callee.respond(&asked, json!("again"));
    assert_eq!(caller.expect_success(&id), json!("again"));
    let _stranger = peer(&stage, "stranger");
    // Who may not administer may not do this either, whatever user it is of.
    let humble = policy(&stage, "humble.toml", &rule(r#"["*"]"#, r#"["*"]"#).replace("administer = true", ""));
    stage.replace_with(&mut gateway, &["--policy", &humble]);
    assert!(stage.refuse(&["--policy", &wide]).contains("may not administer this gateway"));
    assert_eq!(caller.call("bro.gateway", "ping", json!({}))["data"]["pong"], true);
}

/// Everything that can be under way is, and twice: the second new gateway has it from the first one.
#[test]
fn all_that_is_under_way_at_once_comes_to_its_end() {
    for_each_encoding(|encoding| block_on(all_at_once(encoding)));
}

/// The names of all that registered, up to that one, but for gateways.
fn watch_until(last: &str, mut watcher: V1Peer, mut cursor: Value) -> Vec<String> {
    let mut names = Vec::new();
    while names.last().is_none_or(|name| name != last) {
        let params = json!({"cursor": cursor, "timeoutMs": 1000});
        let seen = watcher.call("bro.gateway", "events", params)["data"].take();
        assert_eq!(seen["dropped"], 0);
        cursor = seen["cursor"].clone();
        let events = seen["events"].as_array().expect("a list");
        let registered = events.iter().filter(|event| event["event"] == "service-registered");
        let registered = registered.filter_map(|event| event["serviceName"].as_str()).map(str::to_owned);
        names.extend(registered.filter(|name| !name.starts_with("bro-takeover-")));
    }
    names
}

async fn all_at_once(encoding: Encoding) {
    let mut stage = Stage::new();
    let mut gateway = stage.first();
    let path = stage.socket();
    let (mut observer, mut callee) = (peer(&stage, "observer"), peer(&stage, "callee"));
    let register = |name: &str| V1Peer::register(&path, encoding, name, &[]);

    // Somebody watches, and waits for what comes next, without pause.
    let mut watcher = register("watcher");
    let cursor = watcher.call("bro.gateway", "events", json!({}))["data"]["cursor"].clone();
    let watching = std::thread::spawn(move || watch_until("later", watcher, cursor));
    // A client has two calls that wait for their service, and another program waits in the gateway itself.
    let waiting = builder("waiting", &path, encoding).wait_for_service(LONG).timeout(LONG);
    let waiting = waiting.connect().await.expect("the gateway is there");
    let waits = [1, 2].map(|n| {
        let (client, params) = (waiting.clone(), json!({"n": n}));
        let options = CallOptions::new().timeout(LONG);
        tokio::spawn(async move { client.call_with::<Value>("later", "echo", &params, options).await })
    });
    let mut waiter = register("waiter");
    let wait_id = waiter.start_call("bro.gateway", "waitFor", json!({"service": "later", "timeoutMs": 600_000}));
    // Half a call has come.
    let mut half = register("half");
    let context = half.old_context(600_000);
    let text = "x".repeat(1 << 20);
    let call = json!({
        "type": "CALL", "id": "half", "from": "half", "to": "callee", "method": "m", "params": text, "context": context
    });
    let frame = codec::frame(&codec::encode(encoding, &call));
    let (first, rest) = frame.split_at(frame.len() / 3);
    let (second, third) = rest.split_at(rest.len() / 2);
    half.send_bytes(first);
    // A frame above the limit is being skipped: its call has failed already.
    let mut above = register("above");
    let context = above.old_context(600_000);
    let text_above = "x".repeat(FRAME_BYTES_MAX);
    let call = json!({
        "type": "CALL", "id": "above", "from": "above", "to": "callee", "method": "m", "params": text_above, "context": context
    });
    let oversize = codec::frame(&codec::encode(encoding, &call));
    let (begun, mut skipped) = oversize.split_at(1 << 20);
    above.send_bytes(begun);
    above.expect_failure("above", "PAYLOAD_TOO_LARGE");
    // A program reads none of its answers: one is half written, others are queued, and it is listened to no more.
    let mut slow = register("slow");
    let answers = QUEUE_PAUSE_BYTES / (1 << 20) + 3;
    let ids: Vec<String> = (0..answers).map(|n| slow.start_call("callee", "m", json!(n))).collect();
    for _ in 0..answers {
        let asked = callee.expect_call();
        callee.respond(&asked, json!("y".repeat(1 << 20)));
    }
    wait_until("it is paused", || status(&mut observer)["queuedBytes"].as_u64() > Some(QUEUE_PAUSE_BYTES as u64));
    let unheard = slow.start_call("callee", "m", json!("unheard"));
    // Beside them the watcher waits, or does not just now.
    wait_until("all wait", || status(&mut observer)["parked"].as_u64() >= Some(2));

    for (part, bytes) in [(second, skipped.len() / 2), (third, usize::MAX)] {
        let before = status(&mut observer);
        stage.replace(&mut gateway);
        let after = status(&mut observer);
        assert_eq!(after["pid"], json!(gateway.child.id()));
        assert!(
            after["parked"].as_u64() >= Some(2) && after["queuedBytes"].as_u64() > Some(QUEUE_PAUSE_BYTES as u64),
            "{before} {after}"
        );
        half.send_bytes(part);
        let now;
        (now, skipped) = skipped.split_at(bytes.min(skipped.len()));
        above.send_bytes(now);
    }
    // The frame that was cut in three is whole, the other one skipped to its end.
    let asked = callee.expect_call();
    assert_eq!((&asked["id"], asked["params"].as_str().map(str::len)), (&json!("half"), Some(text.len())));
    callee.respond(&asked, json!("whole"));
    assert_eq!(half.expect_success("half"), json!("whole"));
    above.expect_nothing_before_now();
    // Nothing more was heard of the program that was paused; what is owed to it comes, in its order, and then it is heard.
    for id in &ids {
        assert_eq!(slow.expect_success(id).as_str().map(str::len), Some(1 << 20));
    }
    let asked = callee.expect_call();
    assert_eq!(asked["params"], "unheard");
    callee.respond(&asked, json!("heard"));
    assert_eq!(slow.expect_success(&unheard), json!("heard"));
    // Who waited is told, and who watched has missed nothing.
    let later = echo("later", &path).await;
    assert_eq!(waiter.expect_success(&wait_id)["name"], "later");
    for (n, wait) in (1..).zip(waits) {
        assert_eq!(wait.await.expect("no panic").expect("it is answered"), json!({"n": n}));
    }
    let names = watching.join().expect("nothing was missed");
    assert_eq!(names, ["waiting", "waiter", "half", "above", "slow", "later"]);
    let counters = status(&mut observer)["counters"].take();
    assert_eq!(counters["callsLost"], 0, "{counters}");
    assert_eq!(counters["responsesDropped"], 0, "{counters}");
    drop((later, waiting));
}
