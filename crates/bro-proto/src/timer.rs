//! A timer wheel: the one structure for deadlines, liveness and every other bounded wait.
//!
//! Inserting and removing are O(1) and leave nothing behind: cancelled timers are unlinked, not skipped later, so
//! a busy gateway whose calls end long before their deadline holds exactly as many timers as calls. The memory of a burst is
//! given back from the end of the places on; the few timers that go on, at low places, do not hinder it.

#![allow(clippy::cast_possible_truncation, reason = "slots and levels are masked to six and three bits")]

const LEVELS: usize = 7;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const NIL: u32 = u32::MAX;
/// Places whose memory is kept for later timers.
const RETAINED_LEN_MAX: usize = 1024;

/// Names a pending timer. Stale ids (fired or removed) are recognised and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

impl TimerId {
    /// Names no timer.
    pub const NONE: TimerId = TimerId { index: NIL, generation: 0 };
}

#[derive(Debug)]
struct Node<T> {
    deadline_ms: u64,
    /// Neighbours in the list of its slot while linked, otherwise in the list of free places.
    prev: u32,
    next: u32,
    /// level * SLOTS + slot while linked.
    list: u16,
    linked: bool,
    generation: u32,
    value: T,
}

/// Timers with millisecond resolution that never fire early.
///
/// Call order: `insert`/`remove` freely; ask `wakeup_ms` how long the driver may sleep; then call `expire` with the
/// current time until it returns `None`.
#[derive(Debug)]
pub struct TimerWheel<T> {
    /// Invariant: the last one is not free.
    nodes: Vec<Node<T>>,
    free: u32,
    /// Of the next timer. Counted for the whole wheel, so that a place that was given back and made again repeats no id.
    generation: u32,
    heads: Box<[u32]>,
    /// One bit per slot with timers in it, per level.
    occupied: [u64; LEVELS],
    /// Every timer due at or before this moment has been handed out or is in `heads` of the current slot.
    clock_ms: u64,
    len: usize,
}

