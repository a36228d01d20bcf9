//! The life of the connections: connecting, registering, losing, waiting, disconnecting.

use crate::conns::{ConnId, ConnState};
use crate::event::{Origin, Output, SessionEvent};
use crate::outbound::Outbound;
use crate::session::{Session, Timer, later_ms};
use bro_proto::backoff::jittered_backoff_ms;
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::frame::Deframer;
use bro_proto::limits::{
    CONNECT_TIMEOUT_MS, GATEWAY_WAIT_RETRY_MAX_MS, GATEWAY_WAIT_RETRY_MS, HEARTBEATS_MISSED_MAX,
    RECONNECT_DELAY_MAX_MS, REGISTER_ACK_TIMEOUT_MS, WRITE_STALL_TIMEOUT_MS,
};
use bro_proto::time::Now;
use bro_proto::v1::encode::{RegisterFields, encode_heartbeat, encode_register};
use bro_proto::v1::{Encoding, Payload};
use bro_proto::v2::{self, FrameKind};

/// A `connect` that waits for its result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// Until when an absent gateway is waited for, on the clock of the timers.
    give_up_ms: u64,
}

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// The driver could not open it, or found it closed: there is nothing to close.
    Gone,
    /// This side ends it, because of what the gateway did or did not do.
    Broken,
}

impl Session {
    /// Connects every connection of the pool. The result comes as an event: see [`Session`].
    pub fn connect(&mut self, now: Now) {
        self.now = now;
        if self.attempt.is_some() {
            return;
        }
        if self.announced {
            return self.tell(SessionEvent::AlreadyConnected);
        }
        self.attempt = Some(Attempt { give_up_ms: now.mono_ms().saturating_add(self.config.wait_for_gateway_ms) });
        for index in 0..self.pool.len() {
            let conn = self.pool.at(index);
            conn.attempt = 0;
            if !conn.is_live() {
                self.open(index, now);
            }
        }
    }

    /// Ends everything: pending calls with `CONNECTION_LOST` (those that wait for their service with `NOT_CONNECTED`: they were not carried out), requests in work with an answer `SHUTTING_DOWN`, then
    /// the connections, with what is still to be written on them. The session can be connected again.
    pub fn disconnect(&mut self, now: Now) {
        self.now = now;
        let reason = "client disconnected";
        let attempt = self.attempt.take();
        self.take_down(reason, now);
        if attempt.is_some() {
            self.tell(SessionEvent::ConnectFailed(ErrorBody::new(ErrorCode::ConnectionLost, reason)));
        }
        if std::mem::take(&mut self.announced) {
            self.tell(SessionEvent::Disconnected { reason: reason.to_owned() });
        }
    }

    /// The driver has opened a connection.
    pub fn handle_connected(&mut self, id: ConnId, now: Now) {
        self.now = now;
        let Some(conn) = self.pool.find(id).filter(|conn| conn.state == ConnState::Connecting) else { return };
        conn.state = ConnState::Registering;
        self.start_timer(id, REGISTER_ACK_TIMEOUT_MS, now);
        self.send_register(id, now);
    }

    /// The driver could not open a connection. `message` says why, and names the path.
    pub fn handle_connect_failed(&mut self, id: ConnId, message: &str, now: Now) {
        self.now = now;
        if self.pool.find(id).is_some_and(|conn| conn.state == ConnState::Connecting) {
            self.lose(id, Loss::Gone, ErrorBody::new(ErrorCode::ConnectionFailed, message), now);
        }
    }

    /// A connection is closed, by the gateway or by an error of the socket.
    pub fn handle_closed(&mut self, id: ConnId, reason: &str, now: Now) {
        self.now = now;
        let farewell = self.pool.open(id).and_then(|conn| conn.farewell.take());
        let reason = farewell.map_or_else(|| reason.to_owned(), |said| format!("{reason}: {said}"));
        self.lose(id, Loss::Gone, ErrorBody::new(ErrorCode::ConnectionLost, reason), now);
    }

    /// Ends a connection because of what the gateway did or did not do.
    pub(crate) fn lose_broken(&mut self, id: ConnId, error: ErrorBody, now: Now) {
        self.lose(id, Loss::Broken, error, now);
    }

