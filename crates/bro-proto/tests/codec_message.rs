//! The readme's "Util Methods" that are about whole messages.

use bro_proto::context::CallContext;
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::frame::FrameError;
use bro_proto::limits::METHODS_MAX;
use bro_proto::rng::Rng;
use bro_proto::time::Now;
use bro_proto::v1::Encoding;
use bro_proto::v1::message::*;
use serde_json::{Map, json};

const NOW: Now = Now { mono_us: 0, wall_ms: 1_699_005_123_456 };

fn call() -> Call {
    let mut rng = Rng::new(3);
    let context = CallContext::create("order", 500, NOW, &mut rng).extend("user");
    match create_call_message("order", "user", "find", Some(json!({"id": 7})), context, NOW, &mut rng) {
        Message::Call(call) => call,
        other => panic!("not a call: {other:?}"),
    }
}

fn one_of_each() -> Vec<Message> {
    let call = call();
    let error = ErrorBody::new(ErrorCode::from("NO_SUCH_USER"), "no such user");
    vec![
        Message::Register(Register {
            service_name: "order".into(),
            methods: vec!["create".into(), "list".into()],
            version: "2.1.0".into(),
            metadata: Map::from_iter([("region".into(), json!("eu"))]),
        }),
        Message::RegisterAck,
        create_success_response(&call, Some(json!([1, "a", null]))),
        create_success_response(&call, None),
        create_success_response(&call, Some(json!(null))),
        create_error_response(&call, error.clone()),
        Message::Call(Call { params: None, context: None, ..call.clone() }),
        Message::Call(call),
        Message::Heartbeat(Heartbeat { from: "order".into(), timestamp_ms: NOW.wall_ms }),
        Message::Error(ErrorNotice { id: None, error: error.clone(), timestamp_ms: NOW.wall_ms }),
        Message::Error(ErrorNotice { id: Some("req-1".into()), error, timestamp_ms: NOW.wall_ms }),
    ]
}

#[test]
fn every_message_is_read_back_as_it_was_written() {
    for message in one_of_each() {
        validate_message(&message).unwrap();
        for encoding in [Encoding::Json, Encoding::Msgpack] {
            let frame = serialize(&message, encoding).unwrap();
            assert_eq!(deserialize(&frame).unwrap(), message);
            assert_eq!(read_message_length(&frame), Some(frame.len() - 4));
        }
    }
}

#[test]
fn the_readmes_length_prefix_is_four_bytes_big_endian() {
    let frame = serialize(&Message::RegisterAck, Encoding::Json).unwrap();
    assert_eq!(frame, b"\0\0\0\x17{\"type\":\"REGISTER_ACK\"}");
}

#[test]
fn a_buffer_is_split_into_its_messages() {
    let messages = one_of_each();
    let frames: Vec<Vec<u8>> = messages.iter().map(|message| serialize(message, Encoding::Msgpack).unwrap()).collect();
    let buffer = frames.concat();
    for cut in 0..buffer.len() {
        let split = split_messages(&buffer[..cut], 4096).unwrap();
        assert_eq!(split.frames.concat().len() + split.rest.len(), cut);
        assert!(!has_complete_message(split.rest));
        assert!(split.frames.iter().zip(&messages).all(|(frame, message)| deserialize(frame).as_ref() == Ok(message)));
    }
    assert_eq!(split_messages(&buffer, 4096).unwrap().frames.len(), messages.len());
    assert_eq!(split_messages(&buffer, 10), Err(FrameError::TooLarge { announced: frames[0].len() - 4, limit: 10 }));
    assert_eq!(read_message_length(&buffer[..3]), None);
    assert!(!has_complete_message(&[]));
}

#[test]
fn half_frames_and_two_frames_are_refused() {
    let frame = serialize(&Message::RegisterAck, Encoding::Json).unwrap();
    for bad in [&frame[..2], &frame[..frame.len() - 1], &[frame.as_slice(), &frame].concat(), &[0, 0, 0, 0]] {
        assert_eq!(deserialize(bad).unwrap_err().code, Some(ErrorCode::InvalidMessage));
    }
}

#[test]
fn a_response_goes_back_where_the_call_came_from() {
    let call = call();
    let Message::Response(response) = create_success_response(&call, None) else { panic!("a response") };
    assert_eq!((response.from.as_str(), response.to.as_str()), ("user", "order"));
    assert_eq!((&response.id, &response.context), (&call.id, &call.context));
}

#[test]
fn what_cannot_be_accepted_is_told_by_validation() {
    let call = call();
    let empty_chain = CallContext { chain: vec![], ..call.context.clone().unwrap() };
    let Message::Register(register) = one_of_each().remove(0) else { panic!("a registration") };
    for (bad, code) in [
        (Message::Call(Call { id: String::new(), ..call.clone() }), ErrorCode::InvalidMessage),
        (Message::Call(Call { id: "i".repeat(256), ..call.clone() }), ErrorCode::InvalidMessage),
        (Message::Call(Call { from: String::new(), ..call.clone() }), ErrorCode::InvalidMessage),
        (Message::Call(Call { to: "a\nb".into(), ..call.clone() }), ErrorCode::InvalidMessage),
        (Message::Call(Call { method: "m".repeat(256), ..call.clone() }), ErrorCode::InvalidMessage),
        (Message::Call(Call { context: Some(empty_chain), ..call.clone() }), ErrorCode::InvalidContext),
        (Message::Heartbeat(Heartbeat { from: String::new(), timestamp_ms: 1 }), ErrorCode::InvalidMessage),
        (Message::Register(Register { service_name: String::new(), ..register.clone() }), ErrorCode::InvalidMessage),
        (Message::Register(Register { methods: vec!["".into()], ..register.clone() }), ErrorCode::InvalidMessage),
        (
            Message::Register(Register { methods: vec!["m".into(); METHODS_MAX + 1], ..register }),
            ErrorCode::InvalidMessage,
        ),
    ] {
        assert_eq!(validate_message(&bad).unwrap_err().code, Some(code));
    }
}

#[test]
fn messages_have_one_line_for_the_log() {
    let lines: Vec<String> = one_of_each().iter().map(format_message_for_log).collect();
    let Call { id, context, .. } = call();
    let context = context.unwrap();
    assert_eq!(lines[0], "REGISTER order 2.1.0 [create, list]");
    assert_eq!(lines[2], format!("RESPONSE {id} user → order success [1,\"a\",null]"));
    assert_eq!(lines[5], format!("RESPONSE {id} user → order error NO_SUCH_USER: no such user"));
    let chain = format!("order → user (depth 2, {})", context.root);
    assert_eq!(format_context(&context), chain);
    assert_eq!(lines[7], format!("CALL {id} order → user.find({{\"id\":7}}) [{chain}]"));
    assert_eq!(lines[8], "HEARTBEAT order at 1699005123456");
    assert_eq!(lines[10], "ERROR req-1 NO_SUCH_USER: no such user");

    let long = Message::Call(Call { params: Some(json!("€".repeat(1000))), context: None, ..call() });
    let line = format_message_for_log(&long);
    assert!(line.len() < 300 && line.ends_with("…)"), "{line}");
}
