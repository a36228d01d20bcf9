//! The gateway's thread: wait, read, route, write.
//!
//! One wakeup: every ready connection is read from once, every whole frame is given to the router, and what the router sends
//! is noted. Then each destination is written to once, straight from where the bytes arrived. Only what a socket does not take
//! is copied. Level-triggered events: what is left unread is reported again.

mod hand_over;

use crate::clock::{Alarm, Clock};
use crate::conns::{Conns, peer_of};
use crate::embedding::Pulse;
use crate::event::GatewayEvent;
use crate::gateway::{Command, Shared, Status};
use crate::inbox::{Arrived, Buffers, DIRECT_READ_BYTES_MIN, Place, READ_ALONE_BYTES, read_budget};
use crate::journal::Journal;
use crate::lanes::hand_out;
use crate::linger::{Lingering, cut_off};
use crate::pace::Pace;
use crate::socket_file::SocketFile;
use crate::spare::Spare;
use bro_proto::frame::CutPlace;
use bro_proto::{Now, limits};
use bro_router::{CloseReason, EventMask, PeerId, Router};
use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::{self, Errno};
use rustix::net::{RecvFlags, recv};
use rustix::process::{getegid, geteuid};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

mod accepting;
mod ending;
mod policies;

/// Most events taken in one wakeup. With the read budget it bounds what a wakeup holds.
const EVENTS_PER_WAKEUP: usize = 64;
/// Most connections accepted in one wakeup: those that are already there must not wait long.
const ACCEPTS_PER_WAKEUP: usize = 16;
/// Times that a peer which has hung up is read from: more than its socket holds.
const LAST_READS_MAX: usize = 16;

/// No peer has this slot: such tokens are the driver's own, told apart by their generation.
const OWN_SLOT: u32 = u32::MAX;
const OWN_LISTENER: u32 = 0;
const OWN_WAKE: u32 = 1;
const OWN_ALARM: u32 = 2;
/// From here on: the entries of [`Lingering`].
const OWN_LINGER: u32 = 3;

/// The socket that new connections come from.
pub(crate) struct Listener {
    /// Dropped before the socket is closed, as it has to be.
    /// `None` where the file is somebody else's.
    pub(crate) file: Option<SocketFile>,
    pub(crate) socket: OwnedFd,
}

/// Everything that the gateway's thread owns.
pub(crate) struct Driver {
    router: Router,
    conns: Conns,
    buffers: Buffers,
    /// Frames of this wakeup that came in pieces.
    frames: Vec<Bytes>,
    lingering: Lingering,
    /// Gone as soon as the gateway stops.
    listener: Option<Listener>,
    /// Until when no connection is accepted, after the system refused one.
    accept_again_us: Option<u64>,
    /// Set after this thread did not run for a moment: what the event loop had found before may be old by now, so it is asked once more.
    looks_again: bool,
    /// Set after this thread did not run for long: until when only what has arrived counts, and no timer.
    catch_up_until_us: Option<u64>,
    /// Refused since the backlog was last empty: reported once.
    is_accept_refused: bool,
    commands: Receiver<Command>,
    /// For threads that work for this one.
    own_commands: SyncSender<Command>,
    /// One of them reads the policy.
    is_loading_policy: bool,
    shared: Arc<Shared>,
    drain_timeout_ms: u64,
    clock: Clock,
    alarm: Alarm,
    now: Now,
    pace: Pace,
    spare: Spare,
    /// Who is told that this thread goes round, and when the next time.
    pulse: Option<(Pulse, u64)>,
    /// Of the frames that the last wakeup read, on average.
    frame_bytes: u64,
    /// Connections that can be read from in this wakeup.
    readable: Vec<PeerId>,
    is_woken: bool,
    is_accepting: bool,
    /// Set when the gateway is stopping: when it ends at the latest.
    ends_at_us: Option<u64>,
    /// Only processes of this one's control group may take over.
    is_service: bool,
    /// Set when this gateway has taken over: from which process, and when that one's loop stood still.
    taken_over: Option<(u32, Now)>,
}

/// How a gateway's thread came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was told to stop.
    Stopped,
    /// Another gateway has everything; its process, where known.
    HandedOver(Option<u32>),
}

/// What came of reading from a connection.
#[derive(PartialEq, Eq)]
enum Read {
    /// Something, and there may be more.
    Some,
    /// Nothing has arrived yet.
    Empty,
    /// The connection is closed.
    Ended,
}

