//! Methods that other services may call.

use crate::context::Context;
use crate::error::{Error, HandlerError};
use crate::payload::RawPayload;
use bro_proto::ErrorCode;
use bro_proto::limits::METHODS_MAX;
use bro_proto::v1::Encoding;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;

type HandlerFuture = Pin<Box<dyn Future<Output = Result<RawPayload, HandlerError>> + Send>>;

/// A handler of any types, seen from the connection task. Built by [`typed`] and [`raw`].
pub(crate) type Handler = Arc<dyn Fn(RawPayload, Context) -> HandlerFuture + Send + Sync>;

/// Wraps a handler that takes and returns Rust values; results are encoded in `encoding`.
pub(crate) fn typed<P, R, E, F, Fut>(encoding: Encoding, handler: F) -> Handler
where
    F: Fn(P, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, E>> + Send + 'static,
    P: DeserializeOwned,
    R: Serialize,
    E: Into<HandlerError>,
{
    Arc::new(move |params, context| {
        let params = params.decode_as::<P>().map_err(|error| {
            let message = format!("the parameters of `{}` do not have the expected shape: {error}", context.method());
            HandlerError::new(ErrorCode::DeserializationFailed, message)
        });
        let answer = params.map(|params| handler(params, context));
        Box::pin(async move {
            let result = answer?.await.map_err(Into::into)?;
            Ok(RawPayload::encode(&result, encoding)?)
        })
    })
}

/// Wraps a handler that takes and returns encoded bytes.
pub(crate) fn raw<E, F, Fut>(handler: F) -> Handler
where
    F: Fn(RawPayload, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<RawPayload, E>> + Send + 'static,
    E: Into<HandlerError>,
{
    Arc::new(move |params, context| {
        let answer = handler(params.unpinned(), context);
        Box::pin(async move { answer.await.map_err(Into::into) })
    })
}

/// Runs a handler to its end with `context` as the task's current one. A panic is an answer like any other failure.
pub(crate) async fn run(handler: Handler, params: RawPayload, context: Context) -> Result<RawPayload, HandlerError> {
    let method = context.method().to_owned();
    let mut answer: Option<HandlerFuture> = None;
    let mut input = Some((params, context.clone()));
    let guarded = std::future::poll_fn(move |cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| {
            if let Some((params, context)) = input.take() {
                answer = Some(handler(params, context));
            }
            answer.as_mut().map_or(Poll::Pending, |answer| answer.as_mut().poll(cx))
        }));
        polled.unwrap_or_else(|panic| {
            let message = format!("the handler of `{method}` panicked: {}", panic_message(&*panic));
            Poll::Ready(Err(HandlerError::failed(message)))
        })
    });
    context.scope(guarded).await
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "(no message)"
    }
}

/// The registered methods, shared by the handles and the connection task.
#[derive(Default)]
pub(crate) struct MethodTable(RwLock<HashMap<Arc<str>, Handler>>);

impl MethodTable {
    /// Adds a method or replaces its handler.
    pub(crate) fn insert(&self, name: &str, handler: Handler) -> Result<(), Error> {
        bro_proto::name::check_method_name(name).map_err(|error| {
            Error::caused(ErrorCode::InvalidArgument, format!("`{}` cannot name a method", name.escape_debug()), error)
        })?;
        let mut methods = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let count = methods.len();
        let replaced = match methods.entry(name.into()) {
            Entry::Occupied(mut entry) => Some(entry.insert(handler)),
            Entry::Vacant(_) if count >= METHODS_MAX => {
                let message = format!("a service has at most {METHODS_MAX} methods");
                return Err(Error::local(ErrorCode::ResourceExhausted, message));
            }
            Entry::Vacant(entry) => {
                entry.insert(handler);
                None
            }
        };
        // Outside of the lock: a handler's drop may come back to this table.
        drop(methods);
        drop(replaced);
        Ok(())
    }

    pub(crate) fn remove(&self, name: &str) -> bool {
        let mut methods = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let removed = methods.remove(name);
        drop(methods);
        removed.is_some()
    }

    pub(crate) fn find(&self, name: &str) -> Option<(Arc<str>, Handler)> {
        let methods = self.0.read().unwrap_or_else(PoisonError::into_inner);
        methods.get_key_value(name).map(|(name, handler)| (Arc::clone(name), Arc::clone(handler)))
    }

    /// Sorted, so that equal tables are advertised equally.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        let methods = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<_> = methods.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    pub(crate) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn clear(&self) {
        let mut methods = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let removed = std::mem::take(&mut *methods);
        drop(methods);
        drop(removed);
    }
}
