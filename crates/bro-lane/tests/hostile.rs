//! A peer that writes whatever it likes into the memory: the other side gets errors, and neither panics nor hangs nor reads beyond.
#![cfg(not(loom))]

mod common;

use bro_lane::{Lane, LaneError, LaneOptions, PushError, Side, Violation, Waited, create};
use bro_proto::rng::Rng;
use common::{SMALL, below};
use rustix::fd::OwnedFd;
use rustix::io::{pread, pwrite};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where things are, from `docs/lanes.md`, seen from the first side: it sends in direction 0 and receives in direction 1.
const OUT: usize = 512;
const IN: usize = 1024;
const TAIL: usize = 0;
const ARENA_TAIL: usize = 16;
const HEAD: usize = 128;
const ARENA_HEAD: usize = 136;
const NEED_WAKE: usize = 256;
const NEED_SPACE: usize = 260;
const CLOSED: usize = 264;
const RING_IN: usize = 4096 + SMALL.ring_bytes;
const TOTAL: usize = 4096 + 2 * (SMALL.ring_bytes + SMALL.arena_bytes);
const LARGE: u64 = 1 << 32;

/// The first side, and the memory as its peer has it.
struct Victim {
    lane: Lane,
    memory: OwnedFd,
    /// Everything else of the peer, so that nothing hangs up.
    _peer: [OwnedFd; 3],
}

impl Victim {
    fn new() -> Victim {
        let parts = create(SMALL).unwrap();
        let lane = Lane::open(Side::First, parts.first, LaneOptions::default()).unwrap();
        let second = parts.second;
        Victim { lane, memory: second.memory, _peer: [second.bell, second.peer_bell, second.companion] }
    }

    fn word(&self, at: usize, word: u64) {
        pwrite(&self.memory, &word.to_ne_bytes(), at as u64).unwrap();
    }

    fn flag(&self, at: usize, flag: u32) {
        pwrite(&self.memory, &flag.to_ne_bytes(), at as u64).unwrap();
    }

    /// Publishes a record that begins with `word`, followed by as many bytes as the ring has.
    fn record(&self, word: u64, published: u64) {
        self.word(RING_IN, word);
        self.word(IN + TAIL, published);
    }

    fn violation(&mut self) -> Violation {
        let mut out = b"before".to_vec();
        let error = self.lane.pop(&mut out).unwrap_err();
        assert_eq!(out, b"before", "nothing of a bad record is handed out");
        assert_eq!(self.lane.pop(&mut out), Err(error), "dead is dead");
        assert_eq!(self.lane.push(&[b"x"]), Err(PushError::Broken(error)));
        assert_eq!(self.lane.flush(), Err(error));
        assert_eq!(self.lane.arm(), Err(error));
        assert_eq!(self.lane.wait(Some(Duration::ZERO)), Err(error));
        match error {
            LaneError::Violation(violation) => violation,
            error => panic!("{error}"),
        }
    }
}

#[test]
fn ends_that_no_honest_peer_has_are_violations() {
    let ring = SMALL.ring_bytes as u64;
    for tail in [1, 7, 12, ring + 8, ring * 2, 1 << 32, 1 << 63, u64::MAX, u64::MAX - 7] {
        let mut victim = Victim::new();
        victim.word(IN + TAIL, tail);
        assert_eq!(victim.violation(), Violation::Tail { from: 0, to: tail });
    }
    let mut victim = Victim::new();
    victim.record(8, 32);
    assert_eq!(victim.lane.pop(&mut Vec::new()), Ok(Some(8)));
    assert_eq!(victim.lane.pop(&mut Vec::new()), Ok(Some(0)));
    assert_eq!(victim.lane.pop(&mut Vec::new()), Ok(Some(0)));
    victim.word(IN + TAIL, 24);
    assert_eq!(victim.violation(), Violation::Tail { from: 32, to: 24 });
}

#[test]
fn records_that_claim_too_much_are_violations() {
    let inline_max = SMALL.ring_bytes as u64 / 4 - 8;
    for (word, published, limit) in [
        (1, 8, 0),
        (9, 16, 8),
        (u64::from(u32::MAX), 16, 8),
        (inline_max + 1, SMALL.ring_bytes as u64, inline_max),
        (u64::from(u32::MAX), SMALL.ring_bytes as u64, inline_max),
        (LARGE, 8, SMALL.arena_bytes as u64),
        (LARGE | inline_max, 8, SMALL.arena_bytes as u64),
        (LARGE | (SMALL.arena_bytes as u64 + 1), 8, SMALL.arena_bytes as u64),
        (LARGE | u64::from(u32::MAX), 8, SMALL.arena_bytes as u64),
    ] {
        let mut victim = Victim::new();
        victim.record(word, published);
        let bytes = word & u64::from(u32::MAX);
        assert_eq!(victim.violation(), Violation::RecordBytes { bytes, limit }, "{word:#x}");
    }
    for word in [1 << 33, 1 << 63, u64::MAX, LARGE << 1 | 8] {
        let mut victim = Victim::new();
        victim.record(word, 64);
        assert_eq!(victim.violation(), Violation::Kind { word });
    }
}

