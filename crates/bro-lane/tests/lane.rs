//! Both ends of a lane in one process: what goes in comes out, and what does not fit is refused.
#![cfg(not(loom))]

mod common;

use bro_lane::{Lane, LaneConfig, LaneError, LaneOptions, PushError, Waited, create};
use bro_proto::limits;
use bro_proto::rng::Rng;
use common::{SMALL, below, bytes, has_rung, open, pair};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::time::Duration;

/// The next record of `lane`, which must exist.
fn pop(lane: &mut Lane) -> Vec<u8> {
    let mut record = Vec::new();
    let len = lane.pop(&mut record).unwrap().expect("a record");
    assert_eq!(len, record.len());
    record
}

#[test]
fn records_of_every_size_around_every_boundary_arrive_whole() {
    let (mut near, mut far) = pair(SMALL);
    let inline_max = limits::LANE_RING_BYTES_MIN / 4 - 8;
    let arena = limits::LANE_ARENA_BYTES_MIN;
    let edges = [0, 8, 56, 64, inline_max, inline_max + 64, 4096, arena / 2, arena - 64, arena];
    let sizes: Vec<usize> = edges.iter().flat_map(|edge| edge.saturating_sub(9)..=(edge + 9).min(arena)).collect();
    // Each size after each place that the one before left the ring and the arena at: several times around both.
    for (seed, len) in sizes.iter().chain(sizes.iter().rev()).enumerate() {
        let record = bytes(seed as u64, *len);
        let (a, b) = record.split_at(len / 3);
        near.push(&[a, &[], b]).unwrap();
        near.flush().unwrap();
        assert!(pop(&mut far) == record, "{len} bytes");
        far.push(&[&record]).unwrap();
        far.flush().unwrap();
        assert!(pop(&mut near) == record, "{len} bytes back");
    }
    let (out, back) = (near.counters(), far.counters());
    assert_eq!((out.records_out, out.bytes_out, out.records_in), (back.records_in, back.bytes_in, back.records_out));
    assert!(out.large_out > 0 && out.large_out < out.records_out);
}

#[test]
fn nothing_is_seen_before_the_flush_and_all_after_it() {
    let (mut near, mut far) = pair(SMALL);
    for record in 0..10_u8 {
        near.push(&[&[record; 3]]).unwrap();
        assert!(!far.is_ready());
        assert_eq!(far.pop(&mut Vec::new()), Ok(None));
    }
    near.flush().unwrap();
    let (mut out, mut ends) = (Vec::new(), Vec::new());
    assert_eq!(far.pop_batch(&mut out, &mut ends, 3 * 11), Ok(3), "the budget ends the batch");
    assert_eq!(far.pop_batch(&mut out, &mut ends, 0), Ok(1), "one at least");
    assert_eq!(far.pop_batch(&mut out, &mut ends, usize::MAX), Ok(6));
    assert_eq!(ends, (1..=10).map(|count| count * 3).collect::<Vec<_>>());
    assert_eq!(out, (0..10).flat_map(|record| [record; 3]).collect::<Vec<_>>());
    assert_eq!(far.pop_batch(&mut out, &mut ends, usize::MAX), Ok(0));
}

#[test]
fn a_sleeper_is_woken_once_and_nobody_else_ever() {
    let (mut near, mut far) = pair(SMALL);
    for _ in 0..100 {
        near.push(&[b"awake"]).unwrap();
        near.flush().unwrap();
        pop(&mut far);
    }
    assert_eq!(near.counters().wakeups_sent, 0);
    assert!(!far.arm().unwrap());
    for _ in 0..3 {
        near.push(&[b"asleep"]).unwrap();
        near.flush().unwrap();
    }
    assert_eq!(near.counters().wakeups_sent, 1);
    assert!(has_rung(far.bell()));
    far.clear_bell();
    assert!(!has_rung(far.bell()));
    assert!(far.arm().unwrap(), "there is something: no sleep");
    for _ in 0..3 {
        pop(&mut far);
    }
    near.push(&[b"announced nothing"]).unwrap();
    near.flush().unwrap();
    assert_eq!(near.counters().wakeups_sent, 1);
    pop(&mut far);
    assert!(!far.arm().unwrap());
    far.disarm();
    near.push(&[b"awake again"]).unwrap();
    near.flush().unwrap();
    assert_eq!(near.counters().wakeups_sent, 1);
}

#[test]
fn what_was_pushed_is_flushed_before_sleeping() {
    let (mut near, mut far) = pair(SMALL);
    near.push(&[b"forgotten"]).unwrap();
    assert!(!near.arm().unwrap());
    assert_eq!(pop(&mut far), b"forgotten");
    near.push(&[b"forgotten too"]).unwrap();
    assert_eq!(near.wait(Some(Duration::ZERO)), Ok(Waited::TimedOut));
    assert_eq!(pop(&mut far), b"forgotten too");
}

