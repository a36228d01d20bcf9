//! What a session tells its driver.

use crate::calls::{CallId, CallKey};
use crate::conns::ConnId;
use crate::context::RequestContext;
use crate::requests::{RequestId, RequestKey};
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::limits::{CLIENT_READ_BYTES_MAX, PINNED_PARTS_MAX};
use bro_proto::v1::{Encoding, Payload};
use bytes::Bytes;
use std::sync::Arc;

/// What the driver has to do, in the order in which it comes.
#[derive(Debug)]
pub enum Output {
    /// Open a connection to the gateway; then call `handle_connected` or `handle_connect_failed`.
    Connect(ConnId),
    /// Write `unsent` if there is any (it follows what was already taken from the outbound queue; a bounded wait
    /// is enough), then close the connection, or give up opening it. The session has already forgotten it. Nothing is
    /// to be done when it has ended on its own in the meantime.
    Close {
        /// Which connection.
        conn: ConnId,
        /// The rest of its outbound queue.
        unsent: Vec<u8>,
    },
    /// The gateway offers a lane: the descriptors came with the bytes on `via`, in the order of the offers. Open the lane with them, then
    /// call `handle_lane_opened` or `handle_lane_failed`. Bytes go and come as on other connections: frames are written in
    /// records of any number of bytes, and what was read goes to `handle_bytes`. When it is closed or broken, call `handle_closed`.
    LaneOffered {
        /// The lane; `None` when it is not wanted: the descriptors are only to be closed.
        lane: Option<ConnId>,
        /// The connection to the gateway on which the offer came.
        via: ConnId,
        /// Which side of the lane this is.
        is_first: bool,
    },
    /// Something to tell the user, or work for a handler.
    Event(SessionEvent),
}

/// What happened. Results of commands that fail at once are returned by the command and never come as an event.
#[derive(Debug)]
pub enum SessionEvent {
    /// The client can make calls: after `connect`, when every connection of the pool is registered; after all were
    /// lost, when the first one is back. Always followed by [`SessionEvent::Registered`].
    Connected,
    /// The gateway has acknowledged. A waiting `connect` has succeeded.
    Registered,
    /// `connect` was called while connected: it has succeeded, and nothing changed.
    AlreadyConnected,
    /// A waiting `connect` has failed.
    ConnectFailed(ErrorBody),
    /// The last registered connection is gone. Without `auto_reconnect`, or after `disconnect`, this is final until
    /// `connect` is called again.
    Disconnected {
        /// For people.
        reason: String,
    },
    /// A connection could not be made or was lost and will be made again.
    Reconnecting {
        /// Which attempt the next one is, counted from 1.
        attempt: u32,
        /// When it starts, in milliseconds from now.
        delay_ms: u64,
        /// Why it is needed.
        error: ErrorBody,
    },
    /// Another service calls a method of this one: answer it with `respond`.
    Request(Request),
    /// A request needs no answer any more; `respond` would do nothing. Its caller has been answered where that
    /// was possible.
    RequestExpired {
        /// Which request.
        id: RequestId,
        /// `TIMEOUT` (its deadline passed), `CANCELLED` (its caller gave it up), `CONNECTION_LOST` (its caller is gone, or the
        /// connection on which it came), or `SHUTTING_DOWN` (this client disconnects).
        reason: ErrorCode,
    },
    /// A call has ended. Comes exactly once for each call that was accepted and not cancelled.
    CallDone {
        /// Which call.
        id: CallId,
        /// Its id on the wire.
        request_id: CallKey,
        /// The result, or why there is none.
        outcome: Result<OwnedPayload, ErrorBody>,
        /// Who ended it.
        origin: Origin,
    },
    /// The gateway is about to stop: it answers new calls `SHUTTING_DOWN`. Told once, whatever the size of the pool.
    GatewayDraining,
    /// A [`crate::Session::drain`] has ended.
    Drained {
        /// Requests that are still in work: none, unless it took too long.
        in_work: usize,
    },
    /// The gateway sent an error. When it is about a call, that call has ended as well.
    GatewayError(ErrorBody),
    /// Something went wrong that no command and no call is told about otherwise.
    Error(ErrorBody),
}

