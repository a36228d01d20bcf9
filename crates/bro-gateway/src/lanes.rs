//! Lanes are made here, and their halves handed to the two peers.
//!
//! An offer goes out at the end of a wakeup, to peers that have nothing queued: then its few bytes and its descriptors are taken by the
//! socket at once or not at all, and no queue has to hold descriptors.

use crate::conns::Conns;
use bro_lane::{LaneConfig, LaneParts, SideFds, create};
use bro_router::LaneOffer;
use rustix::fd::BorrowedFd;
use rustix::io::{self, Errno};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::IoSlice;
use std::mem::MaybeUninit;

/// Makes a lane and hands it out. False when that was not possible for both peers; one of them may have got its half.
pub(crate) fn hand_out(conns: &mut Conns, offer: &LaneOffer) -> bool {
    if offer.peers.iter().any(|&peer| conns.idle_socket(peer).is_none()) {
        return false;
    }
    let parts = match create(LaneConfig::default()) {
        Ok(parts) => parts,
        Err(error) => {
            tracing::warn!("no lane could be made: {error}");
            return false;
        }
    };
    // The halves are dropped here: a lane's end hangs up when its process goes, and not before.
    let LaneParts { first, second } = parts;
    for (side, half) in [first, second].iter().enumerate() {
        let peer = offer.peers[side];
        let Some(socket) = conns.idle_socket(peer) else { return false };
        match send(socket, &offer.frames[side], half) {
            Ok(()) => {}
            Err(Errno::PIPE) => {
                conns.note_broken(peer);
                return false;
            }
            Err(_) => return false,
        }
    }
    true
}

fn send(socket: BorrowedFd<'_>, frame: &[u8], half: &SideFds) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SideFds::COUNT))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = half.as_fds();
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)), "the space is for these");
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let taken = sendmsg(socket, &[IoSlice::new(frame)], &mut ancillary, flags)?;
    // A stream socket splits only what is larger than its pieces; were a part on its way, the stream would be broken.
    if taken == frame.len() { Ok(()) } else { Err(Errno::PIPE) }
}
