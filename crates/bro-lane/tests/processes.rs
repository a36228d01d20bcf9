//! Two real processes: this test program starts itself again as the peer.
#![cfg(not(loom))]

mod common;

use bro_lane::{Lane, LaneConfig, LaneOptions, Side, SideFds, SpinConfig, Waited, create};
use bro_proto::rng::Rng;
use common::{SMALL, below, bytes};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

/// Makes this program a peer; its value says which.
const ROLE: &str = "BRO_LANE_TEST_ROLE";
const SPACE: usize = rustix::cmsg_space!(ScmRights(SideFds::COUNT));

/// A peer in another process, killed when dropped.
struct Peer {
    process: Child,
    /// What is passed to it, and what it says, besides the lane.
    socket: UnixStream,
}

impl Peer {
    /// Starts one and gives it the second side.
    fn start(role: &str, config: LaneConfig, spin_us: u64) -> (Peer, Lane) {
        let (socket, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "the_other_process", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, format!("{role}:{spin_us}"));
        let process = command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).spawn().unwrap();
        drop(command);
        let parts = create(config).unwrap();
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = parts.second.as_fds();
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&socket, &[IoSlice::new(b"l")], &mut control, SendFlags::empty()).unwrap();
        drop(parts.second);
        let spin = SpinConfig { spin_us };
        let lane = Lane::open(Side::First, parts.first, LaneOptions { spin, ..LaneOptions::default() }).unwrap();
        (Peer { process, socket }, lane)
    }

    /// Waits until the peer says one byte.
    fn heard(&mut self) {
        self.socket.read_exact(&mut [0]).expect("the peer says something");
    }

    /// Kills it as the kernel kills who takes too much memory.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "the peer's side of all others, which start it"]
fn the_other_process() {
    let role = std::env::var(ROLE).expect("started by a test");
    let (role, spin_us) = role.split_once(':').unwrap();
    let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&socket, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = part {
            fds.extend(passed);
        }
    }
    let fds: [OwnedFd; SideFds::COUNT] = fds.try_into().unwrap();
    let spin = SpinConfig { spin_us: spin_us.parse().unwrap() };
    let mut lane = Lane::open(Side::Second, fds.into(), LaneOptions { spin, ..LaneOptions::default() }).unwrap();
    match role {
        "echo" => echo(&mut lane),
        "say-and-sleep" => {
            lane.push(&[b"last words"]).unwrap();
            lane.flush().unwrap();
            socket.write_all(b"!").unwrap();
            let _ = lane.wait(None);
        }
        "die-in-the-middle" => loop {
            let mut out = Vec::new();
            while lane.pop(&mut out).unwrap().is_some() {
                let _ = lane.push(&[&out]);
                out.clear();
            }
            lane.flush().unwrap();
            if lane.wait(None).unwrap() == Waited::PeerGone {
                return;
            }
        },
        "close" => {
            lane.push(&[b"bye"]).unwrap();
            lane.close();
            socket.write_all(b"!").unwrap();
        }
        other => panic!("no role {other}"),
    }
}

/// Sends everything back until the other side closes.
fn echo(lane: &mut Lane) {
    let mut record = Vec::new();
    loop {
        record.clear();
        match lane.pop(&mut record).unwrap() {
            Some(_) => {
                while lane.push(&[&record]) == Err(bro_lane::PushError::Full) {
                    lane.wait(None).unwrap();
                }
            }
            None if lane.is_peer_closed() => return,
            None => {
                if lane.wait(None).unwrap() == Waited::PeerGone {
                    return;
                }
            }
        }
    }
}

