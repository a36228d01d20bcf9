//! The router: its state, its inputs, and the order in which they take effect.

use crate::accounts::{Resource, UserView};
use crate::calls::Calls;
use crate::config::RouterConfig;
use crate::counters::Counters;
use crate::drain::Phase;
use crate::ends::Ends;
use crate::event::{CloseReason, Event, EventMask};
use crate::hash::KeyedHash;
use crate::lanes::Lanes;
use crate::outbox::{Outbox, PeerId};
use crate::parked::Parked;
use crate::peers::{NIL, PeerIdentity, Peers};
use crate::permission::Permissions;
use crate::registry::Registry;
use crate::report::Reporter;
use crate::takeover::{LostTime, TakeoverRequest};
use crate::timers::{Timer, Timers};
use crate::view::LoopView;
use bro_proto::frame::FrameError;
use bro_proto::limits::{FRAME_PREFIX_BYTES, HEARTBEATS_MISSED_MAX, TIMERS_PER_INPUT_MAX};
use bro_proto::rng::Rng;
use bro_proto::v1::{self, Encoding, Kind};
use bro_proto::v2;
use bro_proto::{ErrorBody, ErrorCode, Now};

/// The gateway's brain: who is connected, which services there are, and which calls wait for an answer.
///
/// It does no I/O. A driver feeds it with inputs (`handle_*`) and carries out what it writes into an [`Outbox`] meanwhile:
///
/// 1. [`Router::handle_connect`] for each accepted connection gives its [`PeerId`].
/// 2. After each read, [`Router::handle_frame`] for every whole frame (or [`Router::handle_frame_error`] when the stream
///    makes no sense), then [`Router::handle_partial`].
/// 3. [`Router::handle_written`] whenever the socket took bytes; [`Router::handle_disconnect`] when the peer has gone.
/// 4. [`Router::handle_time`] at [`Router::wakeup_ms`] at the latest. Later is safe: nothing fires early, and late timers
///    fire at the next input of time.
///
/// Invariant: every call that reached an instance ends exactly once: by that instance's answer, by the deadline, by the
/// loss of either peer, or by the end of the gateway. Ids of peers that have gone are ignored in every input.
///
/// Every input costs O(1) in the number of peers, services and calls, except those that end many calls at once (they cost
/// O(1) for each, up to [`RouterConfig::ends_per_input_max`]: the rest follows at the next inputs of time), and introspection that lists everything.
#[derive(Debug)]
pub struct Router {
    pub(crate) config: RouterConfig,
    pub(crate) hasher: KeyedHash,
    pub(crate) rng: Rng,
    pub(crate) peers: Peers,
    pub(crate) registry: Registry,
    pub(crate) calls: Calls,
    pub(crate) ends: Ends,
    pub(crate) parked: Parked,
    pub(crate) lanes: Lanes,
    pub(crate) timers: Timers,
    pub(crate) reporter: Reporter,
    pub(crate) counters: Counters,
    pub(crate) phase: Phase,
    pub(crate) permissions: Permissions,
    pub(crate) started: Now,
    pub(crate) pid: Option<u32>,
    /// User and group.
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) socket_path: Box<str>,
    pub(crate) loop_view: LoopView,
    /// For frames in the making; always empty between uses.
    pub(crate) scratch: Vec<u8>,
    /// Chains of version 2 that began here.
    pub(crate) roots: u64,
    /// Of a gateway that wants to take over, until the driver looks.
    pub(crate) takeover_request: Option<TakeoverRequest>,
    pub(crate) takeover_lost: LostTime,
}