    /// REGISTER_ACK came. `speaks_v2`: so does the connection from now on. `takes_updates`: a gateway of the JavaScript library would take a second REGISTER on a live
    /// connection for a second service of the same name, and end the connection.
    pub(crate) fn handle_ack(&mut self, id: ConnId, takes_updates: bool, speaks_v2: bool, now: Now) {
        let Some(conn) = self.pool.open(id) else { return };
        self.counters.registrations += 1;
        if conn.state == ConnState::Registered {
            return;
        }
        conn.takes_updates = takes_updates;
        conn.v2 = (speaks_v2 && self.config.speaks_v2).then(Box::default);
        conn.state = ConnState::Registered;
        conn.attempt = 0;
        self.updates_due |= conn.methods_version != self.methods.version();
        self.stop_timer(id);
        self.pool.registered += 1;
        self.forget_gateway_drain();
        self.send_drain(id, now);
        self.tell_of_lanes(id, now);
        if self.heartbeat.is_none() {
            let due_ms = later_ms(now, self.config.heartbeat_interval_ms);
            self.heartbeat = Some(self.timers.insert(due_ms, Timer::Heartbeat));
        }
        if self.attempt.is_none() || self.pool.registered == self.pool.len() {
            self.announce();
        }
        self.ask_for_services(now);
    }

    /// What a connection was in the middle of took too long, or it has waited long enough.
    pub(crate) fn expire_conn(&mut self, id: ConnId, now: Now) {
        let Some(conn) = self.pool.find(id) else { return };
        conn.timer = None;
        match conn.state {
            ConnState::Waiting => self.open(id.index as usize, now),
            ConnState::Connecting => {
                let why = format!("the gateway did not accept the connection within {CONNECT_TIMEOUT_MS} ms");
                self.lose(id, Loss::Broken, ErrorBody::new(ErrorCode::ConnectionFailed, why), now);
            }
            ConnState::Registering => {
                let why = format!("no REGISTER_ACK within {REGISTER_ACK_TIMEOUT_MS} ms");
                self.lose(id, Loss::Broken, ErrorBody::new(ErrorCode::Timeout, why), now);
            }
            ConnState::Idle | ConnState::Registered => {}
        }
    }

    /// Ends a connection on which bytes waited for long and none was taken.
    pub(crate) fn check_stall(&mut self, id: ConnId, now: Now) {
        let Some(conn) = self.pool.open(id) else { return };
        let Some((_, taken_before)) = conn.stall.take() else { return };
        if conn.outbound.is_empty() {
            return;
        }
        let taken = conn.outbound.taken();
        if taken == taken_before {
            let who = if id.is_lane() { "the other end of the lane" } else { "the gateway" };
            let why = format!("{who} took no byte within {WRITE_STALL_TIMEOUT_MS} ms");
            return self.lose_broken(id, ErrorBody::new(ErrorCode::ConnectionLost, why), now);
        }
        let timer = self.timers.insert(later_ms(now, WRITE_STALL_TIMEOUT_MS), Timer::Stall(id));
        conn.stall = Some((timer, taken));
    }

    /// Tells the gateway on every connection that this client lives, and sees whether the gateway does.
    pub(crate) fn send_heartbeats(&mut self, now: Now) {
        let due_ms = later_ms(now, self.config.heartbeat_interval_ms);
        self.heartbeat = Some(self.timers.insert(due_ms, Timer::Heartbeat));
        self.send_lane_stats(now);
        for index in 0..self.pool.len() {
            let config = &self.config;
            let conn = self.pool.at(index);
            if conn.state != ConnState::Registered {
                continue;
            }
            let id = conn.id;
            if conn.silent_pings >= HEARTBEATS_MISSED_MAX {
                let silent_ms = HEARTBEATS_MISSED_MAX.saturating_mul(config.heartbeat_interval_ms);
                let why = format!("the gateway answered no PING for {silent_ms} ms");
                self.lose_broken(id, ErrorBody::new(ErrorCode::ConnectionLost, why), now);
                continue;
            }
            if conn.v2.is_some() && (conn.outbound.is_empty() || conn.silent_pings > 0) {
                conn.silent_pings += 1;
            }
            // Bytes that wait already prove as much, once they are taken.
            if !conn.outbound.is_empty() {
                continue;
            }
            if conn.v2.is_some() {
                conn.outbound.extend(|out| v2::encode::bare(out, FrameKind::Ping, 0));
                self.queued(id, now);
                continue;
            }
            let queued = conn.outbound.append(config.frame_bytes_max, |out| {
                encode_heartbeat(out, config.encoding, &config.service_name, now.wall_ms);
                Ok(())
            });
            queued.expect("a heartbeat fits every limit");
            self.queued(id, now);
        }
    }