/// For the ring (small records) and for the arena (large ones).
#[test]
fn a_full_lane_refuses_and_rings_when_there_is_room() {
    for len in [0, 100, limits::LANE_RING_BYTES_MIN / 4 - 8, 5000, limits::LANE_ARENA_BYTES_MIN] {
        let (mut near, mut far) = pair(SMALL);
        for round in 0..20 {
            let record = bytes(round, len);
            let mut pushed = 0;
            while near.push(&[&record]) == Ok(()) {
                pushed += 1;
            }
            assert!(pushed >= 1, "an empty lane takes a record of {len} bytes");
            assert_eq!(near.push(&[&record]), Err(PushError::Full));
            assert!(!near.is_ready() && !has_rung(near.bell()));
            let mut rung_after = None;
            for count in 0..pushed {
                assert!(pop(&mut far) == record);
                if rung_after.is_none() && has_rung(near.bell()) {
                    rung_after = Some(count);
                    assert!(near.is_ready());
                    assert_eq!(near.wait(None), Ok(Waited::Ready));
                    near.clear_bell();
                }
            }
            // Going to sleep gives back the rest.
            assert!(!far.arm().unwrap());
            assert!(rung_after.is_some() || has_rung(near.bell()), "{len} bytes: room is announced");
            near.clear_bell();
            far.disarm();
            assert_eq!(near.push(&[&record]), Ok(()), "there is room");
            near.flush().unwrap();
            assert!(pop(&mut far) == record);
        }
        let wakeups = far.counters().wakeups_sent;
        assert!((20..=40).contains(&wakeups), "{len} bytes: {wakeups} wakeups for 20 times full");
    }
}

#[test]
fn a_full_lane_shows_what_it_has() {
    let (mut near, mut far) = pair(SMALL);
    assert!(!far.arm().unwrap());
    while near.push(&[&[1; 1000]]) == Ok(()) {}
    assert!(has_rung(far.bell()), "never flushed, but the reader has to make room");
    assert_eq!(pop(&mut far), [1; 1000]);
}

#[test]
fn room_that_is_not_needed_any_more_rings_no_bell() {
    let (mut near, mut far) = pair(SMALL);
    while near.push(&[&[1; 1000]]) == Ok(()) {}
    near.push(&[]).expect("a small record still fits, and takes the announcement back");
    while far.pop(&mut Vec::new()).unwrap().is_some() {}
    assert!(!far.arm().unwrap());
    assert!(!has_rung(near.bell()));
}

#[test]
fn records_that_never_fit_are_told_apart() {
    let (mut near, mut far) = pair(SMALL);
    let limit = near.record_bytes_max();
    assert_eq!(limit, limits::LANE_ARENA_BYTES_MIN);
    let large = vec![0; limit];
    assert_eq!(near.push(&[&large, b"1"]), Err(PushError::TooLarge { bytes: limit + 1, limit }));
    assert_eq!(near.push(&[&large]), Ok(()));
    near.flush().unwrap();
    assert_eq!(pop(&mut far).len(), limit);
    let largest = LaneConfig { ring_bytes: limits::LANE_RING_BYTES_MAX, arena_bytes: limits::LANE_ARENA_BYTES_MAX };
    assert_eq!(pair(largest).0.record_bytes_max(), limits::LANE_RECORD_BYTES_MAX);
}

#[test]
fn closing_wakes_the_peer_and_loses_nothing() {
    let (mut near, mut far) = pair(SMALL);
    assert!(!far.arm().unwrap());
    far.disarm();
    far.push(&[b"on its way"]).unwrap();
    far.flush().unwrap();
    near.push(&[b"last"]).unwrap();
    near.close();
    near.close();
    assert_eq!(near.push(&[b"later"]), Err(PushError::Closed));
    assert_eq!(pop(&mut near), b"on its way");
    assert!(has_rung(far.bell()));
    assert!(far.is_peer_closed() && !near.is_peer_closed());
    assert_eq!(far.wait(None), Ok(Waited::Ready));
    assert_eq!(far.push(&[b"nobody reads"]), Err(PushError::Closed));
    assert_eq!(pop(&mut far), b"last");
    assert_eq!(far.pop(&mut Vec::new()), Ok(None));
    assert!(!far.is_peer_gone());
    drop(near);
    assert!(far.is_peer_gone());
}

#[test]
fn dropping_closes() {
    let (near, mut far) = pair(SMALL);
    drop(near);
    assert_eq!(far.wait(None), Ok(Waited::Ready));
    assert!(far.is_peer_closed() && far.is_peer_gone());
    let (mut near, far) = pair(SMALL);
    near.push(&[b"not flushed"]).unwrap();
    let mut far = (near, far).1;
    assert_eq!(pop(&mut far), b"not flushed");
}

#[test]
fn waiting_ends_at_its_time() {
    let (mut near, _far) = pair(SMALL);
    assert_eq!(near.wait(Some(Duration::ZERO)), Ok(Waited::TimedOut));
    assert_eq!(near.wait(Some(Duration::from_millis(3))), Ok(Waited::TimedOut));
    assert_eq!(near.counters().sleeps, 2);
}