impl Router {
    /// A router without peers. Equal seeds and inputs give equal outputs.
    pub fn new(config: RouterConfig, seed: u64, now: Now) -> Router {
        let hasher = KeyedHash::new(&mut Rng::new(seed));
        Router {
            // Peers see ids made from these numbers, and the generator can be run backwards from one of them.
            rng: Rng::new(hasher.hash(NIL, "ids")),
            peers: Peers::new(&config),
            registry: Registry::new(),
            calls: Calls::new(hasher.clone()),
            ends: Ends::new(config.ends_per_input_max),
            parked: Parked::new(),
            lanes: Lanes::default(),
            timers: Timers::new(now.mono_ms()),
            reporter: Reporter::default(),
            counters: Counters::default(),
            phase: Phase::Running,
            permissions: Permissions::default(),
            started: now,
            pid: None,
            user: None,
            socket_path: "".into(),
            loop_view: LoopView::default(),
            scratch: Vec::new(),
            roots: 0,
            takeover_request: None,
            takeover_lost: LostTime::default(),
            hasher,
            config,
        }
    }

    /// Says which events the driver listens to; at first none. What follows from it comes with the next input: give it the time at once.
    pub fn set_events(&mut self, mask: EventMask) {
        self.reporter.mask = mask;
    }

    /// What `status` tells of the process around the router.
    pub fn set_gateway_info(&mut self, pid: u32, socket_path: &str) {
        self.pid = Some(pid);
        self.socket_path = socket_path.into();
    }

    /// The user and group that the gateway runs as, for `status`.
    pub fn set_gateway_user(&mut self, uid: u32, gid: u32) {
        self.user = Some((uid, gid));
    }

    /// What `status` tells of the driver's thread from now on.
    pub fn set_loop_view(&mut self, view: LoopView) {
        self.loop_view = view;
    }

    /// The driver has something to say to operators: it is reported as a warning that is about no peer.
    pub fn handle_warning(&mut self, message: &str, now: Now, out: &mut impl Outbox) {
        if self.reporter.wants(EventMask::WARNINGS) {
            self.reporter.report(Event::Warning { peer: None, service: None, message }, now, out);
        }
        self.settle(now, out);
    }

    /// A connection was accepted. When it is refused, the driver tells the peer why and closes it.
    pub fn handle_connect(
        &mut self,
        identity: PeerIdentity,
        now: Now,
        out: &mut impl Outbox,
    ) -> Result<PeerId, ErrorBody> {
        self.handle_connect_in_groups(identity, &[], now, out)
    }

    /// Like [`Router::handle_connect`], with the supplementary groups of the peer: they matter where [`Router::knows_groups`].
    pub fn handle_connect_in_groups(
        &mut self,
        identity: PeerIdentity,
        groups: &[u32],
        now: Now,
        out: &mut impl Outbox,
    ) -> Result<PeerId, ErrorBody> {
        if self.phase != Phase::Running {
            return Err(ErrorBody::new(ErrorCode::ShuttingDown, "the gateway is shutting down: connect again later"));
        }
        let admitted = match self.restriction_of(&identity, groups) {
            Ok(restriction) => self.admit_connection(identity.uid, now).map(|account| (account, restriction)),
            Err(denied) => Err(self.rate_denied(identity.uid, denied, now, out)),
        };
        let (account, restriction) = match admitted {
            Ok(admitted) => admitted,
            Err(error) if error.code == Some(ErrorCode::PermissionDenied) => return Err(error),
            Err(error) => {
                self.counters.connections_refused += 1;
                self.settle(now, out);
                return Err(error);
            }
        };
        let slot = self.peers.insert(identity, account, now);
        self.peers[slot].restriction = restriction;
        let deadline = now.mono_ms().saturating_add(self.config.register_timeout_ms);
        self.peers[slot].register_timer = Some(self.timers.insert(deadline, Timer::Register(slot)));
        self.counters.connections += 1;
        let peer = self.peers.id(slot);
        if self.reporter.wants(EventMask::CONNECTIONS) {
            self.reporter.report(Event::Connection { peer, pid: identity.pid }, now, out);
        }
        self.settle(now, out);
        Ok(peer)
    }

