//! Every interleaving of the two ends of one direction, within a bound of preemptions: no record is lost, torn or doubled, and nobody
//! sleeps for ever. `RUSTFLAGS="--cfg loom" cargo test -p bro-lane --test loom --release`
#![cfg(loom)]

use bro_lane::memory::Direction;
use bro_lane::ring::{Begun, Inbound, Outbound};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// A thread is interrupted at most so often at moments when it could go on.
const PREEMPTIONS_MAX: usize = 3;
/// Two small records fill it.
const RING_BYTES: usize = 32;
/// One large record fills it.
const ARENA_BYTES: usize = 64;
const INLINE_BYTES_MAX: usize = 8;

/// An eventfd, as far as the protocol uses it.
#[derive(Default)]
struct Bell {
    has_rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.has_rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    /// Sleeps until it rings, and silences it. Loom fails the test when nobody is left who could ring.
    fn wait(&self) {
        let mut has_rung = self.has_rung.lock().unwrap();
        while !*has_rung {
            has_rung = self.changed.wait(has_rung).unwrap();
        }
        *has_rung = false;
    }
}

#[derive(Default)]
struct Bells {
    producer: Bell,
    consumer: Bell,
}

fn explore(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(test);
}

/// The `index`th record: large ones where `is_large` says so.
fn record(index: usize, is_large: fn(usize) -> bool) -> Vec<u8> {
    let len = if is_large(index) { INLINE_BYTES_MAX + 8 } else { INLINE_BYTES_MAX };
    vec![u8::try_from(index).unwrap() + 1; len]
}

/// Pushes `count` records, `batch` of them between two publications, and sleeps when there is no room.
fn produce(shared: Direction, bells: &Bells, count: usize, batch: usize, is_large: fn(usize) -> bool) {
    let mut outbound = Outbound::new(shared);
    let publish = |outbound: &mut Outbound| {
        if outbound.publish(None) {
            bells.consumer.ring();
        }
    };
    for index in 0..count {
        let record = record(index, is_large);
        let (a, b) = record.split_at(8);
        let mut begun = outbound.begin(&[a, b], record.len());
        while begun == Begun::Full {
            if !outbound.look_for_room(record.len()).unwrap() {
                publish(&mut outbound);
                if !outbound.announce(record.len()).unwrap() {
                    bells.producer.wait();
                }
            }
            begun = outbound.begin(&[a, b], record.len());
        }
        if begun == Begun::Large {
            // As when the consumer is on another CPU: it can see the record before its bytes.
            publish(&mut outbound);
            outbound.fill(&[a, b]);
        }
        if (index + 1).is_multiple_of(batch) {
            publish(&mut outbound);
        }
    }
    publish(&mut outbound);
}

/// Pops `count` records and sleeps when there are none.
fn consume(shared: Direction, bells: &Bells, count: usize, is_large: fn(usize) -> bool, looks_again: bool) {
    let mut inbound = Inbound::new(shared);
    for index in 0..count {
        let mut out = Vec::new();
        while inbound.pop(&mut out, |_| false).unwrap().is_none() {
            let armed = inbound.arm().unwrap();
            if armed.ring_producer {
                bells.producer.ring();
            }
            if !(armed.is_ready && looks_again) {
                bells.consumer.wait();
            }
        }
        assert_eq!(out, record(index, is_large));
        if inbound.is_release_due() && inbound.release() {
            bells.producer.ring();
        }
    }
    assert_eq!(inbound.pop(&mut Vec::new(), |_| false), Ok(None), "nothing is doubled");
}

fn run(count: usize, batch: usize, is_large: fn(usize) -> bool, looks_again: bool) {
    explore(move || {
        let [near, far] = Direction::pair(RING_BYTES, ARENA_BYTES, INLINE_BYTES_MAX);
        let bells = Arc::new(Bells::default());
        let producer = {
            let bells = bells.clone();
            thread::spawn(move || produce(near, &bells, count, batch, is_large))
        };
        consume(far, &bells, count, is_large, looks_again);
        producer.join().unwrap();
    });
}

#[test]
fn a_consumer_that_sleeps_is_woken() {
    run(2, 1, |_| false, true);
}

#[test]
fn a_producer_that_waits_for_room_in_the_ring_is_woken() {
    run(4, 1, |_| false, true);
}

#[test]
fn a_batch_becomes_visible_at_once_or_when_it_is_full() {
    run(4, 3, |_| false, true);
}

#[test]
fn a_producer_that_waits_for_room_in_the_arena_is_woken() {
    run(3, 1, |_| true, true);
}

#[test]
fn small_and_large_records_keep_their_order() {
    run(4, 2, |index| index.is_multiple_of(2), true);
}

/// The canary: a consumer that sleeps without looking again is caught.
#[test]
#[should_panic(expected = "deadlock")]
fn a_lost_wakeup_would_be_found() {
    run(1, 1, |_| false, false);
}

/// Closing is seen by whoever it wakes, together with what was pushed before.
#[test]
fn closing_wakes_and_loses_nothing() {
    explore(|| {
        let [near, far] = Direction::pair(RING_BYTES, ARENA_BYTES, INLINE_BYTES_MAX);
        let bells = Arc::new(Bells::default());
        let producer = {
            let bells = bells.clone();
            thread::spawn(move || {
                let mut outbound = Outbound::new(near);
                assert_eq!(outbound.begin(&[&[1; 8]], 8), Begun::Small);
                if outbound.publish(None) {
                    bells.consumer.ring();
                }
                outbound.close();
                bells.consumer.ring();
            })
        };
        let mut inbound = Inbound::new(far);
        let mut out = Vec::new();
        loop {
            let is_closed = inbound.is_closed();
            while inbound.pop(&mut out, |_| false).unwrap().is_some() {}
            if is_closed {
                break;
            }
            if !inbound.arm().unwrap().is_ready && !inbound.is_closed() {
                bells.consumer.wait();
            }
        }
        assert_eq!(out, [1; 8]);
        producer.join().unwrap();
    });
}
