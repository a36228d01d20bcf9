//! What LANE_OFFER, LANE_CLOSE and STATS carry. What travels on a lane is described in `docs/lanes.md`.

use super::encode::other;
use super::frame::FrameKind;
use crate::limits::SERVICE_NAME_BYTES_MAX;

/// An offer, as a client gets it. Four descriptors come with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer<'a> {
    /// This client has the first side.
    pub is_first: bool,
    /// Who is at the other end.
    pub service: &'a str,
}

impl<'a> Offer<'a> {
    /// Reads the payload of a LANE_OFFER; `None` when it makes no sense.
    pub fn parse(payload: &'a [u8]) -> Option<Offer<'a>> {
        let (&side, name) = payload.split_first()?;
        let service = std::str::from_utf8(name).ok()?;
        (side <= 1 && !service.is_empty() && service.len() <= SERVICE_NAME_BYTES_MAX)
            .then_some(Offer { is_first: side == 0, service })
    }
}

/// Appends a LANE_OFFER.
pub fn write_offer(out: &mut Vec<u8>, number: u64, is_first: bool, service: &str) {
    let mut payload = Vec::with_capacity(1 + service.len());
    payload.push(u8::from(!is_first));
    payload.extend_from_slice(service.as_bytes());
    other(out, FrameKind::LaneOffer, number, &payload);
}

/// Why a lane goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseLane {
    /// One of its ends is gone, or could not open it.
    Gone,
    /// The gateway takes it back: calls go through the gateway again.
    Revoked,
}

impl CloseLane {
    /// As the one byte that LANE_CLOSE carries.
    pub fn to_wire(self) -> u8 {
        match self {
            CloseLane::Gone => 0,
            CloseLane::Revoked => 1,
        }
    }

    /// Reads the payload of a LANE_CLOSE. What is unknown counts as gone.
    pub fn parse(payload: &[u8]) -> CloseLane {
        if payload.first() == Some(&1) { CloseLane::Revoked } else { CloseLane::Gone }
    }
}

/// What one end has done on a lane since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Calls that it made there and that have ended.
    pub calls: u64,
    /// How many of them ended with an error.
    pub errors: u64,
    /// Bytes that it sent.
    pub bytes: u64,
}

impl LaneStats {
    /// Reads the payload of a STATS; `None` when it is too short. What follows is of a later version.
    pub fn parse(payload: &[u8]) -> Option<LaneStats> {
        let words = payload.first_chunk::<24>()?;
        let word = |at: usize| u64::from_le_bytes(*words[at..].first_chunk().expect("within the words"));
        Some(LaneStats { calls: word(0), errors: word(8), bytes: word(16) })
    }

    /// Appends a STATS about a lane.
    pub fn write(&self, out: &mut Vec<u8>, number: u64) {
        let mut payload = [0; 24];
        for (place, word) in payload.chunks_exact_mut(8).zip([self.calls, self.errors, self.bytes]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        other(out, FrameKind::Stats, number, &payload);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Frame, parse};
    use super::*;

    #[test]
    fn lane_frames_read_back() {
        let mut frame = Vec::new();
        write_offer(&mut frame, 7, false, "user");
        let Ok(Frame::Other { kind: FrameKind::LaneOffer, id: 7, payload }) = parse(&frame) else { panic!() };
        assert_eq!(Offer::parse(payload), Some(Offer { is_first: false, service: "user" }));
        for bad in [&b""[..], b"\0", b"\x02user", b"\0\xff"] {
            assert_eq!(Offer::parse(bad), None);
        }
        let stats = LaneStats { calls: 1, errors: 2, bytes: u64::MAX };
        let mut frame = Vec::new();
        stats.write(&mut frame, 9);
        let Ok(Frame::Other { kind: FrameKind::Stats, id: 9, payload }) = parse(&frame) else { panic!() };
        assert_eq!(LaneStats::parse(payload), Some(stats));
        assert_eq!(LaneStats::parse(&payload[..23]), None);
        for why in [CloseLane::Gone, CloseLane::Revoked] {
            assert_eq!(CloseLane::parse(&[why.to_wire()]), why);
        }
        assert_eq!(CloseLane::parse(&[]), CloseLane::Gone);
    }
}