    /// A whole frame arrived, prefix included. It may be completed where it lies, and be sent from there.
    pub fn handle_frame(&mut self, peer: PeerId, frame: &mut [u8], now: Now, out: &mut impl Outbox) {
        let Some(slot) = self.peers.find(peer) else { return };
        self.counters.frames_in += 1;
        self.counters.bytes_in += frame.len() as u64;
        self.touch(slot, now);
        self.end_partial(slot);
        let body = frame.get(FRAME_PREFIX_BYTES..).unwrap_or_default();
        if body.len() > self.config.frame_bytes_max {
            let error = FrameError::TooLarge { announced: body.len(), limit: self.config.frame_bytes_max };
            self.refuse_stream(slot, &error, now, out);
        } else {
            self.handle_body(slot, frame, now, out);
        }
        self.settle(now, out);
    }

    /// The stream of a peer cannot be cut into frames any further.
    pub fn handle_frame_error(&mut self, peer: PeerId, error: FrameError, now: Now, out: &mut impl Outbox) {
        let Some(slot) = self.peers.find(peer) else { return };
        self.refuse_stream(slot, &error, now, out);
        self.settle(now, out);
    }

    /// After a read: whether it ended in the middle of a frame.
    pub fn handle_partial(&mut self, peer: PeerId, mid_frame: bool, now: Now) {
        let Some(slot) = self.peers.find(peer) else { return };
        if !mid_frame {
            self.end_partial(slot);
            return;
        }
        self.touch(slot, now);
        self.peers[slot].is_mid_frame = true;
        self.time_partial(slot, now);
    }

    /// How many bytes the driver keeps for a peer beside those that are queued: of an unfinished frame, and what surrounds queued ones.
    /// To be said whenever it changes, after [`Router::handle_partial`] or [`Router::handle_written`]. The peer, or another that holds
    /// more, may be closed for it.
    pub fn handle_kept(&mut self, peer: PeerId, bytes: usize, now: Now, out: &mut impl Outbox) {
        let Some(slot) = self.peers.find(peer) else { return };
        let before = self.peers[slot].kept_bytes;
        self.peers.keep(slot, bytes, now);
        if bytes > before {
            self.check_kept(slot, now);
        }
        self.settle(now, out);
    }

    /// The peer's socket took bytes of its queue.
    pub fn handle_written(&mut self, peer: PeerId, bytes: usize, now: Now, out: &mut impl Outbox) {
        let Some(slot) = self.peers.find(peer) else { return };
        if self.peers.release(slot, bytes, now) {
            self.peers[slot].is_paused = false;
            out.resume(peer);
            // It was not heard because it was not read: what it has to show for that time starts now.
            self.touch(slot, now);
            if self.peers[slot].is_mid_frame {
                self.time_partial(slot, now);
            }
        }
        self.settle(now, out);
    }

    /// The peer closed its connection, or it broke.
    pub fn handle_disconnect(&mut self, peer: PeerId, now: Now, out: &mut impl Outbox) {
        let Some(slot) = self.peers.find(peer) else { return };
        self.close_peer(slot, CloseReason::Gone, None, now, out);
        self.settle(now, out);
    }

    /// Does what is due, up to [`TIMERS_PER_INPUT_MAX`] things and [`RouterConfig::ends_per_input_max`] calls at once. Where there is more,
    /// [`Router::wakeup_ms`] says that it is to be called again; other inputs may come in between.
    pub fn handle_time(&mut self, now: Now, out: &mut impl Outbox) {
        self.resume_ends(now, out);
        for _ in 0..TIMERS_PER_INPUT_MAX {
            if self.ends.are_due() {
                break;
            }
            let Some(timer) = self.timers.expire(now.mono_ms()) else { break };
            self.expire(timer, now, out);
            self.settle(now, out);
        }
        self.spend_ends(now, out);
        self.settle(now, out);
    }

    /// When [`Router::handle_time`] has something to do at the earliest, in monotonic milliseconds; `None`: never. 0 is at once.
    pub fn wakeup_ms(&self) -> Option<u64> {
        if self.ends.are_due() { Some(0) } else { self.timers.wakeup_ms() }
    }

