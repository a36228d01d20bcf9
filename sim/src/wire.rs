//! v1 frames by general-purpose codecs, so that an error of the router's own codec is not made twice.

use bro_proto::v1::Encoding;
use serde_json::Value;

/// One frame with that message as its body.
pub(crate) fn frame(message: &Value, encoding: Encoding) -> Vec<u8> {
    let body = match encoding {
        Encoding::Json => serde_json::to_vec(message).expect("a value is JSON"),
        Encoding::Msgpack => rmp_serde::to_vec(message).expect("a value is msgpack"),
    };
    frame_of_bytes(&body)
}

/// One frame with these bytes as its body.
pub(crate) fn frame_of_bytes(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("simulated frames are small");
    [&length.to_be_bytes(), body].concat()
}

/// The message in a frame, and its encoding.
pub(crate) fn parse(frame: &[u8]) -> Result<(Value, Encoding), String> {
    let (prefix, body) = frame.split_at_checked(4).ok_or("a frame without a whole prefix")?;
    let length = u32::from_be_bytes(prefix.try_into().expect("four bytes")) as usize;
    if length != body.len() {
        return Err(format!("the prefix says {length} bytes, the body has {}", body.len()));
    }
    if body.first() == Some(&b'{') {
        let value = serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
        return Ok((value, Encoding::Json));
    }
    let value = rmp_serde::from_slice(body).map_err(|error| format!("not msgpack: {error}"))?;
    Ok((value, Encoding::Msgpack))
}

/// Whether two values are equal to a program that has only one kind of number.
pub(crate) fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| is_same(a, b)))
        }
        _ => a == b,
    }
}
