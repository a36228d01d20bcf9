//! What a handler knows about the call it works on, and how its own calls inherit it.

use crate::client::{Client, Shared, WeakClient};
use bro_proto::{CallContext, ErrorCode};
use bro_session::{Request, RequestContext, RequestId, RequestKey};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

tokio::task_local! {
    static CURRENT: Context;
}

/// The call that a handler works on. Cheap to clone.
///
/// While a handler runs, calls made through any [`Client`] in the same task continue its chain: same root, one step
/// deeper, same deadline at the latest. Those made through the client that the handler belongs to are made *for* its call: when
/// that is cancelled, they are. A task that the handler spawns does not inherit that by itself; give it along
/// with [`Context::scope`].
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    id: RequestId,
    origin: RequestContext,
    caller: Arc<str>,
    is_caller_stamped: bool,
    method: Arc<str>,
    key: RequestKey,
    wants_answer: bool,
    client: WeakClient,
    /// Made when somebody looks.
    call: OnceLock<CallContext>,
    request_id: OnceLock<String>,
    /// Why nobody waits for the answer any more.
    given_up: OnceLock<ErrorCode>,
    given_up_told: Notify,
}

impl Context {
    /// The context of a request whose method is `method`.
    pub(crate) fn new(request: Request, method: Arc<str>, client: WeakClient) -> Self {
        Self(Arc::new(Inner {
            id: request.id,
            origin: request.context,
            caller: request.from,
            is_caller_stamped: request.is_from_stamped,
            method,
            key: request.request_id,
            wants_answer: request.wants_answer,
            client,
            call: OnceLock::new(),
            request_id: OnceLock::new(),
            given_up: OnceLock::new(),
            given_up_told: Notify::new(),
        }))
    }

    /// Root, chain, depth and deadline. The chain ends with this service.
    pub fn call(&self) -> &CallContext {
        let inner = &*self.0;
        inner.call.get_or_init(|| inner.origin.to_context(&inner.caller, &inner.client.shared.service_name))
    }

    /// The service that made the call: the name under which it registered, as the gateway knows it, whatever the caller says of itself. Who
    /// may register under a name is for the gateway's policy to say.
    ///
    /// The chain of [`Context::call`] is no such proof: a caller of version 1 writes it itself. Where the gateway is one of the JavaScript library, this
    /// is what the caller wrote, too, see [`Context::is_caller_stamped`].
    pub fn caller(&self) -> &str {
        &self.0.caller
    }

    /// Whether [`Context::caller`] is the gateway's word. False with gateways of the JavaScript library only.
    pub fn is_caller_stamped(&self) -> bool {
        self.0.is_caller_stamped
    }

    /// The method that was called.
    pub fn method(&self) -> &str {
        &self.0.method
    }

    /// The id of the call.
    pub fn request_id(&self) -> &str {
        self.0.request_id.get_or_init(|| self.0.key.to_string())
    }

    /// Whether the caller waits for an answer. Where it does not ([`Client::notify`]), what the handler returns goes nowhere.
    pub fn wants_answer(&self) -> bool {
        self.0.wants_answer
    }

    /// How long the caller still waits, by this machine's wall clock; zero when the deadline has passed.
    pub fn remaining(&self) -> Duration {
        Duration::from_millis(self.0.origin.deadline_ms().saturating_sub(wall_ms()))
    }

    /// Whether nobody waits for the answer any more: the caller gave the call up or is gone, its deadline has passed, or this
    /// client was disconnected.
    pub fn is_cancelled(&self) -> bool {
        self.0.given_up.get().is_some()
    }

    /// Waits until nobody waits for the answer any more, and tells why: `CANCELLED` when the caller gave the call up, `TIMEOUT` when
    /// its deadline passed, `CONNECTION_LOST` when the caller is gone, `SHUTTING_DOWN` when this client was disconnected. Pending for
    /// ever when the handler's answer comes first. Dropping the future does nothing.
    ///
    /// A handler is dropped when its call is cancelled, so it needs this only with
    /// [`crate::ClientBuilder::keep_cancelled_handlers`]; a task or a thread that a handler has spawned is not dropped, and should stop
    /// by itself:
    ///
    /// ```no_run
    /// # use ipc_bro::{Context, HandlerError};
    /// # fn step(_: u32) {}
    /// async fn render(pages: u32, context: Context) -> Result<u32, HandlerError> {
    ///     let rendering = tokio::task::spawn_blocking(move || {
    ///         (0..pages).take_while(|_| !context.is_cancelled()).map(step).count()
    ///     });
    ///     rendering.await?;
    ///     Ok(pages)
    /// }
    /// ```
    pub async fn cancelled(&self) -> ErrorCode {
        let inner = &*self.0;
        let mut told = pin!(inner.given_up_told.notified());
        // Before looking: what is told in between is not missed.
        told.as_mut().enable();
        if inner.given_up.get().is_none() {
            told.await;
        }
        inner.given_up.get().cloned().expect("told after it was set")
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

impl Context {
    /// The request, for a call that is made through the client of `shared`. Another client's session does not know it.
    pub(crate) fn request_of(&self, shared: &Arc<Shared>) -> Option<RequestId> {
        Arc::ptr_eq(&self.0.client.shared, shared).then_some(self.0.id)
    }

    /// Whether the caller gave the call up.
    pub(crate) fn is_given_up(&self) -> bool {
        self.0.given_up.get() == Some(&ErrorCode::Cancelled)
    }

    pub(crate) fn give_up(&self, reason: ErrorCode) {
        // Set once: a request ends once.
        let _ = self.0.given_up.set(reason);
        self.0.given_up_told.notify_waiters();
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("call", self.call())
            .field("caller", &self.0.caller)
            .field("method", &self.0.method)
            .field("request_id", &self.request_id())
            .finish()
    }
}

pub(crate) fn wall_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
