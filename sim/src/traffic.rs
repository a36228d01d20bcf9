//! What random peers write: mostly sense.

use crate::network::{Connection, Id, Manner, Request};
use crate::{wire, wire_v2};
use bro_proto::Now;
use bro_proto::rng::Rng;
use bro_proto::v1::Encoding;
use serde_json::{Map, Value, json};

/// What a whole frame in a peer's stream is meant to be.
#[derive(Clone, Debug)]
pub(crate) enum Planned {
    /// A well-formed message; with the serial of the call that it honestly answers.
    Message(Value, Encoding, Option<u64>),
    /// The same, of version 2.
    V2(Box<wire_v2::Frame>, Option<u64>),
    /// Bytes that are no message.
    Garbage,
    /// A prefix that announces too much. Nothing after it counts.
    Oversize,
}

/// Service names that peers use.
pub(crate) const NAMES: [&str; 12] =
    ["order", "user", "role", "inventory", "cart", "zahlung-ü", "mail", "stock", "audit", "a\"b", "bro.gateway", "x"];
/// The first of them, which peers register.
const REGISTRABLE: usize = 10;
/// Method names that peers use.
pub(crate) const METHODS: [&str; 4] = ["get", "create", "löschen", "a\"b\\c"];

/// Limits that decide how long and deep random messages are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) frame_bytes_max: usize,
    pub(crate) depth_max: u32,
    /// Of so many questions for events one is asked. Where many are, somebody watches all the time, and there are no lanes.
    pub(crate) watch_rarity: u64,
}

/// Lets a peer write one thing. `name` is its service, once registered; `services` are all that are.
pub(crate) fn write(
    connection: &mut Connection,
    name: Option<&str>,
    services: &[&str],
    shape: Shape,
    now: Now,
    rng: &mut Rng,
) {
    let is_hostile = connection.manner == Manner::Hostile && rng.below(12) == 0;
    if is_hostile && rng.below(3) > 0 {
        write_garbage(connection, shape, rng);
        return;
    }
    let mut serial = None;
    let message = match name {
        None if rng.below(10) > 0 => register(connection, services, rng),
        _ if is_hostile => forge(connection, rng),
        Some(_) if !connection.requests.is_empty() && rng.below(5) > 0 => {
            let (message, answered) = answer(connection, shape, rng);
            serial = answered;
            message
        }
        _ => match rng.below(40) {
            0..3 => json!({"type": "HEARTBEAT", "from": name.unwrap_or("?"), "timestamp": now.wall_ms}),
            3 => register_again(name, rng),
            4 => json!({"type": "GREETING", "id": "1", "extra": [1, 2]}),
            5..8 => inquire(connection, name, shape, now, rng),
            _ => call(connection, name, services, shape, now, rng),
        },
    };
    push(connection, message, serial, shape);
}

/// Puts a message into the stream, unless it is too large for a frame.
pub(crate) fn push(connection: &mut Connection, message: Value, serial: Option<u64>, shape: Shape) {
    let encoding = connection.encoding;
    let frame = wire::frame(&message, encoding);
    if frame.len() <= shape.frame_bytes_max + 4 {
        connection.outgoing.extend_from_slice(&frame);
        connection.planned.push_back(Planned::Message(message, encoding, serial));
    }
}

/// An honest HEARTBEAT.
pub(crate) fn heartbeat(name: &str, now: Now) -> Value {
    json!({"type": "HEARTBEAT", "from": name, "timestamp": now.wall_ms})
}

pub(crate) fn pick<'a>(all: &[&'a str], rng: &mut Rng) -> &'a str {
    all[below(all.len() as u64, rng)]
}

pub(crate) fn below(bound: u64, rng: &mut Rng) -> usize {
    usize::try_from(rng.below(bound)).expect("small")
}

fn register(connection: &Connection, services: &[&str], rng: &mut Rng) -> Value {
    let is_pooled = connection.identity.uid == Some(1000);
    let name = match rng.below(30) {
        0 => "bro.mine".to_owned(),
        1 => String::new(),
        2 => "n".repeat(256),
        3 => "bell\u{7}".to_owned(),
        4..8 => pick(&NAMES[..REGISTRABLE], rng).to_owned(),
        _ if is_pooled => pick(&NAMES[..3], rng).to_owned(),
        _ => {
            let is_free = |name: &&&str| !services.contains(*name);
            let free: Vec<&str> = NAMES[3..REGISTRABLE].iter().filter(is_free).copied().collect();
            pick(if free.is_empty() { &NAMES[3..4] } else { &free }, rng).to_owned()
        }
    };
    let methods: Vec<&str> = METHODS[..usize::try_from(rng.below(5)).expect("small")].to_vec();
    let mut metadata = Map::new();
    if rng.below(2) == 0 {
        metadata.insert("team".into(), json!("red"));
    }
    // By user id the peers agree whether they are of a pool.
    if is_pooled {
        metadata.insert("poolSize".into(), json!(if rng.below(12) == 0 { 2 + rng.below(80) } else { 3 }));
        metadata.insert("poolIndex".into(), json!(rng.below(4)));
    }
    if connection.offers_v2 {
        let lanes = match rng.below(8) {
            0 => json!({"v": 2}),
            1 => json!({"v": 2, "lanes": "yes"}),
            _ => json!({"v": 2, "lanes": true}),
        };
        metadata.insert("bro".into(), lanes);
    } else if rng.below(8) == 0 {
        // What is no offer of version 2.
        metadata.insert("bro".into(), [json!({"v": 3}), json!({"v": "2"}), json!({}), json!(2)][below(4, rng)].clone());
    }
    let mut message = json!({"type": "REGISTER", "serviceName": name, "methods": methods, "version": "1.0.0"});
    if !metadata.is_empty() || rng.below(2) == 0 {
        message["metadata"] = Value::Object(metadata);
    }
    message
}

