//! The router and its driver: it reads from connections, does what the router orders, and is replaced now and then.

use super::fault::SystemFault;
use super::lines::{SOCKET_BYTES_MAX, some};
use super::steps::System;
use crate::network::{Order, Orders};
use bro_proto::v1::encode::encode_error;
use bro_proto::v1::{self, Encoding};
use bro_proto::v2;
use bro_router::state::RouterState;
use bro_router::{CloseReason, EventMask, LaneOffer, PeerId, PeerIdentity, Router};

/// All clients are of this user.
const UID: u32 = 1000;

impl System {
    /// Gives the router an input, and does what it orders.
    pub(super) fn tell_router<T>(
        &mut self,
        input: impl FnOnce(&mut Router, bro_proto::Now, &mut Orders) -> T,
    ) -> Result<T, String> {
        let mut orders = Orders::default();
        let router = self.router.as_mut().ok_or("there is no gateway")?;
        let told = input(router, self.now, &mut orders);
        router.check_invariants();
        self.carry_out(orders.list)?;
        Ok(told)
    }

    fn carry_out(&mut self, orders: Vec<Order>) -> Result<(), String> {
        for order in orders {
            match order {
                Order::Send { peer, frame } => self.send(peer, frame)?,
                Order::Close { peer, reason } => self.close_by_gateway(peer, reason)?,
                Order::Pause(peer) => self.line_of(peer)?.is_paused = true,
                Order::Resume(peer) => self.line_of(peer)?.is_paused = false,
                Order::Offer(offer) => self.offers.push(offer),
                Order::Event(_) => {}
            }
        }
        if self.router.as_ref().is_some_and(Router::is_drained) {
            if let Some(line) = self.lines.values().find(|line| line.peer.is_some()) {
                return Err(format!("the gateway has ended and left {line:?}"));
            }
            self.saw("drained by the gateway");
            self.router = None;
        }
        Ok(())
    }

    fn line_of(&mut self, peer: PeerId) -> Result<&mut super::lines::Line, String> {
        let found = self.lines.values_mut().find(|line| line.peer == Some(peer));
        found.ok_or_else(|| format!("the router speaks of {peer:?}, which is gone"))
    }

    fn send(&mut self, peer: PeerId, mut frame: Vec<u8>) -> Result<(), String> {
        let kind = kind_of(&frame);
        let mut peer = peer;
        if self.fault != SystemFault::None {
            let fault = self.fault;
            let mut is = |fault_kind| fault.strikes(fault_kind, &mut self.rng);
            let is_lost = matches!(kind, Some("answer")) && is(SystemFault::LoseAnswer)
                || kind == Some("cancel") && is(SystemFault::LoseCancel)
                || kind == Some("answer") && find(&frame, b"name") && fault == SystemFault::LoseWait;
            if is_lost {
                self.line_of(peer)?;
                let bytes = frame.len();
                self.tell_router(|router, now, orders| router.handle_written(peer, bytes, now, orders))?;
                return Ok(());
            }
            if kind == Some("answer") && self.fault.strikes(SystemFault::ChangeAnswer, &mut self.rng) {
                change_digit(&mut frame, b"answer");
            }
            if kind == Some("call") && self.fault.strikes(SystemFault::RepeatCall, &mut self.rng) {
                let again = renumbered(&frame);
                self.line_of(peer)?.queue.extend(again);
            }
            if kind == Some("call") && self.fault.strikes(SystemFault::Misdirect, &mut self.rng) {
                peer = self.lines.values().filter_map(|line| line.peer).find(|&other| other != peer).unwrap_or(peer);
            }
            if self.fault.strikes(SystemFault::ChangeByte, &mut self.rng)
                && let Some(last) = frame.last_mut()
            {
                *last ^= 0x40;
            }
        }
        self.line_of(peer)?.queue.extend(frame);
        Ok(())
    }

