//! The handle that programs hold.

use crate::Serializer;
use crate::builder::ClientBuilder;
use crate::call::{Call, CallOptions, Chain, Reply, Slot};
use crate::context::Context;
use crate::driver::{CallCommand, CallKey, Control, Driver};
use crate::error::{Error, HandlerError};
use crate::event::{EventLog, EventStream};
use crate::handler::{self, Handler, MethodTable};
use crate::payload::RawPayload;
use bro_proto::ErrorCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// Calls that wait for the connection task; further callers wait for room.
const CALLS_QUEUED_MAX: usize = 1024;

/// One service of this process: makes calls to other services and answers theirs.
///
/// A cheap handle: clones share one name, one registration and one task, which owns the connections. When the last
/// handle is dropped the client disconnects. The task runs in the tokio runtime in which [`Client::connect`] was
/// first called.
///
#[cfg_attr(feature = "gateway", doc = "```")]
#[cfg_attr(not(feature = "gateway"), doc = "```ignore")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = std::env::temp_dir().join(format!("ipc-bro-doc-client-{}", std::process::id()));
/// # let path = directory.join("gateway.sock");
/// # let gateway = ipc_bro::Gateway::start(ipc_bro::GatewayConfig::new(&path))?;
/// use ipc_bro::{Client, Context, HandlerError};
///
/// let user = Client::builder("user").gateway_path(&path).build()?;
/// user.register("nameOf", async |id: u32, context: Context| {
///     assert_eq!(context.caller(), "order");
///     if id == 7 { Ok("Nirikshan") } else { Err(HandlerError::new("NO_SUCH_USER", format!("user {id}"))) }
/// })?;
/// user.connect().await?;
///
/// let order = Client::builder("order").gateway_path(&path).connect().await?;
/// assert_eq!(order.call::<String>("user", "nameOf", 7).await?, "Nirikshan");
/// assert_eq!(order.call::<String>("user", "nameOf", 8).await.unwrap_err().code().as_str(), "NO_SUCH_USER");
/// # order.disconnect().await; user.disconnect().await; drop(gateway); std::fs::remove_dir_all(&directory)?; Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    /// Keeps the connection task alive. Absent in a client that a handler got after the last handle was dropped.
    _lifeline: Option<Arc<Lifeline>>,
    lifeline: Weak<Lifeline>,
}

/// What a client is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientStatus {
    /// Whether there is a connection to the gateway.
    pub connected: bool,
    /// Whether the gateway has acknowledged the registration: calls can be made.
    pub registered: bool,
    /// The name of the service.
    pub service_name: String,
    /// Open lanes to other services.
    pub lanes: usize,
    /// Calls that wait for their answer, or for their service.
    pub pending_requests: usize,
    /// Those among them that wait for their service to appear.
    pub waiting_requests: usize,
    /// How many methods are registered.
    pub registered_methods: usize,
}

impl Client {
    /// Starts describing a client that will be known to others as `service_name`.
    pub fn builder(service_name: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(service_name.into())
    }

