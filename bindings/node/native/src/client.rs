//! One client: a session, its sockets, and its turns on Node's event loop.
//!
//! A turn begins when a socket or a lane can be read, a timer fires, or JavaScript has queued something (before the loop waits the
//! next time). It hands what has happened to JavaScript in one call, takes what JavaScript has queued meanwhile, and writes:
//! when the call returns, promises have been settled and their continuations have run, so that answers and new calls leave with
//! one write. The rules of [`Session`] say in which order it is asked.

use crate::batch::Batch;
use crate::callers::Callers;
use crate::calls::{Calls, Promise};
use crate::environment::{Ends, Environment};
use crate::lane::LaneSocket;
use crate::lanes::LingeringLane;
use crate::node::{Reference, guarded};
use crate::socket::{Progress, Socket, SocketOwner};
use crate::uv::{Handle, READABLE, RawHandle, WRITABLE, owner_of};
use bro_proto::error::ErrorBody;
use bro_session::{CallKey, ConnId, Origin, Output, OwnedPayload, Session, SessionEvent};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ffi::c_int;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// Records that one turn may deliver; what comes after that waits for the loop to have served others.
const TURN_BUDGET: usize = 8192;
/// What a batch takes of the budget at least, so that programs which fail calls and make them again do not hold up the loop.
const BATCH_COST_MIN: usize = 64;
/// How long a closed connection is kept so that the gateway can take the last bytes, in milliseconds.
pub(crate) const LINGER_MS: u64 = 2_000;

pub(crate) struct Client {
    pub(crate) environment: Rc<Environment>,
    /// Never borrowed while JavaScript runs.
    pub(crate) state: RefCell<State>,
    /// JavaScript has queued something that it has not handed over.
    is_armed: Cell<bool>,
    /// A turn is under way, and will see what JavaScript queues.
    in_turn: Cell<bool>,
}

pub(crate) struct State {
    pub(crate) session: Session,
    pub(crate) calls: Calls,
    /// What the session has told and nobody has done yet.
    told: VecDeque<Told>,
    /// The numbers that JavaScript gave its handlers.
    pub(crate) handlers: HashMap<Box<str>, i32>,
    /// What was found there last; forgotten when that may have changed.
    pub(crate) latest_handler: Option<(Arc<str>, i32)>,
    pub(crate) callers: Callers,
    /// Whether JavaScript wants to know the ids of calls and requests.
    pub(crate) wants_ids: bool,
    /// Services and methods that JavaScript calls by number.
    pub(crate) routes: Vec<(Box<str>, Box<str>)>,
    path: PathBuf,
    sockets: Vec<Option<Socket>>,
    lingering: Vec<Lingering>,
    pub(crate) lanes: Vec<LaneSocket>,
    pub(crate) lingering_lanes: Vec<LingeringLane>,
    /// How long the loop may spin for this client's lanes, in microseconds.
    pub(crate) lane_spin_us: u64,
    timer: Option<Handle<Rc<Client>>>,
    /// When the timer fires, in milliseconds of the monotonic clock.
    timer_due_ms: Option<u64>,
    /// Started while there will be a turn.
    idle: Option<Handle<Rc<Client>>>,
    callbacks: Option<Callbacks>,
}

/// An output of the session, with what it names.
enum Told {
    Event(SessionEvent),
    CallDone(CallDone),
    Connect(ConnId),
    Close { conn: ConnId, unsent: Vec<u8> },
    LaneOffered { lane: Option<ConnId>, via: ConnId, is_first: bool },
}

/// A call that has ended, by the name that JavaScript gave it.
pub(crate) struct CallDone {
    pub(crate) promise: Promise,
    pub(crate) request_id: CallKey,
    pub(crate) outcome: Result<OwnedPayload, ErrorBody>,
    pub(crate) origin: Origin,
}

