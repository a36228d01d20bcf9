//! `bro gateway` replaced by `bro gateway`, as processes, while programs of every kind are connected.

use bro_proto::limits::{TAKEOVER_LOST_MS_MAX, TAKEOVER_TIMEOUT_MS};
use bro_testing::client::{block_on, builder, start_call};
use bro_testing::gateway::{bro_path, wait_for_exit, wait_until};
use bro_testing::succession::Succession;
use bro_testing::{Encoding, GatewayOptions, V1Peer, for_each_mix};
use ipc_bro::{Client, Error};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

async fn echo(name: &str, path: &Path, encoding: Encoding) -> Client {
    let client = builder(name, path, encoding).method("echo", async |params: Value, _| Ok::<_, Error>(params));
    client.connect().await.expect("the gateway is there")
}

fn lanes(policy: &str) -> GatewayOptions {
    GatewayOptions { lanes: Some(policy.to_owned()), ..GatewayOptions::default() }
}

#[test]
fn clients_of_both_versions_and_encodings_go_on_with_calls_in_flight() {
    for_each_mix(|mix| {
        block_on(async {
            let mut gateway = Succession::start(lanes("off"));
            let path = gateway.socket_path().to_owned();
            let echo = echo("echo", &path, mix.callee).await;
            let mut old_callee = V1Peer::register(&path, mix.callee, "old-callee", &["echo"]);
            let caller = builder("caller", &path, mix.caller).connect().await.expect("the gateway is there");
            let mut old_caller = V1Peer::register(&path, mix.caller, "old-caller", &[]);
            // In flight from both to a callee that answers after the takeover.
            let first = start_call(&caller, "old-callee", "echo", json!({"n": 1}));
            let asked = old_callee.expect_call();
            let id = old_caller.start_call("old-callee", "echo", json!({"n": 2}));
            let asked_again = old_callee.expect_call();
            for _ in 0..2 {
                gateway.replace();
                assert_eq!(
                    caller.call::<Value>("echo", "echo", &json!({"n": 3})).await.expect("it goes on"),
                    json!({"n": 3})
                );
                assert_eq!(old_caller.call("echo", "echo", json!({"n": 4}))["data"], json!({"n": 4}));
            }
            old_callee.respond(&asked, json!({"n": 1}));
            old_callee.respond(&asked_again, json!({"n": 2}));
            assert_eq!(first.await.expect("no panic").expect("it is answered"), json!({"n": 1}));
            assert_eq!(old_caller.expect_success(&id), json!({"n": 2}));
            drop((echo, caller));
            gateway.stop();
        });
    });
}

#[test]
fn lanes_and_waiters_go_on() {
    block_on(async {
        let mut gateway = Succession::start(lanes("always"));
        let path = gateway.socket_path().to_owned();
        let callee = echo("echo", &path, Encoding::Json).await;
        let caller = builder("caller", &path, Encoding::Json).connect().await.expect("the gateway is there");
        let call = async |n: u64| {
            let params = json!({"n": n});
            assert_eq!(caller.call::<Value>("echo", "echo", &params).await.expect("it is answered"), params);
        };
        call(0).await;
        let mut tries = 0;
        while gateway.status()["counters"]["lanesOpened"] != 1 {
            call(tries).await;
            tries += 1;
        }
        let waiting = start_call(&caller, "bro.gateway", "waitFor", json!({"service": "later", "timeoutMs": 60_000}));
        wait_until("somebody waits", || gateway.status()["parked"] == 1);
        gateway.replace();
        let status = gateway.status();
        assert_eq!((&status["lanes"], &status["parked"]), (&json!(1), &json!(1)), "{status}");
        let routed = status["counters"]["callsRouted"].clone();
        for n in 0..100 {
            call(n).await;
        }
        assert_eq!(gateway.status()["counters"]["callsRouted"], routed, "they go by the lane");
        // Somebody watches: the new gateway takes the lane back.
        let mut watcher = V1Peer::register(&path, Encoding::Json, "watcher", &[]);
        watcher.call("bro.gateway", "events", json!({}));
        wait_until("the lane is taken back", || gateway.status()["lanes"] == 0);
        call(1).await;
        let _later = V1Peer::register(&path, Encoding::Json, "later", &[]);
        assert_eq!(waiting.await.expect("no panic").expect("it is there")["name"], "later");
        drop((callee, caller));
        gateway.stop();
    });
}

