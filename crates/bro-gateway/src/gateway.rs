//! The handle of a running gateway.

use crate::adopted::adopt;
use crate::clock::Clock;
use crate::config::{GatewayConfig, Takeover};
use crate::driver::{Driver, Ending, Listener};
use crate::embedding::Embedding;
use crate::error::{ReloadError, StartError, StopReason, Stopped};
use crate::event::GatewayEvent;
use crate::journal::Journal;
use crate::policy::PolicyLoader;
use crate::socket_file::SocketFile;
use crate::takeover::{Commit, Taken, take_over};
use bro_policy::Policy;
use bro_proto::limits;
use bro_router::{Counters, EventMask, LoopView, Router, ServiceView, UserView};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::OwnedFd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::any::Any;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// A gateway that runs on a thread of its own.
///
/// Every method may be called from any thread but the gateway's own (where the event sink is called): there it would wait
/// for itself. Dropping the handle stops the gateway at once: calls in flight are answered `CONNECTION_LOST`.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    commands: SyncSender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
    taken_from: Option<u32>,
}

/// What a gateway says of itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// Of ipc-bro.
    pub version: &'static str,
    /// The process that the gateway runs in.
    pub pid: u32,
    /// Where it listens.
    pub socket_path: PathBuf,
    /// Since it started, or the first of the gateways that were taken over since.
    pub uptime_ms: u64,
    /// Names of the registered services.
    pub services: Vec<String>,
    /// Connections, registered or not.
    pub peers: usize,
    /// Calls in flight.
    pub in_flight: usize,
    /// Lanes between two peers, in use or about to be.
    pub lanes: usize,
    /// Bytes of shared memory that these lanes take when they are used to the full; it is not the gateway's.
    pub lane_bytes: usize,
    /// Bytes that peers have not taken yet.
    pub queued_bytes: usize,
    /// Bytes that are kept for peers in whatever form, and how many there may be.
    pub memory_bytes: usize,
    /// See [`bro_router::RouterConfig::memory_max`].
    pub memory_max: usize,
    /// What each user has taken, those with most memory first.
    pub users: Vec<UserView>,
    /// How fast its thread comes round.
    pub event_loop: LoopView,
    /// Totals since the start.
    pub counters: Counters,
}

impl Gateway {
    /// Starts to listen, and serves on a new thread called `bro-gateway`.
    ///
    /// Raises this process's soft limit of open files to its hard limit: every connection needs a descriptor.
    pub fn start(config: GatewayConfig) -> Result<Gateway, StartError> {
        Self::start_embedded(config, Embedding::default())
    }

    /// Like [`Gateway::start`], with somebody who listens. `sink` is called on the gateway's thread, at most once a wakeup, with
    /// everything in `mask` that has happened since. While it runs nothing is routed, so it should only pass the events on.
    pub fn start_with_events(
        config: GatewayConfig,
        mask: EventMask,
        sink: Box<dyn FnMut(Vec<GatewayEvent>) + Send>,
    ) -> Result<Gateway, StartError> {
        Self::start_embedded(config, Embedding { events: Some((mask, sink)), ..Embedding::default() })
    }

