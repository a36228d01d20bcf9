//! What a handler knows about the call it works on, and how its own calls inherit it.

use crate::client::{Client, WeakClient};
use bro_proto::CallContext;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

tokio::task_local! {
    static CURRENT: Context;
}

/// The call that a handler works on. Cheap to clone.
///
/// While a handler runs, calls made through any [`Client`] in the same task continue its chain: same root, one step
/// deeper, same deadline at the latest. A task that the handler spawns does not inherit that by itself; give it along
/// with [`Context::scope`].
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    call: CallContext,
    caller: String,
    method: Arc<str>,
    request_id: String,
    client: WeakClient,
}

impl Context {
    pub(crate) fn new(
        call: CallContext,
        caller: String,
        method: Arc<str>,
        request_id: String,
        client: WeakClient,
    ) -> Self {
        Self(Arc::new(Inner { call, caller, method, request_id, client }))
    }

    /// Root, chain, depth and deadline. The chain ends with this service.
    pub fn call(&self) -> &CallContext {
        &self.0.call
    }

    /// The service that made the call, as the gateway knows it.
    pub fn caller(&self) -> &str {
        &self.0.caller
    }

    /// The method that was called.
    pub fn method(&self) -> &str {
        &self.0.method
    }

    /// The id of the call.
    pub fn request_id(&self) -> &str {
        &self.0.request_id
    }

    /// How long the caller still waits, by this machine's wall clock; zero when the deadline has passed.
    pub fn remaining(&self) -> Duration {
        Duration::from_millis(self.0.call.deadline_ms.saturating_sub(wall_ms()))
    }

    /// The client that this call came to, for calls of the handler's own.
    ///
    /// A handler should use this rather than capture a [`Client`]: a captured one counts as a handle, so the client
    /// would never see its last handle dropped.
    pub fn client(&self) -> Client {
        self.0.client.upgrade()
    }

    /// The context of the handler that the present task runs; `None` outside of handlers.
    pub fn current() -> Option<Context> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs `future` as part of this call: [`Context::current`] is set in it and calls made in it continue the chain.
    ///
    /// ```no_run
    /// # async fn work(context: ipc_bro::Context) {
    /// let client = context.client();
    /// tokio::spawn(context.scope(async move {
    ///     client.call::<()>("audit", "record", "order placed").await
    /// }));
    /// # }
    /// ```
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("call", &self.0.call)
            .field("caller", &self.0.caller)
            .field("method", &self.0.method)
            .field("request_id", &self.0.request_id)
            .finish()
    }
}

pub(crate) fn wall_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
