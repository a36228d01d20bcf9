//! What a gateway reports to the program that embeds it.

use bro_proto::ErrorCode;
use bro_proto::v1::Status;
use bro_router::{CloseReason, Event, EventMask, PeerId};
use std::path::PathBuf;

/// One thing that happened, as an owned value. The names of the variants are the readme's event names.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum GatewayEvent {
    /// The gateway listens.
    Started {
        /// Where.
        socket_path: PathBuf,
    },
    /// The gateway has ended; there are no events after this one.
    Stopped,
    /// The listening socket or a file around it is in trouble.
    SocketError {
        /// What happened.
        message: String,
    },
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
        service: Option<String>,
        /// Why.
        reason: CloseReason,
    },
    /// A service appeared, or changed its methods.
    ServiceRegistered {
        /// Its name.
        service: String,
        /// Its methods.
        methods: Vec<String>,
        /// As the service said.
        version: Option<String>,
        /// As the service said, as JSON text; empty when absent.
        metadata_json: String,
    },
    /// A service disappeared: its last connection has gone.
    ServiceDisconnected {
        /// Its name.
        service: String,
        /// Why the last connection went.
        reason: CloseReason,
    },
    /// A CALL was passed on.
    CallRouted {
        /// The caller's service.
        from: String,
        /// The callee's service.
        to: String,
        /// The method.
        method: String,
        /// The id that the caller gave.
        request_id: String,
        /// The context as JSON text.
        context_json: String,
    },
    /// A call ended: a RESPONSE went to the caller.
    ResponseRouted {
        /// The callee's service.
        from: String,
        /// The caller's service.
        to: String,
        /// The method that was called.
        method: String,
        /// How it ended.
        status: Status,
        /// The id that the caller gave.
        request_id: String,
        /// Set when the gateway itself answered.
        gateway_code: Option<ErrorCode>,
        /// Microseconds since the CALL was routed; 0 when it was refused at once.
        elapsed_us: u64,
    },
    /// Something that an operator should know.
    Warning {
        /// The peer it is about.
        peer: Option<PeerId>,
        /// Its service, when it has registered.
        service: Option<String>,
        /// What happened.
        message: String,
    },
}

impl From<&Event<'_>> for GatewayEvent {
    fn from(event: &Event<'_>) -> Self {
        match event {
            Event::Connection { peer, pid } => GatewayEvent::Connection { peer: *peer, pid: *pid },
            Event::Closed { peer, service, reason } => {
                GatewayEvent::Closed { peer: *peer, service: service.map(str::to_owned), reason: *reason }
            }
            Event::ServiceRegistered { service, methods, version, metadata_json } => GatewayEvent::ServiceRegistered {
                service: (*service).to_owned(),
                methods: methods.iter().map(|method| String::from(&**method)).collect(),
                version: version.map(str::to_owned),
                metadata_json: (*metadata_json).to_owned(),
            },
            Event::ServiceDisconnected { service, reason } => {
                GatewayEvent::ServiceDisconnected { service: (*service).to_owned(), reason: *reason }
            }
            Event::CallRouted { from, to, method, request_id, context_json } => GatewayEvent::CallRouted {
                from: (*from).to_owned(),
                to: (*to).to_owned(),
                method: (*method).to_owned(),
                request_id: (*request_id).to_owned(),
                context_json: (*context_json).to_owned(),
            },
            Event::ResponseRouted { from, to, method, status, request_id, gateway_code, elapsed_us } => {
                GatewayEvent::ResponseRouted {
                    from: (*from).to_owned(),
                    to: (*to).to_owned(),
                    method: (*method).to_owned(),
                    status: *status,
                    request_id: (*request_id).to_owned(),
                    gateway_code: gateway_code.clone(),
                    elapsed_us: *elapsed_us,
                }
            }
            Event::Warning { peer, service, message } => GatewayEvent::Warning {
                peer: *peer,
                service: service.map(str::to_owned),
                message: (*message).to_owned(),
            },
        }
    }
}

/// The mask bit that an event of the router belongs to.
pub(crate) fn mask_of(event: &Event<'_>) -> EventMask {
    match event {
        Event::Connection { .. } | Event::Closed { .. } => EventMask::CONNECTIONS,
        Event::ServiceRegistered { .. } | Event::ServiceDisconnected { .. } => EventMask::SERVICES,
        Event::CallRouted { .. } => EventMask::CALLS,
        Event::ResponseRouted { .. } => EventMask::RESPONSES,
        Event::Warning { .. } => EventMask::WARNINGS,
    }
}
