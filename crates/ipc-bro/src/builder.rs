//! Options of a client.

use crate::Serializer;
use crate::client::Client;
use crate::context::Context;
use crate::error::{Error, HandlerError};
use crate::handler::{self, Handler};
use crate::payload::RawPayload;
use bro_proto::{ErrorCode, limits};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a gateway listens unless told otherwise.
pub const DEFAULT_GATEWAY_PATH: &str = "/tmp/bro-gateway.sock";

/// Options of a [`Client`]; made by [`Client::builder`].
#[must_use = "a builder does nothing until `connect` or `build`"]
pub struct ClientBuilder {
    pub(crate) service_name: String,
    pub(crate) gateway_path: PathBuf,
    pub(crate) serializer: Serializer,
    pub(crate) speaks_v2: bool,
    pub(crate) takes_lanes: bool,
    pub(crate) lane_spin: Duration,
    pub(crate) keeps_cancelled: bool,
    pub(crate) pool_size: u32,
    pub(crate) auto_reconnect: bool,
    pub(crate) reconnect_delay: Duration,
    pub(crate) timeout: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) wait_for_gateway: Duration,
    pub(crate) wait_for_service: Duration,
    pub(crate) version: String,
    pub(crate) metadata: serde_json::Map<String, serde_json::Value>,
    pub(crate) debug: bool,
    pub(crate) methods: Vec<(String, PendingHandler)>,
    pub(crate) invalid: Option<Error>,
}

/// A handler that waits for the serializer to be known.
pub(crate) type PendingHandler = Box<dyn FnOnce(Serializer) -> Handler + Send>;

impl ClientBuilder {
    pub(crate) fn new(service_name: String) -> Self {
        Self {
            service_name,
            gateway_path: PathBuf::from(DEFAULT_GATEWAY_PATH),
            serializer: Serializer::Json,
            speaks_v2: true,
            takes_lanes: true,
            lane_spin: Duration::ZERO,
            keeps_cancelled: false,
            pool_size: 1,
            auto_reconnect: true,
            reconnect_delay: Duration::from_millis(limits::RECONNECT_DELAY_MS),
            timeout: Duration::from_millis(limits::CALL_TIMEOUT_MS),
            heartbeat_interval: Duration::from_millis(limits::HEARTBEAT_INTERVAL_MS),
            wait_for_gateway: Duration::ZERO,
            wait_for_service: Duration::ZERO,
            version: "1.0.0".to_owned(),
            metadata: serde_json::Map::new(),
            debug: false,
            methods: Vec::new(),
            invalid: None,
        }
    }

    /// The gateway's socket. Default [`DEFAULT_GATEWAY_PATH`].
    pub fn gateway_path(mut self, path: impl AsRef<Path>) -> Self {
        self.gateway_path = path.as_ref().to_owned();
        self
    }

    /// How frames are encoded. Default [`Serializer::Json`]. The gateway translates between peers, so each service
    /// chooses for itself.
    pub fn serializer(mut self, serializer: Serializer) -> Self {
        self.serializer = serializer;
        self
    }

    /// Whether to take lanes: direct ways to services that this client calls much or is called much by, which the gateway offers.
    /// Default true. Calls need not know: those on a lane are faster, and go on while the gateway is away. See `docs/lanes.md`.
    pub fn lanes(mut self, take_lanes: bool) -> Self {
        self.takes_lanes = take_lanes;
        self
    }

    /// How long the client may spin for the next bytes of a lane before it sleeps, at most a millisecond. Default zero. It takes a core
    /// while it spins, and other tasks of its thread wait: for programs that have both to spare, and only where calls follow each other
    /// at once. It spins less by itself where that does not pay.
    pub fn lane_spin(mut self, longest: Duration) -> Self {
        self.lane_spin = longest;
        self
    }

    /// Whether to speak version 2 of the protocol with gateways that do. Default true. Version 1 has no words for cancelling: with it,
    /// callees work on until their deadline.
    pub fn speak_v2(mut self, speak_v2: bool) -> Self {
        self.speaks_v2 = speak_v2;
        self
    }

    /// Whether handlers run on when nobody waits for their answer any more, instead of being dropped at their next await, as tokio and
    /// tonic do it. Default false. For work that must not stop half way; [`Context::cancelled`] tells, and what such a handler returns goes
    /// nowhere. Its further calls fail with `CANCELLED`. [`Client::disconnect`] stops handlers all the same.
    ///
    /// ```
    /// use ipc_bro::{Client, Context, HandlerError};
    ///
    /// let builder = Client::builder("export").keep_cancelled_handlers(true).method(
    ///     "rows",
    ///     async |rows: u32, context: Context| {
    ///         for row in 0..rows {
    ///             if context.is_cancelled() {
    ///                 break; // but not in the middle of one
    ///             }
    /// #           let _ = row;
    ///             tokio::task::yield_now().await;
    ///         }
    ///         Ok::<_, HandlerError>(())
    ///     },
    /// );
    /// # builder.build().unwrap();
    /// ```
    pub fn keep_cancelled_handlers(mut self, keep: bool) -> Self {
        self.keeps_cancelled = keep;
        self
    }

    /// How many connections to the gateway share the work. Default 1, at most [`crate::limits::POOL_SIZE_MAX`].
    pub fn pool_size(mut self, connections: u32) -> Self {
        self.pool_size = connections;
        self
    }

