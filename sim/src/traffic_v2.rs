//! What random peers of version 2 write: mostly sense.

use crate::network::{Connection, Id, Manner, Request, remember};
use crate::traffic::{self, METHODS, NAMES, Planned, Shape, below, params, pick};
use crate::traffic_lanes;
use crate::wire_v2::{self, Body, Call, Frame, Section};
use bro_proto::Now;
use bro_proto::rng::Rng;
use serde_json::{Value, json};

/// Route numbers that a peer takes before it binds old ones anew.
const ROUTES: usize = 7;

/// What a peer may know of the world.
pub(crate) struct View<'a> {
    /// Its service.
    pub(crate) name: &'a str,
    pub(crate) services: &'a [&'a str],
    /// Numbers of the gateway's, of calls that others work on.
    pub(crate) foreign: &'a [u64],
    /// Numbers of the lanes that there are, and of some that an earlier gateway had given away.
    pub(crate) lanes: &'a [u64],
    pub(crate) recalled: &'a [u64],
    pub(crate) shape: Shape,
    pub(crate) now: Now,
}

/// Lets a peer that has agreed to version 2 write one thing.
pub(crate) fn write(connection: &mut Connection, view: &View<'_>, rng: &mut Rng) {
    if connection.manner == Manner::Hostile && rng.below(6) == 0 {
        return write_harm(connection, view, rng);
    }
    if !connection.requests.is_empty() && rng.below(2) == 0 {
        return write_answer(connection, view, rng);
    }
    if !connection.lane_offers.is_empty() && rng.below(3) == 0 {
        return traffic_lanes::answer_offer(connection, view, rng);
    }
    if rng.below(24) == 0 {
        return traffic_lanes::write(connection, view, rng);
    }
    match rng.below(48) {
        0..3 => push(connection, bare(wire_v2::PING, rng.next_u64()), None, view.shape),
        3 => traffic::push(connection, traffic::heartbeat(view.name, view.now), None, view.shape),
        4 => traffic::push(connection, traffic::register_again(Some(view.name), rng), None, view.shape),
        5 => match rng.below(4) {
            0 => push(connection, Frame { flags: 0x80, ..bare(7, 1) }, None, view.shape),
            1 => push(connection, bare(wire_v2::PONG, 3), None, view.shape),
            2 => push(connection, named(wire_v2::NAME, 0, "who"), None, view.shape),
            _ => traffic::push(connection, json!({"type": "GREETING", "id": "1"}), None, view.shape),
        },
        6 if rng.below(12) == 0 => push(connection, bare(wire_v2::DRAIN, 0), None, view.shape),
        6..9 => inquire(connection, view, rng),
        9..15 if !connection.made.is_empty() => cancel(connection, view, rng),
        15..20 => call(connection, view, wire_v2::NOTIFY, rng),
        _ => call(connection, view, wire_v2::CALL, rng),
    }
}

/// Puts a frame into the stream, unless it is too large.
pub(crate) fn push(connection: &mut Connection, frame: Frame, serial: Option<u64>, shape: Shape) {
    let bytes = wire_v2::write(&frame);
    if bytes.len() <= shape.frame_bytes_max + 4 {
        connection.outgoing.extend_from_slice(&bytes);
        connection.planned.push_back(Planned::V2(Box::new(frame), serial));
    }
}

fn bare(kind: u8, id: u64) -> Frame {
    Frame { kind, flags: 0, codec: 0, id, body: Body::Nothing }
}

fn named(kind: u8, id: u64, name: &str) -> Frame {
    Frame { body: Body::Name(name.to_owned()), ..bare(kind, id) }
}

/// The number of a route to that service, bound in front of what follows if need be.
fn route_to(connection: &mut Connection, to: &str, shape: Shape, rng: &mut Rng) -> u32 {
    let routes = &mut connection.routes_written;
    let number = match routes.iter().position(|name| name == to) {
        Some(number) if rng.below(30) > 0 => return u32::try_from(number).expect("few"),
        _ if routes.len() < ROUTES => {
            routes.push(to.to_owned());
            routes.len() - 1
        }
        _ => {
            let number = below(ROUTES as u64, rng);
            to.clone_into(&mut routes[number]);
            number
        }
    };
    push(connection, named(wire_v2::RESOLVE, number as u64, to), None, shape);
    u32::try_from(number).expect("few")
}

