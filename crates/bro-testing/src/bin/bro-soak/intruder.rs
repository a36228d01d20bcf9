//! Peers that come, behave badly or demand much, and go: each on a thread of the soak's own process.
//!
//! Those that make calls account for each of them, as the callers do. The others only have to get rid of: that the gateway ends their connections
//! in time is part of the verdict.

use crate::plan::Plan;
use crate::report::{HEARTBEAT_INTERVAL, Report};
use bro_proto::rng::Rng;
use bro_testing::{Encoding, ReceiveError, V1Peer, codec};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Calls of a flood, all of them written before the first answer is read.
const FLOOD_CALLS: u64 = 1000;
/// Calls of a slow reader, and how long each of their answers is at least: together more than the gateway lets wait before it pauses.
const SLOW_CALLS: u64 = 240;
const SLOW_PAD_BYTES: u64 = 24 * 1024;
/// Connections of a flood of connections; registrations of a flood of those.
const FLOOD_CONNECTS: usize = 150;
const FLOOD_REGISTRATIONS: u64 = 60;
/// How long an intruder waits for what it is owed: longer than any call lives.
const PATIENCE: Duration = Duration::from_secs(25);

/// What an intruder does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    FloodCalls,
    FloodConnects,
    FloodRegistrations,
    ReadSlowly,
    SendGarbage,
    SendHalfFrames,
}

/// Does it, with a name of its own, and says how the calls ended and what did not hold.
pub(crate) fn intrude(act: Act, name: &str, socket: &Path, callees: u32, mut rng: Rng) -> (Report, Option<String>) {
    let mut report = Report::default();
    let encoding = if rng.below(2) == 0 { Encoding::Json } else { Encoding::Msgpack };
    // A gateway that is away for the moment is no fault: then there is nothing to intrude into.
    let fault = match act {
        Act::FloodCalls => flood_calls(name, socket, callees, encoding, &mut rng, &mut report),
        Act::ReadSlowly => read_slowly(name, socket, callees, encoding, &mut rng, &mut report),
        Act::FloodConnects => flood_connects(socket, encoding, &mut rng),
        Act::FloodRegistrations => flood_registrations(name, socket, encoding, &mut rng),
        Act::SendGarbage => send_garbage(name, socket, encoding, &mut rng),
        Act::SendHalfFrames => send_half_frames(name, socket, encoding, &mut rng),
    };
    (report, fault)
}

fn flood_calls(
    name: &str,
    socket: &Path,
    callees: u32,
    encoding: Encoding,
    rng: &mut Rng,
    report: &mut Report,
) -> Option<String> {
    let mut peer = V1Peer::try_connect(socket, encoding).ok()?;
    peer.try_register(name, &[]).ok()?;
    let plans: Vec<Plan> = (0..FLOOD_CALLS).map(|_| Plan::echo(rng, callees, 0)).collect();
    let (open, frames) = begin(&peer, plans, report);
    let is_written = peer.try_send_bytes(&frames.concat()).is_ok();
    settle(peer, open, is_written, report);
    None
}

/// Writes on a thread of its own: the gateway stops reading from a peer that does not read.
fn read_slowly(
    name: &str,
    socket: &Path,
    callees: u32,
    encoding: Encoding,
    rng: &mut Rng,
    report: &mut Report,
) -> Option<String> {
    let mut peer = V1Peer::try_connect(socket, encoding).ok()?;
    peer.try_register(name, &[]).ok()?;
    let plans: Vec<Plan> = (0..SLOW_CALLS).map(|_| Plan::echo(rng, callees, SLOW_PAD_BYTES)).collect();
    let (open, frames) = begin(&peer, plans, report);
    let mut writer = peer.writer();
    let pause = Duration::from_millis(50 + rng.below(600));
    let vanishes = rng.below(4) == 0;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || frames.iter().all(|frame| writer.try_send_bytes(frame).is_ok()));
        std::thread::sleep(pause);
        if vanishes {
            // With all of its answers unread, and perhaps in the middle of a call.
            let lost = open.len();
            peer.close();
            let _ = writing.join();
            *report.failed.entry("CONNECTION_LOST".to_owned()).or_default() += lost as u64;
        } else {
            settle(peer, open, true, report);
            let _ = writing.join();
        }
    });
    None
}

type Open = HashMap<String, Plan>;

/// The calls as frames, and what each must come to.
fn begin(peer: &V1Peer, plans: Vec<Plan>, report: &mut Report) -> (Open, Vec<Vec<u8>>) {
    let (mut open, mut frames) = (HashMap::new(), Vec::new());
    for (index, plan) in plans.into_iter().enumerate() {
        let id = format!("req-{index}");
        let timeout_ms = u64::try_from(plan.timeout.as_millis()).expect("a short time");
        let call = json!({
            "type": "CALL", "id": id, "from": peer.name(), "to": plan.to, "method": plan.method, "params": plan.params,
            "context": peer.old_context(timeout_ms)
        });
        frames.push(codec::frame(&codec::encode(peer.encoding(), &call)));
        report.started += 1;
        open.insert(id, plan);
    }
    (open, frames)
}