#[test]
fn a_large_record_that_never_comes_is_no_record() {
    let mut victim = Victim::new();
    victim.record(LARGE | 5000, 8);
    for written in [0, 1, 64, 4999] {
        victim.word(IN + ARENA_TAIL, written);
        assert_eq!(victim.lane.pop(&mut Vec::new()), Ok(None));
        assert!(!victim.lane.is_ready());
        assert_eq!(victim.lane.wait(Some(Duration::ZERO)), Ok(Waited::TimedOut));
    }
    victim.word(IN + ARENA_TAIL, 5000);
    assert!(victim.lane.is_ready());
    assert_eq!(victim.lane.pop(&mut Vec::new()), Ok(Some(5000)));
    for (before, after) in [(0, u64::MAX), (64, 0), (0, SMALL.arena_bytes as u64 + 1)] {
        let mut victim = Victim::new();
        victim.record(LARGE | 5000, 8);
        victim.word(IN + ARENA_TAIL, before);
        assert_eq!(victim.lane.pop(&mut Vec::new()), Ok(None));
        victim.word(IN + ARENA_TAIL, after);
        assert_eq!(victim.violation(), Violation::ArenaTail { from: before, to: after });
    }
}

/// A tail that is no multiple of what records are aligned to lies before the end of the record that it completes.
#[test]
fn an_end_of_the_arena_that_is_not_aligned_is_no_way_behind_the_consumer() {
    for (len, written) in [(5000, 5000), (5000, 5001), (5000, 5055)] {
        let mut victim = Victim::new();
        victim.record(LARGE | len, 8);
        victim.word(IN + ARENA_TAIL, written);
        assert_eq!(victim.lane.pop(&mut Vec::new()), Ok(Some(5000)));
        victim.word(RING_IN + 8, LARGE | len);
        victim.word(IN + TAIL, 16);
        assert_eq!(victim.violation(), Violation::ArenaTail { from: written, to: written });
    }
}