impl Driver {
    #[allow(clippy::too_many_arguments, reason = "what a gateway consists of")]
    pub(crate) fn new(
        epoll: OwnedFd,
        listener: Listener,
        (own_commands, commands): (SyncSender<Command>, Receiver<Command>),
        shared: Arc<Shared>,
        journal: Journal,
        mut clock: Clock,
        mut router: Router,
        drain_timeout_ms: u64,
        returns_memory: bool,
    ) -> io::Result<Driver> {
        epoll::add(&epoll, &listener.socket, own_token(OWN_LISTENER), EventFlags::IN)?;
        epoll::add(&epoll, &shared.wake, own_token(OWN_WAKE), EventFlags::IN)?;
        let alarm = Alarm::new(&epoll, own_token(OWN_ALARM))?;
        let now = clock.now();
        router.set_events(journal.mask());
        router.set_gateway_info(std::process::id(), &shared.socket_path.to_string_lossy());
        router.set_gateway_user(geteuid().as_raw(), getegid().as_raw());
        Ok(Driver {
            router,
            conns: Conns::new(epoll, journal),
            buffers: Buffers::ready(),
            frames: Vec::new(),
            lingering: Lingering::new(),
            listener: Some(listener),
            accept_again_us: None,
            looks_again: false,
            catch_up_until_us: None,
            is_accept_refused: false,
            commands,
            own_commands,
            is_loading_policy: false,
            shared,
            drain_timeout_ms,
            clock,
            alarm,
            now,
            pace: Pace::new(),
            spare: Spare::new(returns_memory),
            pulse: None,
            frame_bytes: u64::MAX,
            readable: Vec::new(),
            is_woken: false,
            is_accepting: false,
            ends_at_us: None,
            is_service: false,
            taken_over: None,
        })
    }

    /// From now on `pulse` hears that this thread goes round.
    pub(crate) fn set_pulse(&mut self, pulse: Pulse) {
        self.pulse = Some((pulse, self.now.mono_us));
    }

    /// Whether only processes of this one's control group may take over.
    pub(crate) fn set_is_service(&mut self, is_service: bool) {
        self.is_service = is_service;
    }

    /// Serves until told to stop. An error is the operating system's.
    pub(crate) fn run(&mut self) -> io::Result<Ending> {
        self.begin_as_successor();
        let socket_path = self.shared.socket_path.clone();
        tracing::info!(socket = %socket_path.display(), "gateway started");
        self.conns.journal.record_own(GatewayEvent::Started { socket_path });
        self.conns.journal.deliver();
        let mut events = Vec::with_capacity(EVENTS_PER_WAKEUP);
        loop {
            self.wait(&mut events)?;
            let commands = self.take_commands();
            let readable_len = self.readable.len();
            self.read_ready();
            self.carry_out(commands);
            self.load_policy_if_wished();
            self.handle_timers();
            self.accept();
            self.flush();
            self.hand_out_lanes();
            self.read_broken();
            self.finish_closed();
            self.lingering.handle_time(self.now.mono_us);
            if self.router.is_drained() && self.ends_at_us.is_none() {
                self.begin_stop();
            }
            self.beat();
            self.conns.journal.deliver();
            self.end_wakeup(readable_len);
            self.give_back_memory();
            if let Some(ending) = self.hand_over_if_asked() {
                return Ok(ending);
            }
            if let Some(at) = self.ends_at_us
                && (self.lingering.is_empty() || at <= self.now.mono_us)
            {
                return Ok(Ending::Stopped);
            }
        }
    }

    /// The last words, also after an error. Whoever is still connected is cut off when the driver is dropped.
    pub(crate) fn end(&mut self) {
        self.remove_listener();
        self.conns.journal.record_own(GatewayEvent::Stopped);
        self.conns.journal.deliver();
        tracing::info!("gateway stopped");
    }

    /// Like [`Driver::end`], when the event sink itself may have failed.
    pub(crate) fn end_without_sink(&mut self) {
        self.conns.journal.drop_sink();
        self.end();
    }

