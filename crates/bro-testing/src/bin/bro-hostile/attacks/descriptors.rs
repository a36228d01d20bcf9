//! Descriptors that nobody asked for.

use super::Attack;
use crate::raw::{Raw, call, register};
use crate::scene::Scene;
use bro_testing::codec::frame;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::json;
use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("descriptor flood", "sends 100 open descriptors with each byte of its frames", with_each_byte),
    Attack::new("descriptors with REGISTER", "registers with 100 descriptors, and leaves", with_register),
    Attack::new("descriptors in half a frame", "leaves with descriptors on the way", with_half_a_frame),
];

/// With each write; the kernel takes at most 253.
const DESCRIPTORS: usize = 100;

/// Sends `bytes` and a hundred copies of one descriptor. Whether the connection is still open.
fn send_with_descriptors(raw: &Raw, bytes: &[u8], file: &File) -> bool {
    let fds = [file.as_fd(); DESCRIPTORS];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)), "room for the descriptors");
    sendmsg(&raw.stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).is_ok()
}

fn null() -> File {
    File::open("/dev/null").expect("/dev/null can be opened")
}

fn with_each_byte(scene: &Scene) -> String {
    let file = null();
    let before = scene.gateway().fd_count();
    let mut raw = Raw::registered(scene, "mallory");
    let bytes = frame(call("id", "mallory", "victim.user", "echo", json!(1)).to_string().as_bytes());
    let (mut sent, mut most) = (0, 0);
    'attack: while scene.goes_on() {
        for byte in bytes.chunks(1) {
            if !send_with_descriptors(&raw, byte, &file) {
                break 'attack;
            }
            sent += DESCRIPTORS;
        }
        raw.drain();
        most = most.max(scene.gateway().fd_count());
    }
    assert!(most <= before + 8, "the gateway holds {most} descriptors, {before} before");
    format!("{sent} descriptors are sent and none is kept: {most} at most, {before} before")
}

fn with_register(scene: &Scene) -> String {
    let file = null();
    let mut count = 0;
    while scene.goes_on() {
        let raw = Raw::connect(scene);
        let bytes = frame(register(&format!("mallory-{count}"), json!({})).to_string().as_bytes());
        send_with_descriptors(&raw, &bytes, &file);
        count += 1;
    }
    format!("nothing, {count} times")
}

fn with_half_a_frame(scene: &Scene) -> String {
    let file = null();
    let mut count = 0;
    while scene.goes_on() {
        let raw = Raw::connect(scene);
        send_with_descriptors(&raw, &[0, 0, 1], &file);
        count += 1;
    }
    format!("nothing, {count} times")
}