pub(crate) fn register_again(name: Option<&str>, rng: &mut Rng) -> Value {
    let name = if rng.below(10) == 0 { pick(&NAMES, rng) } else { name.unwrap_or("x") };
    json!({"type": "REGISTER", "serviceName": name, "methods": [pick(&METHODS, rng)], "version": "2"})
}

fn call(
    connection: &mut Connection,
    name: Option<&str>,
    services: &[&str],
    shape: Shape,
    now: Now,
    rng: &mut Rng,
) -> Value {
    // Few different ids, so that they collide between callers and with themselves.
    connection.last_id += 1;
    let id = match rng.below(3) {
        0 => format!("req-{}", rng.below(4)),
        1 => format!("req-1699005123456-{:06}", connection.last_id),
        _ => format!("\u{e9}\"{}", connection.last_id),
    };
    let to = if services.is_empty() || rng.below(12) == 0 { pick(&NAMES, rng) } else { pick(services, rng) };
    let own_name = name.unwrap_or("nobody");
    let from = if rng.below(8) == 0 { pick(&NAMES, rng) } else { own_name };
    let mut message = json!({
        "type": "CALL", "id": id, "from": from, "to": to, "method": pick(&METHODS, rng), "params": params(shape, rng),
        "context": context(own_name, to, shape, now, rng),
    });
    let object = message.as_object_mut().expect("it is one");
    match rng.below(60) {
        0 => drop(object.remove("id")),
        1 => drop(object.remove("to")),
        2 => drop(object.remove("method")),
        3 => drop(object.remove("from")),
        4..8 => drop(object.remove("context")),
        8 => drop(object.remove("params")),
        9 => drop(object.insert("extra".into(), json!({"carried": ["along", 1]}))),
        10 => drop(object.insert("id".into(), json!("i".repeat(300)))),
        11..13 => {
            // About as much as a frame holds, and without what other callees do not get.
            drop(object.remove("context"));
            drop(object.remove("from"));
            object.insert("params".into(), json!("x".repeat(1000)));
            let rest = wire::frame(&message, connection.encoding).len() - 1004;
            message["params"] = json!("x".repeat(shape.frame_bytes_max - rest - below(16, rng)));
        }
        _ => {}
    }
    message
}

pub(crate) fn params(shape: Shape, rng: &mut Rng) -> Value {
    let token = rng.next_u64() >> 12;
    match rng.below(20) {
        0 => {
            json!({"token": token, "big": "z".repeat(usize::try_from(rng.below(shape.frame_bytes_max as u64)).expect("small"))})
        }
        // Grows when it becomes JSON.
        1 => {
            json!({"token": token, "steep": "\u{1}".repeat(usize::try_from(rng.below(shape.frame_bytes_max as u64 / 2)).expect("small"))})
        }
        2 => json!([token, null, true, -1, 1.5, {"deep": [[[{}]]]}]),
        _ => json!({"token": token}),
    }
}

fn context(from: &str, to: &str, shape: Shape, now: Now, rng: &mut Rng) -> Value {
    let deadline = now.wall_ms + 1 + rng.below(3000);
    let mut context =
        json!({"root": "root-1699005123456-abc123", "chain": [from, to], "depth": 2, "deadline": deadline});
    match rng.below(60) {
        0 => context["root"] = json!(""),
        1 => context["root"] = json!(7),
        2 => context["chain"] = json!([]),
        3 => context["chain"] = json!(vec!["loop"; 300]),
        4 => context["depth"] = json!(0),
        5 => context["depth"] = json!(shape.depth_max + 1),
        6 => context["deadline"] = json!(0),
        7 => context["deadline"] = json!(now.wall_ms.saturating_sub(rng.below(100))),
        8 => drop(context.as_object_mut().expect("it is one").remove("depth")),
        9 => context["deadline"] = json!(1e300),
        // Between peers of version 1 nobody reads these.
        10 => context["chain"] = json!([from, 7]),
        11 => context["chain"] = json!([from, "n".repeat(300)]),
        // Too long to be given back by the gateway.
        12 => context["chain"] = json!(vec!["n".repeat(100); 11]),
        _ => {}
    }
    context
}

