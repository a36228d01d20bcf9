//! What can go wrong with a gateway.

use crate::policy::PolicyLoadError;
use bro_router::ConfigError;
use std::io;
use std::path::PathBuf;

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Somebody answers on the socket: it is left alone.
    #[error("a gateway is already running on {}; stop it first, or choose another socket path", path.display())]
    AlreadyRunning {
        /// The socket file.
        path: PathBuf,
    },
    /// Other gateways are being started or stopped on the same path, and do not come to an end.
    #[error("{} is held by another gateway that is starting or stopping; if there is none, remove that file", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The kernel cannot hold a path of that length.
    #[error("the socket path {} has {bytes} bytes, at most {limit} are possible", path.display())]
    PathTooLong {
        /// The socket file.
        path: PathBuf,
        /// Its length.
        bytes: usize,
        /// The longest possible.
        limit: usize,
    },
    /// The path is empty, ends in `/`, `.` or `..`, or contains a zero byte.
    #[error("{:?} does not name a file", path)]
    NotAFileName {
        /// As configured.
        path: PathBuf,
    },
    /// Something else has that path: it is never removed.
    #[error("{} is {kind}, not a socket: it is left alone; choose another socket path", path.display())]
    NotASocket {
        /// The socket path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The socket that was passed to the gateway cannot be listened on.
    #[error("the socket passed to the gateway must be a listening Unix stream socket with a path, and it is {found}")]
    UnfitListener {
        /// What it is.
        found: &'static str,
    },
    /// A part of the path that should be a directory is something else.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// The part.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The reason given.
        source: io::Error,
    },
    /// A gateway is running and was not taken over: it goes on.
    #[error("cannot take over from the gateway on {}: {why}", path.display())]
    Takeover {
        /// The socket file.
        path: PathBuf,
        /// What was in the way.
        why: String,
    },
    /// The limits contradict each other.
    #[error("the gateway's options do not fit together")]
    Config(#[from] ConfigError),
    /// The policy does not load.
    #[error(transparent)]
    Policy(#[from] PolicyLoadError),
    /// No event loop or no thread could be created.
    #[error("cannot create {what}")]
    Resources {
        /// What was to be created.
        what: &'static str,
        /// The reason given.
        source: io::Error,
    },
}

/// The gateway has ended, so there is nothing to ask or to tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway has stopped")]
pub struct Stopped;

/// Why the policy is the same as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// It does not load.
    #[error(transparent)]
    Policy(#[from] PolicyLoadError),
    /// There is no gateway that could have another one.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Why a gateway ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It was told to.
    Requested,
    /// Another gateway has taken over its socket, its connections and its calls.
    TakenOver {
        /// Process id of that gateway, where known.
        pid: Option<u32>,
    },
    /// The operating system took away what it needs.
    Failed(String),
    /// A defect in the gateway or in its event sink; every connection was closed.
    Panicked(String),
}
