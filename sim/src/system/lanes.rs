//! Lanes between clients: each is two streams of bytes without a limit, and two ends that are opened, used and closed.

use super::fault::SystemFault;
use super::ledger::name_of;
use super::lines::some;
use super::steps::System;
use bro_session::ConnId;
use bytes::Bytes;

/// One side of a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    /// Its descriptors are under way to a client.
    #[default]
    Sent,
    /// A client has them, and its session wants the lane to be opened.
    Taken(usize, ConnId),
    Open(usize, ConnId),
    Closed,
}

/// One lane.
#[derive(Debug, Default)]
pub(super) struct Lane {
    ends: [End; 2],
    /// Bytes from each side that the other one has not read.
    pipes: [Vec<u8>; 2],
}

/// All lanes that were ever handed out, by their place; closed ones are empty.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    list: Vec<Lane>,
}

impl System {
    pub(super) fn add_lane(&mut self) -> usize {
        let is_free = |lane: &Lane| lane.ends == [End::Closed; 2];
        if let Some(place) = self.lanes.list.iter().position(is_free) {
            self.lanes.list[place] = Lane::default();
            return place;
        }
        self.lanes.list.push(Lane::default());
        self.lanes.list.len() - 1
    }

    pub(super) fn lanes_len(&self) -> usize {
        self.open_lanes().len()
    }

    /// The places of those that somebody has opened.
    pub(super) fn open_lanes(&self) -> Vec<usize> {
        let is_open = |lane: &Lane| lane.ends.iter().any(|end| matches!(end, End::Open(..)));
        (0..self.lanes.list.len()).filter(|&place| is_open(&self.lanes.list[place])).collect()
    }

    pub(super) fn lane_places(&self) -> usize {
        self.lanes.list.len()
    }

    /// A session has read an offer: the descriptors that came with it are its own, or are closed.
    pub(super) fn take_lane(&mut self, at: usize, lane: Option<ConnId>, via: ConnId) -> Result<(), String> {
        let mut own = self.lines.values_mut().filter(|line| line.client == at && line.conn == Some(via));
        let descriptor = own.next().and_then(|line| line.descriptors.pop_front());
        match (descriptor, lane) {
            (None, None) => {}
            (None, Some(lane)) => {
                // The connection was lost behind the offer, and the descriptors with it.
                self.clients[at].session.handle_lane_failed(lane, self.now);
            }
            (Some((place, side)), lane) => {
                let end = &mut self.lanes.list[place].ends[side];
                if *end != End::Sent {
                    return Err(format!("the descriptors of {end:?} came twice"));
                }
                *end = lane.map_or(End::Closed, |lane| End::Taken(at, lane));
            }
        }
        Ok(())
    }

    /// A connection is lost, with the descriptors on it.
    pub(super) fn drop_descriptors(&mut self, place: u64) {
        let Some(line) = self.lines.get_mut(&place) else { return };
        for (lane, side) in std::mem::take(&mut line.descriptors) {
            self.lanes.list[lane].ends[side] = End::Closed;
        }
    }

    /// A client opens a lane that it has taken, or cannot.
    pub(super) fn open_lane(&mut self, place: usize, side: usize, fails: bool) -> Result<bool, String> {
        let end = &mut self.lanes.list[place].ends[side];
        let End::Taken(at, conn) = *end else { return Ok(false) };
        if fails {
            *end = End::Closed;
            self.clients[at].session.handle_lane_failed(conn, self.now);
            self.saw("lane not opened");
        } else {
            *end = End::Open(at, conn);
            self.clients[at].session.handle_lane_opened(conn, self.now);
            self.saw("lane opened");
        }
        self.poll(at).map(|()| true)
    }

    pub(super) fn close_lane_end(&mut self, at: usize, conn: ConnId, unsent: &[u8]) {
        for lane in &mut self.lanes.list {
            for side in [0, 1] {
                match lane.ends[side] {
                    End::Open(owner, own) | End::Taken(owner, own) if (owner, own) == (at, conn) => {
                        lane.pipes[side].extend(unsent);
                        lane.ends[side] = End::Closed;
                        return;
                    }
                    _ => {}
                }
            }
        }
    }

