//! The new gateway's side: it asks, takes, checks and builds; nothing is touched before it says that it has taken over.

use super::give::clock_ns;
use super::link::{Link, LinkError};
use super::{ConnState, Handover, LingerState, TAKEN, may_take_over};
use crate::clock::Clock;
use crate::credentials::peer_identity;
use crate::driver::Listener;
use crate::error::StartError;
use crate::socket_file::{self, SocketFile};
use bro_proto::Now;
use bro_proto::frame::finish_frame;
use bro_proto::limits::{self, FRAME_PREFIX_BYTES, GATEWAY_SERVICE};
use bro_router::state::{FORMAT, READS_FROM, RouterState};
use bro_router::{PeerId, Router, RouterConfig};
use rustix::fd::OwnedFd;
use rustix::process::{Resource, geteuid, getrlimit};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Deeper than what is handed over, also by a later version.
const NESTING_MAX: usize = 32;
/// Largest frame that a gateway answers the request with, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Everything that was taken, as the driver needs it.
pub(crate) struct Taken {
    pub(crate) listener: Listener,
    pub(crate) router: Router,
    pub(crate) clock: Clock,
    /// When the router was exported, on that clock.
    pub(crate) exported_at: Now,
    pub(crate) conns: Vec<TakenConn>,
    pub(crate) lingering: Vec<TakenLinger>,
    /// Of the gateway that was running.
    pub(crate) pid: u32,
}

/// What is left to be done when everything is built.
pub(crate) struct Commit(Link);

/// A connection.
pub(crate) struct TakenConn {
    pub(crate) peer: PeerId,
    pub(crate) socket: OwnedFd,
    pub(crate) is_paused: bool,
    pub(crate) partial: Vec<u8>,
    pub(crate) skipping_bytes: usize,
    pub(crate) queued: Vec<u8>,
}

/// A connection that the gateway before has closed.
pub(crate) struct TakenLinger {
    pub(crate) socket: OwnedFd,
    pub(crate) queued: Vec<u8>,
    pub(crate) discarded_bytes: usize,
    pub(crate) left_us: u64,
    pub(crate) is_finished: bool,
}

impl Commit {
    /// Tells the gateway before that it has nothing any more. An error means that it has kept everything.
    pub(crate) fn send(self, path: &Path) -> Result<(), StartError> {
        self.0.send_all(&[TAKEN]).map_err(|error| refused(path, &error))
    }
}

/// Takes over from the gateway that answers at `path`, which must be in the process `from` if one is given. `None` when none does.
pub(crate) fn take_over(
    path: &Path,
    from: Option<u32>,
    config: RouterConfig,
) -> Result<Option<(Taken, Commit)>, StartError> {
    let Some(socket) = socket_file::connect(path)? else { return Ok(None) };
    let own_uid = geteuid().as_raw();
    if own_uid != 0 && !may_take_over(&peer_identity(&socket), own_uid) {
        return Err(refused(path, &"it belongs to another user"));
    }
    let link = Link::new(socket, Duration::from_millis(2 * limits::TAKEOVER_TIMEOUT_MS));
    ask(&link).map_err(|why| refused(path, &why))?;
    let taken = receive(&link, path, config)?;
    if let Some(from) = from.filter(|from| *from != taken.pid) {
        return Err(refused(path, &format!("it is in process {}, not in {from}: another one was quicker", taken.pid)));
    }
    Ok(Some((taken, Commit(link))))
}

/// Registers, and asks for everything.
fn ask(link: &Link) -> Result<(), String> {
    let name = format!("bro-takeover-{}", std::process::id());
    let send = |message: Value| send_frame(link, &message).map_err(|error| error.to_string());
    send(json!({"type": "REGISTER", "serviceName": name, "methods": []}))?;
    receive_frame(link, "REGISTER_ACK")?;
    let params = json!({"format": FORMAT, "readsFrom": READS_FROM, "descriptorsMax": descriptors_max()});
    send(json!({
        "type": "CALL", "id": "takeover", "from": name, "to": GATEWAY_SERVICE, "method": "takeover", "params": params,
    }))?;
    receive_frame(link, "RESPONSE").map(|_| ())
}

fn send_frame(link: &Link, message: &Value) -> Result<(), LinkError> {
    let mut frame = vec![0; FRAME_PREFIX_BYTES];
    frame.extend_from_slice(message.to_string().as_bytes());
    finish_frame(&mut frame, 0);
    link.send_all(&frame)
}

/// Reads a frame and not a byte more: descriptors may come with the next one.
fn receive_frame(link: &Link, expected: &str) -> Result<Value, String> {
    let mut prefix = [0; FRAME_PREFIX_BYTES];
    link.receive_exact(&mut prefix).map_err(|error| error.to_string())?;
    let bytes = bro_proto::frame::announced_bytes(prefix);
    if bytes > ANSWER_BYTES_MAX {
        return Err(format!("it answers with {bytes} bytes"));
    }
    let body = link.receive(bytes).map_err(|error| error.to_string())?;
    let message: Value =
        serde_json::from_slice(&body).map_err(|error| format!("its answer cannot be read: {error}"))?;
    if message["type"] == expected && message["status"] != "error" {
        return Ok(message);
    }
    match (message["error"]["code"].as_str(), message["error"]["message"].as_str()) {
        // The second is what gateways say that have no services of their own: those of the JavaScript library.
        (Some("METHOD_NOT_FOUND" | "SERVICE_NOT_FOUND"), _) => {
            Err("it is of a version that cannot hand over: stop it, and start the new one".to_owned())
        }
        (code, Some(why)) => Err(format!("{why} ({})", code.unwrap_or("no code"))),
        _ => Err(LinkError::Unexpected.to_string()),
    }
}

