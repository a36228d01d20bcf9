//! Options of a gateway.

use crate::policy::PolicySource;
use bro_proto::limits;
use bro_router::RouterConfig;
use std::path::PathBuf;

/// Where a gateway listens when nobody says otherwise.
pub const DEFAULT_SOCKET_PATH: &str = "/tmp/bro-gateway.sock";

/// Options of a [`crate::Gateway`].
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The socket file. Missing directories on the way are made, open to this user only; existing ones stay as they are.
    /// Default [`DEFAULT_SOCKET_PATH`].
    pub socket_path: PathBuf,
    /// Permission bits of the socket file: who may write to it may connect. Default `0o600`, this user only. A policy that lets others in
    /// needs more: `0o660` for a group, `0o666` for everybody.
    pub mode: u32,
    /// Who may do what. Default [`PolicySource::OwnUser`].
    pub policy: PolicySource,
    /// How calls are routed, and within which limits.
    pub router: RouterConfig,
    /// Log every routed call at `debug`, even if no subscriber had asked for that when the gateway started.
    pub debug: bool,
    /// How long [`crate::Gateway::stop`] and [`crate::Gateway::drain`] let calls in flight finish, in milliseconds.
    /// Default [`limits::DRAIN_TIMEOUT_MS`].
    pub drain_timeout_ms: u64,
    /// Whether to take over from the gateway that is running on that socket. Default [`Takeover::No`].
    ///
    /// The options of this gateway count from then on; those of the socket (`mode`) stay as they are. Whether another gateway may take
    /// over from this one later is [`RouterConfig::hands_over`].
    pub takeover: Takeover,
    /// After a flood, make the allocator give what is free back to the system, where it can (glibc). That concerns the whole process, and takes up
    /// to half a millisecond for each MiB: for a process that is a gateway and nothing else, as `bro gateway` is. False by default.
    pub returns_memory: bool,
}

/// Whether a gateway takes over from a running one: its listening socket, connections, services and calls in flight. That one ends, and nobody else
/// notices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Takeover {
    /// A gateway that is running is left alone: [`crate::StartError::AlreadyRunning`].
    #[default]
    No,
    /// Where none is running, this one starts as usual.
    IfRunning,
    /// From the gateway in this process and from no other. Where it is not, this one does not start: [`crate::StartError::Takeover`]. This is for
    /// gateways that the running one has started itself: should that be gone by then, it was told to stop, or somebody else starts the next one.
    From(u32),
}

impl GatewayConfig {
    /// The defaults, with this socket file.
    pub fn new(socket_path: impl Into<PathBuf>) -> Self {
        Self {
            socket_path: socket_path.into(),
            mode: 0o600,
            policy: PolicySource::default(),
            router: RouterConfig::default(),
            debug: false,
            drain_timeout_ms: limits::DRAIN_TIMEOUT_MS,
            takeover: Takeover::No,
            returns_memory: false,
        }
    }
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self::new(DEFAULT_SOCKET_PATH)
    }
}