    /// Whether to return by itself when the connection is lost. Default true.
    pub fn auto_reconnect(mut self, auto_reconnect: bool) -> Self {
        self.auto_reconnect = auto_reconnect;
        self
    }

    /// The delay before the first attempt to reconnect; it doubles from attempt to attempt up to 30 seconds, with
    /// jitter. Default 5 seconds.
    pub fn reconnect_delay(mut self, delay: Duration) -> Self {
        self.reconnect_delay = delay;
        self
    }

    /// How long a call waits for its answer. Default 30 seconds, at most one day.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How often the gateway is told that this service lives. Default 30 seconds. It must not be longer than the
    /// gateway's own interval, which drops a service that is silent for three of them.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// How long `connect` keeps trying to reach a gateway that is not there yet. Default zero: fail at once.
    pub fn wait_for_gateway(mut self, longest: Duration) -> Self {
        self.wait_for_gateway = longest;
        self
    }

    /// How long a call whose service is not there waits for it to appear, so that programs can be started in any order. Default zero: it fails
    /// at once. [`crate::limits::SERVICE_WAIT_MS`] is a good value; at most one day. [`crate::CallOptions::wait_for_service`] says it for
    /// one call.
    ///
    /// The wait covers a gateway that is not there yet, or not there again, while the client is connecting. It is part of the call's timeout, and
    /// of its deadline in a chain. Calls that have waited are sent in the order in which they were made. One that may have been carried out is never
    /// sent again: only that the gateway itself refused it proves that it was not. At most
    /// [`crate::limits::WAITING_CALLS_MAX`] calls of a client wait at once, and at most [`crate::limits::WAITING_BYTES_MAX`] bytes are kept
    /// for that. Notifications do not wait.
    ///
    #[cfg_attr(feature = "gateway", doc = "```")]
    #[cfg_attr(not(feature = "gateway"), doc = "```ignore")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = std::env::temp_dir().join(format!("ipc-bro-doc-wait-{}", std::process::id()));
    /// # let path = directory.join("gateway.sock");
    /// # let gateway = ipc_bro::Gateway::start(ipc_bro::GatewayConfig::new(&path))?;
    /// use ipc_bro::{Client, Context, HandlerError};
    /// use std::time::Duration;
    ///
    /// let order = Client::builder("order")
    ///     .gateway_path(&path)
    ///     .wait_for_gateway(Duration::from_secs(10))
    ///     .wait_for_service(Duration::from_secs(10))
    ///     .connect()
    ///     .await?;
    /// let name = tokio::spawn(order.call::<String>("user", "nameOf", 7));
    ///
    /// // Some time later, in another program:
    /// let user = Client::builder("user").gateway_path(&path);
    /// let user = user.method("nameOf", async |_: u32, _: Context| Ok::<_, HandlerError>("Nirikshan")).connect().await?;
    /// assert_eq!(name.await??, "Nirikshan");
    /// # order.disconnect().await; user.disconnect().await; drop(gateway); std::fs::remove_dir_all(&directory)?; Ok(()) }
    /// ```
    pub fn wait_for_service(mut self, longest: Duration) -> Self {
        self.wait_for_service = longest;
        self
    }

    /// The service's version, shown by `bro ls`. Default "1.0.0".
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Adds an entry to the service's metadata, which the gateway shows to whoever asks. A value that cannot be
    /// encoded makes [`ClientBuilder::build`] fail.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Serialize) -> Self {
        let key = key.into();
        match serde_json::to_value(value) {
            Ok(value) => {
                self.metadata.insert(key, value);
            }
            Err(error) => {
                let message = format!("the metadata `{key}` cannot be encoded");
                self.invalid.get_or_insert(Error::caused(ErrorCode::SerializationFailed, message, error));
            }
        }
        self
    }

    /// Whether to report what the client does as `tracing` events (level DEBUG, target `ipc_bro`). Default false.
    pub fn debug(mut self, debug: bool) -> Self {
        self.debug = debug;
        self
    }

    /// Registers a method, as [`Client::register`] does.
    pub fn method<P, R, E, F, Fut>(mut self, name: impl Into<String>, handler: F) -> Self
    where
        F: Fn(P, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
        P: DeserializeOwned + 'static,
        R: Serialize + 'static,
        E: Into<HandlerError> + 'static,
    {
        self.methods.push((name.into(), Box::new(|serializer| handler::typed(serializer, handler))));
        self
    }

    /// Registers a method that takes and returns encoded values, as [`Client::register_raw`] does.
    pub fn method_raw<E, F, Fut>(mut self, name: impl Into<String>, handler: F) -> Self
    where
        F: Fn(RawPayload, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<RawPayload, E>> + Send + 'static,
        E: Into<HandlerError> + 'static,
    {
        self.methods.push((name.into(), Box::new(|_| handler::raw(handler))));
        self
    }

    /// Makes the client without connecting it. Needs no runtime yet.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` (or a more precise code) for an option or a name that is not acceptable.
    pub fn build(self) -> Result<Client, Error> {
        Client::from_builder(self)
    }

    /// Makes the client and connects it, as [`Client::connect`] does.
    ///
    /// # Errors
    /// Those of [`ClientBuilder::build`] and [`Client::connect`].
    pub async fn connect(self) -> Result<Client, Error> {
        let client = self.build()?;
        client.connect().await?;
        Ok(client)
    }
}