    /// Whether that id names a connection that is still open.
    pub fn is_peer(&self, peer: PeerId) -> bool {
        self.peers.find(peer).is_some()
    }

    /// Totals since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Open connections.
    pub fn peers_len(&self) -> usize {
        self.peers.len()
    }

    /// Registered services.
    pub fn services_len(&self) -> usize {
        self.registry.len()
    }

    /// Calls that wait for their callee's answer, or for their end: see [`Router::is_ending`].
    pub fn in_flight_len(&self) -> usize {
        self.calls.len()
    }

    /// Introspection calls that wait for something to happen.
    pub fn parked_len(&self) -> usize {
        self.parked.len()
    }

    /// Pending timers. An idle router has one for each service.
    pub fn timers_len(&self) -> usize {
        self.timers.len()
    }

    /// Bytes queued to all peers and not yet taken.
    pub fn charged_bytes(&self) -> usize {
        self.peers.queued_bytes()
    }

    /// Bytes that are kept for peers in whatever form; see [`RouterConfig::memory_max`].
    pub fn memory_bytes(&self) -> usize {
        self.peers.accounts.total(Resource::Memory)
    }

    /// What each user has taken, those with most memory first.
    pub fn users(&self) -> Vec<UserView> {
        self.peers.accounts.views()
    }

    #[inline]
    fn handle_body(&mut self, slot: u32, frame: &mut [u8], now: Now, out: &mut impl Outbox) {
        let speaks_v2 = self.peers[slot].v2.is_some();
        if speaks_v2 && v2::is_v2(frame) {
            self.handle_v2(slot, frame, now, out);
        } else {
            self.handle_v1(slot, speaks_v2, frame, now, out);
        }
    }

    #[inline(never)]
    fn handle_v1(&mut self, slot: u32, speaks_v2: bool, frame: &mut [u8], now: Now, out: &mut impl Outbox) {
        let body = &frame[FRAME_PREFIX_BYTES..];
        let mut header = v1::Header::empty(Encoding::Json);
        match v1::scan_into(body, &mut header) {
            Ok(()) => match header.kind {
                Kind::Call | Kind::Response if speaks_v2 => {
                    let message = "this connection speaks version 2 by now; the connection will be closed";
                    self.refuse_malformed(slot, ErrorCode::InvalidMessage, message.to_owned(), now, out);
                }
                Kind::Call => self.route_call(slot, frame, &header, now, out),
                Kind::Response => self.route_response(slot, frame, &header, now, out),
                Kind::Register => self.register(slot, body, &header, now, out),
                Kind::Heartbeat => self.counters.heartbeats += 1,
                // What only a gateway sends, and types of a later protocol.
                Kind::RegisterAck | Kind::Error | Kind::Unknown => self.counters.frames_ignored += 1,
            },
            Err(error) => {
                if self.peers[slot].service == NIL {
                    self.peers[slot].encoding = Encoding::detect(body).unwrap_or(Encoding::Json);
                }
                let message = format!("{error}; the connection will be closed");
                self.refuse_malformed(slot, error.code(), message, now, out);
            }
        }
    }

    /// Ends a connection whose peer does not keep to the protocol.
    #[cold]
    pub(crate) fn refuse_malformed(
        &mut self,
        slot: u32,
        code: ErrorCode,
        message: String,
        now: Now,
        out: &mut impl Outbox,
    ) {
        self.counters.malformed += 1;
        self.warn(slot, &message, now, out);
        self.close_peer(slot, CloseReason::Malformed, Some(&ErrorBody::new(code, message)), now, out);
    }

    /// Any frame is a sign of life, for the connection and for its service.
    pub(crate) fn touch(&mut self, slot: u32, now: Now) {
        let peer = &mut self.peers[slot];
        peer.last_frame_at_ms = now.wall_ms;
        peer.last_frame_ms = now.mono_ms();
    }

