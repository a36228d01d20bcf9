//! One call from a handle's point of view: its options, and the place where its answer arrives.

use crate::error::Error;
use crate::payload::RawPayload;
use bro_proto::{CallContext, ErrorCode};
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How one call differs from the client's defaults.
///
/// ```
/// # use std::time::Duration;
/// let options = ipc_bro::CallOptions::new().timeout(Duration::from_millis(250));
/// ```
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait_for_service: Option<Duration>,
    pub(crate) chain: Chain,
}

/// Which context a call carries.
#[derive(Clone, Debug, Default)]
pub(crate) enum Chain {
    /// Continue that of the handler that the task runs; begin one outside of handlers.
    #[default]
    Inherit,
    /// Continue this one.
    Continue(CallContext),
    /// Send this one as it is.
    Exact(CallContext),
    /// Begin one.
    New,
}

impl CallOptions {
    /// The client's defaults: its timeout, and the context of the handler that the task runs, if any.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long to wait for the answer, instead of the client's timeout. Milliseconds count; shorter is one
    /// millisecond. At most one day. A call that continues a chain never waits beyond the chain's deadline.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long to wait for the service to appear when it is not there, instead of
    /// [`ClientBuilder::wait_for_service`](crate::ClientBuilder::wait_for_service); zero: not at all. Part of the timeout. The call fails with
    /// `SERVICE_NOT_FOUND` after that, or with `NOT_CONNECTED` when there is no gateway either. A notification does not wait.
    #[must_use]
    pub fn wait_for_service(mut self, longest: Duration) -> Self {
        self.wait_for_service = Some(longest);
        self
    }

    /// Makes the call the next step of this chain, whatever the task's own context is: the callee sees the chain
    /// with itself added, the same root and at the latest the same deadline.
    #[must_use]
    pub fn context(mut self, context: CallContext) -> Self {
        self.chain = Chain::Continue(context);
        self
    }

    /// Sends this context as it is, for programs that pass on calls of others. The callee sees exactly it.
    #[must_use]
    pub fn exact_context(mut self, context: CallContext) -> Self {
        self.chain = Chain::Exact(context);
        self
    }

    /// Begins a new chain even inside of a handler: own root, own deadline.
    #[must_use]
    pub fn new_chain(mut self) -> Self {
        self.chain = Chain::New;
        self
    }
}

/// A call that was made: a future of its result. It borrows nothing, so it can be spawned. Dropping it takes the call back.
#[must_use = "a call is made when it is awaited"]
pub struct Call<R> {
    answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
    result: PhantomData<fn() -> R>,
}

impl<R> Call<R> {
    pub(crate) fn new(answer: impl Future<Output = Answer> + Send + 'static) -> Self {
        Self { answer: Box::pin(answer), result: PhantomData }
    }
}

impl<R: DeserializeOwned> Future for Call<R> {
    type Output = Result<R, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.as_mut().poll(cx).map(|answer| answer?.decode())
    }
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

/// How a call ended.
pub(crate) type Answer = Result<RawPayload, Error>;

/// Where an answer arrives, shared by the waiting future and the connection task.
pub(crate) struct Slot<K> {
    /// The session's id of the call, once it has one. Only the connection task sets and reads it.
    pub(crate) key: OnceLock<K>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    answer: Option<Answer>,
    waker: Option<Waker>,
    /// The caller has gone, or has its answer.
    closed: bool,
}

impl<K> Slot<K> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { key: OnceLock::new(), state: Mutex::default() })
    }

    pub(crate) fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut state = self.lock();
        if let Some(answer) = state.answer.take() {
            state.closed = true;
            return Poll::Ready(answer);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            empty => *empty = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// The caller no longer waits. True when the call may still be under way and should be cancelled.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.lock();
        let is_open = !state.closed && state.answer.is_none();
        state.closed = true;
        is_open
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection task's end of a slot. Dropped without an answer, it answers that the connection is lost: a caller
/// never waits for a task that has ended.
pub(crate) struct Reply<K>(pub(crate) Arc<Slot<K>>);

impl<K> Reply<K> {
    pub(crate) fn send(self, answer: Answer) {
        self.deliver(answer);
    }

    fn deliver(&self, answer: Answer) {
        let waker = {
            let mut state = self.0.lock();
            if state.closed || state.answer.is_some() {
                return;
            }
            state.answer = Some(answer);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<K> Drop for Reply<K> {
    fn drop(&mut self) {
        let unanswered = {
            let state = self.0.lock();
            !state.closed && state.answer.is_none()
        };
        if unanswered {
            self.deliver(Err(Error::local(ErrorCode::ConnectionLost, "the client has stopped")));
        }
    }
}