    /// What is queued has been tried once, and the connection is closed.
    fn close_by_gateway(&mut self, peer: PeerId, reason: CloseReason) -> Result<(), String> {
        if matches!(reason, CloseReason::Malformed | CloseReason::Denied | CloseReason::Exhausted) {
            return Err(format!("the router closed an honest connection: {reason}"));
        }
        *self.summary.seen.entry(format!("closed as {reason}")).or_default() += 1;
        let line = self.line_of(peer)?;
        let room = SOCKET_BYTES_MAX.saturating_sub(line.down.len());
        let count = line.queue.len().min(room);
        line.down.extend(line.queue.drain(..count));
        line.queue.clear();
        line.up.clear();
        line.peer = None;
        self.forget_lines();
        Ok(())
    }

    /// A connection that a client opens is accepted, or refused.
    pub(super) fn decide(&mut self, at: u64) -> Result<(), String> {
        let line = self.lines.get_mut(&at).expect("it is there");
        line.is_decided = true;
        let Some(conn) = line.conn else { return Ok(()) };
        let client = line.client;
        if self.router.is_none() {
            line.conn = None;
            self.lines.remove(&at);
            let now = self.now;
            self.clients[client].session.handle_connect_failed(conn, "no gateway", now);
            return self.poll(client);
        }
        let pid = u32::try_from(client).expect("few clients") + 100 * self.clients[client].incarnation;
        let identity = PeerIdentity { pid: Some(pid), uid: Some(UID), gid: Some(UID), ..PeerIdentity::default() };
        let accepted = self.tell_router(|router, now, orders| router.handle_connect(identity, now, orders))?;
        let line = self.lines.get_mut(&at).expect("nothing was closed");
        match accepted {
            Ok(peer) => line.peer = Some(peer),
            // It is told why, and the connection closed.
            Err(error) => encode_error(&mut line.down, Encoding::Json, None, &error, self.now.wall_ms),
        }
        self.clients[client].session.handle_connected(conn, self.now);
        self.poll(client)
    }

    /// The gateway reads some of what a client has written.
    pub(super) fn gateway_reads(&mut self, at: u64, is_whole: bool) -> Result<bool, String> {
        let Some(line) = self.lines.get_mut(&at) else { return Ok(false) };
        let Some(peer) = line.peer else { return Ok(false) };
        if line.is_paused && line.conn.is_some() || self.router.is_none() {
            return Ok(false);
        }
        if line.up.is_empty() || line.is_paused {
            // Nothing comes any more.
            return if line.conn.is_none() { self.disconnect_peer(at, peer).map(|()| true) } else { Ok(false) };
        }
        let count = if is_whole { line.up.len() } else { some(line.up.len(), &mut self.rng).max(1) };
        let chunk: Vec<u8> = line.up.drain(..count).collect();
        let mut deframer = std::mem::take(&mut line.deframer);
        let mut whole = Vec::new();
        {
            let mut frames = deframer.start(&chunk, self.frame_bytes_max);
            while let Some(frame) = frames.next_frame().map_err(|error| format!("a session wrote {error}"))? {
                whole.push(frame.to_vec());
            }
        }
        let (is_mid_frame, kept) = (deframer.is_mid_frame(), deframer.kept_bytes());
        line.deframer = deframer;
        for mut frame in whole {
            if self.lines.get(&at).is_none_or(|line| line.peer != Some(peer)) || self.router.is_none() {
                return Ok(true);
            }
            self.tell_router(|router, now, orders| router.handle_frame(peer, &mut frame, now, orders))?;
        }
        if self.router.is_some() && self.lines.get(&at).is_some_and(|line| line.peer == Some(peer)) {
            self.tell_router(|router, now, orders| {
                router.handle_partial(peer, is_mid_frame, now);
                router.handle_kept(peer, kept, now, orders);
            })?;
        }
        self.hand_lanes_out()?;
        Ok(true)
    }

    fn disconnect_peer(&mut self, at: u64, peer: PeerId) -> Result<(), String> {
        self.drop_descriptors(at);
        let line = self.lines.get_mut(&at).expect("looked at by the caller");
        line.peer = None;
        self.forget_lines();
        if self.fault.strikes(SystemFault::ForgetDisconnect, &mut self.rng) {
            return Ok(());
        }
        self.tell_router(|router, now, orders| router.handle_disconnect(peer, now, orders))
    }

