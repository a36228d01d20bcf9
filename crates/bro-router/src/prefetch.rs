//! Cache lines that are fetched before they are needed: beside thousands of connections, waiting for them takes longer than routing.

use crate::outbox::PeerId;
use crate::router::Router;

impl Router {
    /// Says whose frames come after those of the present peer, the next one first: what is known of them is fetched meanwhile. Changes
    /// nothing else, and costs little also where it was not needed.
    #[inline]
    pub fn expect(&self, coming: &[PeerId]) {
        if let Some(after_next) = coming.get(1) {
            self.peers.fetch(after_next.slot);
        }
        // What is known of this one was fetched one peer ago. Mostly it calls again whom it called last.
        if let Some(callee) = coming.first().and_then(|next| self.peers.last_called(next.slot)) {
            self.peers.fetch(callee);
        }
    }
}

/// Begins to fetch the cache line of a value.
#[inline(always)]
pub(crate) fn fetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is a part of x86-64, and the address, which is only hinted at, is that of a value.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RouterConfig;
    use bro_proto::Now;

    #[test]
    fn expecting_changes_nothing_and_takes_any_id() {
        let router = Router::new(RouterConfig::default(), 1, Now::default());
        let before = format!("{router:?}");
        for slot in [0, 7, u32::MAX] {
            router.expect(&[PeerId { slot, generation: 1 }; 3]);
        }
        router.expect(&[]);
        let value = 5_u64;
        fetch(&value);
        assert_eq!((value, format!("{router:?}")), (5, before));
    }
}
