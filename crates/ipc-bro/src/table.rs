//! What the connection task keeps beside the session's own tables, at the same places.

/// Places above which the memory is given back once all are free.
const RETAINED_LEN_MAX: usize = 1024;

/// Values by the slots that a session gives out. A slot's value is found only under the id it was put in with.
pub(crate) struct Table<I, T> {
    places: Vec<Option<(I, T)>>,
    /// Invariant: how many places are taken.
    len: usize,
}

impl<I: PartialEq, T> Table<I, T> {
    pub(crate) fn new() -> Self {
        Self { places: Vec::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, slot: u32, id: I, value: T) {
        let slot = slot as usize;
        if self.places.len() <= slot {
            self.places.resize_with(slot + 1, || None);
        }
        self.len += usize::from(self.places[slot].replace((id, value)).is_none());
    }

    pub(crate) fn take(&mut self, slot: u32, id: I) -> Option<T> {
        let (_, value) = self.places.get_mut(slot as usize)?.take_if(|(taken_by, _)| *taken_by == id)?;
        self.len -= 1;
        if self.len == 0 && self.places.len() > RETAINED_LEN_MAX {
            self.places = Vec::new();
        }
        Some(value)
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> + use<I, T> {
        self.len = 0;
        std::mem::take(&mut self.places).into_iter().flatten().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_under_its_own_id_only() {
        let mut table = Table::new();
        table.insert(3, 'a', 1);
        assert_eq!((table.take(3, 'b'), table.take(2, 'a'), table.take(9, 'a')), (None, None, None));
        assert_eq!((table.len(), table.take(3, 'a'), table.len()), (1, Some(1), 0));
        assert_eq!(table.take(3, 'a'), None);
        table.insert(0, 'c', 2);
        table.insert(0, 'd', 3);
        assert_eq!((table.len(), table.take(0, 'c')), (1, None));
        assert_eq!(table.drain().collect::<Vec<_>>(), [3]);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn the_memory_of_a_burst_is_given_back() {
        let mut table = Table::new();
        for slot in 0..5000 {
            table.insert(slot, slot, ());
        }
        for slot in 0..5000 {
            assert!(table.take(slot, slot).is_some());
        }
        assert_eq!(table.places.capacity(), 0);
    }
}