#[test]
fn records_come_back_from_another_process_whole_and_in_order() {
    for (seed, spin_us) in [(1, 0), (2, 20)] {
        let (mut peer, mut lane) = Peer::start("echo", SMALL, spin_us);
        let mut rng = Rng::new(seed);
        let records: Vec<Vec<u8>> = (0..3000)
            .map(|index| {
                let limit = [20, 400, 1100, 60_000][below(&mut rng, 4)];
                bytes(index, below(&mut rng, limit))
            })
            .collect();
        let (mut sent, mut seen) = (0, 0);
        while seen < records.len() {
            // Never more in flight than both directions hold: otherwise two echoes would wait for each other.
            while sent < records.len() && sent - seen < 8 && lane.push(&[&records[sent]]).is_ok() {
                sent += 1;
            }
            lane.flush().unwrap();
            let mut record = Vec::new();
            if lane.pop(&mut record).unwrap().is_some() {
                assert!(record == records[seen], "record {seen}");
                seen += 1;
            } else {
                assert_eq!(lane.wait(None), Ok(Waited::Ready));
                assert!(!lane.is_peer_closed());
            }
        }
        lane.close();
        assert!(peer.process.wait().unwrap().success());
    }
}

#[test]
fn a_killed_peer_is_noticed_and_its_last_words_are_heard() {
    let (mut peer, mut lane) = Peer::start("say-and-sleep", SMALL, 0);
    peer.heard();
    assert!(!lane.is_peer_gone());
    peer.kill();
    assert!(lane.is_peer_gone());
    assert!(!lane.is_peer_closed(), "it had no time for that");
    assert_eq!(lane.wait(None), Ok(Waited::Ready));
    let mut words = Vec::new();
    assert_eq!(lane.pop(&mut words), Ok(Some(10)));
    assert_eq!(words, b"last words");
    assert_eq!(lane.wait(None), Ok(Waited::PeerGone));
    // Nobody reads any more, but nothing else happens either.
    while lane.push(&[&[0; 500]]).is_ok() {}
    assert_eq!(lane.wait(None), Ok(Waited::PeerGone));
}

/// A peer that dies while this side sleeps wakes it.
#[test]
fn a_sleeper_is_woken_by_the_death_of_its_peer() {
    let (mut peer, mut lane) = Peer::start("die-in-the-middle", SMALL, 0);
    let pid = peer.process.id();
    let waiting = std::thread::spawn(move || lane.wait(None));
    // It may or may not sleep already: both must end the wait.
    std::thread::yield_now();
    peer.kill();
    assert_eq!(waiting.join().unwrap(), Ok(Waited::PeerGone), "process {pid}");
}

/// Killed in the middle of traffic, at a moment that nobody chose: what comes out is whole records, then the end.
#[test]
fn a_peer_killed_at_work_leaves_whole_records_only() {
    for seed in 0..12 {
        let (mut peer, mut lane) = Peer::start("die-in-the-middle", LaneConfig::default(), 20);
        let mut rng = Rng::new(seed);
        let record = |index: usize| bytes(index as u64, [40, 9000, 100_000, 1_000_000][index % 4]);
        let (mut sent, mut seen) = (0, 0);
        let last = 1 + below(&mut rng, 60);
        let mut is_killed = false;
        loop {
            while !is_killed && sent - seen < 3 && lane.push(&[&record(sent)]).is_ok() {
                sent += 1;
            }
            if lane.flush().is_err() {
                panic!("seed {seed}: dying breaks no rules");
            }
            if sent > last && !is_killed {
                peer.kill();
                is_killed = true;
            }
            let mut out = Vec::new();
            if lane.pop(&mut out).unwrap().is_some() {
                assert!(out == record(seen), "seed {seed}, record {seen}");
                seen += 1;
                continue;
            }
            if lane.wait(None).unwrap() == Waited::PeerGone {
                break;
            }
        }
        assert!(is_killed && seen <= sent, "seed {seed}");
    }
}

#[test]
fn a_peer_that_closes_is_told_apart_from_one_that_dies() {
    let (mut peer, mut lane) = Peer::start("close", SMALL, 0);
    peer.heard();
    assert!(peer.process.wait().unwrap().success());
    assert_eq!(lane.wait(None), Ok(Waited::Ready));
    assert!(lane.is_peer_closed());
    let mut out = Vec::new();
    assert_eq!(lane.pop(&mut out), Ok(Some(3)));
    assert_eq!(out, b"bye");
    assert_eq!(lane.pop(&mut out), Ok(None));
    assert!(lane.is_peer_gone());
}
