//! What the gateway and systemd tell each other: the socket that is passed on, and how the service is doing.
//!
//! All of it goes by the environment, and nothing happens where it says nothing: `LISTEN_FDS` with `LISTEN_PID`, `NOTIFY_SOCKET`, `WATCHDOG_USEC`.

use crate::commands::successor::OtherProcess;
use crate::exit::Failure;
use bro_gateway::{Pulse, Vitals};
use bro_proto::limits;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sd_notify::NotifyState;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// How often systemd is told what the gateway does, when it does not want to hear of it more often.
const STATUS_INTERVAL: Duration = Duration::from_secs(30);
/// How long two gateways, one of which has taken over from the other, wait for systemd and for each other.
const SERVICE_HANDOVER: Duration = Duration::from_millis(limits::SERVICE_HANDOVER_TIMEOUT_MS);
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

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
    /// Whom this gateway has taken over from: sent once, when it serves.
    begin: Option<SyncSender<Option<OtherProcess>>>,
    every: Duration,
}

impl Notifier {
    /// Beats that nobody has told yet; more are dropped, since each says the same.
    const BEATS_MAX: usize = 1;

    pub fn start() -> std::io::Result<Notifier> {
        let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
        let every = watchdog.map_or(STATUS_INTERVAL, |limit| (limit / 3).min(STATUS_INTERVAL));
        if !is_service() {
            return Ok(Notifier { beats: None, begin: None, every });
        }
        let (beats, to_tell) = sync_channel::<Vitals>(Self::BEATS_MAX);
        let (begin, begun) = sync_channel::<Option<OtherProcess>>(1);
        // Telling may block, and must not hold up the gateway. Only a beat of its thread makes this one speak.
        thread::Builder::new().name("bro-notify".to_owned()).spawn(move || {
            if let Ok(Some(predecessor)) = begun.recv() {
                // Until systemd has heard of this process from that one, it does not listen to this one.
                predecessor.wait(SERVICE_HANDOVER);
                tell(&[NotifyState::Ready, NotifyState::Status("took over from the gateway before")]);
            }
            for vitals in to_tell {
                let text = status_text(&vitals);
                match watchdog {
                    Some(_) => tell(&[NotifyState::Watchdog, NotifyState::Status(&text)]),
                    None => tell(&[NotifyState::Status(&text)]),
                }
            }
        })?;
        Ok(Notifier { beats: Some(beats), begin: Some(begin), every })
    }

    /// What the gateway's thread is to beat.
    pub fn pulse(&self) -> Option<Pulse> {
        let beats = self.beats.clone()?;
        Some(Pulse { every: self.every, beat: Box::new(move |vitals| _ = beats.try_send(vitals)) })
    }

    /// The gateway accepts connections, perhaps instead of the one in process `predecessor`, which is about to end.
    pub fn ready(&self, socket: &Path, predecessor: Option<u32>) {
        let Some(begin) = &self.begin else { return };
        let predecessor = predecessor.and_then(OtherProcess::find);
        if predecessor.is_none() {
            let text = format!("listening on {}", socket.display());
            tell(&[NotifyState::Ready, NotifyState::Status(&text)]);
        }
        let _ = begin.send(predecessor); // the thread waits for it
    }

    /// Another process is the gateway from now on, and the main one of the service. This one has to say so: the other is not known yet. And
    /// it has to be there until systemd has heard it, since systemd looks up who says something.
    pub fn replaced(&self, pid: u32) {
        if self.begin.is_none() {
            return;
        }
        tell(&[NotifyState::MainPid(pid)]);
        if let Err(error) = barrier(SERVICE_HANDOVER) {
            tracing::warn!("it is not known whether systemd has heard of the gateway that took over: {error}");
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

/// Whether a service manager wants to hear of this process.
pub fn is_service() -> bool {
    std::env::var_os(NOTIFY_SOCKET).is_some()
}

/// Waits until all that was told so far has been heard: systemd closes a pipe that is sent to it when it comes to it.
fn barrier(longest: Duration) -> std::io::Result<()> {
    let Some(path) = std::env::var_os(NOTIFY_SOCKET) else { return Ok(()) };
    let (heard, sent) = std::io::pipe()?;
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    let descriptors = [sent.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)), "the space is for it");
    sendmsg(&socket, &[IoSlice::new(b"BARRIER=1")], &mut ancillary, SendFlags::NOSIGNAL)?;
    drop(sent);
    let longest = Timespec::try_from(longest).unwrap_or_default();
    match poll(&mut [PollFd::new(&heard, PollFlags::IN)], Some(&longest)) {
        Ok(0) => Err(std::io::ErrorKind::TimedOut.into()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Does nothing without NOTIFY_SOCKET.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot tell systemd how the gateway is doing: {error}");
    }
}