    pub(super) fn close_lanes_of(&mut self, at: usize) {
        for lane in &mut self.lanes.list {
            for end in &mut lane.ends {
                if matches!(*end, End::Open(owner, _) | End::Taken(owner, _) if owner == at) {
                    *end = End::Closed;
                }
            }
        }
    }

    /// Both ends find a lane to be broken.
    pub(super) fn break_lane(&mut self, place: usize) -> Result<(), String> {
        for side in [0, 1] {
            let lane = &mut self.lanes.list[place];
            lane.pipes[side].clear();
            if let End::Open(at, conn) = lane.ends[side] {
                lane.ends[side] = End::Closed;
                self.saw("lane broken");
                if !self.fault.strikes(SystemFault::DeafLane, &mut self.rng) {
                    self.clients[at].session.handle_closed(conn, "the lane is broken", self.now);
                    self.poll(at)?;
                }
            }
        }
        Ok(())
    }

    /// What one end's session has queued goes into the lane.
    pub(super) fn lane_writes(&mut self, place: usize, side: usize, is_whole: bool) -> bool {
        let End::Open(at, conn) = self.lanes.list[place].ends[side] else { return false };
        let Some(outbound) = self.clients[at].session.outbound(conn) else { return false };
        let count = if is_whole { outbound.len() } else { some(outbound.len(), &mut self.rng) };
        if count == 0 || self.lanes.list[place].ends[1 - side] == End::Closed {
            return false;
        }
        let bytes = outbound.chunk()[..count].to_vec();
        outbound.advance(count);
        let is_frame = whole_frame(&bytes);
        let pipe = &mut self.lanes.list[place].pipes[side];
        if is_frame && self.fault.strikes(SystemFault::LoseOnLane, &mut self.rng) {
            return true;
        }
        if is_frame && self.fault.strikes(SystemFault::RepeatOnLane, &mut self.rng) {
            pipe.extend(&bytes);
        }
        pipe.extend(bytes);
        true
    }

    /// One end reads what the other one has written, and then that it has closed.
    pub(super) fn lane_reads(&mut self, place: usize, side: usize, is_whole: bool) -> Result<bool, String> {
        let lane = &mut self.lanes.list[place];
        let End::Open(at, conn) = lane.ends[side] else { return Ok(false) };
        let other = 1 - side;
        if lane.pipes[other].is_empty() {
            if lane.ends[other] != End::Closed {
                return Ok(false);
            }
            lane.ends[side] = End::Closed;
            lane.pipes[side].clear();
            self.clients[at].session.handle_closed(conn, "the other end has closed the lane", self.now);
            return self.poll(at).map(|()| true);
        }
        let count = lane.pipes[other].len();
        let count = if is_whole { count } else { some(count, &mut self.rng).max(1) };
        let chunk: Vec<u8> = lane.pipes[other].drain(..count).collect();
        self.clients[at].session.handle_bytes(conn, &Bytes::from(chunk), self.now);
        self.poll(at).map(|()| true)
    }

    /// After everything has flowed.
    pub(super) fn check_lanes(&self) -> Result<(), String> {
        for lane in &self.lanes.list {
            let is_half = lane.ends.contains(&End::Closed) && lane.ends.iter().any(|end| *end != End::Closed);
            let is_full = lane.pipes.iter().any(|pipe| !pipe.is_empty()) && lane.ends != [End::Closed; 2];
            if is_half || is_full || lane.ends.contains(&End::Sent) {
                return Err(format!("everything has flowed, and there is {lane:?}"));
            }
        }
        for at in 0..self.clients.len() {
            let own = |end: &&End| matches!(end, End::Open(owner, _) | End::Taken(owner, _) if *owner == at);
            let held = self.lanes.list.iter().flat_map(|lane| &lane.ends).filter(own).count();
            let claimed = self.clients[at].session.status().lanes;
            if claimed > held {
                return Err(format!("{} claims {claimed} lanes and holds {held}", name_of(at)));
            }
        }
        Ok(())
    }
}

/// Whether bytes are one frame and nothing else.
fn whole_frame(bytes: &[u8]) -> bool {
    bytes.first_chunk::<4>().is_some_and(|prefix| bytes.len() == 4 + u32::from_be_bytes(*prefix) as usize)
}