#[test]
fn a_watcher_misses_nothing() {
    let mut gateway = Succession::start(lanes("off"));
    let path = gateway.socket_path().to_owned();
    let mut watcher = V1Peer::register(&path, Encoding::Msgpack, "watcher", &[]);
    let cursor = watcher.call("bro.gateway", "events", json!({}))["data"]["cursor"].clone();
    let _before = V1Peer::register(&path, Encoding::Json, "before", &[]);
    gateway.replace();
    let _after = V1Peer::register(&path, Encoding::Json, "after", &[]);
    let seen = watcher.call("bro.gateway", "events", json!({"cursor": cursor}))["data"].take();
    assert_eq!(seen["dropped"], 0);
    let events = seen["events"].as_array().expect("a list");
    let names = events.iter().filter(|event| event["event"] == "service-registered");
    let names: Vec<&str> = names.filter_map(|event| event["serviceName"].as_str()).collect();
    assert!(names.starts_with(&["before"]) && names.ends_with(&["after"]), "{names:?}");
    gateway.stop();
}

fn bro_gateway(path: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(bro_path());
    command.arg("gateway").arg("--socket").arg(path).args(arguments).stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_cannot_have_it_is_told_why_and_the_gateway_goes_on() {
    let mut gateway = Succession::start(lanes("off"));
    let path = gateway.socket_path().to_owned();
    let _peer = V1Peer::register(&path, Encoding::Json, "peer", &[]);
    // Less room than there is used.
    let config = path.with_file_name("small.toml");
    std::fs::write(&config, "[limits]\npeers_max = 1\n").expect("the directory is ours");
    let small =
        bro_gateway(&path, &["--takeover", "--config", config.to_str().expect("a text")]).output().expect("it runs");
    assert_eq!(small.status.code(), Some(1));
    assert!(text(&small).contains("peers_max is 1"), "{}", text(&small));
    // Too few descriptors.
    let few = Command::new("sh")
        .args(["-c", "ulimit -n 60; exec \"$0\" gateway --socket \"$1\" --takeover"])
        .arg(bro_path())
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(few.status.code(), Some(1));
    assert!(text(&few).contains("limit of open files"), "{}", text(&few));
    // The next one can.
    assert_eq!(gateway.status()["pid"], json!(gateway.pid()));
    gateway.replace();
    assert!(gateway.stderr().contains("this gateway goes on"), "{}", gateway.stderr());
    gateway.stop();
}

/// It could hold everybody up for as long as a takeover is waited for, as often as it liked.
#[test]
fn who_asks_and_stands_still_is_soon_refused() {
    let gateway = GatewayOptions::default().start();
    let path = gateway.socket_path();
    let mut caller = V1Peer::register(path, Encoding::Json, "caller", &[]);
    let params = json!({"format": 1, "readsFrom": 1, "descriptorsMax": 1000});
    let mut stalled = Vec::new();
    for number in 0..TAKEOVER_LOST_MS_MAX / TAKEOVER_TIMEOUT_MS {
        let mut asker = V1Peer::register(path, Encoding::Json, &format!("asker-{number}"), &[]);
        assert_eq!(asker.call("bro.gateway", "takeover", params.clone())["status"], "success");
        stalled.push(asker);
        // Held up meanwhile; answered afterwards.
        assert_eq!(caller.call("bro.gateway", "ping", json!({}))["data"]["pong"], true);
    }
    let mut asker = V1Peer::register(path, Encoding::Json, "asker", &[]);
    let refused = asker.call("bro.gateway", "takeover", params);
    let message = refused["error"]["message"].as_str().expect("a text");
    assert!(refused["error"]["code"] == "RESOURCE_EXHAUSTED" && message.contains("ask again in"), "{refused}");
    // An honest one is told as well, and everybody is served.
    let output = bro_gateway(path, &["--takeover"]).output().expect("it can be started");
    assert!(!output.status.success() && text(&output).contains("ask again in"), "{}", text(&output));
    assert_eq!(caller.call("bro.gateway", "ping", json!({}))["data"]["pong"], true);
}

/// The program at the gateway's path is replaced before the signal, as an update does it.
#[test]
fn programs_that_do_not_take_over_and_second_signals_are_told_of() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let (path, link, log) = (dir.path().join("gateway.sock"), dir.path().join("bro"), dir.path().join("log"));
    std::os::unix::fs::symlink(bro_path(), &link).expect("the directory is ours");
    let mut command = Command::new(&link);
    command.arg("gateway").arg("--socket").arg(&path).stdin(Stdio::null());
    let mut first =
        command.stderr(std::fs::File::create(&log).expect("the directory is ours")).spawn().expect("it starts");
    wait_until("it accepts", || UnixStream::connect(&path).is_ok());
    let mut peer = V1Peer::register(&path, Encoding::Json, "peer", &[]);
    let said = |text: &str| std::fs::read_to_string(&log).expect("a log").matches(text).count();
    let replace_program = |script: &str| {
        let next = dir.path().join("next");
        // By another process: what a child of another test has open for writing, since it was forked meanwhile, could not be run.
        let write = ["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""];
        let wrote = Command::new("sh").args(write).arg(&next).arg(script).status().expect("sh runs");
        assert!(wrote.success());
        std::fs::rename(&next, &link).expect("it is ours");
    };
    let signal = || kill_process(Pid::from_child(&first), Signal::USR2).expect("it is ours");

    replace_program("#!/bin/sh\nexit 3\n");
    signal();
    wait_until("the gateway goes on", || said("(exit status: 3), this gateway goes on") == 1);
    assert_eq!(peer.call("bro.gateway", "ping", json!({}))["data"]["pong"], true);

    let go = dir.path().join("go");
    let wait = format!("while [ ! -e {} ]; do sleep 0.01; done", go.display());
    replace_program(&format!("#!/bin/sh\n{wait}\nexec {} \"$@\"\n", bro_path().display()));
    signal();
    wait_until("the next one is started", || said("started the program that takes over") == 2);
    signal();
    wait_until("the second signal is told of", || said("SIGUSR2 is ignored: a takeover is under way") == 1);
    assert_eq!(peer.call("bro.gateway", "ping", json!({}))["data"]["pong"], true);
    std::fs::write(&go, "").expect("the directory is ours");
    assert!(wait_for_exit(&mut first).success());
    let status = peer.call("bro.gateway", "status", json!({}))["data"].take();
    let pid = status["pid"].as_i64().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).expect("a process id");
    assert_ne!(pid, Pid::from_child(&first));
    kill_process(pid, Signal::TERM).expect("it is ours");
    peer.expect_close();
}

#[test]
fn a_killed_gateway_after_takeovers_is_a_crash_like_any_other() {
    block_on(async {
        let mut gateway = Succession::start(lanes("off"));
        let path = gateway.socket_path().to_owned();
        let callee = echo("echo", &path, Encoding::Json).await;
        let caller = builder("caller", &path, Encoding::Msgpack).connect().await.expect("the gateway is there");
        gateway.replace();
        gateway.kill9();
        // As after any crash: a gateway that is told to take over finds none and starts, and clients come back.
        let next = bro_gateway(&path, &["--takeover"]).spawn().expect("it starts");
        let mut next = KilledAtEnd(next);
        let mut answered = None;
        while answered.is_none() {
            assert!(next.0.try_wait().expect("it is ours").is_none(), "it found a gateway where there was none");
            answered = caller.call::<Value>("echo", "echo", &json!(7)).await.ok();
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(answered, Some(json!(7)));
        drop((callee, caller, next));
    });
}

struct KilledAtEnd(std::process::Child);

impl Drop for KilledAtEnd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