fn call(connection: &mut Connection, view: &View<'_>, kind: u8, rng: &mut Rng) {
    let to = match connection.routes_written.first() {
        // Some call one service much.
        Some(first) if view.services.contains(&first.as_str()) && rng.below(5) == 0 => &first.clone(),
        _ if view.services.is_empty() || rng.below(12) == 0 => pick(&NAMES, rng),
        _ => pick(view.services, rng),
    };
    let peer = route_to(connection, to, view.shape, rng);
    let working: Vec<u64> = connection.requests.iter().filter_map(|request| request.id.number()).collect();
    let origin = match rng.below(20) {
        0 if !connection.asked.is_empty() => connection.asked[below(connection.asked.len() as u64, rng)],
        1 if !view.foreign.is_empty() => view.foreign[below(view.foreign.len() as u64, rng)],
        // Perhaps that of a call of which nobody was told the number.
        2 => (1 + rng.below(3)) << 32 | rng.below(6),
        3..16 if !working.is_empty() => working[below(working.len() as u64, rng)],
        _ => 0,
    };
    let section = (rng.below(if origin == 0 { 4 } else { 40 }) == 0).then(|| section(view, to, rng));
    let timeout_ms = match rng.below(24) {
        0..4 => 0,
        4 => u32::MAX,
        _ => 1 + u32::try_from(rng.below(3000)).expect("small"),
    };
    let (mut codec, mut payload) = payload(view.shape, rng);
    if rng.below(40) == 0 {
        // With what is in front of it, about as much as a frame holds.
        let text = "1".repeat(view.shape.frame_bytes_max - 46 - below(200, rng));
        (codec, payload) = (1, format!("\"{text}\"").into_bytes());
    }
    let method = pick(&METHODS, rng).to_owned();
    let call = Call { origin, root: 0, peer, timeout_ms, method, section, payload };
    let id = if kind == wire_v2::NOTIFY { 0 } else { number(connection, rng) };
    push(connection, Frame { kind, flags: 0, codec, id, body: Body::Call(call) }, None, view.shape);
}

/// A number that the peer has not used.
fn number(connection: &mut Connection, rng: &mut Rng) -> u64 {
    connection.last_id += 1;
    let number = connection.last_id << 32 | rng.below(4);
    remember(&mut connection.made, number);
    number
}

fn section(view: &View<'_>, to: &str, rng: &mut Rng) -> Section {
    let mut chain = vec!["somebody".to_owned(), view.name.to_owned(), to.to_owned()];
    let mut depth = 3;
    match rng.below(12) {
        0 => depth = view.shape.depth_max + 1,
        1 => depth = view.shape.depth_max,
        2 => chain = vec!["x".to_owned(); 256],
        3 => chain.truncate(1),
        _ => {}
    }
    Section { root: format!("root-{}-given", rng.below(100)), chain, depth }
}

/// Codec and bytes of a payload. Peers of version 2 may send each other what they like.
fn payload(shape: Shape, rng: &mut Rng) -> (u8, Vec<u8>) {
    let value = params(shape, rng);
    match rng.below(40) {
        0..4 => (0, Vec::new()),
        4 => (9, b"\x00unknown".to_vec()),
        5 => (1, b"{\"cut\":".to_vec()),
        6 => (1, b"1,\"id\":\"other\"".to_vec()),
        7 => (1, b"1,\"more\":[2]".to_vec()),
        // Nothing, and then a field that covers what comes behind it.
        8 => (2, [b"\xd4\x00\x00\xa1x\xc4", &[30 + u8::try_from(rng.below(90)).expect("small")][..]].concat()),
        9 => (2, b"\x01\xa4more\x02".to_vec()),
        10 => (1, Vec::new()),
        11..26 => (1, serde_json::to_vec(&value).expect("a value is JSON")),
        _ => (2, rmp_serde::to_vec(&value).expect("a value is msgpack")),
    }
}

fn inquire(connection: &mut Connection, view: &View<'_>, rng: &mut Rng) {
    let Value::Object(question) = traffic::inquire(connection, Some(view.name), view.shape, view.now, rng) else {
        return;
    };
    let peer = route_to(connection, "bro.gateway", view.shape, rng);
    let method = question["method"].as_str().expect("it has one").to_owned();
    let payload = serde_json::to_vec(&question["params"]).expect("a value is JSON");
    let call = Call { origin: 0, root: 0, peer, timeout_ms: 5000, method, section: None, payload };
    let id = number(connection, rng);
    push(connection, Frame { codec: 1, body: Body::Call(call), ..bare(wire_v2::CALL, id) }, None, view.shape);
}

/// Of a call that may be in flight, or ended, or be ending.
fn cancel(connection: &mut Connection, view: &View<'_>, rng: &mut Rng) {
    let made = &connection.made;
    let id = made[made.len() - 1 - below(made.len().min(4) as u64, rng)];
    let flags = rng.below(4).to_le_bytes()[0];
    let times = if rng.below(6) == 0 { 2 } else { 1 };
    for _ in 0..times {
        push(connection, Frame { flags, ..bare(wire_v2::CANCEL, id) }, None, view.shape);
    }
}

