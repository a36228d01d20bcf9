//! What the gateway and systemd tell each other: the socket that is passed on, and how the service is doing.
//!
//! All of it goes by the environment, and nothing happens where it says nothing: `LISTEN_FDS` with `LISTEN_PID`, `NOTIFY_SOCKET`, `WATCHDOG_USEC`.

use crate::exit::Failure;
use bro_gateway::{Pulse, Vitals};
use sd_notify::NotifyState;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// How often systemd is told what the gateway does, when it does not want to hear of it more often.
const STATUS_INTERVAL: Duration = Duration::from_secs(30);

/// The listening socket that systemd has passed to this process, if it has. Call it once, before any descriptor is opened.
pub fn listener() -> Result<Option<OwnedFd>, Failure> {
    let passed = sd_notify::listen_fds().map_err(|error| {
        Failure::Usage(format!(
            "LISTEN_FDS names sockets that this process was passed, and they cannot be used: {error}"
        ))
    })?;
    match &passed.collect::<Vec<_>>()[..] {
        [] => Ok(None),
        // SAFETY: LISTEN_FDS says to this very process that the descriptor is passed to it, `listen_fds` has found it open, and
        // nothing else takes it: this is called once, before anything else was opened.
        [fd] => Ok(Some(unsafe { OwnedFd::from_raw_fd(*fd) })),
        several => Err(Failure::Usage(format!(
            "{} sockets were passed in LISTEN_FDS, and a gateway listens on one: give the service one .socket unit with one ListenStream=",
            several.len()
        ))),
    }
}

/// Refuses a socket that was passed where another one was asked for as well. Whether it can be listened on is the gateway's business.
pub fn check_path(passed: &OwnedFd, named: &Path) -> Result<(), Failure> {
    let address = UnixListener::from(passed.try_clone()?).local_addr();
    let Some(path) = address.ok().and_then(|address| address.as_pathname().map(Path::to_owned)) else { return Ok(()) };
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if real(&path) == real(named) {
        return Ok(());
    }
    let (passed, named) = (path.display(), named.display());
    Err(Failure::Usage(format!(
        "the socket {passed} was passed in LISTEN_FDS, and {named} was asked for: leave out --socket, BRO_SOCKET and `socket`, or make them the same"
    )))
}

/// Tells systemd how the gateway is doing. Never waits for it on the gateway's thread.
pub struct Notifier {
    beats: Option<SyncSender<Vitals>>,
    every: Duration,
}

impl Notifier {
    /// Beats that nobody has told yet; more are dropped, since each says the same.
    const BEATS_MAX: usize = 1;

    pub fn start() -> std::io::Result<Notifier> {
        let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
        let every = watchdog.map_or(STATUS_INTERVAL, |limit| (limit / 3).min(STATUS_INTERVAL));
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(Notifier { beats: None, every });
        }
        let (beats, to_tell) = sync_channel::<Vitals>(Self::BEATS_MAX);
        // Telling may block, and must not hold up the gateway. Only a beat of its thread makes this one speak.
        thread::Builder::new().name("bro-notify".to_owned()).spawn(move || {
            for vitals in to_tell {
                let text = status_text(&vitals);
                match watchdog {
                    Some(_) => tell(&[NotifyState::Watchdog, NotifyState::Status(&text)]),
                    None => tell(&[NotifyState::Status(&text)]),
                }
            }
        })?;
        Ok(Notifier { beats: Some(beats), every })
    }

    /// What the gateway's thread is to beat.
    pub fn pulse(&self) -> Option<Pulse> {
        let beats = self.beats.clone()?;
        Some(Pulse { every: self.every, beat: Box::new(move |vitals| _ = beats.try_send(vitals)) })
    }

    /// The gateway accepts connections.
    pub fn ready(&self, socket: &Path) {
        let text = format!("listening on {}", socket.display());
        tell(&[NotifyState::Ready, NotifyState::Status(&text)]);
    }

    /// Another process is the gateway from now on, and the main one of the service. This one has to say so: the other is not known yet.
    pub fn replaced(&self, pid: Option<u32>) {
        if let Some(pid) = pid {
            tell(&[NotifyState::MainPid(pid)]);
        }
    }

    /// The gateway has begun to stop, and lets calls in flight finish for so long at most.
    pub fn stopping(&self, drain_timeout: Duration) {
        let text = format!("draining: calls in flight have {} ms to finish", drain_timeout.as_millis());
        tell(&[NotifyState::Stopping, NotifyState::Status(&text)]);
    }
}

fn status_text(vitals: &Vitals) -> String {
    let Vitals { services, peers, in_flight, is_draining } = vitals;
    let draining = if *is_draining { "draining: " } else { "" };
    format!("{draining}{services} services, {peers} connections, {in_flight} calls in flight")
}

/// Does nothing without NOTIFY_SOCKET.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot tell systemd how the gateway is doing: {error}");
    }
}
