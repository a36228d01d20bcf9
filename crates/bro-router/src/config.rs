//! What can be configured about routing.

use crate::lanes::LanePolicy;
use crate::quota::crowded_bytes_max;
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
    /// Calls in flight to one connection above which new ones are refused. Default [`limits::IN_FLIGHT_PER_CALLEE_MAX`].
    pub in_flight_per_callee_max: usize,
    /// Calls that end together at most until others are served. Default [`limits::ENDS_PER_INPUT_MAX`].
    pub ends_per_input_max: usize,
    /// Outbound bytes, CALLs not counted, above which a peer is no longer read from. Default [`limits::QUEUE_PAUSE_BYTES`].
    pub queue_pause_bytes: usize,
    /// Outbound bytes above which calls to a peer are refused. Default [`limits::QUEUE_CALLS_BYTES_MAX`].
    pub queue_calls_bytes_max: usize,
    /// Outbound bytes above which a peer is disconnected. Default [`limits::QUEUE_BYTES_MAX`].
    pub queue_bytes_max: usize,
    /// Bytes that all peers together may make the gateway keep; the last [`limits::MEMORY_RESERVE_PARTS`]th of it is for answers. At least
    /// [`limits::MEMORY_MAX_MIN`]. Default [`limits::MEMORY_MAX`].
    pub memory_max: usize,
    /// How much of what the others leave of memory, connections, calls in flight, registrations, routes, contexts, parked calls,
    /// lanes and their memory one user may take, in percent; 100 lets one take all. Default [`limits::UID_SHARE_PERCENT`].
    pub uid_share_percent: u8,
    /// Most connections of one user. Default [`limits::PEERS_PER_UID_MAX`].
    pub peers_per_uid_max: usize,
    /// Connections that one user may open at once. Default [`limits::CONNECT_BURST`].
    pub connect_burst: u32,
    /// Connections that one user may open in the long run, per second. Default [`limits::CONNECT_RATE_PER_S`].
    pub connect_rate_per_s: u32,
    /// Whether version 2 is spoken with peers that offer it. True by default.
    pub speaks_v2: bool,
    /// Which pairs of peers are offered lanes. [`LanePolicy::Auto`] by default.
    pub lanes: LanePolicy,
    /// Calls from one peer to another within [`limits::LANE_BUSY_WINDOW_MS`] that bring them a lane with [`LanePolicy::Auto`]. Default
    /// [`limits::LANE_BUSY_CALLS`].
    pub lane_calls_min: u32,
    /// Bytes of shared memory that all lanes together may take when they are used to the full; beyond, pairs get none, and their calls go through
    /// the gateway. Default [`limits::LANES_BYTES_MAX`].
    pub lanes_bytes_max: usize,
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
            in_flight_per_callee_max: limits::IN_FLIGHT_PER_CALLEE_MAX,
            ends_per_input_max: limits::ENDS_PER_INPUT_MAX,
            queue_pause_bytes: limits::QUEUE_PAUSE_BYTES,
            queue_calls_bytes_max: limits::QUEUE_CALLS_BYTES_MAX,
            queue_bytes_max: limits::QUEUE_BYTES_MAX,
            memory_max: limits::MEMORY_MAX,
            uid_share_percent: limits::UID_SHARE_PERCENT,
            peers_per_uid_max: limits::PEERS_PER_UID_MAX,
            connect_burst: limits::CONNECT_BURST,
            connect_rate_per_s: limits::CONNECT_RATE_PER_S,
            speaks_v2: true,
            lanes: LanePolicy::Auto,
            lane_calls_min: limits::LANE_BUSY_CALLS,
            lanes_bytes_max: limits::LANES_BYTES_MAX,
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
        "queue_pause_bytes must be below queue_calls_bytes_max, and 1.5 of that plus frame_bytes_max below queue_bytes_max"
    )]
    QueueOrder,
    /// Hardly anything would fit into the memory.
    #[error("memory_max must be at least {}", limits::MEMORY_MAX_MIN)]
    MemoryTooSmall,
    /// No share of a whole.
    #[error("uid_share_percent must be from 1 to 100")]
    ShareOutOfRange,
    /// A frame prefix could not announce such a body.
    #[error("frame_bytes_max must fit 32 bits")]
    FrameTooLarge,
    /// No program could register.
    #[error("frame_bytes_max must be at least {}", limits::FRAME_BYTES_MAX_MIN)]
    FrameTooSmall,
}

impl RouterConfig {
    /// Checks that the options fit together; drivers do so before they start.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (name, value) in [
            ("depth_max", self.depth_max as usize),
            ("peers_max", self.peers_max),
            ("in_flight_max", self.in_flight_max),
            ("in_flight_per_peer_max", self.in_flight_per_peer_max),
            ("in_flight_per_callee_max", self.in_flight_per_callee_max),
            ("ends_per_input_max", self.ends_per_input_max),
            ("queue_pause_bytes", self.queue_pause_bytes),
            ("peers_per_uid_max", self.peers_per_uid_max),
            ("connect_burst", self.connect_burst as usize),
            ("connect_rate_per_s", self.connect_rate_per_s as usize),
        ] {
            if value == 0 {
                return Err(ConfigError::Zero { name });
            }
        }
        if self.memory_max < limits::MEMORY_MAX_MIN {
            return Err(ConfigError::MemoryTooSmall);
        }
        if !(1..=100).contains(&self.uid_share_percent) {
            return Err(ConfigError::ShareOutOfRange);
        }
        if self.frame_bytes_max < limits::FRAME_BYTES_MAX_MIN {
            return Err(ConfigError::FrameTooSmall);
        }
        if self.frame_bytes_max > u32::MAX as usize {
            return Err(ConfigError::FrameTooLarge);
        }
        let calls_end = crowded_bytes_max(self.queue_calls_bytes_max).saturating_add(self.frame_bytes_max);
        if self.queue_pause_bytes >= self.queue_calls_bytes_max || calls_end >= self.queue_bytes_max {
            return Err(ConfigError::QueueOrder);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_with_which_nobody_could_be_served_are_refused() {
        let told = |config: RouterConfig| config.check().map_err(|error| error.to_string());
        assert_eq!(told(RouterConfig::default()), Ok(()));
        let of_nothing = RouterConfig { depth_max: 0, ..RouterConfig::default() };
        assert_eq!(told(of_nothing), Err("depth_max must be more than 0".to_owned()));
        let of_frames = |frame_bytes_max| told(RouterConfig { frame_bytes_max, ..RouterConfig::default() });
        assert_eq!(of_frames(1023), Err("frame_bytes_max must be at least 1024".to_owned()));
        assert_eq!(of_frames(1024), Ok(()));
    }
}
