//! Takeovers under load: one gateway after the other takes over, and nobody who calls may notice.
//!
//! Clients of every kind call without pause: our own in version 2 and both encodings, old programs of version 1, and with `--node` Node's. First the
//! gateway is left alone, then it is replaced again and again. No call may fail, and no connection may be lost: both are counted by the clients
//! and by the gateway, whose totals are handed on.

use crate::SoakArgs;
use bro_proto::rng::Rng;
use bro_testing::client::builder;
use bro_testing::gateway::GatewayOptions;
use bro_testing::succession::Succession;
use bro_testing::{Encoding, V1Peer};
use ipc_bro::{Client, Error};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Clients of ours and of old programs; so many again of Node's.
const CLIENTS: usize = 25;
/// How many of them serve.
const CALLEES: usize = 5;
/// How many of them are old programs.
const OLD_CALLERS: usize = 4;
/// Node processes, with an equal part of the clients each.
const NODE_PROCESSES: usize = 5;
/// How long the gateway is left alone first.
const ALONE: Duration = Duration::from_secs(5);
/// How long it is left alone between two takeovers.
const BETWEEN: Duration = Duration::from_millis(100);
/// How long one call may take. Far more than any needs.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What callers have seen.
#[derive(Debug, Default, Deserialize)]
struct Figures {
    /// Microseconds of each call while the gateway was left alone, and while it was replaced.
    alone_us: Vec<u32>,
    during_us: Vec<u32>,
    /// Calls that failed, or were answered with something else, by what they said.
    failed: BTreeMap<String, u64>,
    /// Connections that were lost.
    lost: u64,
}

impl Figures {
    fn note(&mut self, begun: Instant, is_alone: bool, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                let us = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
                if is_alone { self.alone_us.push(us) } else { self.during_us.push(us) }
            }
            Err(why) => *self.failed.entry(why).or_default() += 1,
        }
    }

    fn add(&mut self, other: Figures) {
        let Figures { alone_us, during_us, failed, lost } = other;
        self.alone_us.extend(alone_us);
        self.during_us.extend(during_us);
        for (why, count) in failed {
            *self.failed.entry(why).or_default() += count;
        }
        self.lost += lost;
    }
}

/// What all callers look at.
struct Shared {
    callees: Vec<String>,
    figures: Mutex<Figures>,
    is_alone: AtomicBool,
    is_over: AtomicBool,
}

impl Shared {
    /// The next call: whom, and with what.
    fn draw(&self, rng: &mut Rng) -> (&str, Value) {
        let callee = rng.below(self.callees.len() as u64);
        let bytes = match rng.below(20) {
            0 => 64 * 1024,
            1..4 => 2048,
            _ => 20,
        };
        let params = json!({"number": rng.below(1 << 31), "text": "x".repeat(bytes)});
        (&self.callees[usize::try_from(callee).expect("few")], params)
    }

    fn note(&self, begun: Instant, is_alone: bool, outcome: Result<(), String>) {
        self.figures.lock().expect("no panic").note(begun, is_alone, outcome);
    }
}