/// The functions that JavaScript gave.
struct Callbacks {
    /// Takes a batch.
    dispatch: Rc<Reference>,
    /// Hands over what was queued.
    drain: Rc<Reference>,
    /// An idle client does not keep itself alive: it may be collected.
    are_strong: bool,
}

/// A connection that is closed as soon as its last bytes are taken.
struct Lingering {
    socket: Socket,
    unsent: Vec<u8>,
    written: usize,
    give_up_ms: u64,
}

/// What the JavaScript object holds: when it is collected, the client ends.
pub(crate) struct ClientHandle(pub(crate) Rc<Client>);

impl Drop for ClientHandle {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Client {
    /// A client that is not connected. `None` when the environment refuses.
    pub(crate) fn new(
        environment: Rc<Environment>,
        session: Session,
        path: PathBuf,
        lane_spin_us: u64,
        dispatch: Reference,
        drain: Reference,
    ) -> Option<Rc<Client>> {
        let pool_size = session.config().pool_size as usize;
        let state = State {
            session,
            calls: Calls::default(),
            told: VecDeque::new(),
            handlers: HashMap::new(),
            latest_handler: None,
            callers: Callers::default(),
            wants_ids: false,
            routes: Vec::new(),
            path,
            sockets: std::iter::repeat_with(|| None).take(pool_size).collect(),
            lingering: Vec::new(),
            lanes: Vec::new(),
            lingering_lanes: Vec::new(),
            lane_spin_us,
            timer: None,
            timer_due_ms: None,
            idle: None,
            callbacks: Some(Callbacks { dispatch: Rc::new(dispatch), drain: Rc::new(drain), are_strong: false }),
        };
        let client = Rc::new(Client {
            environment: environment.clone(),
            state: RefCell::new(state),
            is_armed: Cell::new(false),
            in_turn: Cell::new(false),
        });
        let timer = Handle::timer(&environment, client.clone())?;
        let idle = Handle::idle(&environment, client.clone());
        let mut state = client.state.borrow_mut();
        state.timer = Some(timer);
        state.idle = idle;
        drop(state);
        let weak: Weak<Client> = Rc::downgrade(&client);
        environment.admit(weak);
        Some(client)
    }

    /// JavaScript has queued something, or a command was given: there will be a turn.
    pub(crate) fn arm(&self, has_queued: bool) {
        self.is_armed.set(self.is_armed.get() || has_queued);
        if self.in_turn.get() {
            return;
        }
        let mut state = self.state.borrow_mut();
        if let Some(idle) = &state.idle {
            idle.start_idle(on_idle);
            state.hold(true);
        }
    }

    /// The methods have changed: while connected, the gateway is told.
    pub(crate) fn arm_if_connected(&self) {
        let is_connected = self.state.borrow().session.is_connected();
        if is_connected {
            self.arm(false);
        }
    }

    /// Serves everything that has come up.
    pub(crate) fn turn(self: &Rc<Self>) {
        if self.environment.is_ending() || self.in_turn.replace(true) {
            return;
        }
        let env = self.environment.env;
        let mut batch = self.environment.take_batch();
        batch.begin_turn();
        let mut budget = TURN_BUDGET;
        let is_done = loop {
            if self.is_armed.take()
                && let Some(drain) = self.callback(|callbacks| &callbacks.drain)
            {
                env.with_scope(|| env.call_back(&drain, &[]));
            }
            self.flush();
            self.collect(&mut batch);
            if batch.is_empty() {
                // What was collected may have queued bytes as well; a connection lost by that has more to tell.
                if self.flush() {
                    break true;
                }
                continue;
            }
            self.environment.publish(&batch);
            let definitions = self.environment.shapes.borrow_mut().take_definitions();
            if let Some(dispatch) = self.callback(|callbacks| &callbacks.dispatch) {
                env.with_scope(|| {
                    if let Some(arguments) = batch.arguments(env, definitions) {
                        env.call_back(&dispatch, &arguments);
                    }
                });
            }
            budget = budget.saturating_sub(batch.records().len().max(BATCH_COST_MIN));
            batch.clear();
            if budget == 0 {
                break false;
            }
        };
        self.environment.put_batch_back(batch);
        self.in_turn.set(false);
        self.settle(is_done);
    }