    /// Like [`Gateway::start`], with what the program around it brings along: a socket that listens already, somebody who hears events
    /// or wants to be sure that the gateway's thread goes round.
    pub fn start_embedded(mut config: GatewayConfig, embedding: Embedding) -> Result<Gateway, StartError> {
        let Embedding { listener, events, pulse, is_service } = embedding;
        config.router.check()?;
        let policy = config.policy.load()?;
        raise_open_files_limit();
        let resource = |what| move |error: rustix::io::Errno| StartError::Resources { what, source: error.into() };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(resource("a wakeup"))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(resource("an event loop"))?;
        // A seed that nobody else can guess: std's hasher has a random key for each process and map.
        let seed = RandomState::new().hash_one(std::process::id());
        let taken = begin_takeover(&config, listener.is_some())?;
        let taken_from = taken.as_ref().map(|(taken, _)| taken.pid);
        let (listener, clock, router, inherited) = match taken {
            Some((taken, commit)) => {
                let Taken { listener, router, clock, exported_at, conns, lingering, pid } = taken;
                (listener, clock, router, Some((exported_at, conns, lingering, pid, commit)))
            }
            None => {
                let listener = match listener {
                    Some(socket) => {
                        config.socket_path = adopt(&socket)?;
                        Listener { file: None, socket }
                    }
                    None => {
                        let (file, socket) = SocketFile::claim(&config.socket_path, config.mode)?;
                        Listener { file: Some(file), socket }
                    }
                };
                let mut clock = Clock::new();
                let router = Router::new(config.router.clone(), seed, clock.now());
                (listener, clock, router, None)
            }
        };
        let (commands, receiver) = sync_channel(limits::COMMANDS_MAX);
        let shared = Arc::new(Shared {
            socket_path: config.socket_path,
            frame_bytes_max: config.router.frame_bytes_max,
            memory_max: config.router.memory_max,
            policy: PolicyLoader::new(config.policy),
            wake,
            ended: Mutex::new(None),
            has_ended: Condvar::new(),
        });
        let (mask, sink) = events.map_or((EventMask::NONE, None), |(mask, sink)| (mask, Some(sink)));
        let journal = Journal::new(sink, mask, config.debug);
        let channel = (commands.clone(), receiver);
        let (drain_timeout_ms, returns_memory) = (config.drain_timeout_ms, config.returns_memory);
        let driver = Driver::new(
            epoll,
            listener,
            channel,
            shared.clone(),
            journal,
            clock,
            router,
            drain_timeout_ms,
            returns_memory,
        );
        let mut driver = driver.map_err(resource("an event loop"))?;
        if let Some(pulse) = pulse {
            driver.set_pulse(pulse);
        }
        driver.set_is_service(is_service);
        let on_thread = shared.clone();
        // The thread is there before a takeover is final: afterwards nothing may fail.
        let (to_thread, start) = sync_channel::<Driver>(1);
        let thread = thread::Builder::new()
            .name("bro-gateway".to_owned())
            .spawn(move || {
                if let Ok(driver) = start.recv() {
                    serve(driver, &on_thread);
                }
            })
            .map_err(|source| StartError::Resources { what: "a thread", source })?;
        let mut commit = None;
        if let Some((exported_at, conns, lingering, pid, last)) = inherited {
            driver.resume(conns, lingering, pid, exported_at).map_err(resource("an event loop"))?;
            commit = Some(last);
        }
        // Before anything else, and where everybody who was taken over is known.
        driver.set_policy(policy, None);
        if let Some(commit) = commit {
            commit.send(&shared.socket_path)?;
        }
        to_thread.send(driver).expect("the thread waits for it");
        Ok(Gateway { shared, commands, thread: Mutex::new(Some(thread)), taken_from })
    }

    /// Listens to other events from now on. Without a sink it changes nothing but what is logged.
    pub fn set_events(&self, mask: EventMask) {
        let _ = self.tell(Command::SetEvents(mask)); // a gateway that has stopped has no events
    }

    /// Where it listens.
    pub fn socket_path(&self) -> &Path {
        &self.shared.socket_path
    }

    /// The process of the gateway that it has taken over from, if it has. That one is about to end.
    pub fn taken_from(&self) -> Option<u32> {
        self.taken_from
    }

    /// What it says of itself.
    pub fn status(&self) -> Result<Status, Stopped> {
        self.ask(Command::Status)
    }

    /// One registered service.
    pub fn service(&self, name: &str) -> Result<Option<ServiceView>, Stopped> {
        self.ask(|reply| Command::Service(name.to_owned(), reply))
    }

    /// All registered services.
    pub fn services(&self) -> Result<Vec<ServiceView>, Stopped> {
        self.ask(Command::Services)
    }

    /// Reads the policy again and puts it in force; a policy that does not load changes nothing. Gives the number of its rules.
    ///
    /// What was begun goes on; connections that the new policy does not allow are closed, see [`bro_router::Router::set_policy`]. Waits for
    /// files and name services, and for the gateway's thread.
    pub fn reload_policy(&self) -> Result<usize, ReloadError> {
        self.shared.policy.load(|loaded| {
            let policy = loaded?;
            Ok(self.ask(|reply| Command::SetPolicy(policy, reply))?)
        })
    }

    /// Begins to stop, and returns at once: new calls and registrations are refused with `SHUTTING_DOWN`, and when no call is in
    /// flight any more, or after the configured time, the gateway stops. [`Gateway::wait`] tells when.
    pub fn drain(&self) -> Result<(), Stopped> {
        self.tell(Command::Drain)
    }

    /// Drains, closes every connection, removes the socket file if it is still its own, and ends the thread.
    pub fn stop(&self) -> Result<(), Stopped> {
        self.drain()?;
        self.wait();
        Ok(())
    }

    /// Like [`Gateway::stop`], without waiting for calls in flight: they are answered `CONNECTION_LOST`.
    pub fn stop_now(&self) -> Result<(), Stopped> {
        self.tell(Command::Stop)?;
        self.wait();
        Ok(())
    }

