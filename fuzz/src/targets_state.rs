//! What a gateway that takes over is given.

use bro_proto::Now;
use bro_router::state::RouterState;
use bro_router::{Router, RouterConfig};

const NOW: Now = Now { mono_us: 10_000_000, wall_ms: 1_700_000_000_000 };

/// Bytes are no state, or a state is refused, or what comes of it is a router whose tables agree and whose state is the same.
pub(crate) fn state(bytes: &[u8]) {
    let Ok(state) = RouterState::decode(bytes) else { return };
    let Ok(router) = Router::import(RouterConfig::default(), state, NOW) else { return };
    router.check_invariants();
    let exported = router.export(NOW);
    let read = RouterState::decode(&exported.encode()).expect("its own state");
    assert_eq!(read, exported);
    let again = Router::import(RouterConfig::default(), read, NOW).expect("its own state");
    assert_eq!(again.export(NOW), exported);
}