    fn callback(&self, choose: impl Fn(&Callbacks) -> &Rc<Reference>) -> Option<Rc<Reference>> {
        self.state.borrow().callbacks.as_ref().map(|callbacks| choose(callbacks).clone())
    }

    /// Does what the session asks for, and puts what JavaScript must know into the batch.
    fn collect(self: &Rc<Self>, batch: &mut Batch) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let shapes = &mut *self.environment.shapes.borrow_mut();
        let mut reads_lanes = !state.lanes.is_empty();
        while !batch.is_full() {
            if let Some(settled) = state.calls.take_settled() {
                state.add_settled(settled, batch);
                continue;
            }
            match state.next_told() {
                // Once only: a peer whose frames bring nothing must not hold up the others.
                None if std::mem::take(&mut reads_lanes) && self.read_lanes(state) => {}
                None => break,
                Some(Told::Event(event)) => state.add_event(&event, batch, shapes, &self.environment),
                Some(Told::CallDone(done)) => state.add_call_done(done, batch, shapes),
                Some(Told::Connect(conn)) => self.open(state, conn),
                Some(Told::Close { conn, unsent }) => self.close(state, conn, unsent),
                Some(Told::LaneOffered { lane, via, is_first }) => self.open_lane(state, lane, via, is_first),
            }
        }
    }

    fn open(self: &Rc<Self>, state: &mut State, conn: ConnId) {
        let owner = SocketOwner { client: self.clone(), conn };
        match Socket::open(owner, &state.path, on_socket) {
            Ok(socket) => {
                state.sockets[conn.index as usize] = Some(socket);
                state.session.handle_connected(conn, self.environment.now());
            }
            Err(why) => state.session.handle_connect_failed(conn, &why, self.environment.now()),
        }
    }

    fn close(&self, state: &mut State, conn: ConnId, unsent: Vec<u8>) {
        if conn.is_lane() {
            return self.close_lane(state, conn, unsent);
        }
        let Some(socket) = state.take_socket(conn) else { return };
        let give_up_ms = self.environment.now().mono_ms() + LINGER_MS;
        let mut lingering = Lingering { socket, unsent, written: 0, give_up_ms };
        if !lingering.write() {
            lingering.socket.want_only_write();
            state.lingering.push(lingering);
        }
    }

    /// Writes what is queued. False when that has brought new outputs.
    fn flush(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let mut all_open = true;
        while let Some(conn) = state.session.poll_outbound() {
            if conn.is_lane() {
                Self::write_lane(&mut state, conn);
            } else {
                all_open &= self.write(&mut state, conn);
            }
        }
        if !state.lanes.is_empty() {
            Self::write_full_lanes(&mut state);
        }
        all_open
    }

    /// Writes what is queued for one connection. False when it turned out to be closed.
    fn write(&self, state: &mut State, conn: ConnId) -> bool {
        let State { session, sockets, .. } = state;
        let Some(socket) = sockets[conn.index as usize].as_mut().filter(|socket| socket.conn == conn) else {
            return true;
        };
        let Some(outbound) = session.outbound(conn) else { return true };
        while !outbound.is_empty() {
            match socket.write(outbound.chunk()) {
                Progress::Bytes(written) => outbound.advance(written),
                Progress::Blocked => {
                    socket.want_write(true);
                    return true;
                }
                Progress::Closed(why) => {
                    sockets[conn.index as usize] = None;
                    session.handle_closed(conn, &why, self.environment.now());
                    return false;
                }
            }
        }
        socket.want_write(false);
        true
    }