    /// Waits until the gateway has ended, and says why it has.
    pub fn wait(&self) -> StopReason {
        let mut ended = lock(&self.shared.ended);
        let reason = loop {
            match &*ended {
                Some(reason) => break reason.clone(),
                None => ended = self.shared.has_ended.wait(ended).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(ended);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join(); // it has nothing more to do, and its panics are caught
        }
        reason
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        lock(&self.shared.ended).is_none()
    }

    fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Result<T, Stopped> {
        let (reply, answer) = sync_channel(1);
        self.tell(command(reply))?;
        answer.recv().map_err(|_| Stopped)
    }

    fn tell(&self, command: Command) -> Result<(), Stopped> {
        self.commands.send(command).map_err(|_| Stopped)?;
        self.shared.wake_up();
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.stop_now(); // it may have stopped before
        self.wait();
    }
}

/// What the handle tells the gateway's thread.
pub(crate) enum Command {
    SetEvents(EventMask),
    Status(SyncSender<Status>),
    Service(String, SyncSender<Option<ServiceView>>),
    Services(SyncSender<Vec<ServiceView>>),
    /// Answered with the number of its rules.
    SetPolicy(Policy, SyncSender<usize>),
    /// What came of the wish of a peer.
    WishedPolicy(u64, Result<Policy, String>),
    Drain,
    Stop,
}

/// What the handle and the thread both know.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) socket_path: PathBuf,
    pub(crate) frame_bytes_max: usize,
    pub(crate) memory_max: usize,
    pub(crate) policy: PolicyLoader,
    /// Written to after a command was sent.
    pub(crate) wake: OwnedFd,
    ended: Mutex<Option<StopReason>>,
    has_ended: Condvar,
}

impl Shared {
    /// Makes the thread look at its commands.
    pub(crate) fn wake_up(&self) {
        // Fails only when the counter is full, and then the thread is being woken anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// The thread. However it ends, every connection is closed, the file is removed, and who waits is told.
fn serve(mut driver: Driver, shared: &Shared) {
    let ran = catch_unwind(AssertUnwindSafe(|| driver.run()));
    let reason = match ran {
        Ok(Ok(Ending::Stopped)) => StopReason::Requested,
        Ok(Ok(Ending::HandedOver(pid))) => StopReason::TakenOver { pid },
        Ok(Err(error)) => StopReason::Failed(io::Error::from(error).to_string()),
        Err(panic) => StopReason::Panicked(text_of(&*panic)),
    };
    match &reason {
        StopReason::Requested | StopReason::TakenOver { .. } => {}
        StopReason::Failed(why) => tracing::error!("the gateway cannot go on: {why}"),
        StopReason::Panicked(why) => tracing::error!("the gateway failed, every connection is closed: {why}"),
    }
    if catch_unwind(AssertUnwindSafe(|| driver.end())).is_err() {
        let _ = catch_unwind(AssertUnwindSafe(|| driver.end_without_sink()));
    }
    let _ = catch_unwind(AssertUnwindSafe(|| drop(driver)));
    *lock(&shared.ended) = Some(reason);
    shared.has_ended.notify_all();
}

/// What there is to take over. Where systemd has passed the socket, nobody else serves it.
fn begin_takeover(config: &GatewayConfig, has_listener: bool) -> Result<Option<(Taken, Commit)>, StartError> {
    let path = &config.socket_path;
    let from = match config.takeover {
        Takeover::No => return Ok(None),
        Takeover::IfRunning => None,
        Takeover::From(pid) => Some(pid),
    };
    let taken = if has_listener { None } else { take_over(path, from, config.router.clone())? };
    match (&taken, from) {
        (None, Some(pid)) => {
            let why =
                format!("nobody answers there, and process {pid} should: has it ended, or is the socket's file gone?");
            return Err(StartError::Takeover { path: path.clone(), why });
        }
        (None, None) => {
            let socket = path.display();
            tracing::warn!(%socket, "no gateway is running that could be taken over: starting as usual");
        }
        (Some(_), _) => {}
    }
    Ok(taken)
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no reason given".to_owned())
}

/// A lock that was poisoned still guards what is written in one piece.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Not being able to raise it is no reason not to start: accepting says when it is too low.
fn raise_open_files_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some() && limit.current != limit.maximum {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        if let Err(error) = raised {
            tracing::debug!("the limit of open files stays at {:?}: {error}", limit.current);
        }
    }
}
