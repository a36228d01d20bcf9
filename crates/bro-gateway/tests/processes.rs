//! What needs a gateway in a process of its own: a low limit of open files, another umask.
//! Also many connections at once.

#![expect(clippy::print_stdout, reason = "how the gateway's process reports to the test")]

mod common;

use bro_gateway::{EventMask, Gateway, GatewayConfig, GatewayEvent};
use bro_proto::limits::ACCEPT_BACKOFF_MS;
use common::{RawPeer, TempDir, start, until};
use serde_json::json;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::RwLock;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Names the socket to the process that [`gateway_process`] runs in.
const SOCKET_VARIABLE: &str = "BRO_GATEWAY_TEST_SOCKET";

/// Not a test by itself: the others start this program again, with a socket, to have a gateway in another process.
#[test]
fn gateway_process() {
    let Some(socket) = std::env::var_os(SOCKET_VARIABLE) else { return };
    let (sender, events) = channel();
    let sink =
        Box::new(move |batch: Vec<GatewayEvent>| batch.into_iter().for_each(|event| sender.send(event).unwrap()));
    let gateway = Gateway::start_with_events(GatewayConfig::new(socket), EventMask::NONE, sink).unwrap();
    let printing = std::thread::spawn(move || events.iter().for_each(|event| println!("\nevent: {event:?}")));
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    gateway.stop_now().unwrap();
    drop(gateway);
    printing.join().unwrap();
}

