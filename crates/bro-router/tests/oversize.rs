//! Frames above the limit: one call fails, and everything else goes on.

mod support;

use bro_proto::frame::{CutPlace, Deframer};
use bro_proto::limits::OVERSIZE_HEAD_BYTES;
use bro_proto::v1::Encoding::{self, Json, Msgpack};
use bro_proto::v2::FrameKind;
use bro_proto::{ErrorBody, ErrorCode, v2};
use bro_router::{CloseReason, PeerId, RouterConfig};
use serde::Serialize;
use serde_json::{Value, json};
use support::v2_peers::{Draft, draft, section};
use support::{Gateway, answer, code, frame};

const LIMIT: usize = 2048;

fn small_frames() -> Gateway {
    Gateway::with(RouterConfig { frame_bytes_max: LIMIT, ..RouterConfig::default() })
}

/// As JavaScript programs order the keys of a message: what says which call it is about comes first.
#[derive(Serialize)]
struct Message<'a> {
    r#type: &'a str,
    id: &'a str,
    from: &'a str,
    to: &'a str,
    method: &'a str,
    status: &'a str,
    params: String,
}

fn large(kind: &str, id: &str, encoding: Encoding) -> Vec<u8> {
    let params = "x".repeat(3 * OVERSIZE_HEAD_BYTES);
    let message = Message { r#type: kind, id, from: "order", to: "user", method: "get", status: "success", params };
    frame(&match encoding {
        Json => serde_json::to_vec(&message).expect("JSON"),
        Msgpack => rmp_serde::to_vec_named(&message).expect("msgpack"),
    })
}

fn large_number(kind: FrameKind, flags: u8, id: u64) -> Vec<u8> {
    let mut large = Draft { kind, payload: vec![b'1'; 3 * OVERSIZE_HEAD_BYTES], ..draft(id) }.frame();
    large[6] = flags;
    large
}

impl Gateway {
    /// What a driver does with this stream.
    fn stream(&mut self, peer: PeerId, bytes: &[u8]) {
        let (mut deframer, mut at) = (Deframer::new(), 0);
        while self.router.is_peer(peer) {
            match deframer.next_place(bytes, &mut at, LIMIT) {
                Ok(Some(CutPlace::Whole(place))) => self.send_frame(peer, bytes[place].to_vec()),
                Ok(Some(CutPlace::Assembled(frame))) => self.send_frame(peer, frame),
                Ok(Some(CutPlace::Oversize(oversize))) => {
                    self.router.handle_oversize(peer, &oversize, self.now, &mut self.orders);
                    self.router.check_invariants();
                }
                Ok(None) => break,
                Err(error) => self.router.handle_frame_error(peer, error, self.now, &mut self.orders),
            }
        }
    }

    /// Sends a frame that costs the peer its connection.
    fn refused(&mut self, peer: PeerId, bytes: &[u8]) -> String {
        self.stream(peer, bytes);
        assert_eq!(self.orders.closed.pop(), Some((peer, CloseReason::Malformed)));
        let error = support::parse(self.take_frames(peer).last().expect("it is told why"));
        assert_eq!(error["type"], "ERROR", "{error}");
        code(&error).to_owned()
    }
}

fn has_sizes(error: &Value, bytes: usize) -> bool {
    let message = error["error"]["message"].as_str().unwrap_or_default();
    message.contains(&format!("{bytes} bytes")) && message.contains("at most 2048")
}

#[test]
fn a_call_of_version_1_fails_alone() {
    for encoding in [Json, Msgpack] {
        let mut gateway = small_frames();
        let order = gateway.service("order", encoding);
        let user = gateway.service("user", Json);
        let (small, large) = (gateway.call("small", "order", "user"), large("CALL", "large", encoding));
        gateway.stream(order, &[&large[..], &frame(&serde_json::to_vec(&small).unwrap()), &large].concat());
        assert_eq!(gateway.take_one(user)["id"], "small");
        let told = gateway.take(order);
        assert_eq!(told.len(), 2);
        for told in told {
            assert_eq!(
                (&told["type"], &told["id"], code(&told)),
                (&json!("RESPONSE"), &json!("large"), "PAYLOAD_TOO_LARGE")
            );
            assert!(has_sizes(&told, large.len() - 4), "{told}");
        }
        let counters = gateway.router.counters();
        assert_eq!((counters.refused_too_large, counters.calls_refused, counters.malformed), (2, 2, 0));
        assert_eq!(gateway.router.charged_bytes(), 0);
    }
}

#[test]
fn an_answer_of_version_1_fails_its_call_at_once() {
    for encoding in [Json, Msgpack] {
        let mut gateway = small_frames();
        let order = gateway.service("order", Json);
        let new = gateway.service_v2("new", &["user"]);
        let user = gateway.service("user", encoding);
        let call = gateway.call("1", "order", "user");
        gateway.send_json(order, &call);
        gateway.call_v2(new, &draft(7));
        let asked = gateway.take(user);
        let answers: Vec<Vec<u8>> =
            asked.iter().map(|call| large("RESPONSE", call["id"].as_str().unwrap(), encoding)).collect();
        gateway.stream(user, &answers.concat());
        let told = gateway.take_one(order);
        assert_eq!((&told["id"], code(&told)), (&json!("1"), "PAYLOAD_TOO_LARGE"));
        assert!(has_sizes(&told, answers[0].len() - 4), "{told}");
        assert_eq!(gateway.failed_with(new), (7, ErrorCode::PayloadTooLarge));
        assert_eq!(gateway.router.in_flight_len(), 0);
        // It is late now, and an answer to nothing.
        gateway.stream(user, &answers.concat());
        assert_eq!(gateway.router.counters().responses_dropped, 2);
        gateway.send_json(order, &call);
        let asked = gateway.take_one(user);
        gateway.send_json(user, &answer(&asked, json!(1)));
        assert_eq!(gateway.take_one(order)["data"], 1);
    }
}

#[test]
fn calls_and_answers_of_version_2_fail_alone() {
    let mut gateway = small_frames();
    let order = gateway.service_v2("order", &["user"]);
    let user = gateway.service_v2("user", &[]);
    let long_context = Draft { section: section(&["x".repeat(250).as_str(); 100], 100), ..draft(8) };
    let stream = [large_number(FrameKind::Call, 0, 7), long_context.frame(), draft(9).frame()].concat();
    gateway.stream(order, &stream);
    let failed: Vec<u64> = gateway
        .take_frames(order)
        .iter()
        .map(|frame| match v2::parse(frame) {
            Ok(v2::Frame::Error { id, is_from_gateway: true, failure }) if failure.code == "PAYLOAD_TOO_LARGE" => id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(failed, [7, 8]);
    let mut names = Vec::new();
    for kind in [FrameKind::Response, FrameKind::Error] {
        let asked = gateway.asked(user, "user", &mut names);
        gateway.stream(user, &large_number(kind, 0, asked.id));
        assert_eq!(gateway.failed_with(order), (9, ErrorCode::PayloadTooLarge));
        gateway.call_v2(order, &draft(9));
    }
    let asked = gateway.asked(user, "user", &mut names);
    // Of another's call, of none, without answer, and of a later version.
    gateway.stream(order, &large_number(FrameKind::Response, 0, asked.id));
    gateway.stream(user, &large_number(FrameKind::Response, 0, 12345));
    gateway.stream(order, &large_number(FrameKind::Notify, 0, 0));
    let mut unknown = large_number(FrameKind::Call, 0x80, 1);
    unknown[5] = 99;
    gateway.stream(order, &unknown);
    let counters = *gateway.router.counters();
    assert_eq!((counters.responses_dropped, counters.notifications_dropped, counters.frames_ignored), (2, 1, 1));
    gateway.answer_v2(user, asked.id, b"1");
    assert!(matches!(v2::parse(&gateway.take_frames(order)[0]), Ok(v2::Frame::Response { id: 9, .. })));
    assert!(gateway.orders.closed.is_empty());
}

/// Nobody could be told, and would wait for nothing.
#[test]
fn who_does_not_say_which_call_it_is_about_is_closed() {
    let head = |text: &str| frame(&[text.as_bytes(), &[b'x'; 3 * OVERSIZE_HEAD_BYTES]].concat());
    let call = r#""type":"CALL","to":"user","method":"get""#;
    for begun in [
        head(&format!(r#"{{{call},"params":""#)),
        head(&format!(r#"{{{call},"id":"","params":""#)),
        head(&format!(r#"{{{call},"id":"{}","params":""#, "i".repeat(256))),
        head(&format!(r#"{{{call},"id":"1","id":"2","params":""#)),
        head(&format!(r#"{{{call},"id":"1",,"params":""#)),
        head(r#"{"id":"1","params":""#),
        head(r#"{"type":"LATER","id":"1","params":""#),
        head(&" ".repeat(OVERSIZE_HEAD_BYTES + 1)),
        large("REGISTER", "1", Json),
        large("HEARTBEAT", "1", Msgpack),
    ] {
        let mut gateway = small_frames();
        let order = gateway.service("order", Json);
        assert_eq!(gateway.refused(order, &begun), "PAYLOAD_TOO_LARGE", "{:?}", String::from_utf8_lossy(&begun[..80]));
        assert_eq!(gateway.router.counters().refused_too_large, 1);
    }
    let mut gateway = small_frames();
    let order = gateway.service_v2("order", &["user"]);
    for begun in [large("CALL", "1", Json), large_number(FrameKind::Resolve, 0, 1), large_number(FrameKind::Ping, 0, 1)]
    {
        let peer = gateway.service_v2("peer", &[]);
        assert_eq!(gateway.refused(peer, &begun), "PAYLOAD_TOO_LARGE");
    }
    assert_eq!(gateway.refused(order, &large_number(FrameKind::Call, 0, 0)), "INVALID_MESSAGE");
    let stranger = gateway.connect();
    assert_eq!(gateway.refused(stranger, &large("CALL", "1", Json)), "PAYLOAD_TOO_LARGE");
    assert_eq!(gateway.router.peers_len(), 0);
}

#[test]
fn a_number_in_flight_is_taken_for_large_calls_too() {
    let mut gateway = small_frames();
    let order = gateway.service_v2("order", &["user"]);
    let _user = gateway.service_v2("user", &[]);
    gateway.call_v2(order, &draft(7));
    assert_eq!(gateway.refused(order, &large_number(FrameKind::Call, 0, 7)), "INVALID_MESSAGE");
}

#[test]
fn what_is_skipped_must_end_in_time() {
    let mut gateway = small_frames();
    let order = gateway.service("order", Json);
    let begun = large("CALL", "1", Json);
    gateway.stream(order, &begun[..begun.len() - 1]);
    gateway.router.handle_partial(order, true, gateway.now);
    assert_eq!(gateway.take_one(order)["id"], "1");
    gateway.pass(29_000);
    gateway.router.handle_partial(order, true, gateway.now);
    gateway.pass(1_500);
    assert_eq!(gateway.orders.closed, [(order, CloseReason::PartialFrame)]);
}

#[test]
fn events_tell_of_calls_that_were_too_large() {
    let mut gateway = small_frames();
    let order = gateway.service_v2("order", &["user"]);
    gateway.stream(order, &large_number(FrameKind::Call, 0, 7));
    let told = gateway.orders.events.iter().find(|event| event.starts_with("ResponseRouted")).expect("an event");
    assert!(told.contains(r#"from: "user""#) && told.contains(r#"method: "get""#), "{told}");
    assert!(told.contains("PayloadTooLarge"), "{told}");
    let error = ErrorBody::new(ErrorCode::PayloadTooLarge, "");
    assert_eq!(gateway.failed(order).2.code, error.code);
}
