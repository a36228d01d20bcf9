//! Numbered places with generations: lookups are array accesses, and a number that outlived its value is recognised.

/// Places above which the memory is given back once all are free.
const RETAINED_LEN_MAX: usize = 1024;
const NIL: u32 = u32::MAX;
/// Where generations go on when their bits are used up. Not at 0, which is no generation; and far enough up that the low bits, which
/// some ids consist of, go on in turn.
const GENERATION_AGAIN: u32 = 1 << 16;

#[derive(Debug)]
pub(crate) struct Slots<T> {
    entries: Vec<Entry<T>>,
    /// First free place; each free place names the next one.
    free: u32,
    len: usize,
    /// The generation that a place begins with. Invariant: above every generation of places given back.
    first_generation: u32,
    /// How often the places were given back.
    trims: u32,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    place: Place<T>,
}

#[derive(Debug)]
enum Place<T> {
    Taken(T),
    Free { next: u32 },
}

impl<T> Slots<T> {
    /// Places that begin with this generation, which is not 0.
    pub(crate) fn new(first_generation: u32) -> Self {
        assert!(first_generation > 0, "0 is no generation");
        Self { entries: Vec::new(), free: NIL, len: 0, first_generation, trims: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn trims(&self) -> u32 {
        self.trims
    }

    /// Takes a place; gives its number and generation.
    pub(crate) fn insert(&mut self, value: T) -> (u32, u32) {
        self.len += 1;
        if self.free == NIL {
            let slot = u32::try_from(self.entries.len()).expect("fewer than 2^32 places");
            self.entries.push(Entry { generation: self.first_generation, place: Place::Taken(value) });
            return (slot, self.first_generation);
        }
        let slot = self.free;
        let entry = &mut self.entries[slot as usize];
        let Place::Free { next } = entry.place else { unreachable!("the free list holds free places") };
        self.free = next;
        entry.place = Place::Taken(value);
        (slot, entry.generation)
    }

    pub(crate) fn get(&self, slot: u32, generation: u32) -> Option<&T> {
        self.at(slot).filter(|(current, _)| *current == generation).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, slot: u32, generation: u32) -> Option<&mut T> {
        match self.entries.get_mut(slot as usize) {
            Some(Entry { generation: current, place: Place::Taken(value) }) if *current == generation => Some(value),
            _ => None,
        }
    }

    /// The value in a place, whatever its generation, and that generation.
    pub(crate) fn at(&self, slot: u32) -> Option<(u32, &T)> {
        match self.entries.get(slot as usize)? {
            Entry { generation, place: Place::Taken(value) } => Some((*generation, value)),
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, slot: u32, generation: u32) -> Option<T> {
        self.get_mut(slot, generation)?;
        let entry = &mut self.entries[slot as usize];
        let Place::Taken(value) = std::mem::replace(&mut entry.place, Place::Free { next: self.free }) else {
            unreachable!("the place was just seen taken")
        };
        entry.generation = next_generation(entry.generation);
        self.free = slot;
        self.len -= 1;
        if self.len == 0 && self.entries.len() > RETAINED_LEN_MAX {
            self.trim();
        }
        Some(value)
    }

    /// The numbers and generations of the values that `wanted` accepts, in order of their places.
    pub(crate) fn select(&self, wanted: impl Fn(&T) -> bool) -> Vec<(u32, u32)> {
        let taken = self.entries.iter().zip(0..).filter_map(|(entry, slot)| match &entry.place {
            Place::Taken(value) if wanted(value) => Some((slot, entry.generation)),
            _ => None,
        });
        taken.collect()
    }

    /// Gives the memory of many free places back. The cost is shared by the insertions that made them.
    fn trim(&mut self) {
        let newest = self.entries.iter().map(|entry| entry.generation).max().expect("there are places");
        self.first_generation = next_generation(newest);
        self.entries = Vec::new();
        self.free = NIL;
        self.trims += 1;
    }
}

fn next_generation(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(GENERATION_AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_outlived_its_value_finds_nothing() {
        let mut slots = Slots::new(7);
        let (slot, generation) = slots.insert("a");
        assert_eq!(slots.remove(slot, generation), Some("a"));
        assert_eq!(slots.remove(slot, generation), None);
        let (again, newer) = slots.insert("b");
        assert_eq!((again, newer), (slot, generation + 1));
        assert_eq!(slots.get_mut(slot, generation), None);
        assert_eq!(slots.get(slot, generation), None);
        assert_eq!(slots.get(slot, newer), Some(&"b"));
        assert_eq!(slots.at(slot), Some((newer, &"b")));
        assert_eq!(slots.at(99), None);
    }

    #[test]
    fn no_generation_is_zero_however_often_a_place_was_used() {
        let mut slots = Slots::new(u32::MAX);
        let (slot, generation) = slots.insert(());
        slots.remove(slot, generation);
        assert_eq!(slots.insert(()), (0, GENERATION_AGAIN));
    }

    #[test]
    fn memory_of_a_burst_is_given_back_and_old_numbers_stay_invalid() {
        let mut slots = Slots::new(1);
        let taken: Vec<_> = (0..5000).map(|value| slots.insert(value)).collect();
        assert_eq!(slots.select(|value| value % 1000 == 0).len(), 5);
        for &(slot, generation) in &taken {
            assert!(slots.remove(slot, generation).is_some());
        }
        assert_eq!((slots.len(), slots.entries.capacity(), slots.trims()), (0, 0, 1));
        let fresh = slots.insert(1);
        assert!(!taken.contains(&fresh));
    }
}