fn write_answer(connection: &mut Connection, view: &View<'_>, rng: &mut Rng) {
    let at = below(connection.requests.len() as u64, rng);
    let is_hostile = connection.manner == Manner::Hostile;
    // Sometimes it will be answered once more.
    let request = if is_hostile && rng.below(5) == 0 {
        connection.requests[at].clone()
    } else {
        connection.requests.swap_remove(at)
    };
    let Request { serial, id: Id::Number(id), .. } = request else { return };
    push(connection, answer(id, view.shape, rng), (!is_hostile).then_some(serial), view.shape);
}

fn answer(id: u64, shape: Shape, rng: &mut Rng) -> Frame {
    // A callee that calls itself the gateway is not believed.
    let flags = u8::from(rng.below(8) == 0);
    if rng.below(4) == 0 {
        let text = |text: &str| text.to_owned();
        let body = Body::Failure { code: text("OUT_OF_STOCK"), message: text("nö"), stack: text("at\n there") };
        return Frame { kind: wire_v2::ERROR, flags, codec: 0, id, body };
    }
    let (codec, payload) = payload(shape, rng);
    Frame { kind: wire_v2::RESPONSE, flags, codec, id, body: Body::Payload(payload) }
}

/// What a peer must not write.
fn write_harm(connection: &mut Connection, view: &View<'_>, rng: &mut Rng) {
    let some = |numbers: &[u64], rng: &mut Rng| match numbers.len() {
        0 => rng.next_u64(),
        len => numbers[below(len as u64, rng)],
    };
    match rng.below(12) {
        0 => traffic::write_garbage(connection, view.shape, rng),
        1 => {
            let message = json!({"type": "CALL", "id": "old", "to": "user", "method": "get"});
            traffic::push(connection, message, None, view.shape);
        }
        2 => {
            let number = connection.routes_written.len() as u64 + 1 + rng.below(2000);
            push(connection, named(wire_v2::RESOLVE, number, "user"), None, view.shape);
        }
        3..7 => {
            // Of a call that others work on, of one that it worked on once, or of none.
            let asked: Vec<u64> = connection.asked.iter().copied().collect();
            let id = some(if rng.below(3) == 0 { &asked } else { view.foreign }, rng);
            push(connection, answer(id, view.shape, rng), None, view.shape);
        }
        _ => break_a_call(connection, view, rng),
    }
}

/// A CALL with something wrong in front of its payload. What it is then, the independent reader says.
fn break_a_call(connection: &mut Connection, view: &View<'_>, rng: &mut Rng) {
    let written = connection.planned.len();
    call(connection, view, if rng.below(6) == 0 { wire_v2::NOTIFY } else { wire_v2::CALL }, rng);
    let Some(Planned::V2(frame, _)) = connection.planned.back().cloned() else { return };
    let Body::Call(call) = &frame.body else { return };
    if connection.planned.len() == written {
        return;
    }
    let mut bytes = wire_v2::write(&frame);
    let payload_at = bytes.len() - call.payload.len();
    connection.planned.pop_back();
    connection.outgoing.truncate(connection.outgoing.len() - bytes.len());
    match rng.below(5) {
        0 => {
            bytes.truncate(5 + below(payload_at as u64 - 4, rng));
            let body = u32::try_from(bytes.len() - 4).expect("short");
            bytes[..4].copy_from_slice(&body.to_be_bytes());
        }
        1 | 2 => {
            // A number that may be in flight.
            let id = connection.made.iter().nth_back(below(3, rng)).copied().unwrap_or_default();
            bytes[8..16].copy_from_slice(&id.to_le_bytes());
        }
        _ => {
            for _ in 0..=rng.below(2) {
                // In the head rather than behind it.
                let at = 5 + below(if rng.below(2) == 0 { 43 } else { payload_at as u64 - 5 }, rng);
                bytes[at] = rng.next_u64().to_le_bytes()[0];
            }
        }
    }
    let planned = match wire_v2::read(&bytes) {
        Ok(frame) => {
            if frame.kind == wire_v2::RESOLVE
                && let Body::Name(name) = &frame.body
            {
                note_route(&mut connection.routes_written, frame.id, name);
            }
            Planned::V2(Box::new(frame), None)
        }
        Err(_) => Planned::Garbage,
    };
    connection.outgoing.extend_from_slice(&bytes);
    connection.planned.push_back(planned);
}

/// A RESOLVE, as both ends keep it. False when it is out of turn.
pub(crate) fn note_route(routes: &mut Vec<String>, number: u64, name: &str) -> bool {
    match usize::try_from(number) {
        Ok(number) if number < routes.len() => name.clone_into(&mut routes[number]),
        Ok(number) if number == routes.len() && number < 1024 => routes.push(name.to_owned()),
        _ => return false,
    }
    true
}