    /// The socket of a client takes some of what is queued for it.
    pub(super) fn gateway_writes(&mut self, at: u64, is_whole: bool) -> Result<bool, String> {
        let Some(line) = self.lines.get_mut(&at) else { return Ok(false) };
        let Some(peer) = line.peer else { return Ok(false) };
        if line.queue.is_empty() || self.router.is_none() {
            return Ok(false);
        }
        if line.conn.is_none() {
            // The socket says that nobody is there.
            return self.disconnect_peer(at, peer).map(|()| true);
        }
        let room = line.queue.len().min(SOCKET_BYTES_MAX.saturating_sub(line.down.len()));
        let count = if is_whole { room } else { some(room, &mut self.rng) };
        if count == 0 {
            return Ok(false);
        }
        line.down.extend(line.queue.drain(..count));
        if self.fault.strikes(SystemFault::ForgetWritten, &mut self.rng) {
            return Ok(true);
        }
        self.tell_router(|router, now, orders| router.handle_written(peer, count, now, orders))?;
        Ok(true)
    }

    /// At the end of a wakeup lanes are made: both get theirs right behind what is queued, or neither.
    pub(super) fn hand_lanes_out(&mut self) -> Result<(), String> {
        while !self.offers.is_empty() && self.router.is_some() {
            let offer = self.offers.remove(0);
            let ends: Vec<u64> = offer.peers.iter().filter_map(|&peer| self.place_of(peer)).collect();
            let mut is_possible = ends.len() == 2 && self.rng.below(12) > 0;
            for &at in &ends {
                self.gateway_writes(at, true)?;
                is_possible &= self.lines.get(&at).is_some_and(|line| line.queue.is_empty() && line.peer.is_some());
            }
            if is_possible && self.router.is_some() {
                self.hand_out(&offer, &ends);
            } else if self.router.is_some() {
                self.saw("lane not handed out");
                self.tell_router(|router, now, orders| router.handle_offer_failed(offer.number, now, orders))?;
            }
        }
        Ok(())
    }

    fn hand_out(&mut self, offer: &LaneOffer, ends: &[u64]) {
        let lane = self.add_lane();
        for (side, at) in ends.iter().enumerate() {
            let line = self.lines.get_mut(at).expect("looked at by the caller");
            line.down.extend(&offer.frames[side]);
            line.descriptors.push_back((lane, side));
        }
        self.saw("lane handed out");
    }

    pub(super) fn place_of(&self, peer: PeerId) -> Option<u64> {
        self.lines.iter().find(|(_, line)| line.peer == Some(peer)).map(|(at, _)| *at)
    }

    /// Another gateway goes on from the state of this one.
    pub(super) fn take_over(&mut self) -> Result<(), String> {
        if self.router.is_none() {
            return Ok(());
        }
        self.tell_router(|router, now, orders| router.finish_ends(now, orders))?;
        let Some(router) = &self.router else { return Ok(()) };
        let exported = router.export(self.now);
        let mut read = RouterState::decode(&exported.encode()).map_err(|error| format!("its own state: {error}"))?;
        if read != exported {
            return Err("the state as bytes is another one".to_owned());
        }
        if self.fault == SystemFault::DropInTakeover {
            let is_parent = |slot| read.calls.live.iter().any(|call| call.parent == Some(slot));
            if let Some(place) = read.calls.live.iter().position(|call| !is_parent(call.slot)) {
                read.calls.live.remove(place);
            }
        }
        let taken = Router::import(self.config.clone(), read, self.now);
        let taken = taken.map_err(|error| format!("its own state is refused: {error}"))?;
        taken.check_invariants();
        if taken.export(self.now) != exported && self.fault != SystemFault::DropInTakeover {
            return Err("what was imported is not what was exported".to_owned());
        }
        self.router = Some(taken);
        let mask = if self.is_watching { EventMask::CALLS } else { EventMask::NONE };
        self.tell_router(|router, now, orders| {
            router.set_events(mask);
            router.handle_time(now, orders);
        })?;
        if self.fault == SystemFault::CloseInTakeover
            && let Some(line) = self.lines.values_mut().find(|line| line.peer.is_some())
        {
            line.peer = None;
        }
        let missing = |peer: &PeerId| self.router.as_ref().is_some_and(|router| !router.is_peer(*peer));
        let open = self.lines.values().filter_map(|line| line.peer);
        if let Some(lost) = open.clone().find(missing) {
            return Err(format!("the takeover has lost {lost:?}"));
        }
        if self.router.as_ref().is_some_and(|router| router.peers_len() != open.count()) {
            return Err("the takeover has lost a connection".to_owned());
        }
        self.saw("taken over");
        if !exported.calls.live.is_empty() {
            self.saw("taken over with calls in flight");
        }
        if !exported.parked.is_empty() {
            self.saw("taken over with waiters");
        }
        if self.lanes_len() > 0 {
            self.saw("taken over with lanes");
        }
        Ok(())
    }

