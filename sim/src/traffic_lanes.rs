//! What random peers say about lanes: that they have opened one, honestly, late, twice, never, or of one that is not theirs.

use crate::network::{Connection, Manner, remember};
use crate::traffic::below;
use crate::traffic_v2::{View, push};
use crate::wire_v2::{self, Body, Frame};
use bro_proto::limits::LANES_PER_PEER_MAX;
use bro_proto::rng::Rng;

/// An offer that a peer has got is answered in one way or another.
pub(crate) fn answer_offer(connection: &mut Connection, view: &View<'_>, rng: &mut Rng) {
    let at = below(connection.lane_offers.len() as u64, rng);
    let number = connection.lane_offers.swap_remove(at);
    remember(&mut connection.lanes, number);
    let kinds: &[u8] = match rng.below(20) {
        0 | 7..=12 => &[],
        1 => &[wire_v2::LANE_READY, wire_v2::LANE_READY],
        2 => &[wire_v2::LANE_CLOSE],
        3 => &[wire_v2::LANE_CLOSE, wire_v2::LANE_READY],
        4 => &[wire_v2::LANE_READY, wire_v2::LANE_CLOSE],
        // Later, perhaps too late.
        5 | 6 => return connection.lane_offers.push(number),
        _ => &[wire_v2::LANE_READY],
    };
    for &kind in kinds {
        say(connection, view, kind, number, Vec::new());
    }
}

/// Something about a lane that the peer has, had, or never had.
pub(crate) fn write(connection: &mut Connection, view: &View<'_>, rng: &mut Rng) {
    let own: Vec<u64> = connection.lanes.iter().copied().collect();
    let pick = |numbers: &[u64], rng: &mut Rng| match numbers.len() {
        0 => 1 + rng.below(6),
        len => numbers[below(len as u64, rng)],
    };
    let is_hostile = connection.manner == Manner::Hostile;
    match rng.below(16) {
        // Lanes of an earlier gateway, of which others tell too.
        0..4 => {
            let number = pick(view.recalled, rng);
            remember(&mut connection.lanes, number);
            say(connection, view, wire_v2::LANE_READY, number, Vec::new());
        }
        4 => say(connection, view, wire_v2::LANE_CLOSE, pick(&own, rng), vec![u8::from(rng.below(4) == 0)]),
        5 => say(connection, view, wire_v2::LANE_READY, pick(&own, rng), Vec::new()),
        6 if is_hostile => say(connection, view, wire_v2::LANE_READY, pick(view.lanes, rng), Vec::new()),
        7 if is_hostile => say(connection, view, wire_v2::LANE_CLOSE, pick(view.lanes, rng), Vec::new()),
        8 if is_hostile => say(connection, view, wire_v2::STATS, pick(view.lanes, rng), vec![1; below(40, rng)]),
        9 if is_hostile => say(connection, view, wire_v2::LANE_OFFER, rng.next_u64(), b"\0user".to_vec()),
        10 if is_hostile => {
            // More than anybody may have. Some are those of another that does the same.
            for _ in 0..LANES_PER_PEER_MAX + 8 {
                let number = if rng.below(2) == 0 { 7 + rng.below(300) } else { rng.next_u64() };
                say(connection, view, wire_v2::LANE_READY, number, Vec::new());
            }
        }
        _ => {
            let words: [u64; 3] = std::array::from_fn(|_| match rng.below(12) {
                0 => u64::MAX,
                1 => 0,
                _ => rng.below(100_000),
            });
            let payload = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            say(connection, view, wire_v2::STATS, pick(&own, rng), payload);
        }
    }
}

fn say(connection: &mut Connection, view: &View<'_>, kind: u8, number: u64, payload: Vec<u8>) {
    let frame = Frame { kind, flags: 0, codec: 0, id: number, body: Body::Other(payload) };
    push(connection, frame, None, view.shape);
}