    /// Sets the timer and the references for the time until the next turn.
    fn settle(&self, is_done: bool) {
        let mut state = self.state.borrow_mut();
        let now_ms = self.environment.now().mono_ms();
        let sockets_ms = state.lingering.iter().map(|lingering| lingering.give_up_ms).min();
        let lanes_ms = state.lingering_lanes.iter().map(|lingering| lingering.give_up_ms).min();
        let wakeup_ms = state.session.wakeup_ms().into_iter().chain(sockets_ms).chain(lanes_ms).min();
        let due_ms = if is_done { wakeup_ms } else { Some(now_ms) };
        match (due_ms, state.timer_due_ms) {
            (Some(due_ms), Some(set_ms)) if set_ms <= due_ms => {}
            (Some(due_ms), _) => {
                if let Some(timer) = &state.timer {
                    timer.start_timer(&self.environment, due_ms.saturating_sub(now_ms), on_timer);
                    state.timer_due_ms = Some(due_ms);
                }
            }
            (None, None) => {}
            (None, Some(_)) => {
                if let Some(timer) = &state.timer {
                    timer.stop_timer();
                }
                state.timer_due_ms = None;
            }
        }
        if let Some(timer) = &state.timer {
            // Without a gateway, the time limits of a lane are nothing to stay alive for.
            if state.lanes.is_empty() || !state.lingering_lanes.is_empty() || state.session.is_active() {
                timer.make_ref();
            } else {
                timer.unref();
            }
        }
        let is_open = state.sockets.iter().any(Option::is_some) || !state.lanes.is_empty();
        let is_active = state.timer_due_ms.is_some() || is_open;
        state.hold(is_active);
    }

    fn handle_socket(self: &Rc<Self>, conn: ConnId, events: c_int, failed: bool) {
        let now = self.environment.now();
        {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            if state.finish_lingering(conn) {
                return;
            }
            if failed {
                state.lose(conn, "the connection failed", now);
            } else {
                if events & WRITABLE != 0 {
                    self.write(state, conn);
                }
                if events & READABLE != 0 {
                    self.read(state, conn);
                }
            }
        }
        self.turn();
    }

    fn read(&self, state: &mut State, conn: ConnId) {
        let State { session, sockets, .. } = state;
        let Some(socket) = sockets[conn.index as usize].as_mut().filter(|socket| socket.conn == conn) else { return };
        let filled = |progress: &Progress| if let Progress::Bytes(count) = progress { *count } else { 0 };
        let (chunk, progress) = self.environment.read_into(|room| socket.read(room), filled);
        let now = self.environment.now();
        match progress {
            Progress::Bytes(_) => session.handle_bytes(conn, &chunk, now),
            Progress::Blocked => {}
            Progress::Closed(why) => state.lose(conn, &why, now),
        }
    }

    fn handle_timer(self: &Rc<Self>) {
        let now = self.environment.now();
        {
            let mut state = self.state.borrow_mut();
            state.timer_due_ms = None;
            state.lingering.retain(|lingering| lingering.give_up_ms > now.mono_ms());
            state.lingering_lanes.retain(|lingering| lingering.give_up_ms > now.mono_ms());
            state.session.handle_time(now);
        }
        self.turn();
    }

    fn handle_idle(self: &Rc<Self>) {
        if let Some(idle) = &self.state.borrow().idle {
            idle.stop_idle();
        }
        self.turn();
    }
}

impl Ends for Client {
    fn end(&self) {
        // Taken out first: dropping handles and references may run other code of ours.
        let mut state = self.state.borrow_mut();
        let sockets: Vec<Option<Socket>> = state.sockets.iter_mut().map(Option::take).collect();
        let lanes = (std::mem::take(&mut state.lanes), std::mem::take(&mut state.lingering_lanes));
        let taken = (sockets, std::mem::take(&mut state.lingering), lanes, state.timer.take(), state.idle.take());
        let callbacks = state.callbacks.take();
        drop(state);
        drop((taken, callbacks));
    }
}

