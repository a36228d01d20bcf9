//! Abandoned ids.

use super::{ABANDONED_IDS_MAX, Abandoned};
use crate::state::checks::ensure_at_most;
use crate::state::{AbandonedState, ImportError};

impl Abandoned {
    pub(crate) fn export(&self) -> AbandonedState {
        let Abandoned { hashes, is_full } = self;
        let mut hashes: Vec<u64> = hashes.iter().copied().collect();
        hashes.sort_unstable();
        AbandonedState { hashes, is_full: *is_full }
    }

    /// Hashes of another function mean nothing: then every id counts as abandoned.
    pub(crate) fn import(state: AbandonedState, is_same_hash: bool) -> Result<Abandoned, ImportError> {
        let AbandonedState { hashes, is_full } = state;
        ensure_at_most(hashes.len(), ABANDONED_IDS_MAX, "ABANDONED_IDS_MAX")?;
        let mut abandoned = Abandoned::default();
        if is_same_hash {
            hashes.into_iter().for_each(|hash| abandoned.insert(hash));
        }
        abandoned.is_full = is_full || !is_same_hash;
        Ok(abandoned)
    }
}