    fn wait(&mut self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        let wake_by_us = self.wake_by_us();
        let at_once = (self.conns.has_work() || self.looks_again).then(Timespec::default);
        if let (None, Some(at_us)) = (at_once, wake_by_us) {
            self.alarm.set(at_us, &self.clock)?;
        }
        events.clear();
        // A process that was stopped and goes on is interrupted: what is overdue by now must not be done before the sockets were looked at.
        while let Err(error) = epoll::wait(self.conns.epoll(), spare_capacity(events), at_once.as_ref()) {
            if error != Errno::INTR {
                return Err(error);
            }
        }
        self.now = self.clock.now();
        self.pace.begin(self.now.mono_us, wake_by_us, self.router.counters());
        if let Some(view) = self.pace.fresh_view(self.now.mono_us) {
            self.router.set_loop_view(view);
        }
        let late_ms = wake_by_us.map_or(0, |at_us| self.now.mono_us.saturating_sub(at_us)) / 1000;
        // Once at a time, both: however slow everything is, every other wakeup handles the timers.
        self.looks_again = late_ms >= limits::LOOK_AGAIN_MS && !self.looks_again;
        if late_ms >= limits::OVERSLEPT_MS && self.catch_up_until_us.is_none() {
            self.catch_up_until_us = Some(self.now.mono_us + limits::CATCH_UP_MS * 1000);
        }
        self.conns.journal.set_now(self.now.mono_us);
        self.readable.clear();
        for event in events.iter() {
            let (flags, peer) = (event.flags, peer_of(event.data.u64()));
            match (peer.slot, peer.generation) {
                (OWN_SLOT, OWN_LISTENER) => self.is_accepting = true,
                (OWN_SLOT, OWN_WAKE) => self.is_woken = true,
                (OWN_SLOT, OWN_ALARM) => self.alarm.handle_ring(),
                (OWN_SLOT, linger) => {
                    let index = (linger - OWN_LINGER) as usize;
                    self.lingering.handle_ready(self.conns.epoll(), index, own_token(linger));
                }
                _ => self.note_ready(peer, flags),
            }
        }
        Ok(())
    }

