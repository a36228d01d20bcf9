//! Real gateways that are killed, stopped and told to stop at any moment of a takeover, with calls under way all the time. The moments are drawn from a
//! seed. On which side of the final byte one was is known afterwards, and decides what may have happened to the calls.

use bro_proto::rng::Rng;
use bro_testing::client::{block_on, builder};
use bro_testing::gateway::{Signal, bro_path, signal, wait_for_exit, wait_until};
use bro_testing::old_gateway::OldGateway;
use bro_testing::stage::{Stage, processes_of};
use bro_testing::{Encoding, ReceiveError, V1Peer};
use ipc_bro::Error;
use rustix::process::{Pid, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Callers, each of which makes one call after the other.
const CALLERS: u64 = 4;
/// Codes with which calls may end when a gateway was killed or stopped.
const CRASH_CODES: [&str; 5] =
    ["CONNECTION_LOST", "SERVICE_NOT_FOUND", "NOT_CONNECTED", "CONNECTION_FAILED", "SHUTTING_DOWN"];

/// What callers have seen since the last look.
#[derive(Default, Debug)]
struct Seen {
    failed: BTreeMap<String, u64>,
    disconnected: u64,
}

/// Programs that call without pause.
struct Load {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    fn start(path: &Path) -> Load {
        let mut load = Load { is_over: Arc::default(), answered: Arc::default(), seen: Arc::default(), thread: None };
        let (path, is_over) = (path.to_owned(), Arc::clone(&load.is_over));
        let (answered, seen) = (Arc::clone(&load.answered), Arc::clone(&load.seen));
        load.thread = Some(thread::spawn(move || block_on(call_on(path, is_over, answered, seen))));
        load.goes_on();
        load.expect_nothing();
        load
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// More are answered than could have been on their way.
    fn goes_on(&self) {
        let before = self.answered();
        wait_until("calls are answered", || self.answered() > before + 5 * CALLERS);
    }

    fn expect_nothing(&self) {
        let seen = std::mem::take(&mut *self.seen.lock().expect("no panic"));
        assert!(seen.failed.is_empty() && seen.disconnected == 0, "somebody has noticed: {seen:?}");
    }

    /// A gateway has gone: calls end with codes that say so, and everybody comes back.
    fn expect_crash(&self) {
        wait_until("all calls are answered again", || {
            self.goes_on();
            let seen = std::mem::take(&mut *self.seen.lock().expect("no panic"));
            let unfit: Vec<_> = seen.failed.keys().filter(|code| !CRASH_CODES.contains(&code.as_str())).collect();
            assert!(unfit.is_empty(), "{unfit:?}");
            seen.failed.is_empty() && seen.disconnected == 0
        });
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_some_and(|ended| ended.is_ok()), "every call ended");
    }
}

async fn call_on(path: PathBuf, is_over: Arc<AtomicBool>, answered: Arc<AtomicU64>, seen: Arc<Mutex<Seen>>) {
    let echo = builder("echo", &path, Encoding::Json).method("echo", async |params: Value, _| Ok::<_, Error>(params));
    let echo = echo.connect().await.expect("the gateway is there");
    let mut tasks = Vec::new();
    for index in 0..CALLERS {
        let encoding = if index % 2 == 0 { Encoding::Json } else { Encoding::Msgpack };
        let client =
            builder(&format!("caller-{index}"), &path, encoding).connect().await.expect("the gateway is there");
        let mut events = client.events();
        let noting = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                noting.lock().expect("no panic").disconnected += u64::from(event.name() == "disconnected");
            }
        });
        let (is_over, answered, seen) = (Arc::clone(&is_over), Arc::clone(&answered), Arc::clone(&seen));
        tasks.push(tokio::spawn(async move {
            let mut rng = Rng::new(index);
            while !is_over.load(Ordering::Relaxed) {
                let pad = "x".repeat(usize::try_from(rng.below(5000)).expect("a small number"));
                let params = json!({"n": rng.below(1 << 31), "pad": pad});
                let call = client.call::<Value>("echo", "echo", &params);
                match tokio::time::timeout(Duration::from_secs(25), call).await.expect("the call ends") {
                    Ok(answer) => {
                        assert_eq!(answer, params, "an answer of another call");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        let code = error.code().as_str().to_owned();
                        *seen.lock().expect("no panic").failed.entry(code).or_default() += 1;
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            }
        }));
    }
    for task in tasks {
        task.await.expect("no call hangs, and no answer is another's");
    }
    drop(echo);
}