    /// Connects to the gateway, registers the service, and returns when the gateway has acknowledged that. Does
    /// nothing when connected already; joins an attempt that is under way.
    ///
    /// With [`ClientBuilder::wait_for_gateway`] it keeps trying that long while nobody listens on the socket. Dropping
    /// the future does not end the attempt; [`Client::disconnect`] does.
    ///
    /// # Errors
    /// `CONNECTION_FAILED` when the gateway cannot be reached, `DUPLICATE_SERVICE` or `PERMISSION_DENIED` when it
    /// refuses the name (at once: these are not tried again), `TIMEOUT` when it does not acknowledge in five seconds.
    ///
    /// # Panics
    /// When called outside of a tokio runtime with I/O and time enabled.
    pub async fn connect(&self) -> Result<(), Error> {
        if let Some(driver) = self.shared.start.lock().unwrap_or_else(PoisonError::into_inner).take() {
            driver.spawn(WeakClient { shared: Arc::clone(&self.shared), lifeline: self.lifeline.clone() });
        }
        let (reply, outcome) = oneshot::channel();
        let stopped = || Error::local(ErrorCode::ConnectionFailed, "the runtime that this client ran in has ended");
        self.shared.control.send(Control::Connect(reply)).map_err(|_| stopped())?;
        outcome.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Leaves the gateway: pending calls end with `CONNECTION_LOST` (those that wait for their service with `NOT_CONNECTED`), running handlers are stopped, what is already
    /// queued is still written, the sockets are closed. Returns when that is done. [`Client::connect`] may follow.
    ///
    /// Dropping the future does not undo it.
    pub async fn disconnect(&self) {
        let (reply, done) = oneshot::channel();
        let is_running = self.shared.start.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        if is_running && self.shared.control.send(Control::Disconnect(reply)).is_ok() {
            // An error means that the task has ended, which is as disconnected as can be.
            let _ = done.await;
        }
    }

    /// Leaves the round without dropping a call: asks the gateway to send no more calls here, and returns when those that have
    /// arrived are answered. [`Client::disconnect`] should follow. Other instances of the service go on; where there is none, callers
    /// are told `SHUTTING_DOWN`. This client's own calls go on, too, and wait on.
    ///
    /// A gateway of version 1 cannot be asked: then this returns as soon as no handler runs. Dropping the future does not undo it.
    ///
    #[cfg_attr(feature = "gateway", doc = "```")]
    #[cfg_attr(not(feature = "gateway"), doc = "```ignore")]
    /// # use ipc_bro::{Client, Context, HandlerError};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = std::env::temp_dir().join(format!("ipc-bro-doc-drain-{}", std::process::id()));
    /// # let path = directory.join("gateway.sock");
    /// # let gateway = ipc_bro::Gateway::start(ipc_bro::GatewayConfig::new(&path))?;
    /// # let user = Client::builder("user").gateway_path(&path).connect().await?;
    /// // On SIGTERM, for instance:
    /// user.drain().await?;
    /// user.disconnect().await;
    /// # drop(gateway); std::fs::remove_dir_all(&directory)?; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `TIMEOUT` when calls are still being worked on after [`crate::limits::CLIENT_DRAIN_TIMEOUT_MS`].
    pub async fn drain(&self) -> Result<(), Error> {
        let (reply, done) = oneshot::channel();
        let is_running = self.shared.start.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        if !is_running || self.shared.control.send(Control::Drain(reply)).is_err() {
            return Ok(());
        }
        // An error means that the task has ended, and all work with it.
        match done.await.unwrap_or(0) {
            0 => Ok(()),
            in_work => Err(Error::local(ErrorCode::Timeout, format!("{in_work} calls are still being worked on"))),
        }
    }

    /// Registers a method that other services may call, or replaces its handler. A connected client advertises it at
    /// once.
    ///
    /// Every call runs in a task of its own, with `P` decoded from the parameters and the result encoded in the
    /// client's serializer. Parameters of another shape are answered `DESERIALIZATION_FAILED`, a result that cannot be
    /// encoded `SERIALIZATION_FAILED`, a panic `EXECUTION_FAILED`. A handler is dropped at its next await when nobody waits for its
    /// answer any more: the caller gave the call up or is gone, its deadline has passed, the connection is lost (see
    /// [`ClientBuilder::keep_cancelled_handlers`]). It should not block its thread for long: use [`tokio::task::spawn_blocking`].
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a name that is empty, longer than 255 bytes or has control characters;
    /// `RESOURCE_EXHAUSTED` above [`crate::limits::METHODS_MAX`] methods.
    pub fn register<P, R, E, F, Fut>(&self, name: &str, handler: F) -> Result<(), Error>
    where
        F: Fn(P, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
        P: DeserializeOwned + 'static,
        R: Serialize + 'static,
        E: Into<HandlerError> + 'static,
    {
        self.register_handler(name, handler::typed(self.shared.serializer, handler))
    }

    /// Registers a method that takes and returns encoded values. It gets them in this client's encoding. Otherwise as [`Client::register`].
    ///
    /// # Errors
    /// As [`Client::register`].
    pub fn register_raw<E, F, Fut>(&self, name: &str, handler: F) -> Result<(), Error>
    where
        F: Fn(RawPayload, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<RawPayload, E>> + Send + 'static,
        E: Into<HandlerError> + 'static,
    {
        self.register_handler(name, handler::raw(handler))
    }

    /// Removes a method: calls to it are answered `METHOD_NOT_FOUND` from now on, those that run go on. False when
    /// there was none of that name.
    pub fn unregister(&self, name: &str) -> bool {
        let removed = self.shared.methods.remove(name);
        if removed {
            self.shared.methods_changed();
        }
        removed
    }

    /// Calls a method of another service and waits for its result, at most for the client's timeout. In a handler
    /// the call continues the chain of the call that the handler works on.
    ///
    /// The parameters are encoded right away; the call is made when the future is first polled. Dropping the future
    /// cancels the call: the callee is told, and so is everybody whom it has called meanwhile for this call. (Peers of version 1 of the
    /// protocol cannot be told: they work on until the deadline.)
    ///
    /// Where the service is not there, the call fails at once, unless [`ClientBuilder::wait_for_service`] says otherwise.
    ///
    /// # Errors
    /// `NOT_CONNECTED`, `SERVICE_NOT_FOUND`, `METHOD_NOT_FOUND`, `TIMEOUT`, `DEADLINE_EXCEEDED`,
    /// `MAX_DEPTH_EXCEEDED`, `CONNECTION_LOST`, `OVERLOADED`, `RESOURCE_EXHAUSTED`, `PAYLOAD_TOO_LARGE`, `SERIALIZATION_FAILED`,
    /// `DESERIALIZATION_FAILED` when the result is not an `R`, or whatever code the handler answered;
    /// [`Error::failed_by`] tells who said it.
    pub fn call<R: DeserializeOwned>(&self, service: &str, method: &str, params: impl Serialize) -> Call<R> {
        self.call_with(service, method, params, CallOptions::new())
    }

    /// As [`Client::call`], with a timeout or a context of its own.
    ///
    /// # Errors
    /// As [`Client::call`], and `INVALID_CONTEXT` for an explicit context that is none.
    pub fn call_with<R: DeserializeOwned>(
        &self,
        service: &str,
        method: &str,
        params: impl Serialize,
        options: CallOptions,
    ) -> Call<R> {
        Call::new(self.start_call(service, method, RawPayload::encode(&params, self.shared.serializer), options, false))
    }

    /// As [`Client::call_with`], with values that are encoded already. The result comes in this client's encoding.
    ///
    /// # Errors
    /// As [`Client::call_with`].
    pub fn call_raw(
        &self,
        service: &str,
        method: &str,
        params: RawPayload,
        options: CallOptions,
    ) -> impl Future<Output = Result<RawPayload, Error>> + Send + use<> {
        let answer = self.start_call(service, method, Ok(params), options, false);
        async move { answer.await.map(RawPayload::unpinned) }
    }

    /// Calls a method without waiting for it, or learning how it went: the future ends when the notification is on its way. Like a
    /// call, it is dropped where it cannot be delivered, continues the chain of the handler that makes it, and makes the handler stop
    /// at its deadline.
    ///
    #[cfg_attr(feature = "gateway", doc = "```")]
    #[cfg_attr(not(feature = "gateway"), doc = "```ignore")]
    /// # use ipc_bro::{Client, Context, HandlerError};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = std::env::temp_dir().join(format!("ipc-bro-doc-notify-{}", std::process::id()));
    /// # let path = directory.join("gateway.sock");
    /// # let gateway = ipc_bro::Gateway::start(ipc_bro::GatewayConfig::new(&path))?;
    /// let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    /// let audit = Client::builder("audit")
    ///     .gateway_path(&path)
    ///     .method("record", move |line: String, _: Context| {
    ///         let heard = heard.clone();
    ///         async move { Ok::<_, HandlerError>(heard.send(line)?) }
    ///     })
    ///     .connect()
    ///     .await?;
    /// let order = Client::builder("order").gateway_path(&path).connect().await?;
    /// order.notify("audit", "record", "order placed").await?;
    /// assert_eq!(hears.recv().await.as_deref(), Some("order placed"));
    /// # order.disconnect().await; audit.disconnect().await; drop(gateway); std::fs::remove_dir_all(&directory)?; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `NOT_CONNECTED`, `OVERLOADED`, `PAYLOAD_TOO_LARGE`, `SERIALIZATION_FAILED`, `DEADLINE_EXCEEDED`, `MAX_DEPTH_EXCEEDED`,
    /// `CANCELLED`: what this side finds out. That there is no such service is not told.
    pub fn notify(&self, service: &str, method: &str, params: impl Serialize) -> Call<()> {
        self.notify_with(service, method, params, CallOptions::new())
    }

    /// As [`Client::notify`], with a context or a timeout (for the handler) of its own.
    ///
    /// # Errors
    /// As [`Client::notify`], and `INVALID_CONTEXT` for an explicit context that is none.
    pub fn notify_with(&self, service: &str, method: &str, params: impl Serialize, options: CallOptions) -> Call<()> {
        let params = RawPayload::encode(&params, self.shared.serializer);
        Call::new(self.start_call(service, method, params, options, true))
    }

    /// What happens to this client from now on. Events are built only while somebody listens.
    pub fn events(&self) -> EventStream {
        self.shared.events.listen()
    }

    /// A snapshot.
    pub fn status(&self) -> ClientStatus {
        let state = &self.shared.state;
        ClientStatus {
            connected: state.connected.load(Ordering::Acquire),
            registered: state.registered.load(Ordering::Acquire),
            service_name: self.shared.service_name.clone(),
            lanes: state.lanes.load(Ordering::Acquire),
            pending_requests: state.pending.load(Ordering::Acquire),
            waiting_requests: state.waiting.load(Ordering::Acquire),
            registered_methods: self.shared.methods.len(),
        }
    }

    /// Whether the client is connected and registered, so that calls can be made.
    pub fn is_connected(&self) -> bool {
        self.shared.state.registered.load(Ordering::Acquire)
    }

    /// The names of the registered methods, sorted.
    pub fn registered_methods(&self) -> Vec<String> {
        self.shared.methods.names().iter().map(|name| String::from(&**name)).collect()
    }

    /// The name that others call.
    pub fn service_name(&self) -> &str {
        &self.shared.service_name
    }

    pub(crate) fn from_builder(builder: ClientBuilder) -> Result<Client, Error> {
        if let Some(error) = builder.invalid {
            return Err(error);
        }
        let methods = MethodTable::default();
        let mut builder = builder;
        for (name, handler) in std::mem::take(&mut builder.methods) {
            methods.insert(&name, handler(builder.serializer))?;
        }
        let (calls, queued_calls) = mpsc::channel(CALLS_QUEUED_MAX);
        let (control, queued_control) = mpsc::unbounded_channel();
        let shared = |driver| Shared {
            service_name: builder.service_name.clone(),
            serializer: builder.serializer,
            debug: builder.debug,
            wait_for_service: builder.wait_for_service,
            events: Arc::default(),
            methods,
            state: State::default(),
            calls,
            control,
            start: Mutex::new(Some(driver)),
        };
        let driver = Driver::new(&builder, queued_calls, queued_control)?;
        let shared = Arc::new(shared(driver));
        let lifeline = Arc::new(Lifeline { shared: Arc::clone(&shared) });
        Ok(Client { shared, lifeline: Arc::downgrade(&lifeline), _lifeline: Some(lifeline) })
    }

    fn register_handler(&self, name: &str, handler: Handler) -> Result<(), Error> {
        self.shared.methods.insert(name, handler)?;
        self.shared.methods_changed();
        Ok(())
    }

    fn start_call(
        &self,
        service: &str,
        method: &str,
        params: Result<RawPayload, Error>,
        options: CallOptions,
        is_notification: bool,
    ) -> impl Future<Output = Result<RawPayload, Error>> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        let route = (service.to_owned(), method.to_owned());
        // Captured here, not at the first poll: the future may be polled in another task.
        let inherited = match options.chain {
            Chain::Inherit => Context::current(),
            _ => None,
        };
        async move {
            let params = params?;
            let not_connected = || Error::local(ErrorCode::NotConnected, "the client is not connected to a gateway");
            // A lane needs no gateway; whether there is one to this service, the task knows.
            let may_reach =
                shared.state.registered.load(Ordering::Acquire) || shared.state.lanes.load(Ordering::Acquire) > 0;
            // Whether a connection is on its way, the task knows as well, if it runs.
            let wait_for_service = options.wait_for_service.unwrap_or(shared.wait_for_service);
            let is_impatient = wait_for_service.is_zero() || is_notification;
            let is_unstarted = || shared.start.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if !may_reach && (is_impatient || is_unstarted()) {
                return Err(not_connected());
            }
            let begun = Instant::now();
            let permit = shared.calls.reserve().await.map_err(|_| not_connected())?;
            let waiting = Waiting { slot: Slot::new(), control: &shared.control };
            permit.send(CallCommand {
                service: route.0,
                method: route.1,
                params,
                chain: options.chain,
                inherited,
                timeout: options.timeout,
                wait_for_service,
                begun,
                is_notification,
                reply: Reply(Arc::clone(&waiting.slot)),
            });
            poll_fn(|cx| waiting.slot.poll_answer(cx)).await
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.status()).finish()
    }
}

/// Dropped before its answer has come, it takes the call back.
struct Waiting<'a> {
    slot: Arc<Slot<CallKey>>,
    control: &'a mpsc::UnboundedSender<Control>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.slot.close() {
            // An error means that the task has ended, and the call with it.
            let _ = self.control.send(Control::Cancel(Arc::clone(&self.slot)));
        }
    }
}