#[test]
fn acknowledgements_of_what_was_never_sent_are_violations() {
    for (at, to) in [(HEAD, 1 << 40), (HEAD, u64::MAX), (ARENA_HEAD, 64), (ARENA_HEAD, u64::MAX)] {
        let mut victim = Victim::new();
        victim.word(OUT + at, to);
        let mut pushed = Ok(());
        while pushed.is_ok() {
            pushed = victim.lane.push(&[&[0; 1000]]);
        }
        let Err(PushError::Broken(LaneError::Violation(violation))) = pushed else { panic!("{pushed:?}") };
        match violation {
            Violation::Head { from: 0, to: got, .. } => assert_eq!((at, got), (HEAD, to)),
            Violation::ArenaHead { from: 0, to: got, written: 0 } => assert_eq!((at, got), (ARENA_HEAD, to)),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn flags_cost_a_wakeup_at_most() {
    let mut victim = Victim::new();
    for round in 0..1000_u32 {
        victim.flag(OUT + NEED_WAKE, u32::MAX - round);
        victim.flag(IN + NEED_SPACE, u32::MAX - round);
        victim.lane.push(&[b"x"]).unwrap();
        victim.lane.flush().unwrap();
        victim.word(OUT + HEAD, u64::from(round + 1) * 16);
        victim.record(8, 16 * u64::from(round + 1));
        pwrite(&victim.memory, &8_u64.to_ne_bytes(), (RING_IN + round as usize * 16 % SMALL.ring_bytes) as u64)
            .unwrap();
        assert_eq!(victim.lane.pop(&mut Vec::new()), Ok(Some(8)));
    }
    assert!(victim.lane.counters().wakeups_sent <= 2000);
    victim.flag(IN + CLOSED, u32::MAX);
    assert!(victim.lane.is_peer_closed());
    assert_eq!(victim.lane.push(&[b"x"]), Err(PushError::Closed));
    victim.flag(IN + CLOSED, 0);
    assert_eq!(victim.lane.push(&[b"x"]), Ok(()));
}

/// What a side does all day, whatever comes.
fn work(lane: &mut Lane, rng: &mut Rng) -> Result<(), LaneError> {
    const ZEROS: &[u8] = &[0; 70_000];
    let (mut out, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..below(rng, 30) {
        match below(rng, 6) {
            0 | 1 => {
                let limit = [50, 2000, 70_000][below(rng, 3)];
                if let Err(PushError::Broken(error)) = lane.push(&[&ZEROS[..below(rng, limit)]]) {
                    return Err(error);
                }
            }
            2 => lane.flush()?,
            3 => {
                lane.pop_batch(&mut out, &mut ends, 20_000)?;
                assert!(out.len() <= 20_000 + SMALL.arena_bytes);
                assert_eq!(ends.last().copied().unwrap_or(0), out.len());
                out.clear();
                ends.clear();
            }
            4 => {
                lane.arm()?;
                lane.disarm();
            }
            _ => {
                lane.wait(Some(Duration::ZERO))?;
            }
        }
    }
    Ok(())
}

/// The places whose contents steer the victim.
const STEERING: [usize; 12] = [
    OUT + HEAD,
    OUT + ARENA_HEAD,
    OUT + NEED_WAKE,
    OUT + TAIL,
    IN + TAIL,
    IN + ARENA_TAIL,
    IN + NEED_SPACE,
    IN + CLOSED,
    IN + HEAD,
    RING_IN,
    RING_IN + 8,
    RING_IN + 16,
];

/// A word that may be plausible, in place of `old`.
fn forge(rng: &mut Rng, old: u64) -> u64 {
    match below(rng, 7) {
        0 => rng.next_u64(),
        1 => old.wrapping_add(rng.below(512) * 8),
        2 => old.wrapping_sub(rng.below(64) * 8),
        3 => rng.below(2 * SMALL.ring_bytes as u64),
        4 => LARGE | rng.below(2 * SMALL.arena_bytes as u64),
        5 => 0,
        _ => 1 << rng.below(64),
    }
}

#[test]
fn a_peer_that_scribbles_between_the_steps_gets_errors_only() {
    let (mut broken, mut alive) = (0, 0);
    for seed in 0..4000 {
        let mut rng = Rng::new(seed);
        let mut victim = Victim::new();
        let mut result = Ok(());
        for _ in 0..20 {
            result = work(&mut victim.lane, &mut rng);
            if result.is_err() {
                break;
            }
            for _ in 0..below(&mut rng, 4) {
                let at = match below(&mut rng, 3) {
                    0 => below(&mut rng, TOTAL / 8) * 8,
                    _ => STEERING[below(&mut rng, STEERING.len())],
                };
                let mut old = [0; 8];
                pread(&victim.memory, &mut old, at as u64).unwrap();
                victim.word(at, forge(&mut rng, u64::from_ne_bytes(old)));
            }
        }
        match result {
            Err(LaneError::Violation(_)) => broken += 1,
            Err(error) => panic!("seed {seed}: {error}"),
            Ok(()) => alive += 1,
        }
    }
    assert!(broken > 400 && alive > 40, "{broken} broken, {alive} alive: the test forges too little or too much");
}

/// The same while the victim is at work, so that words change between any two of its instructions.
#[test]
fn a_peer_that_scribbles_all_the_time_gets_errors_only() {
    for seed in 0..60 {
        let mut victim = Victim::new();
        let memory = victim.memory.try_clone().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let scribbler = {
            let is_over = is_over.clone();
            std::thread::spawn(move || {
                let mut rng = Rng::new(seed);
                let mut tail = 0_u64;
                while !is_over.load(Ordering::Relaxed) {
                    let at = STEERING[below(&mut rng, STEERING.len())];
                    // Mostly what keeps the lane alive, so that the rest meets it in every state.
                    let word = match (at, below(&mut rng, 20)) {
                        (_, 0) => forge(&mut rng, tail),
                        (RING_IN.., _) => [8, 0, 24, LARGE | 3000][below(&mut rng, 4)],
                        (_, _) => {
                            tail += rng.below(4) * 8;
                            tail
                        }
                    };
                    pwrite(&memory, &word.to_ne_bytes(), at as u64).unwrap();
                }
            })
        };
        let mut rng = Rng::new(seed + 1000);
        let mut result = Ok(());
        for _ in 0..200 {
            result = work(&mut victim.lane, &mut rng);
            if result.is_err() {
                break;
            }
        }
        is_over.store(true, Ordering::Relaxed);
        scribbler.join().unwrap();
        assert!(matches!(result, Ok(()) | Err(LaneError::Violation(_))), "seed {seed}: {result:?}");
    }
}