impl<T: Copy> TimerWheel<T> {
    /// A wheel whose time starts at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self {
            nodes: Vec::new(),
            free: NIL,
            generation: 0,
            heads: vec![NIL; LEVELS * SLOTS].into_boxed_slice(),
            occupied: [0; LEVELS],
            clock_ms: now_ms,
            len: 0,
        }
    }

    /// Pending timers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is pending.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Starts a timer that fires at or after `deadline_ms`. A deadline in the past fires at the next `expire`.
    pub fn insert(&mut self, deadline_ms: u64, value: T) -> TimerId {
        let generation = self.generation;
        self.generation = generation.wrapping_add(1);
        let node = Node { deadline_ms, prev: NIL, next: NIL, list: 0, linked: false, generation, value };
        let index = if self.free == NIL {
            let index = u32::try_from(self.nodes.len()).expect("fewer than 2^32 timers");
            self.nodes.push(node);
            index
        } else {
            let index = self.free;
            self.unlink_free(index);
            self.nodes[index as usize] = node;
            index
        };
        self.link(index);
        self.len += 1;
        TimerId { index, generation }
    }

    /// Stops a timer. False when it has already fired or been removed.
    pub fn remove(&mut self, id: TimerId) -> bool {
        match self.nodes.get(id.index as usize) {
            Some(node) if node.linked && node.generation == id.generation => {
                self.unlink(id.index);
                self.release(id.index);
                true
            }
            _ => false,
        }
    }

    /// When a pending timer fires; `None` when it has fired or been removed.
    pub fn deadline_ms(&self, id: TimerId) -> Option<u64> {
        let node = self.nodes.get(id.index as usize)?;
        (node.linked && node.generation == id.generation).then_some(node.deadline_ms)
    }

    /// Hands out one timer that is due at `now_ms`; `None` when there are no more.
    pub fn expire(&mut self, now_ms: u64) -> Option<T> {
        loop {
            let slot = (self.clock_ms & (SLOTS as u64 - 1)) as usize;
            let head = self.heads[slot];
            if head != NIL {
                let value = self.nodes[head as usize].value;
                self.unlink(head);
                self.release(head);
                return Some(value);
            }
            if self.clock_ms >= now_ms {
                return None;
            }
            match self.next_stop() {
                Some(stop) if stop <= now_ms => self.advance(stop),
                _ => {
                    // Nothing is due up to now: time may jump without visiting the slots between. Timers of higher
                    // levels keep their slots, since every boundary that would move one is a stop after `now_ms`.
                    self.clock_ms = now_ms;
                    return None;
                }
            }
        }
    }

    /// The latest moment until which the driver may sleep without delaying a timer. It may be early, never late.
    pub fn wakeup_ms(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        let slot = (self.clock_ms & (SLOTS as u64 - 1)) as usize;
        if self.heads[slot] != NIL {
            return Some(self.clock_ms);
        }
        self.next_stop()
    }

    /// The next moment after `clock_ms` at which a slot comes due or must be spread over a lower level.
    fn next_stop(&self) -> Option<u64> {
        let mut best: Option<u64> = None;
        for level in 0..LEVELS {
            let occupied = self.occupied[level];
            if occupied == 0 {
                continue;
            }
            let shift = SLOT_BITS * level as u32;
            let position = (self.clock_ms >> shift) & (SLOTS as u64 - 1);
            // Slots strictly after the current one, in order of time, wrapping around the level.
            let rotated = occupied.rotate_right(((position + 1) & 63) as u32);
            let ahead = u64::from(rotated.trailing_zeros()) + 1;
            let stop = ((self.clock_ms >> shift) + ahead) << shift;
            best = Some(best.map_or(stop, |b| b.min(stop)));
        }
        best
    }

    fn advance(&mut self, stop: u64) {
        self.clock_ms = stop;
        for level in (1..LEVELS).rev() {
            let shift = SLOT_BITS * level as u32;
            if stop & ((1 << shift) - 1) != 0 {
                continue;
            }
            let slot = ((stop >> shift) & (SLOTS as u64 - 1)) as usize;
            let list = level * SLOTS + slot;
            let mut index = self.heads[list];
            self.heads[list] = NIL;
            self.occupied[level] &= !(1 << slot);
            while index != NIL {
                let next = self.nodes[index as usize].next;
                self.nodes[index as usize].linked = false;
                self.link(index);
                index = next;
            }
        }
    }

    fn link(&mut self, index: u32) {
        let deadline = self.nodes[index as usize].deadline_ms.max(self.clock_ms);
        // The level is that of the highest 6-bit digit in which deadline and clock differ.
        let differing = deadline ^ self.clock_ms;
        let level = if differing == 0 { 0 } else { ((63 - differing.leading_zeros()) / SLOT_BITS) as usize };
        let (level, slot) = if level >= LEVELS {
            // Beyond the wheel (139 years in milliseconds): park in the last slot that comes round.
            let shift = SLOT_BITS * (LEVELS as u32 - 1);
            (LEVELS - 1, (((self.clock_ms >> shift) + SLOTS as u64 - 1) & (SLOTS as u64 - 1)) as usize)
        } else {
            (level, ((deadline >> (SLOT_BITS * level as u32)) & (SLOTS as u64 - 1)) as usize)
        };
        let list = level * SLOTS + slot;
        let head = self.heads[list];
        if head != NIL {
            self.nodes[head as usize].prev = index;
        }
        let node = &mut self.nodes[index as usize];
        node.prev = NIL;
        node.next = head;
        node.list = list as u16;
        node.linked = true;
        self.heads[list] = index;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let (prev, next, list) = {
            let node = &mut self.nodes[index as usize];
            node.linked = false;
            (node.prev, node.next, node.list as usize)
        };
        if prev == NIL {
            self.heads[list] = next;
        } else {
            self.nodes[prev as usize].next = next;
        }
        if next != NIL {
            self.nodes[next as usize].prev = prev;
        }
        if self.heads[list] == NIL {
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }

    fn release(&mut self, index: u32) {
        self.len -= 1;
        if (index as usize) + 1 == self.nodes.len() {
            self.nodes.pop();
            self.give_back();
            return;
        }
        if self.free != NIL {
            self.nodes[self.free as usize].prev = index;
        }
        let node = &mut self.nodes[index as usize];
        node.prev = NIL;
        node.next = self.free;
        self.free = index;
    }

    /// Gives the free places at the end back. Each was freed once, so this costs every timer O(1).
    fn give_back(&mut self) {
        while let Some(last) = self.nodes.last()
            && !last.linked
        {
            self.unlink_free((self.nodes.len() - 1) as u32);
            self.nodes.pop();
        }
        if self.nodes.capacity() > RETAINED_LEN_MAX && self.nodes.len() < self.nodes.capacity() / 4 {
            self.nodes.shrink_to((2 * self.nodes.len()).max(RETAINED_LEN_MAX));
        }
    }

    fn unlink_free(&mut self, index: u32) {
        let Node { prev, next, .. } = self.nodes[index as usize];
        if prev == NIL {
            self.free = next;
        } else {
            self.nodes[prev as usize].next = next;
        }
        if next != NIL {
            self.nodes[next as usize].prev = prev;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use std::collections::BTreeMap;

    #[test]
    fn agrees_with_a_sorted_map_under_random_use() {
        for seed in 0..40 {
            let mut rng = Rng::new(seed);
            let mut now = rng.below(1 << 40);
            let mut wheel = TimerWheel::new(now);
            let mut model: BTreeMap<u32, (u64, TimerId)> = BTreeMap::new();
            for step in 0..4000_u32 {
                match rng.below(4) {
                    0 | 1 => {
                        let span = 1 << rng.below(26);
                        let deadline = now + rng.below(span);
                        model.insert(step, (deadline, wheel.insert(deadline, step)));
                    }
                    2 => {
                        let skip = rng.below(model.len() as u64 + 1) as usize;
                        if let Some((&key, &(_, id))) = model.iter().nth(skip) {
                            assert!(wheel.remove(id), "seed {seed}");
                            assert!(!wheel.remove(id), "seed {seed}: removed twice");
                            model.remove(&key);
                        }
                    }
                    _ => {
                        let span = 1 << rng.below(24);
                        now += rng.below(span);
                        while let Some(key) = wheel.expire(now) {
                            let (deadline, _) = model.remove(&key).expect("fires once");
                            assert!(deadline <= now, "seed {seed}: early");
                        }
                        assert!(model.values().all(|&(deadline, _)| deadline > now), "seed {seed}: late");
                    }
                }
                assert_eq!(wheel.len(), model.len());
                let earliest = model.values().map(|&(deadline, _)| deadline).min();
                match (wheel.wakeup_ms(), earliest) {
                    (None, None) => {}
                    (Some(wakeup), Some(earliest)) => assert!(wakeup <= earliest.max(now), "seed {seed}"),
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn holds_no_memory_for_removed_timers() {
        let mut wheel = TimerWheel::new(0);
        for round in 0..100_000_u64 {
            let id = wheel.insert(30_000 + round, ());
            assert!(wheel.remove(id));
        }
        assert!(wheel.nodes.is_empty() && wheel.nodes.capacity() <= RETAINED_LEN_MAX);
        assert_eq!(wheel.wakeup_ms(), None);
    }

    #[test]
    fn memory_of_a_burst_is_given_back_and_its_ids_stay_stale() {
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let mut wheel = TimerWheel::new(0);
            let lasting: Vec<TimerId> = (0..10).map(|_| wheel.insert(1_000_000, ())).collect();
            let mut burst: Vec<TimerId> = (0..100_000).map(|_| wheel.insert(1000 + rng.below(50_000), ())).collect();
            assert!(wheel.nodes.capacity() >= 100_000);
            let mut stale = Vec::new();
            while !burst.is_empty() {
                let id = burst.swap_remove(rng.below(burst.len() as u64) as usize);
                assert!(wheel.remove(id), "seed {seed}");
                stale.push(id);
            }
            assert_eq!((wheel.nodes.len(), wheel.len()), (10, 10), "seed {seed}");
            assert!(wheel.nodes.capacity() <= RETAINED_LEN_MAX, "seed {seed}: {}", wheel.nodes.capacity());
            let again: Vec<TimerId> = (0..1000).map(|_| wheel.insert(2000, ())).collect();
            assert!(stale.iter().all(|&id| !wheel.remove(id)), "seed {seed}: a stale id ends another timer");
            assert!(again.into_iter().chain(lasting).all(|id| wheel.remove(id)), "seed {seed}");
            assert_eq!((wheel.len(), wheel.wakeup_ms()), (0, None));
        }
    }
}
