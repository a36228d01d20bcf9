//! How the routers of the simulation are configured.

use crate::fault::Fault;
use crate::traffic::below;
use bro_proto::limits::{ENDS_PER_INPUT_MAX, LANE_BYTES, LANES_BYTES_MAX};
use bro_proto::rng::Rng;
use bro_router::{LanePolicy, RouterConfig};

/// What the router is told, where its defect is not to heed it.
pub(crate) fn defective(config: &RouterConfig, fault: Fault) -> RouterConfig {
    let lanes = if fault == Fault::EagerLane { LanePolicy::Always } else { config.lanes };
    let ends_per_input_max = if fault == Fault::EndAtOnce { ENDS_PER_INPUT_MAX } else { config.ends_per_input_max };
    RouterConfig { lanes, ends_per_input_max, ..config.clone() }
}

/// Limits so small that random traffic reaches them.
pub(crate) fn random_config(rng: &mut Rng) -> RouterConfig {
    let frame_bytes_max = 2048 << rng.below(2);
    // Of their own: what happens in a run does not depend on how many limits there are.
    let mut quotas = rng.clone();
    let mut ends = Rng::new(rng.clone().next_u64());
    RouterConfig {
        speaks_v2: rng.below(12) > 0,
        lanes: [LanePolicy::Off, LanePolicy::Auto, LanePolicy::Auto, LanePolicy::Always][below(4, rng)],
        lane_calls_min: 2 + u32::try_from(rng.below(3)).expect("small"),
        hands_over: false,
        heartbeat_interval_ms: 2000,
        call_timeout_ms: 1500,
        register_timeout_ms: 1000,
        partial_frame_timeout_ms: 1200,
        write_stall_timeout_ms: 1500,
        frame_bytes_max,
        depth_max: 9,
        peers_max: 6 + usize::try_from(rng.below(20)).expect("small"),
        in_flight_max: 60,
        in_flight_per_peer_max: 20,
        // As many as there are: what comes of more is in the tests of accounts.
        in_flight_per_callee_max: 60,
        // Mostly so few that what ends together ends in pieces.
        ends_per_input_max: if ends.below(4) == 0 { ENDS_PER_INPUT_MAX } else { 1 + below(5, &mut ends) },
        queue_pause_bytes: 2 * frame_bytes_max,
        queue_calls_bytes_max: 3 * frame_bytes_max,
        queue_bytes_max: 8 * frame_bytes_max,
        // Often too little for everything that happens.
        memory_max: if quotas.below(3) == 0 { (20 << 10) + below(60 << 10, &mut quotas) } else { 1 << 30 },
        uid_share_percent: if quotas.below(4) == 0 { 100 } else { 75 },
        peers_per_uid_max: 5 + below(25, &mut quotas),
        connect_burst: 1 << 20,
        connect_rate_per_s: 1000,
        lanes_bytes_max: if quotas.below(3) == 0 { (1 + below(8, &mut quotas)) * LANE_BYTES } else { LANES_BYTES_MAX },
    }
}
