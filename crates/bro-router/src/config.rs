//! What can be configured about routing.

use crate::lanes::LanePolicy;
use bro_proto::limits;

/// Options of a [`crate::Router`]. All times are in milliseconds, all sizes in bytes.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// How often every service is expected to send a frame; silent for three of these, it is dropped.
    /// Default [`limits::HEARTBEAT_INTERVAL_MS`].
    pub heartbeat_interval_ms: u64,
    /// Time for a call that brings no deadline of its own. Default [`limits::CALL_TIMEOUT_MS`].
    pub call_timeout_ms: u64,
    /// How long a connection may stay without REGISTER. Default [`limits::REGISTER_TIMEOUT_MS`].
    pub register_timeout_ms: u64,
    /// How long a frame may stay incomplete. Default [`limits::PARTIAL_FRAME_TIMEOUT_MS`].
    pub partial_frame_timeout_ms: u64,
    /// How long a peer may take nothing from a non-empty queue. Default [`limits::WRITE_STALL_TIMEOUT_MS`].
    pub write_stall_timeout_ms: u64,
    /// Largest frame body. Default [`limits::FRAME_BYTES_MAX`].
    pub frame_bytes_max: usize,
    /// Deepest call chain. Default [`limits::DEPTH_MAX`].
    pub depth_max: u32,
    /// Most connections. Default [`limits::PEERS_MAX`].
    pub peers_max: usize,
    /// Most calls in flight. Default [`limits::IN_FLIGHT_MAX`].
    pub in_flight_max: usize,
    /// Most calls in flight by one connection. Default [`limits::IN_FLIGHT_PER_PEER_MAX`].
    pub in_flight_per_peer_max: usize,
    /// Outbound bytes, CALLs not counted, above which a peer is no longer read from. Default [`limits::QUEUE_PAUSE_BYTES`].
    pub queue_pause_bytes: usize,
    /// Outbound bytes above which calls to a peer are refused. Default [`limits::QUEUE_CALLS_BYTES_MAX`].
    pub queue_calls_bytes_max: usize,
    /// Outbound bytes above which a peer is disconnected. Default [`limits::QUEUE_BYTES_MAX`].
    pub queue_bytes_max: usize,
    /// Whether version 2 is spoken with peers that offer it. True by default.
    pub speaks_v2: bool,
    /// Which pairs of peers are offered lanes. [`LanePolicy::Auto`] by default.
    pub lanes: LanePolicy,
    /// Calls from one peer to another within [`limits::LANE_BUSY_WINDOW_MS`] that bring them a lane with [`LanePolicy::Auto`]. Default
    /// [`limits::LANE_BUSY_CALLS`].
    pub lane_calls_min: u32,
    /// Whether another gateway may take over; for drivers that carry it out. False by default.
    pub hands_over: bool,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            heartbeat_interval_ms: limits::HEARTBEAT_INTERVAL_MS,
            call_timeout_ms: limits::CALL_TIMEOUT_MS,
            register_timeout_ms: limits::REGISTER_TIMEOUT_MS,
            partial_frame_timeout_ms: limits::PARTIAL_FRAME_TIMEOUT_MS,
            write_stall_timeout_ms: limits::WRITE_STALL_TIMEOUT_MS,
            frame_bytes_max: limits::FRAME_BYTES_MAX,
            depth_max: limits::DEPTH_MAX,
            peers_max: limits::PEERS_MAX,
            in_flight_max: limits::IN_FLIGHT_MAX,
            in_flight_per_peer_max: limits::IN_FLIGHT_PER_PEER_MAX,
            queue_pause_bytes: limits::QUEUE_PAUSE_BYTES,
            queue_calls_bytes_max: limits::QUEUE_CALLS_BYTES_MAX,
            queue_bytes_max: limits::QUEUE_BYTES_MAX,
            speaks_v2: true,
            lanes: LanePolicy::Auto,
            lane_calls_min: limits::LANE_BUSY_CALLS,
            hands_over: false,
        }
    }
}

/// Limits that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A limit that must let something through lets nothing through.
    #[error("{name} must be more than 0")]
    Zero {
        /// The option.
        name: &'static str,
    },
    /// The three thresholds of a queue are out of order.
    #[error(
        "queue_pause_bytes must be below queue_calls_bytes_max, and that one plus frame_bytes_max below queue_bytes_max"
    )]
    QueueOrder,
    /// A frame prefix could not announce such a body.
    #[error("frame_bytes_max must fit 32 bits")]
    FrameTooLarge,
}

impl RouterConfig {
    /// Checks that the options fit together; drivers do so before they start.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (name, value) in [
            ("frame_bytes_max", self.frame_bytes_max),
            ("peers_max", self.peers_max),
            ("in_flight_max", self.in_flight_max),
            ("in_flight_per_peer_max", self.in_flight_per_peer_max),
            ("queue_pause_bytes", self.queue_pause_bytes),
        ] {
            if value == 0 {
                return Err(ConfigError::Zero { name });
            }
        }
        if self.frame_bytes_max > u32::MAX as usize {
            return Err(ConfigError::FrameTooLarge);
        }
        let calls_end = self.queue_calls_bytes_max.saturating_add(self.frame_bytes_max);
        if self.queue_pause_bytes >= self.queue_calls_bytes_max || calls_end >= self.queue_bytes_max {
            return Err(ConfigError::QueueOrder);
        }
        Ok(())
    }
}