    /// Registers again where the methods have changed since.
    pub(crate) fn send_updates(&mut self) {
        if !std::mem::take(&mut self.updates_due) {
            return;
        }
        let version = self.methods.version();
        for index in 0..self.pool.len() {
            let conn = self.pool.at(index);
            if conn.state == ConnState::Registered && conn.takes_updates && conn.methods_version != version {
                let id = conn.id;
                self.send_register(id, self.now);
            }
        }
    }

    fn send_register(&mut self, id: ConnId, now: Now) {
        let config = &self.config;
        let metadata = config.metadata_json(id.index);
        let fields = RegisterFields {
            service_name: &config.service_name,
            methods: self.methods.names(),
            version: &config.version,
            metadata: Payload { encoding: Encoding::Json, bytes: &metadata },
        };
        let conn = self.pool.at(id.index as usize);
        conn.methods_version = self.methods.version();
        let queued = conn.outbound.append(config.frame_bytes_max, |out| encode_register(out, config.encoding, &fields));
        queued.expect("names and metadata were checked when they came");
        self.queued(id, now);
    }

    fn open(&mut self, index: usize, now: Now) {
        let id = self.pool.at(index).id;
        self.stop_timer(id);
        let conn = self.pool.at(index);
        conn.id.generation = conn.id.generation.wrapping_add(1);
        conn.state = ConnState::Connecting;
        let id = conn.id;
        self.start_timer(id, CONNECT_TIMEOUT_MS, now);
        self.outputs.push_back(Output::Connect(id));
    }

    /// Whether a connection is there or on its way.
    pub(crate) fn is_connecting(&self) -> bool {
        self.attempt.is_some() || self.pool.iter().any(|conn| conn.state != ConnState::Idle)
    }

    fn announce(&mut self) {
        self.attempt = None;
        self.established = true;
        if !std::mem::replace(&mut self.announced, true) {
            self.tell(SessionEvent::Connected);
            self.tell(SessionEvent::Registered);
        }
    }

    /// Forgets a live connection and ends what depended on it, then decides how to go on.
    fn lose(&mut self, id: ConnId, loss: Loss, error: ErrorBody, now: Now) {
        if id.is_lane() {
            return self.lose_lane(id, loss != Loss::Gone, &error, now);
        }
        let Some(conn) = self.pool.find(id).filter(|conn| conn.is_live()) else { return };
        let was_registered = conn.state == ConnState::Registered;
        self.close(id, loss != Loss::Gone, Vec::new());
        if was_registered {
            self.counters.connections_lost += 1;
            for call in self.calls.select(Some(id)) {
                let lost = ErrorBody::new(ErrorCode::ConnectionLost, error.message.as_str());
                self.end_call(call, Err(lost), Origin::Local);
            }
        }
        self.drop_requests(id);
        if self.pool.registered == 0 && std::mem::take(&mut self.announced) {
            self.tell(SessionEvent::Disconnected { reason: error.message.clone() });
        }
        if let Some(attempt) = self.attempt {
            let absent = matches!(
                error.code,
                Some(ErrorCode::ConnectionFailed | ErrorCode::ConnectionLost | ErrorCode::ShuttingDown)
            );
            let left_ms = attempt.give_up_ms.saturating_sub(now.mono_ms());
            if absent && left_ms > 0 {
                let delay_ms = self.backoff_ms(id, GATEWAY_WAIT_RETRY_MS, GATEWAY_WAIT_RETRY_MAX_MS);
                return self.wait(id, delay_ms.min(left_ms), now);
            }
            self.fail_attempt(error.clone(), now);
        } else if loss == Loss::Broken {
            self.tell(SessionEvent::Error(error.clone()));
        }
        if !self.established {
            return self.end_hopeless_waits();
        }
        if self.config.auto_reconnect {
            let base_ms = self.config.reconnect_delay_ms.max(GATEWAY_WAIT_RETRY_MS);
            let delay_ms = self.backoff_ms(id, base_ms, RECONNECT_DELAY_MAX_MS.max(base_ms));
            let attempt = self.pool.at(id.index as usize).attempt;
            self.wait(id, delay_ms, now);
            self.tell(SessionEvent::Reconnecting { attempt, delay_ms, error });
        } else {
            self.established = self.pool.iter().any(|conn| conn.state != ConnState::Idle);
            self.end_hopeless_waits();
        }
    }