    fn note_ready(&mut self, peer: PeerId, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            self.conns.handle_writable(peer);
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        if self.conns.is_paused(peer) {
            // Reported although it was not asked for, so it would be reported for ever.
            if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
                self.conns.note_broken(peer);
            }
        } else {
            self.readable.push(peer);
        }
    }

    /// Until when nothing is to be done, not before the last wakeup; `None` is for ever.
    fn wake_by_us(&self) -> Option<u64> {
        if self.conns.has_work() {
            return Some(self.now.mono_us);
        }
        let router_us = self.router.wakeup_ms().map(|at| at.saturating_mul(1000));
        let router_us = router_us.map(|at_us| at_us.max(self.catch_up_until_us.unwrap_or(0)));
        let beat_us = self.pulse.as_ref().map(|(_, next_us)| *next_us);
        let spare_us = self.spare.wakeup_us();
        let next_us = [router_us, self.accept_again_us, self.lingering.wakeup_us(), self.ends_at_us, beat_us, spare_us];
        next_us.into_iter().flatten().min().map(|at_us| at_us.max(self.now.mono_us))
    }

    /// Does what is due, unless this thread did not run for a while: then what peers wrote meanwhile, which may wait in more
    /// sockets than one wakeup reads, counts before anybody is called silent or slow.
    fn handle_timers(&mut self) {
        if self.looks_again || self.catch_up_until_us.is_some_and(|until_us| self.now.mono_us < until_us) {
            return;
        }
        self.catch_up_until_us = None;
        if self.router.wakeup_ms().is_some_and(|at| at <= self.now.mono_ms()) {
            self.router.handle_time(self.now, &mut self.conns);
        }
    }

    fn read_ready(&mut self) {
        let budget = read_budget(self.readable.len(), self.frame_bytes);
        let (frames, bytes) = (self.router.counters().frames_in, self.router.counters().bytes_in);
        let mut readable = std::mem::take(&mut self.readable);
        for (at, peer) in readable.iter().enumerate() {
            self.router.expect(&readable[at + 1..]);
            self.read(*peer, budget);
        }
        readable.clear();
        self.readable = readable;
        let counters = self.router.counters();
        // Of frames that are not whole nothing is known.
        let read_bytes = counters.bytes_in - bytes;
        self.frame_bytes = read_bytes.checked_div(counters.frames_in - frames).unwrap_or(self.frame_bytes);
    }

    /// Reads once from a connection, and routes every frame that is whole.
    fn read(&mut self, peer: PeerId, budget: usize) -> Read {
        let Some((mut deframer, socket)) = self.conns.reading(peer) else { return Read::Ended };
        let was_skipping = deframer.skipping_bytes() > 0;
        let result = match deframer.room(DIRECT_READ_BYTES_MIN, self.shared.frame_bytes_max) {
            Some(room) => recv(socket, spare_capacity(room), RecvFlags::empty()).map(|(_, count)| (count, 0, 0..0)),
            None => self.buffers.read(socket, budget).map(|(buffer, range)| (range.len(), buffer, range)),
        };
        let (buffer, range) = match result {
            Ok((1.., buffer, range)) => (buffer, range),
            Err(Errno::AGAIN | Errno::INTR) => {
                self.conns.restore(peer, deframer);
                return Read::Empty;
            }
            Ok(_) | Err(_) => {
                self.disconnect(peer);
                return Read::Ended;
            }
        };
        let mut at = 0;
        loop {
            let chunk = self.buffers.bytes(buffer, range.clone());
            let cut = match deframer.next_place(chunk, &mut at, self.shared.frame_bytes_max) {
                Ok(Some(cut)) => cut,
                Ok(None) => break,
                Err(error) => {
                    self.router.handle_frame_error(peer, error, self.now, &mut self.conns);
                    break;
                }
            };
            match cut {
                CutPlace::Whole(part) => {
                    let start = range.start + part.start;
                    let frame = self.buffers.bytes_mut(buffer, start..range.start + part.end);
                    self.conns.pending.begin_frame(Place::Buffer(buffer), start, frame);
                    self.router.handle_frame(peer, frame, self.now, &mut self.conns);
                }
                CutPlace::Assembled(mut frame) => {
                    let index = u32::try_from(self.frames.len()).expect("few frames a wakeup");
                    self.conns.pending.begin_frame(Place::Frame(index), 0, &frame);
                    self.router.handle_frame(peer, &mut frame, self.now, &mut self.conns);
                    self.frames.push(Bytes::from(frame));
                }
                CutPlace::Oversize(oversize) => {
                    self.router.handle_oversize(peer, &oversize, self.now, &mut self.conns);
                }
            }
            self.conns.pending.end_frame();
            if !self.conns.is_open(peer) {
                break;
            }
            if self.conns.pending.is_large() {
                self.conns.flush(Arrived { buffers: &self.buffers, frames: &self.frames });
                report_written(&mut self.router, &mut self.conns, self.now);
            }
        }
        let (is_mid_frame, is_skipping) = (deframer.is_mid_frame(), deframer.skipping_bytes() > 0);
        if !self.conns.restore(peer, deframer) {
            return Read::Ended;
        }
        if was_skipping && !is_skipping {
            self.router.handle_partial(peer, false, self.now); // what follows is another frame
        }
        self.router.handle_partial(peer, is_mid_frame, self.now);
        if let Some(bytes) = self.conns.kept_bytes(peer) {
            self.router.handle_kept(peer, bytes, self.now, &mut self.conns);
        }
        if self.conns.is_open(peer) { Read::Some } else { Read::Ended }
    }

    /// The peer has ended the connection.
    fn disconnect(&mut self, peer: PeerId) {
        if self.conns.is_open(peer) {
            self.router.handle_disconnect(peer, self.now, &mut self.conns);
            self.conns.remove(peer);
        }
    }

    /// Peers to which nothing can be written: what they sent before may contain answers, so it is read to the end.
    fn read_broken(&mut self) {
        for peer in self.conns.take_broken() {
            for _ in 0..LAST_READS_MAX {
                if self.read(peer, READ_ALONE_BYTES) != Read::Some {
                    break;
                }
            }
            self.disconnect(peer);
        }
        if self.conns.has_work() {
            self.flush(); // nothing may point at the buffers when they are used again
        }
    }

    fn flush(&mut self) {
        self.conns.flush(Arrived { buffers: &self.buffers, frames: &self.frames });
        self.buffers.recycle();
        self.frames.clear();
        report_written(&mut self.router, &mut self.conns, self.now);
    }

    fn hand_out_lanes(&mut self) {
        for offer in self.conns.take_offers() {
            if !hand_out(&mut self.conns, &offer) {
                self.router.handle_offer_failed(offer.number, self.now, &mut self.conns);
            }
        }
    }

    /// Connections that the router closed: what was queued has been tried once.
    fn finish_closed(&mut self) {
        for closed in self.conns.take_finished() {
            let wants_linger = match closed.reason {
                CloseReason::SlowReader => false, // it had its time
                CloseReason::Stopping => closed.outgoing.is_queued(),
                _ => true,
            };
            if !wants_linger {
                cut_off(&closed.socket);
                continue;
            }
            let until_us = self.ends_at_us.unwrap_or(self.now.mono_us + limits::LINGER_MS * 1000);
            let token_of = |index| own_token(OWN_LINGER + u32::try_from(index).expect("bounded by LINGERING_MAX"));
            // What is left when the gateway ends was there before.
            let is_end = closed.reason == CloseReason::Stopping;
            let bytes_max = if is_end { usize::MAX } else { limits::LINGERING_QUEUED_BYTES_MAX };
            self.lingering.add(self.conns.epoll(), closed.socket, closed.outgoing, until_us, bytes_max, token_of);
        }
    }

    /// Takes what was asked for since the last wakeup. Which events are wanted counts from here on: who asks for them, and only then
    /// does something, hears of it, though both are found in the same wakeup. All else is answered after reading.
    fn take_commands(&mut self) -> Vec<Command> {
        let mut others = Vec::new();
        if !std::mem::take(&mut self.is_woken) {
            return others;
        }
        let mut count = [0; 8];
        let _ = io::read(&self.shared.wake, &mut count[..]); // resets it; the commands are counted by the queue
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::SetEvents(mask) => self.set_events(mask),
                other => others.push(other),
            }
        }
        others
    }

    fn set_events(&mut self, mask: EventMask) {
        self.conns.journal.set_wanted(mask);
        self.router.set_events(self.conns.journal.mask());
        // Lanes go at once when single calls are watched from now on.
        self.router.handle_time(self.now, &mut self.conns);
    }

    fn carry_out(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::SetEvents(mask) => self.set_events(mask),
                // Who asked may have stopped waiting for the answer: none of them is owed anything.
                Command::Status(reply) => drop(reply.try_send(self.status())),
                Command::Service(name, reply) => drop(reply.try_send(self.router.service(&name))),
                Command::Services(reply) => {
                    let names = self.router.service_names();
                    let views = names.iter().filter_map(|name| self.router.service(name)).collect();
                    drop(reply.try_send(views));
                }
                Command::SetPolicy(policy, reply) => {
                    let rules = policy.rules_len();
                    self.set_policy(policy, None);
                    let _ = reply.try_send(rules);
                }
                Command::WishedPolicy(wish, Ok(policy)) => {
                    self.is_loading_policy = false;
                    self.set_policy(policy, Some(wish));
                }
                Command::WishedPolicy(wish, Err(why)) => {
                    self.is_loading_policy = false;
                    self.router.handle_policy_failed(wish, &why, self.now, &mut self.conns);
                }
                Command::Drain => {
                    self.router.begin_drain(self.drain_timeout_ms, self.now, &mut self.conns);
                    tracing::info!(in_flight = self.router.in_flight_len(), "gateway is draining");
                }
                Command::Stop => {
                    if self.ends_at_us.is_none() {
                        self.begin_stop();
                    }
                }
            }
        }
    }

    fn status(&self) -> Status {
        let services = self.router.service_names();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            socket_path: self.shared.socket_path.clone(),
            uptime_ms: self.now.mono_ms(),
            services,
            peers: self.router.peers_len(),
            in_flight: self.router.in_flight_len(),
            lanes: self.router.lanes_len(),
            lane_bytes: self.router.lane_bytes(),
            queued_bytes: self.router.charged_bytes(),
            memory_bytes: self.router.memory_bytes(),
            memory_max: self.shared.memory_max,
            users: self.router.users(),
            event_loop: self.pace.view(),
            counters: *self.router.counters(),
        }
    }

    /// No new connections, and an end for every connection that there is.
    fn begin_stop(&mut self) {
        self.ends_at_us = Some(self.now.mono_us + limits::STOP_LINGER_MS * 1000);
        self.remove_listener();
        self.router.stop(self.now, &mut self.conns);
        self.flush();
        self.finish_closed();
    }

    fn remove_listener(&mut self) {
        let Some(Listener { file, socket }) = self.listener.take() else { return };
        if let Some(Err(error)) = file.map(SocketFile::remove) {
            let message = format!("cannot remove {}: {error}", self.shared.socket_path.display());
            self.conns.journal.record_own(GatewayEvent::SocketError { message });
        }
        drop(socket);
        self.accept_again_us = None;
    }
}

fn report_written(router: &mut Router, conns: &mut Conns, now: Now) {
    let written = conns.take_written();
    for (peer, bytes) in &written {
        router.handle_written(*peer, *bytes, now, conns);
    }
    conns.restore_written(written);
    for peer in conns.take_blocked() {
        if let Some(bytes) = conns.kept_bytes(peer) {
            router.handle_kept(peer, bytes, now, conns);
        }
    }
}

fn own_token(generation: u32) -> EventData {
    crate::conns::token_of(PeerId { slot: OWN_SLOT, generation })
}