impl State {
    /// Takes the outputs of the session. Must come before the next call is made: it may get the slot of one that has ended, and then the
    /// slot does not lead to the old promise any more.
    pub(crate) fn absorb(&mut self) {
        while let Some(told) = self.poll_told() {
            self.told.push_back(told);
        }
    }

    /// The next output, of those that were absorbed first.
    fn next_told(&mut self) -> Option<Told> {
        if self.told.is_empty() { self.poll_told() } else { self.told.pop_front() }
    }

    fn poll_told(&mut self) -> Option<Told> {
        loop {
            return Some(match self.session.poll_output()? {
                Output::Event(SessionEvent::CallDone { id, request_id, outcome, origin }) => {
                    let Some(promise) = self.calls.promise(id) else { continue };
                    Told::CallDone(CallDone { promise, request_id, outcome, origin })
                }
                Output::Event(event) => Told::Event(event),
                Output::LaneOffered { lane, via, is_first } => Told::LaneOffered { lane, via, is_first },
                Output::Connect(conn) => Told::Connect(conn),
                Output::Close { conn, unsent } => Told::Close { conn, unsent },
            });
        }
    }

    pub(crate) fn socket(&mut self, conn: ConnId) -> Option<&mut Socket> {
        self.sockets.get_mut(conn.index as usize)?.as_mut().filter(|socket| socket.conn == conn)
    }

    fn take_socket(&mut self, conn: ConnId) -> Option<Socket> {
        let place = self.sockets.get_mut(conn.index as usize)?;
        if place.as_ref().is_some_and(|socket| socket.conn == conn) { place.take() } else { None }
    }

    fn lose(&mut self, conn: ConnId, why: &str, now: bro_proto::time::Now) {
        if self.take_socket(conn).is_some() {
            self.session.handle_closed(conn, why, now);
        }
    }

    /// Goes on with a connection that is being closed. False when `conn` is not such a one.
    fn finish_lingering(&mut self, conn: ConnId) -> bool {
        let Some(at) = self.lingering.iter().position(|lingering| lingering.socket.conn == conn) else { return false };
        if self.lingering[at].write() {
            self.lingering.swap_remove(at);
        }
        true
    }

    /// Keeps the JavaScript object alive, or lets it be collected.
    fn hold(&mut self, strong: bool) {
        if let Some(callbacks) = &mut self.callbacks
            && callbacks.are_strong != strong
        {
            callbacks.are_strong = strong;
            callbacks.dispatch.set_strong(strong);
            callbacks.drain.set_strong(strong);
        }
    }
}

impl Lingering {
    /// True when nothing is left to be written, or nobody takes it.
    fn write(&mut self) -> bool {
        while self.written < self.unsent.len() {
            match self.socket.write(&self.unsent[self.written..]) {
                Progress::Bytes(written) => self.written += written,
                Progress::Blocked => return false,
                Progress::Closed(_) => return true,
            }
        }
        true
    }
}

unsafe extern "C" fn on_socket(raw: *mut RawHandle, status: c_int, events: c_int) {
    guarded((), || {
        // SAFETY: the callback of poll handles, which are owned by `SocketOwner`.
        let owner = unsafe { owner_of::<SocketOwner>(raw) };
        owner.client.handle_socket(owner.conn, events, status < 0);
    });
}

unsafe extern "C" fn on_timer(raw: *mut RawHandle) {
    guarded((), || {
        // SAFETY: the callback of timers, which are owned by their client.
        let client = unsafe { owner_of::<Rc<Client>>(raw) };
        client.handle_timer();
    });
}

unsafe extern "C" fn on_idle(raw: *mut RawHandle) {
    guarded((), || {
        // SAFETY: the callback of idle handles, which are owned by their client.
        let client = unsafe { owner_of::<Rc<Client>>(raw) };
        client.handle_idle();
    });
}