    /// A waiting `connect` has failed. What was connected before goes on trying, a first attempt is taken back.
    fn fail_attempt(&mut self, error: ErrorBody, now: Now) {
        self.attempt = None;
        if !(self.established && self.config.auto_reconnect) {
            self.take_down("connecting failed", now);
        }
        let code = error.code.or(Some(ErrorCode::ConnectionFailed));
        self.tell(SessionEvent::ConnectFailed(ErrorBody { code, ..error }));
        if self.pool.registered > 0 {
            self.announce();
        }
    }

    /// Ends all calls, requests and connections.
    fn take_down(&mut self, reason: &str, now: Now) {
        self.established = false;
        self.end_waits(reason);
        for call in self.calls.select(None) {
            let error = ErrorBody::new(ErrorCode::ConnectionLost, reason);
            self.end_call(call, Err(error), Origin::Local);
        }
        self.refuse_requests(now);
        self.close_lanes();
        self.end_drain();
        for index in 0..self.pool.len() {
            let conn = self.pool.at(index);
            let (id, is_live) = (conn.id, conn.is_live());
            let unsent = conn.outbound.take_rest();
            if is_live {
                self.close(id, true, unsent);
            } else {
                self.stop_timer(id);
                self.pool.at(index).state = ConnState::Idle;
            }
        }
    }

    /// Forgets a live connection; `by_us` when the driver has to close it.
    fn close(&mut self, id: ConnId, by_us: bool, unsent: Vec<u8>) {
        self.stop_timer(id);
        let conn = self.pool.at(id.index as usize);
        if let Some((timer, _)) = conn.stall.take() {
            self.timers.remove(timer);
        }
        let was_registered = conn.state == ConnState::Registered;
        conn.state = ConnState::Idle;
        conn.deframer = Deframer::new();
        conn.outbound = Outbound::default();
        conn.v2 = None;
        conn.silent_pings = 0;
        conn.farewell = None;
        if by_us {
            self.outputs.push_back(Output::Close { conn: id, unsent });
        }
        if was_registered {
            self.pool.registered -= 1;
            if self.pool.registered == 0
                && let Some(timer) = self.heartbeat.take()
            {
                self.timers.remove(timer);
            }
        }
    }

    fn backoff_ms(&mut self, id: ConnId, base_ms: u64, max_ms: u64) -> u64 {
        let conn = self.pool.at(id.index as usize);
        let delay_ms = jittered_backoff_ms(conn.attempt, base_ms, max_ms, &mut self.rng);
        conn.attempt = conn.attempt.saturating_add(1);
        delay_ms
    }

    fn wait(&mut self, id: ConnId, delay_ms: u64, now: Now) {
        self.pool.at(id.index as usize).state = ConnState::Waiting;
        self.start_timer(id, delay_ms, now);
    }

    fn start_timer(&mut self, id: ConnId, after_ms: u64, now: Now) {
        self.stop_timer(id);
        let timer = self.timers.insert(later_ms(now, after_ms), Timer::Conn(id));
        self.pool.at(id.index as usize).timer = Some(timer);
    }

    fn stop_timer(&mut self, id: ConnId) {
        if let Some(timer) = self.pool.at(id.index as usize).timer.take() {
            self.timers.remove(timer);
        }
    }
}