    fn time_partial(&mut self, slot: u32, now: Now) {
        let peer = &mut self.peers[slot];
        if peer.partial_timer.is_none() && !peer.is_paused {
            let deadline = now.mono_ms().saturating_add(self.config.partial_frame_timeout_ms);
            peer.partial_timer = Some(self.timers.insert(deadline, Timer::PartialFrame(slot)));
        }
    }

    pub(crate) fn end_partial(&mut self, slot: u32) {
        let peer = &mut self.peers[slot];
        // Only then there is a timer.
        if std::mem::take(&mut peer.is_mid_frame)
            && let Some(timer) = peer.partial_timer.take()
        {
            self.timers.remove(timer);
        }
    }

    pub(crate) fn refuse_stream(&mut self, slot: u32, error: &FrameError, now: Now, out: &mut impl Outbox) {
        self.counters.malformed += 1;
        self.counters.refused_too_large += 1;
        let message = format!("{error}; the connection will be closed");
        self.warn(slot, &message, now, out);
        let FrameError::TooLarge { .. } = error;
        let error = ErrorBody::new(ErrorCode::PayloadTooLarge, message);
        self.close_peer(slot, CloseReason::Malformed, Some(&error), now, out);
    }

    fn expire(&mut self, timer: Timer, now: Now, out: &mut impl Outbox) {
        match timer {
            Timer::Call(index) => self.time_out_call(index, now, out),
            Timer::Liveness(index) => self.check_liveness(index, now, out),
            Timer::WriteStall(slot) => {
                if self.peers.is_stalled(slot, now, &mut self.timers) {
                    let bytes = self.peers[slot].queued_bytes;
                    let waited = self.config.write_stall_timeout_ms;
                    self.warn(slot, &format!("took nothing of {bytes} queued bytes for {waited} ms"), now, out);
                    self.close_peer(slot, CloseReason::SlowReader, None, now, out);
                }
            }
            Timer::Register(slot) => {
                self.peers[slot].register_timer = None;
                let waited = self.config.register_timeout_ms;
                let message = format!("no REGISTER within {waited} ms: send it first on every connection");
                self.warn(slot, &message, now, out);
                let error = ErrorBody::new(ErrorCode::Timeout, message);
                self.close_peer(slot, CloseReason::NeverRegistered, Some(&error), now, out);
            }
            Timer::PartialFrame(slot) => {
                self.peers[slot].partial_timer = None;
                let waited = self.config.partial_frame_timeout_ms;
                let message = format!("a frame was begun and not finished within {waited} ms");
                self.warn(slot, &message, now, out);
                let error = ErrorBody::new(ErrorCode::Timeout, message);
                self.close_peer(slot, CloseReason::PartialFrame, Some(&error), now, out);
            }
            Timer::Parked(index) => self.time_out_parked(index, now, out),
            Timer::Lane(index) => self.expire_lane(index, now, out),
            Timer::WatchLease => self.end_watch_lease(now),
            Timer::Drain => self.end_drain(now, out),
        }
    }

    fn check_liveness(&mut self, index: u32, now: Now, out: &mut impl Outbox) {
        let interval_ms = self.config.heartbeat_interval_ms;
        let patience_ms = interval_ms.saturating_mul(HEARTBEATS_MISSED_MAX);
        let mut deadline = self.registry.last_frame_ms(&self.peers, index).saturating_add(patience_ms);
        if deadline <= now.mono_ms() {
            // A connection that is not read cannot be heard; how long that may last is the stall timer's business.
            if !self.registry.ring(&self.peers, index).any(|slot| self.peers[slot].is_paused) {
                self.drop_silent(index, patience_ms, now, out);
                return;
            }
            deadline = now.mono_ms().saturating_add(interval_ms.max(1));
        }
        self.registry[index].liveness_timer = self.timers.insert(deadline, Timer::Liveness(index));
    }
}