struct GatewayProcess {
    child: Child,
    output: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl GatewayProcess {
    /// `prelude` is run by the shell before the gateway starts.
    fn start(prelude: &str, socket: &Path) -> Self {
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!("{prelude}; exec \"$0\" --exact gateway_process --nocapture --test-threads 1"))
            .arg(std::env::current_exe().unwrap())
            .env(SOCKET_VARIABLE, socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut process = GatewayProcess { child, output };
        process.event("Started");
        process
    }

    /// The next event of that name.
    fn event(&mut self, name: &str) -> String {
        let is_it = |line: &String| line.starts_with("event: ") && line[7..].starts_with(name);
        self.output.by_ref().map(Result::unwrap).find(is_it).unwrap_or_else(|| panic!("no event {name}"))
    }

    fn stop(mut self) {
        drop(self.child.stdin.take());
        self.event("Stopped");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Others of this file start processes and open connections, too: those of the test that wants all there are come after them.
static DESCRIPTORS: RwLock<()> = RwLock::new(());

/// How often the gateway has woken up.
fn wakeups(peer: &mut RawPeer) -> u64 {
    let mut call = peer.call_value("wakeups", "bro.gateway", json!({}));
    call["method"] = json!("status");
    peer.send(&call);
    let status = peer.receive();
    status["data"]["loop"]["wakeups"].as_u64().unwrap_or_else(|| panic!("{status}"))
}

#[test]
fn without_descriptors_it_says_so_waits_without_spinning_and_goes_on() {
    let _others = DESCRIPTORS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    let directory = TempDir::new();
    let mut gateway = GatewayProcess::start("ulimit -n 40", &directory.socket());
    let mut peers: Vec<RawPeer> = (0..60).map(|_| RawPeer::connect(&directory.socket())).collect();
    let event = gateway.event("SocketError");
    assert!(event.contains("cannot accept"), "{event}");
    peers.iter_mut().enumerate().for_each(|(index, peer)| peer.register(&format!("peer-{index}")));
    assert_eq!(peers[0].receive()["type"], "REGISTER_ACK");
    peers[0].call("req-1", "peer-0", json!("served"));
    assert_eq!(peers[0].receive()["params"], "served");
    // Counted in wakeups, not in time on a processor: on a busy machine that spins little, too.
    // In the first seconds some are still registering; a loop that spins does that in all of them.
    let mut seconds = Vec::new();
    let is_quiet = (0..5).any(|_| {
        let (before, started) = (wakeups(&mut peers[0]), Instant::now());
        std::thread::sleep(Duration::from_millis(1000));
        let woken = wakeups(&mut peers[0]) - before;
        let tries = u64::try_from(started.elapsed().as_millis()).unwrap() / ACCEPT_BACKOFF_MS + 4;
        seconds.push((woken, tries));
        woken < 2 * tries + 10
    });
    assert!(is_quiet, "wakeups and tries while nothing can be accepted: {seconds:?}");
    // When the first ones leave, the last ones get their turn.
    let mut last = peers.split_off(30);
    drop(peers);
    for peer in &mut last {
        assert_eq!(peer.receive()["type"], "REGISTER_ACK", "{}", peer.name);
    }
    gateway.stop();
}

#[test]
fn the_soft_limit_of_open_files_is_raised() {
    let _others = DESCRIPTORS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    let directory = TempDir::new();
    let gateway = GatewayProcess::start("ulimit -S -n 40", &directory.socket());
    let mut peers: Vec<RawPeer> = (0..100).map(|_| RawPeer::connect(&directory.socket())).collect();
    for (index, peer) in peers.iter_mut().enumerate() {
        peer.register(&format!("peer-{index}"));
        assert_eq!(peer.receive()["type"], "REGISTER_ACK");
    }
    gateway.stop();
}

#[test]
fn the_umask_neither_opens_nor_closes_the_socket() {
    let _others = DESCRIPTORS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    for umask in ["000", "022", "077", "177"] {
        let directory = TempDir::new();
        let socket = directory.path().join("made/deep/gateway.sock");
        let gateway = GatewayProcess::start(&format!("umask {umask}"), &socket);
        assert_eq!(std::fs::metadata(&socket).unwrap().mode() & 0o777, 0o600, "umask {umask}");
        for made in socket.ancestors().skip(1).take(2) {
            let mode = std::fs::metadata(made).unwrap().mode() & 0o777;
            assert_eq!(mode, 0o700, "umask {umask}: its user can enter it, whoever that is, and nobody else");
        }
        gateway.stop();
        assert!(!socket.exists());
    }
    // One that would keep even its own user out.
    let directory = TempDir::new();
    let gateway = GatewayProcess::start("umask 277", &directory.socket());
    assert_eq!(std::fs::metadata(directory.socket()).unwrap().mode() & 0o777, 0o600);
    gateway.stop();
}

#[test]
fn a_killed_gateway_leaves_a_socket_that_the_next_one_replaces() {
    let _others = DESCRIPTORS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    let directory = TempDir::new();
    let mut first = GatewayProcess::start(":", &directory.socket());
    let mut peer = RawPeer::registered(&directory.socket(), "peer");
    first.child.kill().unwrap();
    assert_eq!(peer.try_receive(), None);
    assert_eq!(directory.entries(), ["gateway.sock"]);
    let second = GatewayProcess::start(":", &directory.socket());
    RawPeer::registered(&directory.socket(), "peer");
    second.stop();
    assert_eq!(directory.entries(), [""; 0]);
}

#[test]
fn two_thousand_connections_come_and_go() {
    let _alone = DESCRIPTORS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    // The gateway has raised the soft limit of this process to the hard one, and both ends of each connection are open here.
    let (directory, gateway) = start();
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX) / 2;
    let connections = usize::try_from(most.saturating_sub(100).min(2000)).unwrap();
    assert!(connections >= 10, "only {most} connections can be open");
    for round in 0..2 {
        // Each says its name as soon as it is there: nobody is waited for longer than a REGISTER is.
        let mut peers: Vec<RawPeer> = (0..connections)
            .map(|index| {
                let mut peer = RawPeer::connect(&directory.socket());
                peer.register(&format!("peer-{index}"));
                peer
            })
            .collect();
        for peer in &mut peers {
            assert_eq!(peer.receive()["type"], "REGISTER_ACK", "{}", peer.name);
        }
        for (index, peer) in peers.iter_mut().enumerate() {
            peer.call("req", &format!("peer-{}", (index + 1) % connections), json!(index));
        }
        peers.rotate_left(1);
        for (index, callee) in peers.iter_mut().enumerate() {
            assert_eq!(callee.receive()["params"], index, "round {round}");
        }
        assert_eq!(gateway.status().unwrap().in_flight, connections);
        drop(peers);
        until("all to be gone", || gateway.status().unwrap().peers == 0);
        let status = gateway.status().unwrap();
        assert_eq!((status.in_flight, status.queued_bytes, status.services.len()), (0, 0, 0));
    }
    gateway.stop().unwrap();
}