/// Takes every answer that is owed.
fn settle(mut peer: V1Peer, mut open: Open, mut is_open: bool, report: &mut Report) {
    let begun = Instant::now();
    while is_open && !open.is_empty() && begun.elapsed() < PATIENCE {
        match peer.try_receive(HEARTBEAT_INTERVAL) {
            Ok(frame) if frame["type"] == "RESPONSE" => match frame["id"].as_str().and_then(|id| open.remove(id)) {
                None => report.answered_twice += 1,
                Some(plan) => match frame["error"]["code"].as_str() {
                    Some(code) => plan.judge(report, Err(code)),
                    None => plan.judge(report, Ok(&frame["data"])),
                },
            },
            // The last word of a gateway that ends the connection.
            Ok(frame) => is_open = frame["type"] != "ERROR",
            Err(ReceiveError::Silence) => is_open = peer.try_heartbeat().is_ok(),
            Err(ReceiveError::Closed) => is_open = false,
        }
    }
    if is_open {
        report.hung += open.len() as u64;
    } else {
        open.values().for_each(|plan| plan.judge(report, Err("CONNECTION_LOST")));
    }
}

/// Some say nothing, some half a word; all leave together, or one after the other.
fn flood_connects(socket: &Path, encoding: Encoding, rng: &mut Rng) -> Option<String> {
    let mut peers: Vec<V1Peer> = std::iter::repeat_with(|| V1Peer::try_connect(socket, encoding))
        .take(FLOOD_CONNECTS)
        .map_while(Result::ok)
        .collect();
    for peer in &mut peers {
        if rng.below(3) == 0 {
            let _ = peer.try_send_bytes(&[0, 0][..1 + usize::try_from(rng.below(2)).expect("a small number")]);
        }
    }
    std::thread::sleep(Duration::from_millis(rng.below(100)));
    None
}

/// Registers names of its own, and some that are taken.
fn flood_registrations(name: &str, socket: &Path, encoding: Encoding, rng: &mut Rng) -> Option<String> {
    let mut peers = Vec::new();
    for index in 0..FLOOD_REGISTRATIONS {
        let own = if rng.below(4) == 0 { format!("{name}-0") } else { format!("{name}-{index}") };
        let Ok(mut peer) = V1Peer::try_connect(socket, encoding) else { break };
        let is_registered = peer.try_register(&own, &["echo"]).is_ok();
        peers.push((own, is_registered, peer));
    }
    // A name that became free because the gateway, or this process, was held up may be given away again: who had it was told before.
    let mut holders = Vec::new();
    for (own, _, peer) in peers.iter_mut().filter(|(_, is_registered, _)| *is_registered) {
        if peer.try_receive_any(Duration::from_millis(1)) == Err(ReceiveError::Silence) {
            holders.push(own.clone());
        }
    }
    let count = holders.len();
    holders.sort_unstable();
    holders.dedup();
    (count > holders.len()).then(|| format!("{} names have two holders", count - holders.len()))
}

/// Whoever sends what is no frame of the protocol is told so and cut off, registered or not.
fn send_garbage(name: &str, socket: &Path, encoding: Encoding, rng: &mut Rng) -> Option<String> {
    for round in 0..4 {
        let mut peer = V1Peer::try_connect(socket, encoding).ok()?;
        if rng.below(2) == 0 {
            peer.try_register(&format!("{name}-{round}"), &[]).ok()?;
        }
        let mut body: Vec<u8> =
            (0..1 + rng.below(400)).map(|_| u8::try_from(rng.below(256)).expect("a byte")).collect();
        body[0] = b'x'; // begins neither JSON nor msgpack nor version 2
        let garbage = match rng.below(3) {
            0 => vec![0xff; 8],
            1 => codec::frame(&body),
            _ => codec::frame(b"{\"type\":\"CALL\",\"type\":\"CALL\"}"),
        };
        if peer.try_send_bytes(&garbage).is_ok() && !is_closed(&mut peer) {
            return Some(format!("a peer that sent {garbage:?} was not cut off"));
        }
    }
    None
}

/// Begins frames and leaves, or stays until it is cut off.
fn send_half_frames(name: &str, socket: &Path, encoding: Encoding, rng: &mut Rng) -> Option<String> {
    let call: Value = json!({
        "type": "CALL", "id": "half", "to": "callee-0", "method": "echo", "params": "x".repeat(5000)
    });
    let whole = codec::frame(&codec::encode(encoding, &call));
    for round in 0..6 {
        let mut peer = V1Peer::try_connect(socket, encoding).ok()?;
        if rng.below(2) == 0 {
            peer.try_register(&format!("{name}-{round}"), &[]).ok()?;
        }
        let length = usize::try_from(1 + rng.below(whole.len() as u64 - 1)).expect("a small number");
        let is_sent = peer.try_send_bytes(&whole[..length]).is_ok();
        // The last one stays: silence and half a frame are no sign of life.
        if round == 5 && is_sent && !is_closed(&mut peer) {
            return Some("a peer with half a frame was not cut off".to_owned());
        }
    }
    None
}

fn is_closed(peer: &mut V1Peer) -> bool {
    let begun = Instant::now();
    loop {
        match peer.try_receive_any(Duration::from_millis(100)) {
            Err(ReceiveError::Closed) => return true,
            Ok(_) | Err(ReceiveError::Silence) if begun.elapsed() > PATIENCE => return false,
            Ok(_) | Err(ReceiveError::Silence) => {}
        }
    }
}
