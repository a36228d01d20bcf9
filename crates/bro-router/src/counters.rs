//! What the router has done since it started.

/// No counter goes further. Those that count themselves never come near it; those that peers tell stop there.
pub(crate) const COUNT_MAX: u64 = u64::MAX / 2;

/// Totals since the start. Plain numbers: one thread owns the router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Counters {
    /// Connections accepted.
    pub connections: u64,
    /// Connections closed by the gateway, for whatever reason but [`crate::CloseReason::Gone`].
    pub connections_dropped: u64,
    /// Accepted REGISTER frames.
    pub registrations: u64,
    /// Refused REGISTER frames.
    pub registrations_refused: u64,
    /// Frames received.
    pub frames_in: u64,
    /// Bytes received in whole frames, prefixes included.
    pub bytes_in: u64,
    /// Frames queued to peers.
    pub frames_out: u64,
    /// Bytes queued to peers, prefixes included.
    pub bytes_out: u64,
    /// Calls passed on to an instance.
    pub calls_routed: u64,
    /// Calls answered with an error at once, without being passed on.
    pub calls_refused: u64,
    /// Calls to the gateway itself.
    pub calls_introspection: u64,
    /// Answers passed on to their caller.
    pub responses_routed: u64,
    /// Answers that nobody waits for: late, forged, or to a caller that has gone.
    pub responses_dropped: u64,
    /// Calls in flight that ended because their deadline passed.
    pub calls_timed_out: u64,
    /// Calls in flight that ended because their callee went.
    pub calls_lost: u64,
    /// Calls in flight that ended because their caller went.
    pub calls_abandoned: u64,
    /// Calls in flight that were given up: by their caller, or with the call that they were made for.
    pub calls_cancelled: u64,
    /// Calls without answer that were passed on.
    pub notifications_routed: u64,
    /// Calls without answer that could not be passed on.
    pub notifications_dropped: u64,
    /// Lanes that were offered to two peers.
    pub lanes_offered: u64,
    /// Lanes that both peers opened.
    pub lanes_opened: u64,
    /// Lanes that did not come to be opened.
    pub lanes_failed: u64,
    /// Calls that ended on lanes, as their callers tell.
    pub lane_calls: u64,
    /// How many of them ended with an error.
    pub lane_errors: u64,
    /// Bytes that were sent on lanes, as those who sent them tell.
    pub lane_bytes: u64,
    /// Heartbeats received.
    pub heartbeats: u64,
    /// Frames of a type that means nothing to a gateway.
    pub frames_ignored: u64,
    /// Connections, registrations, calls and questions that the policy refused, or the reservation of names.
    #[serde(default)]
    pub permission_denied: u64,
    /// Connections closed because of bytes that make no sense.
    pub malformed: u64,
}

impl Counters {
    /// Every counter with the name it has on the wire, in the order of declaration.
    pub fn named(&self) -> [(&'static str, u64); 29] {
        [
            ("connections", self.connections),
            ("connectionsDropped", self.connections_dropped),
            ("registrations", self.registrations),
            ("registrationsRefused", self.registrations_refused),
            ("framesIn", self.frames_in),
            ("bytesIn", self.bytes_in),
            ("framesOut", self.frames_out),
            ("bytesOut", self.bytes_out),
            ("callsRouted", self.calls_routed),
            ("callsRefused", self.calls_refused),
            ("callsIntrospection", self.calls_introspection),
            ("responsesRouted", self.responses_routed),
            ("responsesDropped", self.responses_dropped),
            ("callsTimedOut", self.calls_timed_out),
            ("callsLost", self.calls_lost),
            ("callsAbandoned", self.calls_abandoned),
            ("callsCancelled", self.calls_cancelled),
            ("notificationsRouted", self.notifications_routed),
            ("notificationsDropped", self.notifications_dropped),
            ("lanesOffered", self.lanes_offered),
            ("lanesOpened", self.lanes_opened),
            ("lanesFailed", self.lanes_failed),
            ("laneCalls", self.lane_calls),
            ("laneErrors", self.lane_errors),
            ("laneBytes", self.lane_bytes),
            ("heartbeats", self.heartbeats),
            ("framesIgnored", self.frames_ignored),
            ("permissionDenied", self.permission_denied),
            ("malformed", self.malformed),
        ]
    }
}
