//! Ids under which a callee may still answer although the call has ended.
//!
//! A call can end without its callee: its deadline passes, or its caller goes. The callee works on, and answers later. Were
//! its id given to another call meanwhile, that late answer would end the wrong one. So such ids are kept until the callee
//! has used them up, and calls that come with one of them are passed on under an id of the gateway's own.

#[path = "state/abandoned.rs"]
mod state;

use hashbrown::HashTable;

/// Ids kept for one callee. Beyond that, every call to it gets an id of the gateway's own until it disconnects.
pub(crate) const ABANDONED_IDS_MAX: usize = 1024;

/// The abandoned ids of one callee, by their keyed hashes: a rare collision only costs a needless new id.
#[derive(Debug, Default)]
pub(crate) struct Abandoned {
    hashes: HashTable<u64>,
    is_full: bool,
}

impl Abandoned {
    pub(crate) fn insert(&mut self, hash: u64) {
        if self.contains(hash) {
            return;
        }
        self.is_full = self.hashes.len() >= ABANDONED_IDS_MAX;
        if !self.is_full {
            self.hashes.insert_unique(hash, hash, |&known| known);
        }
    }

    /// Whether a call with this id must not be passed on under it.
    pub(crate) fn contains(&self, hash: u64) -> bool {
        self.is_full || self.hashes.iter_hash(hash).any(|&known| known == hash)
    }

    /// The callee has answered under this id: it is free again.
    pub(crate) fn remove(&mut self, hash: u64) {
        if let Ok(entry) = self.hashes.find_entry(hash, |&known| known == hash) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_kept_until_they_are_answered_and_the_memory_is_bounded() {
        let mut abandoned = Abandoned::default();
        for hash in 0..ABANDONED_IDS_MAX as u64 {
            abandoned.insert(hash);
            abandoned.insert(hash);
        }
        assert!(abandoned.contains(7) && !abandoned.contains(u64::MAX));
        abandoned.remove(7);
        assert!(!abandoned.contains(7));
        abandoned.insert(7);
        abandoned.insert(u64::MAX - 1);
        assert!(abandoned.contains(u64::MAX), "full: every id counts as taken");
        assert_eq!(abandoned.hashes.len(), ABANDONED_IDS_MAX);
    }
}