/// A bell that rings for nothing, or for what was popped already, does not end a wait, and no wakeup is lost by it.
#[test]
fn stray_rings_are_slept_through() {
    let parts = create(SMALL).unwrap();
    let stray = parts.first.bell.try_clone().unwrap();
    let (mut near, mut far) = open(parts, LaneOptions::default());
    rustix::io::write(&stray, &7_u64.to_ne_bytes()).unwrap();
    assert_eq!(near.wait(Some(Duration::from_millis(1))), Ok(Waited::TimedOut));
    rustix::io::write(&stray, &7_u64.to_ne_bytes()).unwrap();
    let waiting = std::thread::spawn(move || near.wait(None));
    // Whatever sleeps when: each of these is enough to wake it.
    far.push(&[b"x"]).unwrap();
    far.flush().unwrap();
    assert_eq!(waiting.join().unwrap(), Ok(Waited::Ready));
}

#[test]
fn two_threads_pass_everything_in_order_whatever_sleeps() {
    for (seed, spin_us) in [(1, 0), (2, 20), (3, 0)] {
        let options = LaneOptions { spin: bro_lane::SpinConfig { spin_us }, ..LaneOptions::default() };
        let (mut near, mut far) = open(create(SMALL).unwrap(), options);
        let sizes = |seed| {
            let mut rng = Rng::new(seed);
            std::iter::repeat_with(move || {
                let limit = [16, 1500, 60_000][below(&mut rng, 3)];
                below(&mut rng, limit)
            })
        };
        let reader = std::thread::spawn(move || {
            let mut pauses = Rng::new(seed + 100);
            for (index, len) in sizes(seed).take(5000).enumerate() {
                let mut record = Vec::new();
                while far.pop(&mut record).unwrap().is_none() {
                    assert_eq!(far.wait(None), Ok(Waited::Ready));
                }
                assert!(record == bytes(index as u64, len), "record {index}");
                if pauses.below(50) == 0 {
                    std::thread::yield_now();
                }
            }
            far.counters()
        });
        for (index, len) in sizes(seed).take(5000).enumerate() {
            let record = bytes(index as u64, len);
            while let Err(error) = near.push(&[&record]) {
                assert_eq!(error, PushError::Full);
                assert_eq!(near.wait(None), Ok(Waited::Ready));
            }
            if index % 7 == 0 {
                near.flush().unwrap();
            }
        }
        near.flush().unwrap();
        let read = reader.join().unwrap();
        assert_eq!((read.records_in, read.bytes_in), (5000, near.counters().bytes_out));
    }
}

/// What a lane should hold, step by step.
#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Flush,
    Pop(usize),
    Arm,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![4 => 0..40_usize, 3 => 900..1100_usize, 2 => 1000..9000_usize, 1 => 30_000..70_000_usize];
    let step = prop_oneof![
        6 => len.prop_map(Step::Push),
        2 => Just(Step::Flush),
        3 => (1..6_usize).prop_map(Step::Pop),
        1 => Just(Step::Arm),
    ];
    proptest::collection::vec(step, 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_lane_is_a_queue(steps in steps()) {
        let (mut near, mut far) = pair(SMALL);
        let (mut hidden, mut visible) = (VecDeque::new(), VecDeque::new());
        let mut is_armed = false;
        for (index, step) in steps.into_iter().enumerate() {
            let rung = near.counters().wakeups_sent;
            match step {
                Step::Push(len) => {
                    let record = bytes(index as u64, len);
                    match near.push(&[&record]) {
                        Ok(()) => hidden.push_back(record),
                        Err(PushError::TooLarge { bytes, .. }) => prop_assert_eq!(bytes, len),
                        Err(error) => {
                            prop_assert_eq!(error, PushError::Full);
                            visible.append(&mut hidden);
                            prop_assert!(!visible.is_empty(), "an empty lane is not full");
                        }
                    }
                }
                Step::Flush => {
                    near.flush().unwrap();
                    visible.append(&mut hidden);
                }
                Step::Pop(count) => {
                    for _ in 0..count {
                        let mut record = Vec::new();
                        let popped = far.pop(&mut record).unwrap().map(|_| record);
                        prop_assert!(popped == visible.pop_front());
                    }
                }
                Step::Arm => {
                    let is_ready = far.arm().unwrap();
                    prop_assert_eq!(is_ready, !visible.is_empty());
                    is_armed = !is_ready;
                }
            }
            prop_assert_eq!(far.is_ready(), !visible.is_empty());
            let has_woken = near.counters().wakeups_sent > rung;
            prop_assert_eq!(has_woken, is_armed && !visible.is_empty());
            is_armed &= !has_woken;
        }
    }
}

#[test]
fn sizes_out_of_bounds_are_refused() {
    let good = LaneConfig::default();
    for bytes in [0, 1, 4095, 4097, limits::LANE_RING_BYTES_MAX * 2, usize::MAX] {
        let made = create(LaneConfig { ring_bytes: bytes, ..good });
        assert!(matches!(made, Err(LaneError::Size { what: "ring", .. })), "{bytes}");
    }
    for bytes in [0, 1, 65_535, 65_537, limits::LANE_ARENA_BYTES_MAX * 2, usize::MAX] {
        let made = create(LaneConfig { arena_bytes: bytes, ..good });
        assert!(matches!(made, Err(LaneError::Size { what: "arena", .. })), "{bytes}");
    }
}
