//! Lanes: memory that is shared with somebody who means harm.

use super::Attack;
use crate::raw::{Raw, call_v2};
use crate::scene::Scene;
use crate::victim::USER;
use bro_proto::limits::LANE_RING_BYTES_MAX;
use bro_proto::v2::{self, FrameKind, encode, lane};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;
use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("lane frames unasked", "opens, closes and counts lanes that were not offered to it", unasked)
        .with_lanes(),
    Attack::new("scribbled lane", "takes a lane to a victim and writes random bytes all over its memory", scribble)
        .with_lanes(),
    Attack::new("shrunk lane", "takes a lane and cuts its memory short", shrink).with_lanes(),
    Attack::new("endless bell", "takes a lane and rings the victim's bell for nothing", ring).with_lanes(),
    Attack::new("untaken lanes", "calls victims until it is offered a lane, and says nothing to the offer", ignore)
        .with_lanes(),
    Attack::new("lanes taken and left", "takes lanes and closes them, over and over", close).with_lanes(),
];

fn unasked(scene: &Scene) -> String {
    let mut mallory = Raw::registered_with(scene, "mallory", json!({ "bro": { "v": 2, "lanes": true } }));
    let mut count = 0_u64;
    while scene.goes_on() {
        let mut bytes = Vec::new();
        for _ in 0..64 {
            let number = scene.below(1 << 33);
            encode::other(&mut bytes, FrameKind::LaneReady, number, &[]);
            encode::other(&mut bytes, FrameKind::LaneClose, number, &scene.random_bytes(1));
            lane::LaneStats { calls: u64::MAX, errors: u64::MAX, bytes: u64::MAX }.write(&mut bytes, number);
            lane::write_offer(&mut bytes, number, true, USER);
            count += 4;
        }
        if !mallory.send(&bytes) {
            mallory =
                Raw::registered_with(scene, &format!("mallory-{count}"), json!({ "bro": { "v": 2, "lanes": true } }));
        }
        mallory.drain();
    }
    format!("nothing, {count} times")
}

/// A lane as its owner gets it.
struct Taken {
    raw: Raw,
    number: u64,
    memory: File,
    peer_bell: File,
    _bell: OwnedFd,
    _companion: OwnedFd,
}

/// Calls the victim until the gateway offers a lane to it. `None` when the attack is over before, unless it is the first.
fn take(scene: &Scene, name: &str, is_first: bool) -> Option<Taken> {
    let mut raw = Raw::registered_with(scene, name, json!({ "bro": { "v": 2, "lanes": true } }));
    raw.resolve(0, USER);
    let mut bytes = Vec::new();
    let mut fds: Vec<OwnedFd> = Vec::new();
    for n in 1.. {
        if !scene.goes_on_until(!is_first) {
            return None;
        }
        raw.send(&call_v2(FrameKind::Call, n, 0, 10_000, b"1"));
        raw.stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket takes a timeout");
        receive(&raw, &mut bytes, &mut fds);
        while let Some(prefix) = bytes.first_chunk::<4>() {
            let end = 4 + u32::from_be_bytes(*prefix) as usize;
            if bytes.len() < end {
                break;
            }
            let frame: Vec<u8> = bytes.drain(..end).collect();
            if frame[4] == v2::MARK && frame[5] == FrameKind::LaneOffer as u8 {
                let number = u64::from_le_bytes(*frame[8..].first_chunk().expect("a whole frame"));
                let [memory, bell, peer_bell, companion] =
                    <[OwnedFd; 4]>::try_from(fds).expect("an offer comes with four descriptors");
                let (memory, peer_bell) = (memory.into(), peer_bell.into());
                return Some(Taken { raw, number, memory, peer_bell, _bell: bell, _companion: companion });
            }
        }
    }
    None
}

fn receive(raw: &Raw, bytes: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) {
    let mut chunk = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut chunk)];
    let Ok(received) = recvmsg(&raw.stream, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) else { return };
    bytes.extend_from_slice(&chunk[..received.bytes]);
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
}

impl Taken {
    fn say_ready(&mut self) {
        let mut out = Vec::new();
        encode::other(&mut out, FrameKind::LaneReady, self.number, &[]);
        self.raw.send(&out);
    }

    fn ring(&mut self) {
        // Full is fine: it has rung then.
        let _ = self.peer_bell.write(&1_u64.to_ne_bytes());
    }
}

fn scribble(scene: &Scene) -> String {
    let mut lanes = 0;
    let mut writes = 0_u64;
    for n in 0.. {
        let Some(mut taken) = take(scene, &format!("mallory-{n}"), n == 0) else { break };
        taken.say_ready();
        lanes += 1;
        let len = taken.memory.metadata().expect("the memory has a size").len();
        for _ in 0..200 {
            // Mostly where the words of both directions are: there it hurts.
            let at = if scene.below(4) == 0 {
                scene.below(len.min(LANE_RING_BYTES_MAX as u64))
            } else {
                512 + scene.below(1024)
            };
            let bytes = scene.random_bytes(16);
            taken.memory.write_all_at(&bytes, at.min(len - 16)).expect("a lane's memory can be written");
            taken.ring();
            writes += 1;
            if !scene.goes_on() {
                break;
            }
        }
    }
    assert!(lanes > 0, "no lane was offered");
    format!("{lanes} lanes die of {writes} writes; the victim serves on")
}

fn shrink(scene: &Scene) -> String {
    let mut lanes = 0;
    for n in 0.. {
        let Some(mut taken) = take(scene, &format!("mallory-{n}"), n == 0) else { break };
        assert!(taken.memory.set_len(0).is_err(), "the memory can be shrunk under the victim");
        assert!(taken.memory.set_len(1 << 30).is_err(), "the memory can grow");
        taken.say_ready();
        taken.ring();
        lanes += 1;
    }
    assert!(lanes > 0, "no lane was offered");
    format!("nothing, {lanes} times: the memory is sealed")
}

fn ring(scene: &Scene) -> String {
    let Some(mut taken) = take(scene, "mallory", true) else { panic!("no lane was offered") };
    taken.say_ready();
    let mut count = 0_u64;
    while scene.goes_on() {
        taken.ring();
        count += 1;
        taken.raw.drain();
    }
    format!("{count} times, a look at an empty ring each")
}

fn ignore(scene: &Scene) -> String {
    let mut held = Vec::new();
    for n in 0..16 {
        let Some(taken) = take(scene, &format!("mallory-{n}"), n == 0) else { break };
        held.push(taken);
    }
    while scene.goes_on() {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(!held.is_empty(), "no lane was offered");
    format!("{} offers, withdrawn when their time is over; its calls go through the gateway", held.len())
}

fn close(scene: &Scene) -> String {
    let mut lanes = 0;
    for n in 0.. {
        let Some(mut taken) = take(scene, &format!("mallory-{n}"), n == 0) else { break };
        taken.say_ready();
        let mut out = Vec::new();
        encode::other(&mut out, FrameKind::LaneClose, taken.number, &[0]);
        taken.raw.send(&out);
        lanes += 1;
    }
    assert!(lanes > 0, "no lane was offered");
    format!("{lanes} lanes, all closed at the victim's end, too")
}