/// Runs it and prints the verdict; whether everything held.
pub(crate) fn run(args: &SoakArgs, takeovers: u64) -> bool {
    let options = GatewayOptions { lanes: Some(args.lanes.clone()), ..GatewayOptions::default() };
    let mut gateway = Succession::start(options);
    let mut node: Vec<NodeClients> = Vec::new();
    let mut callees: Vec<String> = (0..CALLEES).map(|index| format!("callee-{index}")).collect();
    if let Some(program) = &args.node {
        node = (0..NODE_PROCESSES).map(|index| NodeClients::start(program, gateway.socket_path(), index)).collect();
        callees.extend(node.iter().map(|clients| clients.callee.clone()));
    }
    println!(
        "bro-soak: {takeovers} takeovers, {CLIENTS} clients of ours and old ones, {} of Node's, lanes {}",
        node.len() * (CLIENTS / NODE_PROCESSES),
        args.lanes
    );
    let shared = Arc::new(Shared {
        callees,
        figures: Mutex::default(),
        is_alone: AtomicBool::new(true),
        is_over: AtomicBool::new(false),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let served: Vec<Client> = (0..CALLEES)
        .map(|index| runtime.block_on(serve(&shared.callees[index], gateway.socket_path(), index)))
        .collect();
    let old: Vec<_> = (0..OLD_CALLERS)
        .map(|index| {
            let (shared, path) = (Arc::clone(&shared), gateway.socket_path().to_owned());
            thread::spawn(move || call_as_old_program(&shared, &path, index))
        })
        .collect();
    let tasks: Vec<_> = (0..CLIENTS - CALLEES - OLD_CALLERS)
        .map(|index| runtime.spawn(call_on(Arc::clone(&shared), gateway.socket_path().to_owned(), index)))
        .collect();
    node.iter_mut().for_each(|clients| clients.begin(&shared.callees));

    thread::sleep(ALONE);
    shared.is_alone.store(false, Ordering::Relaxed);
    node.iter_mut().for_each(|clients| clients.say("takeovers"));
    let begun = Instant::now();
    for _ in 0..takeovers {
        gateway.replace();
        thread::sleep(BETWEEN);
    }
    let elapsed = begun.elapsed();
    shared.is_over.store(true, Ordering::Relaxed);
    let lost = runtime.block_on(async {
        let mut lost = 0;
        for task in tasks {
            lost += task.await.expect("no panic");
        }
        lost
    });
    old.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let mut figures = std::mem::take(&mut *shared.figures.lock().expect("no panic"));
    figures.lost += lost;
    let node_clients = node.len() * (CLIENTS / NODE_PROCESSES);
    // Nobody goes while somebody still calls.
    node.iter_mut().for_each(|clients| clients.say("end"));
    node.iter_mut().for_each(|clients| figures.add(clients.figures()));
    let counters = gateway.status()["counters"].take();
    node.into_iter().for_each(NodeClients::finish);
    runtime.block_on(async {
        for client in served {
            client.disconnect().await;
        }
    });
    gateway.stop();
    // One callee has a pool of two. A gateway that takes over is a client for a moment.
    let expected = CLIENTS as u64 + 1 + node_clients as u64 + gateway.asked() + takeovers;
    println!("lanes opened: {}", counters["lanesOpened"]);
    if args.lanes == "always" && counters["lanesOpened"] == 0 {
        println!("FAILED: no lane was opened");
        return false;
    }
    judge(&figures, &counters, expected, &mut gateway.pauses_us(), takeovers, elapsed)
}

async fn serve(name: &str, path: &Path, index: usize) -> Client {
    let client = builder(name, path, encoding(index)).pool_size(if index == 0 { 2 } else { 1 });
    let client = client.method("echo", async |params: Value, _| Ok::<_, Error>(params));
    client.connect().await.expect("the gateway is there")
}

fn encoding(index: usize) -> Encoding {
    if index.is_multiple_of(2) { Encoding::Json } else { Encoding::Msgpack }
}

/// Calls one after the other. How often its connection was lost.
async fn call_on(shared: Arc<Shared>, path: std::path::PathBuf, index: usize) -> u64 {
    let name = format!("caller-{index}");
    let client = builder(&name, &path, encoding(index)).connect().await.expect("the gateway is there");
    let mut events = client.events();
    let lost = Arc::new(AtomicU64::new(0));
    tokio::spawn({
        let lost = Arc::clone(&lost);
        async move {
            while let Some(event) = events.recv().await {
                lost.fetch_add(u64::from(event.name() == "disconnected"), Ordering::Relaxed);
            }
        }
    });
    let mut rng = Rng::new(index as u64);
    while !shared.is_over.load(Ordering::Relaxed) {
        let (to, params) = shared.draw(&mut rng);
        let (begun, is_alone) = (Instant::now(), shared.is_alone.load(Ordering::Relaxed));
        let call = client.call::<Value>(to, "echo", &params);
        let outcome = match tokio::time::timeout(TIMEOUT, call).await {
            Ok(Ok(answer)) if answer == params => Ok(()),
            Ok(Ok(_)) => Err("another answer".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        };
        shared.note(begun, is_alone, outcome);
    }
    lost.load(Ordering::Relaxed)
}

fn call_as_old_program(shared: &Shared, path: &Path, index: usize) {
    let mut peer = V1Peer::register(path, encoding(index), &format!("old-caller-{index}"), &[]);
    let mut rng = Rng::new(1000 + index as u64);
    while !shared.is_over.load(Ordering::Relaxed) {
        let (to, params) = shared.draw(&mut rng);
        let (begun, is_alone) = (Instant::now(), shared.is_alone.load(Ordering::Relaxed));
        // Panics when the connection is lost, or when something else comes.
        let answer = peer.call(to, "echo", params.clone());
        let outcome = if answer["data"] == params { Ok(()) } else { Err(answer["error"].to_string()) };
        shared.note(begun, is_alone, outcome);
    }
}

/// A Node process with some clients, one of which serves.
struct NodeClients {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    callee: String,
}

impl NodeClients {
    fn start(program: &Path, socket: &Path, index: usize) -> NodeClients {
        let callee = format!("node-{index}-0");
        let mut child = Command::new("node")
            .arg(program)
            .arg(socket)
            .arg(format!("node-{index}"))
            .arg((CLIENTS / NODE_PROCESSES).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node can be started");
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("stdout is piped"));
        let mut clients = NodeClients { child, input, output: BufReader::new(output), callee };
        assert_eq!(clients.line(), "connected");
        clients
    }

    fn begin(&mut self, callees: &[String]) {
        self.say(&callees.join(" "));
    }

    fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it is open");
        writeln!(input, "{line}").expect("the process is there");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the process tells");
        line.trim_end().to_owned()
    }

    fn figures(&mut self) -> Figures {
        serde_json::from_str(&self.line()).expect("the figures of a process of Node's")
    }

    fn finish(mut self) {
        drop(self.input.take());
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "a process of Node's ended with {status}");
    }
}

fn judge(
    figures: &Figures,
    counters: &Value,
    expected: u64,
    pauses_us: &mut [u64],
    takeovers: u64,
    elapsed: Duration,
) -> bool {
    let row = |what: &str, value: String| println!("  {what:<44}{value:>12}");
    let count = |name: &str| counters[name].as_u64().unwrap_or(u64::MAX);
    let failed: u64 = figures.failed.values().sum();
    println!("takeovers in {} s", elapsed.as_secs());
    row("calls while left alone", figures.alone_us.len().to_string());
    row("calls during takeovers", figures.during_us.len().to_string());
    row("failed calls", failed.to_string());
    row("connections lost, as clients say", figures.lost.to_string());
    row("registrations beyond the first ones", (count("registrations").saturating_sub(expected)).to_string());
    for (what, all) in [("alone", &figures.alone_us), ("during takeovers", &figures.during_us)] {
        let mut all: Vec<u64> = all.iter().map(|us| u64::from(*us)).collect();
        all.sort_unstable();
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("longest", 1.0)] {
            row(&format!("{name} {what}, in us"), percentile(&all, share).to_string());
        }
    }
    pauses_us.sort_unstable();
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("longest", 1.0)] {
        row(&format!("{name} of the pauses, in us"), percentile(pauses_us, share).to_string());
    }
    let mut faults: Vec<String> = figures.failed.iter().map(|(why, count)| format!("{count} calls: {why}")).collect();
    let mut expect = |holds: bool, what: String| {
        if !holds {
            faults.push(what);
        }
    };
    expect(figures.lost == 0, format!("{} connections were lost", figures.lost));
    expect(pauses_us.len() as u64 == takeovers, format!("{} gateways say that they took over", pauses_us.len()));
    expect(figures.alone_us.len() > 100 && figures.during_us.len() > 100, "that is no load".to_owned());
    expect(count("registrations") == expected, format!("{} registrations, not {expected}", count("registrations")));
    for name in [
        "callsLost",
        "callsTimedOut",
        "callsAbandoned",
        "callsCancelled",
        "callsRefused",
        "responsesDropped",
        "malformed",
    ] {
        expect(count(name) == 0, format!("{name}: {}", count(name)));
    }
    for fault in &faults {
        println!("FAILED: {fault}");
    }
    println!("{}", if faults.is_empty() { "everything held" } else { "not everything held" });
    faults.is_empty()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a place in a list"
)]
fn percentile(sorted: &[u64], share: f64) -> u64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(0)
}