fn receive(link: &Link, path: &Path, config: RouterConfig) -> Result<Taken, StartError> {
    let failed = |error: LinkError| refused(path, &error);
    let wrong = |why: &str| refused(path, &format!("what it hands over is not right: {why}"));
    let mut head_bytes = [0; 8];
    link.receive_exact(&mut head_bytes).map_err(failed)?;
    let head_bytes = u64::from_le_bytes(head_bytes);
    if head_bytes > limits::TAKEOVER_STATE_BYTES_MAX {
        return Err(wrong(&format!("it is said to have {head_bytes} bytes")));
    }
    let head = link.receive(usize::try_from(head_bytes).unwrap_or(usize::MAX)).map_err(failed)?;
    let mut reader = rmp_serde::Deserializer::from_read_ref(&head);
    reader.set_max_depth(NESTING_MAX);
    let handover = Handover::deserialize(&mut reader).map_err(|error| wrong(&error.to_string()))?;
    let Handover { pid, socket_file, clock_ns: exported_ns, router, conns, lingering } = handover;
    let state = RouterState::decode(&router).map_err(|error| wrong(&error.to_string()))?;
    let exported_at = Now { mono_us: state.exported_at.mono_us, wall_ms: state.exported_at.wall_ms };
    check(&state, &conns).map_err(wrong)?;
    let bytes = |count: u64| link.receive(usize::try_from(count).unwrap_or(usize::MAX)).map_err(failed);
    let mut texts = Vec::with_capacity(conns.len());
    for ConnState { partial_bytes, queued_bytes, .. } in &conns {
        texts.push((bytes(*partial_bytes)?, bytes(*queued_bytes)?));
    }
    let mut linger_texts = Vec::with_capacity(lingering.len());
    for LingerState { queued_bytes, .. } in &lingering {
        linger_texts.push(bytes(*queued_bytes)?);
    }
    let mut descriptors = link.receive_descriptors(1 + conns.len() + lingering.len()).map_err(failed)?.into_iter();
    let mut next = || descriptors.next().expect("as many as were asked for");
    let file = socket_file.map(|identity| SocketFile::adopt(path, identity)).transpose()?;
    let listener = Listener { file, socket: next() };
    let conns = conns.into_iter().zip(texts).map(|(conn, (partial, queued))| {
        let ConnState { slot, generation, is_paused, partial_bytes: _, skipping_bytes, queued_bytes: _ } = conn;
        let skipping_bytes = usize::try_from(skipping_bytes).expect("at most what a prefix announces");
        TakenConn { peer: PeerId { slot, generation }, socket: next(), is_paused, partial, skipping_bytes, queued }
    });
    let conns: Vec<TakenConn> = conns.collect();
    let lingering = lingering.into_iter().zip(linger_texts).map(|(linger, queued)| {
        let LingerState { queued_bytes: _, discarded_bytes, left_us, is_finished } = linger;
        let discarded_bytes = usize::try_from(discarded_bytes).unwrap_or(usize::MAX).min(limits::LINGER_BYTES_MAX);
        TakenLinger { socket: next(), queued, discarded_bytes, left_us, is_finished }
    });
    let lingering = lingering.collect();
    let mut router = Router::import(config, state, exported_at).map_err(|error| wrong(&error.to_string()))?;
    for TakenConn { peer, partial, .. } in conns.iter().filter(|conn| !conn.partial.is_empty()) {
        let kept = router.import_kept(*peer, partial.capacity(), exported_at);
        kept.map_err(|error| wrong(&error.to_string()))?;
    }
    let clock = Clock::resume(exported_at.mono_us, passed_us(exported_ns));
    Ok(Taken { listener, router, clock, exported_at, conns, lingering, pid })
}

/// Connections and the router's state are two views of the same.
fn check(state: &RouterState, conns: &[ConnState]) -> Result<(), &'static str> {
    if state.peers.live.len() != conns.len() {
        return Err("there are other connections than peers");
    }
    for (peer, conn) in state.peers.live.iter().zip(conns) {
        if conn.slot != peer.slot || state.peers.generations.get(peer.slot as usize) != Some(&conn.generation) {
            return Err("a connection is that of another peer");
        }
        if conn.queued_bytes != peer.queued_bytes || conn.is_paused != peer.is_paused {
            return Err("a connection's queue is not what its peer is charged for");
        }
        let (partial_bytes, skipping_bytes) = (conn.partial_bytes, conn.skipping_bytes);
        if (partial_bytes > 0 || skipping_bytes > 0) != peer.is_mid_frame {
            return Err("a connection is in the middle of a frame, and its peer is not");
        }
        if partial_bytes.max(skipping_bytes) > u64::from(u32::MAX) || partial_bytes.min(skipping_bytes) > 0 {
            return Err("a connection is in the middle of no frame that there can be");
        }
    }
    Ok(())
}

/// What has passed since then on the kernel's clock. Gateways in different time namespaces read different ones: then nothing counts as passed.
fn passed_us(since_ns: u64) -> u64 {
    let passed_us = clock_ns().saturating_sub(since_ns) / 1000;
    if passed_us <= 4 * limits::TAKEOVER_TIMEOUT_MS * 1000 { passed_us } else { 0 }
}

/// How many descriptors this process can still open.
fn descriptors_max() -> u64 {
    let open =
        std::fs::read_dir("/proc/self/fd").map_or(limits::TAKEOVER_SPARE_DESCRIPTORS, |open| open.count() as u64);
    getrlimit(Resource::Nofile).current.map_or(u64::MAX, |limit| limit.saturating_sub(open))
}

fn refused(path: &Path, why: &dyn std::fmt::Display) -> StartError {
    StartError::Takeover { path: path.to_owned(), why: why.to_string() }
}
