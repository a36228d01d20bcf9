//! A call of version 2 allocates nothing in the session, on either side of it, once the tables have grown.

use bro_proto::Now;
use bro_proto::v1::encode::{Outcome, encode_register_ack};
use bro_proto::v1::{Encoding, Payload};
use bro_proto::v2::{self, Frame};
use bro_session::{CallRequest, ConnId, Output, RequestId, Session, SessionConfig, SessionEvent};
use bytes::Bytes;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is left to the system's allocator; the counter is a thread-local of a type without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NOW: Now = Now { mono_us: 1_000_000, wall_ms: 1_700_000_000_000 };
const PARAMS: Payload<'static> = Payload { encoding: Encoding::Json, bytes: br#"{"id":7,"name":"Nirikshan"}"# };

/// A session with one connection, and what its steps allocate.
struct Side {
    session: Session,
    conn: ConnId,
    allocations: u64,
}

impl Side {
    fn new(name: &str) -> Self {
        let mut session =
            Session::new(SessionConfig { methods: vec!["get".into()], ..SessionConfig::new(name) }, 7, NOW)
                .expect("a good configuration");
        session.connect(NOW);
        let Some(Output::Connect(conn)) = session.poll_output() else { panic!("it connects") };
        session.handle_connected(conn, NOW);
        let mut told = Vec::new();
        encode_register_ack(&mut told, Encoding::Json, Some("bro.gateway"), Some(v2::VERSION));
        v2::encode::name(&mut told, 0, "caller", true);
        session.handle_bytes(conn, &told.into(), NOW);
        while session.poll_output().is_some() {}
        let mut side = Side { session, conn, allocations: 0 };
        side.take_frames();
        side
    }

    fn counted<T>(&mut self, step: impl FnOnce(&mut Session) -> T) -> T {
        let before = ALLOCATIONS.get();
        let done = step(&mut self.session);
        self.allocations += ALLOCATIONS.get() - before;
        done
    }

    fn read(&mut self, frames: Vec<u8>) {
        let chunk = Bytes::from(frames);
        // What drivers read into is shared from the start.
        let _shared = chunk.clone();
        let conn = self.conn;
        self.counted(|session| session.handle_bytes(conn, &chunk, NOW));
    }

    /// What is queued for the gateway.
    fn take_frames(&mut self) -> Vec<u8> {
        let conn = self.conn;
        self.counted(|session| while session.poll_outbound().is_some() {});
        let outbound = self.session.outbound(conn).expect("the connection is open");
        let frames = outbound.chunk().to_vec();
        outbound.advance(frames.len());
        frames
    }

    fn call(&mut self, request: Option<RequestId>) {
        let call = CallRequest { request, ..CallRequest::new("callee", "get", PARAMS) };
        self.counted(|session| session.call(call, NOW)).expect("it is connected");
    }

    fn next_event(&mut self) -> SessionEvent {
        match self.counted(Session::poll_output) {
            Some(Output::Event(event)) => event,
            other => panic!("{other:?}"),
        }
    }
}

/// The calls among frames, as the gateway passes them on, and their numbers.
fn pass_on(frames: &mut [u8], next_number: &mut u64) -> (Vec<u8>, Vec<u64>) {
    let (mut passed, mut callers) = (Vec::new(), Vec::new());
    let mut rest = frames;
    while !rest.is_empty() {
        let bytes = 4 + bro_proto::frame::announced_bytes(*rest.first_chunk().expect("whole frames"));
        let (frame, behind) = rest.split_at_mut(bytes);
        if let Ok(Frame::Call(call)) = v2::parse(frame) {
            callers.push(call.id);
            *next_number += 1;
            let root = v2::RootStamp::new(NOW.wall_ms, *next_number).0;
            let caller = call.id;
            v2::encode::complete_call(frame, *next_number, caller, root, 0, 1000);
            passed.extend_from_slice(frame);
        }
        rest = behind;
    }
    (passed, callers)
}

#[test]
fn a_call_allocates_nothing_on_either_side() {
    const BURST: usize = 64;
    let (mut caller, mut callee) = (Side::new("caller"), Side::new("callee"));
    let mut next_number = 0;
    for round in 0..40 {
        if round == 20 {
            (caller.allocations, callee.allocations) = (0, 0);
        }
        for _ in 0..BURST {
            caller.call(None);
        }
        let (frames, callers) = pass_on(&mut caller.take_frames(), &mut next_number);
        assert_eq!(callers.len(), BURST);
        callee.read(frames);
        for _ in 0..BURST {
            let SessionEvent::Request(request) = callee.next_event() else { panic!("a request") };
            // A nested call that nobody answers, then the answer.
            callee.call(Some(request.id));
            assert!(callee.counted(|session| session.respond(request.id, Outcome::Success(PARAMS), NOW)));
        }
        let mut answers = callee.take_frames();
        let mut back = Vec::new();
        let mut rest = answers.as_mut_slice();
        let mut waiting = callers.iter();
        while !rest.is_empty() {
            let bytes = 4 + bro_proto::frame::announced_bytes(*rest.first_chunk().expect("whole frames"));
            let (frame, behind) = rest.split_at_mut(bytes);
            if let Ok(Frame::Response { .. }) = v2::parse(frame) {
                v2::encode::readdress(frame, *waiting.next().expect("one answer for each call"));
                back.extend_from_slice(frame);
            }
            rest = behind;
        }
        caller.read(back);
        for _ in 0..BURST {
            let SessionEvent::CallDone { outcome, .. } = caller.next_event() else { panic!("an answer") };
            assert_eq!(outcome.expect("a result").bytes, PARAMS.bytes);
        }
        // The nested calls end as well, so that the tables stay as they are.
        callee.session.handle_time(Now { mono_us: NOW.mono_us + 1_001_000, ..NOW });
        while let Some(output) = callee.session.poll_output() {
            assert!(matches!(output, Output::Event(SessionEvent::CallDone { .. })), "{output:?}");
        }
    }
    assert_eq!((caller.allocations, callee.allocations), (0, 0), "in {} calls", 20 * BURST);
}