/// Who ended a call.
///
/// A RESPONSE is the gateway's when its `from` is the gateway's own name, which nobody else can register. An ERROR frame
/// is always the gateway's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This session: timeout, lost connection, disconnect.
    Local,
    /// The gateway.
    Gateway,
    /// The service that was called.
    Service,
}

/// A call of another service, to be worked on.
#[derive(Clone, Debug)]
pub struct Request {
    /// For `respond`.
    pub id: RequestId,
    /// The caller's id for the call.
    pub request_id: RequestKey,
    /// The calling service.
    pub from: Arc<str>,
    /// Whether `from` is the gateway's word, as on lanes too. Where not, at gateways of the JavaScript library, it is what the caller wrote.
    pub is_from_stamped: bool,
    /// The method; it was registered when the call came.
    pub method: Arc<str>,
    /// The parameters; empty bytes when the caller sent none.
    pub params: OwnedPayload,
    /// Where the call comes from. Nested calls continue it: name the request in them.
    pub context: RequestContext,
    /// Whether the caller waits. Where not, `respond` only tells that the work is done.
    pub wants_answer: bool,
}

/// A value in one of the two encodings, not parsed; one whole, well-formed value, unless the driver wanted to see to that itself
/// ([`crate::SessionConfig::checks_payloads`]). Usually a slice of the chunk it was read from, which stays in
/// memory as long as the slice: a driver that hands it to the program has to copy what is little of the memory that it reads into
/// ([`PINNED_PARTS_MAX`]). The session itself does so only where the chunk, or the frame, is larger than [`CLIENT_READ_BYTES_MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedPayload {
    /// How `bytes` are encoded.
    pub encoding: Encoding,
    /// The encoded value; empty means absent.
    pub bytes: Bytes,
}

impl OwnedPayload {
    /// Keeps a part of a frame: without copying when it lies in `chunk`, unless that is larger than usual and it is little of it.
    pub(crate) fn keep(encoding: Encoding, part: &[u8], chunk: &Bytes) -> Self {
        let whole = chunk.as_ptr_range();
        let lies_in_chunk = whole.start <= part.as_ptr() && part.as_ptr_range().end <= whole.end;
        let pins_much = chunk.len() > CLIENT_READ_BYTES_MAX && part.len() < chunk.len() / PINNED_PARTS_MAX;
        let bytes = if lies_in_chunk && !pins_much { chunk.slice_ref(part) } else { Bytes::copy_from_slice(part) };
        Self { encoding, bytes }
    }

    /// The value, borrowed.
    pub fn as_payload(&self) -> Payload<'_> {
        Payload { encoding: self.encoding, bytes: &self.bytes }
    }
}

/// What `status` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    /// Whether calls can be made.
    pub connected: bool,
    /// Connections that are registered.
    pub connections_registered: usize,
    /// Those among them that speak version 2.
    pub connections_v2: usize,
    /// Lanes to other clients that are open.
    pub lanes: usize,
    /// Calls that wait for their answer, or for their service.
    pub pending_calls: usize,
    /// Those among them that wait for their service to appear.
    pub waiting_calls: usize,
    /// Calls of others that are being worked on.
    pub requests_in_work: usize,
    /// Methods that are registered.
    pub methods: usize,
    /// Bytes that wait to be written, over all connections.
    pub outbound_bytes: usize,
}

/// Totals since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls accepted.
    pub calls: u64,
    /// How often a call began to wait for its service to appear.
    pub waits: u64,
    /// Calls without answer accepted.
    pub notifications: u64,
    /// Answers to calls that had already ended: too late, cancelled, or never made.
    pub late_answers: u64,
    /// Requests handed to the driver.
    pub requests: u64,
    /// Requests that the session answered with an error by itself.
    pub requests_refused: u64,
    /// Frames of a type that a client does not know.
    pub unknown_frames: u64,
    /// Lanes that were opened at both ends.
    pub lanes_opened: u64,
    /// Lanes that were lost, with whatever was on them.
    pub lanes_lost: u64,
    /// Registrations acknowledged.
    pub registrations: u64,
    /// Connections that were lost after they were registered.
    pub connections_lost: u64,
}