/// Moments around that at which a new gateway has everything. How long that takes follows from what came of the moments before.
struct Moments {
    rng: Rng,
    takeover_us: u64,
    /// Some came too late, some came early.
    seen: [bool; 2],
}

impl Moments {
    fn new(seed: u64, takeover: Duration) -> Moments {
        let takeover_us = u64::try_from(takeover.as_micros()).expect("a short time");
        Moments { rng: Rng::new(seed), takeover_us, seen: [false; 2] }
    }

    fn wait(&mut self) {
        thread::sleep(Duration::from_micros(self.takeover_us / 2 + self.rng.below(self.takeover_us)));
    }

    fn was_late(&mut self, is_late: bool) {
        self.seen[usize::from(is_late)] = true;
        // In long steps until both were seen: the first takeover, from which this begins, may have been held up for a hundred times as long.
        let (shorter, longer) = if self.seen == [true; 2] { (8, 12) } else { (4, 20) };
        self.takeover_us = self.takeover_us * if is_late { shorter } else { longer } / 10 + 1;
    }
}

#[test]
fn a_new_gateway_that_is_killed_before_it_has_everything_changes_nothing() {
    let mut stage = Stage::new();
    let mut gateway = stage.first();
    let load = Load::start(&stage.socket());
    let took = stage.replace(&mut gateway);
    let mut moments = Moments::new(1, took);
    let (mut before, mut after) = (0, 0);
    for _ in 0..30 {
        let mut new = stage.successor();
        moments.wait();
        new.kill9();
        let answered = load.answered();
        wait_until("the gateway goes on or has ended", || {
            load.answered() > answered + 5 * CALLERS || gateway.has_ended()
        });
        if gateway.has_ended() {
            // It was the gateway already: a crash like any other.
            assert!(gateway.said("handed over to another gateway"), "{}", gateway.log());
            gateway = stage.first();
            load.expect_crash();
            after += 1;
            moments.was_late(true);
        } else {
            load.expect_nothing();
            before += 1;
            moments.was_late(false);
        }
    }
    assert!(before > 0, "all {after} were killed too late");
    stage.replace(&mut gateway);
    load.goes_on();
    load.expect_nothing();
}

#[test]
fn an_old_gateway_that_is_killed_after_it_gave_everything_is_missed_by_nobody() {
    let mut stage = Stage::new();
    let mut gateway = stage.first();
    let load = Load::start(&stage.socket());
    let took = stage.replace(&mut gateway);
    let mut moments = Moments::new(2, took);
    let (mut before, mut after) = (0, 0);
    for round in 0..30 {
        let mut new = stage.successor();
        moments.wait();
        gateway.kill9();
        if round % 10 == 9 {
            // Both are gone, whoever was the gateway.
            new.kill9();
            gateway = stage.first();
            load.expect_crash();
            continue;
        }
        // Killed too early, it is gone like any other that has crashed. The new one starts as usual, or has found out and ended.
        wait_until("the new one serves or has ended", || {
            new.said("took over from") || new.said("starting as usual") || new.has_ended()
        });
        if new.said("took over from") {
            load.goes_on();
            load.expect_nothing();
            after += 1;
            moments.was_late(true);
            gateway = new;
        } else {
            gateway = if new.said("starting as usual") { new } else { stage.first() };
            load.expect_crash();
            before += 1;
            moments.was_late(false);
        }
    }
    assert!(after > 0, "all {before} were killed too early");
}

#[test]
fn a_new_gateway_that_is_stopped_is_waited_for_and_then_finds_that_it_is_none() {
    let mut stage = Stage::new();
    let mut gateway = stage.first();
    let load = Load::start(&stage.socket());
    let took = stage.replace(&mut gateway);
    let mut moments = Moments::new(3, took);
    for _ in 0..20 {
        let mut new = stage.successor();
        moments.wait();
        signal(&new.child, Signal::STOP);
        // Long enough, if it has asked and has not everything; for ever, if it is the gateway.
        let answered = load.answered();
        wait_until("the gateway goes on or has ended", || {
            load.answered() > answered + 5 * CALLERS || gateway.has_ended()
        });
        signal(&new.child, Signal::CONT);
        wait_until("the new one serves or has ended", || new.said("took over from") || new.has_ended());
        let is_late = new.said("took over from");
        moments.was_late(is_late);
        if is_late {
            assert!(wait_for_exit(&mut gateway.child).success());
            gateway = new;
        } else {
            assert_eq!(wait_for_exit(&mut new.child).code(), Some(1));
            assert!(new.said("cannot take over"), "{}", new.log());
        }
        load.goes_on();
        load.expect_nothing();
    }
}