/// A client's parts that its handles and its connection task have in common.
pub(crate) struct Shared {
    pub(crate) service_name: String,
    pub(crate) serializer: Serializer,
    pub(crate) debug: bool,
    /// For calls that do not say themselves.
    wait_for_service: std::time::Duration,
    pub(crate) events: Arc<EventLog>,
    pub(crate) methods: MethodTable,
    pub(crate) state: State,
    /// Admission of calls: bounded, callers wait.
    calls: mpsc::Sender<CallCommand>,
    /// Everything that must not wait behind calls. Bounded by what causes it: calls in flight, requests in work,
    /// handles that wait.
    pub(crate) control: mpsc::UnboundedSender<Control>,
    /// The connection task until it is spawned.
    start: Mutex<Option<Driver>>,
}

/// Written by the connection task.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) connected: AtomicBool,
    pub(crate) registered: AtomicBool,
    pub(crate) pending: AtomicUsize,
    pub(crate) waiting: AtomicUsize,
    pub(crate) lanes: AtomicUsize,
    /// Set by handles, taken back by the task: one `MethodsChanged` is queued at most.
    pub(crate) methods_changed: AtomicBool,
}

impl Shared {
    fn methods_changed(&self) {
        if !self.state.methods_changed.swap(true, Ordering::AcqRel) {
            // An error means that the task has ended; there is nobody to tell.
            let _ = self.control.send(Control::MethodsChanged);
        }
    }
}

/// A client that does not count as a handle.
#[derive(Clone)]
pub(crate) struct WeakClient {
    pub(crate) shared: Arc<Shared>,
    lifeline: Weak<Lifeline>,
}

impl WeakClient {
    pub(crate) fn upgrade(&self) -> Client {
        Client {
            shared: Arc::clone(&self.shared),
            _lifeline: self.lifeline.upgrade(),
            lifeline: Weak::clone(&self.lifeline),
        }
    }
}

/// What all handles of a client hold in common; its drop is that of the last handle.
struct Lifeline {
    shared: Arc<Shared>,
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        if self.shared.start.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            self.shared.events.end();
        }
        // An error means that the task has ended already.
        let _ = self.shared.control.send(Control::LastHandleDropped);
    }
}