    /// The process of the gateway is no more.
    pub(super) fn crash_gateway(&mut self) {
        if self.router.take().is_none() {
            return;
        }
        self.offers.clear();
        self.is_watching = false;
        self.saw("gateway crashed");
        let rng = &mut self.rng;
        for line in self.lines.values_mut() {
            if line.peer.take().is_none() {
                continue;
            }
            // What stood in the sockets may still be read.
            let end = super::lines::upto(line.queue.len(), rng);
            let room = SOCKET_BYTES_MAX.saturating_sub(line.down.len());
            line.queue.truncate(end.min(room));
            let rest = std::mem::take(&mut line.queue);
            line.down.extend(rest);
            line.up.clear();
        }
        self.forget_lines();
    }

    pub(super) fn start_gateway(&mut self) {
        if self.router.is_none() {
            self.is_watching = false;
            self.router = Some(Router::new(self.config.clone(), self.rng.next_u64(), self.now));
        }
    }

    /// The driver listens to single calls from now on, or not any more.
    pub(super) fn watch(&mut self) -> Result<(), String> {
        if self.router.is_none() {
            return Ok(());
        }
        self.is_watching = !self.is_watching;
        let mask = if self.is_watching { EventMask::CALLS } else { EventMask::NONE };
        self.saw(if self.is_watching { "watched single calls" } else { "watched no more" });
        self.tell_router(|router, now, orders| {
            router.set_events(mask);
            router.handle_time(now, orders);
        })
    }

    pub(super) fn router_time(&mut self) -> Result<(), String> {
        if self.fault == SystemFault::ForgetRouterTime || self.router.is_none() {
            return Ok(());
        }
        self.tell_router(|router, now, orders| router.handle_time(now, orders))?;
        if self.is_router_due() {
            self.saw("the router had more to do");
        }
        self.hand_lanes_out()
    }

    pub(super) fn is_router_due(&self) -> bool {
        let now_ms = self.now.mono_ms();
        self.router.as_ref().and_then(Router::wakeup_ms).is_some_and(|at_ms| at_ms <= now_ms)
    }
}

/// Whether a frame is a call, an answer or a CANCEL on its way to a client.
fn kind_of(frame: &[u8]) -> Option<&'static str> {
    if v2::is_v2(frame) {
        return match v2::parse(frame).ok()? {
            v2::Frame::Call(_) => Some("call"),
            v2::Frame::Response { .. } | v2::Frame::Error { .. } => Some("answer"),
            v2::Frame::Cancel { .. } => Some("cancel"),
            _ => None,
        };
    }
    match v1::scan(frame.get(4..)?).ok()?.kind {
        v1::Kind::Call => Some("call"),
        v1::Kind::Response => Some("answer"),
        _ => None,
    }
}

fn find(frame: &[u8], piece: &[u8]) -> bool {
    frame.windows(piece.len()).any(|window| window == piece)
}

/// Another digit behind a key.
fn change_digit(frame: &mut [u8], key: &[u8]) {
    let Some(at) = frame.windows(key.len()).position(|window| window == key) else { return };
    if let Some(digit) = frame[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
        *digit = if *digit == b'1' { b'2' } else { b'1' };
    }
}

/// The same call under another number.
fn renumbered(frame: &[u8]) -> Vec<u8> {
    let mut again = frame.to_vec();
    if v2::is_v2(frame) {
        again[13] ^= 0x40;
    }
    again
}