pub(crate) fn inquire(connection: &mut Connection, name: Option<&str>, shape: Shape, now: Now, rng: &mut Rng) -> Value {
    connection.last_id += 1;
    let (method, params) = match rng.below(7) {
        0 => ("status", json!({})),
        1 => ("services", Value::Null),
        2 => ("service", json!({"name": pick(&NAMES, rng)})),
        3 => (
            "waitFor",
            json!({
                "service": pick(&NAMES[..7], rng), "timeoutMs": rng.below(3000), "brief": rng.below(2) == 0,
            }),
        ),
        4 | 5 if rng.below(shape.watch_rarity) > 0 => ("ping", json!({})),
        4 => ("events", json!({"cursor": rng.below(50), "timeoutMs": rng.below(2000), "max": rng.below(9)})),
        5 => ("events", json!([1])),
        _ => ("ping", json!({})),
    };
    json!({
        "type": "CALL", "id": format!("ask-{}", connection.last_id), "from": name, "to": "bro.gateway", "method": method,
        "params": params, "context": {"root": "r", "chain": ["a", "b"], "depth": 2, "deadline": now.wall_ms + 5000},
    })
}

fn answer(connection: &mut Connection, shape: Shape, rng: &mut Rng) -> (Value, Option<u64>) {
    let at = usize::try_from(rng.below(connection.requests.len() as u64)).expect("small");
    let is_hostile = connection.manner == Manner::Hostile;
    // Sometimes it will be answered once more.
    let request = if is_hostile && rng.below(5) == 0 {
        connection.requests[at].clone()
    } else {
        connection.requests.swap_remove(at)
    };
    let Request { serial, id: Id::Text(id), from, to, context } = request else {
        unreachable!("a peer of version 1 gets texts");
    };
    let serial = (!is_hostile).then_some(serial);
    let mut message = json!({"type": "RESPONSE", "id": id, "from": to, "to": from, "context": context});
    if rng.below(4) == 0 {
        message["status"] = json!("error");
        message["error"] = json!({"message": "no", "code": "OUT_OF_STOCK", "stack": "at\n there"});
    } else {
        message["status"] = json!("success");
        message["data"] = params(shape, rng);
    }
    let object = message.as_object_mut().expect("it is one");
    match rng.below(60) {
        0 => drop(object.remove("from")),
        1 => drop(object.remove("to")),
        2 => drop(object.remove("context")),
        3 => drop(object.remove("status")),
        4 => drop(object.remove("data")),
        5 => drop(object.insert("from".into(), json!("somebody-else"))),
        6 => drop(object.insert("to".into(), json!("nobody"))),
        _ => {}
    }
    (message, serial)
}

/// A message that is well-formed, and meant to do harm.
fn forge(connection: &Connection, rng: &mut Rng) -> Value {
    let id = match rng.below(2) {
        0 => format!("req-{}", rng.below(4)),
        _ => format!("req-1699005123456-{:06}", rng.below(connection.last_id + 20)),
    };
    match rng.below(3) {
        0 => json!({"type": "RESPONSE", "id": id, "from": pick(&NAMES, rng), "to": pick(&NAMES, rng),
                    "status": "success", "data": "forged"}),
        1 => json!({"type": "REGISTER_ACK"}),
        _ => json!({"type": "ERROR", "id": id, "error": {"message": "x", "code": "TIMEOUT"}, "timestamp": 1}),
    }
}

/// A CALL above the limit, with its keys in the order of old programs. It fails, and what follows it is read.
fn write_large_call(connection: &mut Connection, shape: Shape, rng: &mut Rng) {
    let (id, to) = (format!("large-{}", rng.below(1000)), pick(&NAMES, rng));
    let params = "x".repeat(shape.frame_bytes_max + below(3 * shape.frame_bytes_max as u64, rng));
    let [first, second, third] = [json!(id), json!(to), json!(params)].map(|value| value.to_string());
    let body = format!(r#"{{"type":"CALL","id":{first},"to":{second},"method":"get","params":{third}}}"#);
    connection.outgoing.extend_from_slice(&wire::frame_of_bytes(body.as_bytes()));
    let message = json!({"type": "CALL", "id": id, "to": to, "method": "get", "params": params});
    connection.planned.push_back(Planned::Message(message, Encoding::Json, None));
}

pub(crate) fn write_garbage(connection: &mut Connection, shape: Shape, rng: &mut Rng) {
    let body: Vec<u8> = match rng.below(10) {
        0 => Vec::new(),
        1 => (0..1 + rng.below(40)).map(|_| (rng.next_u64() & 0x1f) as u8).collect(),
        2 => b"{\"type\":\"CALL\",\"id\":\"1\",\"id\":\"2\"}".to_vec(),
        3 => b"{\"type\":\"CALL\",\"to\":\"us\xffer\"}".to_vec(),
        4 => b"{\"type\":\"CALL\"".to_vec(),
        5 => [b"{\"params\":".as_slice(), &b"[".repeat(1000)].concat(),
        6 => {
            connection.outgoing.extend_from_slice(&u32::MAX.to_be_bytes());
            connection.planned.push_back(Planned::Oversize);
            return;
        }
        _ => return write_large_call(connection, shape, rng),
    };
    connection.outgoing.extend_from_slice(&wire::frame_of_bytes(&body));
    connection.planned.push_back(Planned::Garbage);
}
