//! What the router reports of its work.

use crate::outbox::PeerId;
use bro_proto::ErrorCode;
use bro_proto::v1::Status;
use std::fmt;

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The peer closed it.
    Gone,
    /// The bytes made no sense, or were more than a frame may have.
    Malformed,
    /// The service name is taken, reserved or not acceptable, or the registration is otherwise refused.
    Refused,
    /// No REGISTER in time.
    NeverRegistered,
    /// No frame for three heartbeat intervals.
    Silent,
    /// A frame was begun and not finished in time.
    PartialFrame,
    /// The peer did not take what was sent to it.
    SlowReader,
    /// A new policy does not allow it, or not the service that it is.
    Denied,
    /// The gateway is stopping.
    Stopping,
}

impl CloseReason {
    /// A word for logs and `bro watch`.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::Gone => "gone",
            CloseReason::Malformed => "malformed",
            CloseReason::Refused => "refused",
            CloseReason::NeverRegistered => "never-registered",
            CloseReason::Silent => "silent",
            CloseReason::PartialFrame => "partial-frame",
            CloseReason::SlowReader => "slow-reader",
            CloseReason::Denied => "denied",
            CloseReason::Stopping => "stopping",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that happened. Texts are borrowed from where they lie: a driver copies what it keeps.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A connection was accepted.
    Connection {
        /// Its id.
        peer: PeerId,
        /// Process id by peer credentials, where known.
        pid: Option<u32>,
    },
    /// A connection was closed by either side.
    Closed {
        /// Its id.
        peer: PeerId,
        /// The service it belonged to, if it had registered.
        service: Option<&'a str>,
        /// Why.
        reason: CloseReason,
    },
    /// A service appeared: its first instance registered. Also sent when a live instance changes its methods.
    ServiceRegistered {
        /// Its name.
        service: &'a str,
        /// Its methods.
        methods: &'a [Box<str>],
        /// As the service said.
        version: Option<&'a str>,
        /// As the service said, as JSON text; empty when absent.
        metadata_json: &'a str,
    },
    /// A service disappeared: its last instance has gone.
    ServiceDisconnected {
        /// Its name.
        service: &'a str,
        /// Why the last instance went.
        reason: CloseReason,
    },
    /// A CALL was passed on to an instance.
    CallRouted {
        /// The caller's service.
        from: &'a str,
        /// The callee's service.
        to: &'a str,
        /// The method.
        method: &'a str,
        /// The id that the caller gave.
        request_id: &'a str,
        /// The context as JSON text.
        context_json: &'a str,
    },
    /// A call ended: a RESPONSE went to the caller, from the callee or from the gateway itself.
    ResponseRouted {
        /// The callee's service (or the name that was called, when there is none).
        from: &'a str,
        /// The caller's service.
        to: &'a str,
        /// The method that was called.
        method: &'a str,
        /// How it ended.
        status: Status,
        /// The id that the caller gave.
        request_id: &'a str,
        /// Set when the gateway itself answered.
        gateway_code: Option<ErrorCode>,
        /// Microseconds since the CALL was routed; 0 when it was refused at once.
        elapsed_us: u64,
    },
    /// Something that an operator should know: a misbehaving peer, a limit reached.
    Warning {
        /// The peer it is about.
        peer: Option<PeerId>,
        /// Its service, when it has registered.
        service: Option<&'a str>,
        /// What happened.
        message: &'a str,
    },
}

impl Event<'_> {
    /// The bit of [`EventMask`] that asks for it.
    pub fn kind(&self) -> EventMask {
        match self {
            Event::Connection { .. } | Event::Closed { .. } => EventMask::CONNECTIONS,
            Event::ServiceRegistered { .. } | Event::ServiceDisconnected { .. } => EventMask::SERVICES,
            Event::CallRouted { .. } => EventMask::CALLS,
            Event::ResponseRouted { .. } => EventMask::RESPONSES,
            Event::Warning { .. } => EventMask::WARNINGS,
        }
    }
}

/// Which events somebody listens to. Work for an event is done only then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventMask(u8);

impl EventMask {
    /// Nothing.
    pub const NONE: EventMask = EventMask(0);
    /// [`Event::Connection`] and [`Event::Closed`].
    pub const CONNECTIONS: EventMask = EventMask(1);
    /// [`Event::ServiceRegistered`] and [`Event::ServiceDisconnected`].
    pub const SERVICES: EventMask = EventMask(2);
    /// [`Event::CallRouted`].
    pub const CALLS: EventMask = EventMask(4);
    /// [`Event::ResponseRouted`].
    pub const RESPONSES: EventMask = EventMask(8);
    /// [`Event::Warning`].
    pub const WARNINGS: EventMask = EventMask(16);
    /// Everything.
    pub const ALL: EventMask = EventMask(31);

    /// Both masks together.
    pub const fn with(self, other: EventMask) -> EventMask {
        EventMask(self.0 | other.0)
    }

    /// Whether all of `other` is wanted.
    pub const fn has(self, other: EventMask) -> bool {
        self.0 & other.0 == other.0
    }

    /// The mask as bits, for an atomic.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The mask of those bits; unknown bits are dropped.
    pub const fn from_bits(bits: u8) -> EventMask {
        EventMask(bits & Self::ALL.0)
    }
}
