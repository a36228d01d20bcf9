//! What a client is, and its limits.

use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::limits::{
    CALL_TIMEOUT_MAX_MS, CALL_TIMEOUT_MS, CLIENT_QUEUE_BYTES_MAX, FRAME_BYTES_MAX, HEARTBEAT_INTERVAL_MS,
    METADATA_BYTES_MAX, POOL_SIZE_MAX, RECONNECT_DELAY_MS, REGISTER_BYTES_MAX, REQUESTS_MAX, WAITING_BYTES_MAX,
    WAITING_CALLS_MAX,
};
use bro_proto::name::check_service_name;
use bro_proto::v1::rewrite::transcode;
use bro_proto::v1::{Encoding, Payload};
use bro_proto::v2::VERSION;

/// The key in the metadata of a REGISTER that offers version 2.
const OFFER: &str = "bro";

/// Everything a session is told at its start. The defaults are the readme's.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The name to register.
    pub service_name: String,
    /// The service's own version, told to the gateway. "1.0.0" by default.
    pub version: String,
    /// Told to the gateway; `poolIndex` and `poolSize` are added when the pool has several connections, and `bro` to offer
    /// version 2.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// Methods that are advertised with the first registration; more may follow.
    pub methods: Vec<String>,
    /// What this client writes, and what its requests and results are handed out in. It reads both.
    pub encoding: Encoding,
    /// Whether connections speak version 2 of the protocol where the gateway does. True by default.
    pub speaks_v2: bool,
    /// Whether lanes are taken when the gateway offers them: the driver must be able to open them. False by default; needs `speaks_v2`.
    pub takes_lanes: bool,
    /// Whether payloads of version 2, at which no gateway has looked, are proved to be values before they are handed out. True by default. A driver
    /// that says false has to take every payload in this client's encoding for any bytes, prove it where it reads it, and treat what is none
    /// as `DESERIALIZATION_FAILED`: one that it reads anyway need then not be read twice.
    pub checks_payloads: bool,
    /// Connections to hold, 1 to [`POOL_SIZE_MAX`].
    pub pool_size: u32,
    /// Whether a lost connection is made again.
    pub auto_reconnect: bool,
    /// Delay before the first attempt to reconnect, in milliseconds. It doubles up to
    /// [`bro_proto::limits::RECONNECT_DELAY_MAX_MS`].
    pub reconnect_delay_ms: u64,
    /// Time a call may take when it does not say otherwise, in milliseconds; at most [`CALL_TIMEOUT_MAX_MS`].
    pub timeout_ms: u64,
    /// Interval between heartbeats, in milliseconds. At least 1.
    pub heartbeat_interval_ms: u64,
    /// How long `connect` keeps trying while no gateway is there, in milliseconds; 0 fails at the first refusal.
    pub wait_for_gateway_ms: u64,
    /// How long a call whose service is not there waits for it to appear, in milliseconds, when it does not say otherwise; at most
    /// [`CALL_TIMEOUT_MAX_MS`]. 0, the default, fails it at once.
    pub wait_for_service_ms: u64,
    /// Calls that may wait so at once. [`WAITING_CALLS_MAX`] by default.
    pub waiting_calls_max: usize,
    /// Bytes that may be kept of calls that wait, or may have to. [`WAITING_BYTES_MAX`] by default.
    pub waiting_bytes_max: usize,
    /// Largest body of a frame, in either direction. [`FRAME_BYTES_MAX`] by default.
    pub frame_bytes_max: usize,
    /// Bytes waiting on one connection above which calls are refused with `OVERLOADED`.
    /// [`CLIENT_QUEUE_BYTES_MAX`] by default.
    pub queue_bytes_max: usize,
    /// Calls of others that may be worked on at once; further ones are answered `OVERLOADED`.
    /// [`REQUESTS_MAX`] by default.
    pub requests_max: usize,
}