#[test]
fn of_several_new_gateways_one_is_there_in_the_end() {
    let mut stage = Stage::new();
    let mut gateway = stage.first();
    let load = Load::start(&stage.socket());
    for _ in 0..4 {
        let mut all = vec![stage.successor(), stage.successor(), stage.successor()];
        wait_until("all have found out", || all.iter_mut().all(|new| new.said("took over from") || new.has_ended()));
        load.goes_on();
        load.expect_nothing();
        all.push(gateway);
        wait_until("one is left", || all.iter_mut().filter_map(|new| (!new.has_ended()).then_some(())).count() == 1);
        let at = all.iter_mut().position(|new| !new.has_ended()).expect("one is left");
        gateway = all.swap_remove(at);
        for mut gone in all {
            let handed_over = gone.said("handed over to another gateway");
            let code = wait_for_exit(&mut gone.child).code();
            assert!(
                code == Some(0) && handed_over || code == Some(1) && gone.said("cannot take over"),
                "{}",
                gone.log()
            );
        }
    }
}

#[test]
fn a_gateway_that_is_told_to_stop_in_a_takeover_leaves_none_behind() {
    let mut moments = Moments::new(5, Duration::from_millis(20));
    let (mut heard, mut too_late) = (0, 0);
    // However quick takeovers are here: each signal that comes too late makes the next one come earlier, in the end together with the first.
    while heard + too_late < 12 || heard < 3 && too_late < 100 {
        let round = heard + too_late;
        let mut stage = Stage::new();
        let mut gateway = stage.first();
        let mut peer = V1Peer::register(&stage.socket(), Encoding::Json, "peer", &[]);
        signal(&gateway.child, Signal::USR2);
        if round % 2 == 0 {
            signal(&gateway.child, Signal::USR2);
        }
        moments.wait();
        signal(&gateway.child, Signal::TERM);
        assert_eq!(wait_for_exit(&mut gateway.child).code(), Some(0), "{}", gateway.log());
        if gateway.said("handed over to another gateway")
            && !gateway.said("told to stop while another gateway took over")
        {
            // It had ended before it could hear that: the one that is there has to be told.
            let status = peer.call("bro.gateway", "status", json!({}));
            let pid = status["data"]["pid"].as_i64().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
            kill_process(pid.expect("a process id"), Signal::TERM).expect("it is ours");
            too_late += 1;
            moments.was_late(true);
        } else {
            heard += 1;
            moments.was_late(false);
        }
        while peer.try_receive(Duration::from_secs(20)) != Err(ReceiveError::Closed) {}
        wait_until("nobody serves", || UnixStream::connect(stage.socket()).is_err());
        wait_until("the file has gone", || !stage.socket().exists());
        // What the signal had started has gone, too, and nothing was begun after the end.
        wait_until("nobody holds the directory", || processes_of(stage.dir()) == 0);
        assert!(!stage.socket().exists() && !gateway.said("starting as usual"), "{}", gateway.log());
    }
    assert!(heard >= 3, "{heard} signals were heard in time, {too_late} came too late");
}

#[test]
fn who_cannot_take_over_says_why() {
    let mut stage = Stage::new();
    let gateway = stage.first();
    let load = Load::start(&stage.socket());
    std::fs::set_permissions(stage.dir(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let is_root = std::fs::metadata("/proc/self").expect("this process").uid() == 0;
    // Only root can be somebody else; others can at least see that they may, which other tests do.
    if is_root {
        let mut other = stage.begin(&["--takeover"], Some(65_534));
        assert_eq!(wait_for_exit(&mut other.child).code(), Some(1));
        assert!(other.said("may not use this gateway") && other.said("PERMISSION_DENIED"), "{}", other.log());
    }
    load.goes_on();
    load.expect_nothing();
    drop((load, gateway));
    // The socket's file is there, and nobody behind it; it is not there at all: it starts as usual.
    assert!(stage.socket().exists());
    for _ in 0..2 {
        let new = stage.successor();
        wait_until("it serves", || UnixStream::connect(stage.socket()).is_ok());
        assert!(new.said("starting as usual"), "{}", new.log());
        drop(new);
        std::fs::remove_file(stage.socket()).expect("it was killed");
    }
    let old = OldGateway::start(Encoding::Json);
    let mut new = Command::new(bro_path());
    let new = new.args(["gateway", "--takeover", "--socket"]).arg(old.socket_path()).stdin(Stdio::null()).output();
    let new = new.expect("it runs");
    let said = String::from_utf8_lossy(&new.stderr);
    assert!(new.status.code() == Some(1) && said.contains("cannot hand over: stop it"), "{said}");
}