impl SessionConfig {
    /// The readme's defaults for a service of this name.
    pub fn new(service_name: impl Into<String>) -> Self {
        Self {
            service_name: service_name.into(),
            version: "1.0.0".to_owned(),
            metadata: serde_json::Map::new(),
            methods: Vec::new(),
            encoding: Encoding::Json,
            speaks_v2: true,
            takes_lanes: false,
            checks_payloads: true,
            pool_size: 1,
            auto_reconnect: true,
            reconnect_delay_ms: RECONNECT_DELAY_MS,
            timeout_ms: CALL_TIMEOUT_MS,
            heartbeat_interval_ms: HEARTBEAT_INTERVAL_MS,
            wait_for_gateway_ms: 0,
            wait_for_service_ms: 0,
            waiting_calls_max: WAITING_CALLS_MAX,
            waiting_bytes_max: WAITING_BYTES_MAX,
            frame_bytes_max: FRAME_BYTES_MAX,
            queue_bytes_max: CLIENT_QUEUE_BYTES_MAX,
            requests_max: REQUESTS_MAX,
        }
    }

    /// Says which option is not acceptable, and why.
    pub fn check(&self) -> Result<(), ErrorBody> {
        let refuse = |why: String| Err(ErrorBody::new(ErrorCode::InvalidArgument, why));
        if let Err(error) = check_service_name(&self.service_name) {
            return refuse(format!("service name: {error}"));
        }
        if self.version.len() > 255 {
            return refuse("version: at most 255 bytes are accepted".to_owned());
        }
        if !(1..=POOL_SIZE_MAX).contains(&self.pool_size) {
            return refuse(format!("pool size: {} is not between 1 and {POOL_SIZE_MAX}", self.pool_size));
        }
        if self.heartbeat_interval_ms == 0 {
            return refuse("heartbeat interval: at least 1 ms is needed".to_owned());
        }
        if !(REGISTER_BYTES_MAX..=u32::MAX as usize).contains(&self.frame_bytes_max) {
            return refuse(format!("largest frame: must be between {REGISTER_BYTES_MAX} bytes and 4 GiB"));
        }
        Ok(())
    }

    /// The `metadata` of one connection's REGISTER, as JSON.
    pub(crate) fn metadata_json(&self, pool_index: u32) -> Vec<u8> {
        let mut metadata = self.metadata.clone();
        if self.speaks_v2 {
            let offer = if self.takes_lanes {
                serde_json::json!({ "v": VERSION, "lanes": true })
            } else {
                serde_json::json!({ "v": VERSION })
            };
            metadata.insert(OFFER.to_owned(), offer);
        }
        if self.pool_size > 1 {
            metadata.insert("poolIndex".to_owned(), pool_index.into());
            metadata.insert("poolSize".to_owned(), self.pool_size.into());
        }
        if metadata.is_empty() {
            return Vec::new();
        }
        serde_json::to_vec(&metadata).expect("a map of JSON values is JSON")
    }

    /// Checks what [`Self::metadata_json`] gives: both encodings must be able to carry it.
    pub(crate) fn check_metadata(&self) -> Result<(), ErrorBody> {
        if self.metadata.contains_key(OFFER) {
            let why = format!("metadata: {OFFER:?} is the key under which client and gateway agree on a version");
            return Err(ErrorBody::new(ErrorCode::InvalidArgument, why));
        }
        let json = self.metadata_json(POOL_SIZE_MAX);
        let mut msgpack = Vec::new();
        if let Err(error) =
            transcode(Payload { encoding: Encoding::Json, bytes: &json }, Encoding::Msgpack, &mut msgpack)
        {
            return Err(ErrorBody::new(ErrorCode::InvalidArgument, format!("metadata: {error}")));
        }
        let bytes = json.len().max(msgpack.len());
        if bytes > METADATA_BYTES_MAX {
            let why = format!("metadata: {bytes} bytes, at most {METADATA_BYTES_MAX} are accepted");
            return Err(ErrorBody::new(ErrorCode::PayloadTooLarge, why));
        }
        Ok(())
    }

    /// Bytes that calls and results together may make wait on one connection. A call is admitted below
    /// `queue_bytes_max` only, so one always fits; a result that does not is replaced by an error.
    pub(crate) fn outbound_bytes_max(&self) -> usize {
        self.queue_bytes_max.saturating_add(self.frame_bytes_max)
    }

    /// The time that a call may take, in milliseconds.
    pub(crate) fn call_timeout_ms(&self, asked_ms: Option<u64>) -> u64 {
        asked_ms.unwrap_or(self.timeout_ms).min(CALL_TIMEOUT_MAX_MS)
    }
}
