//! Parameters and results: values of Rust types, or encoded bytes as they are.

use crate::error::Error;
use crate::msgpack_numbers;
use bro_proto::ErrorCode;
use bro_proto::limits::{CLIENT_READ_BYTES_MAX, PINNED_PARTS_MAX};
use bro_proto::v1::{Encoding, Payload, decode};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// `undefined` as old msgpack peers write it.
const MSGPACK_UNDEFINED: [u8; 3] = [0xd4, 0x00, 0x00];

/// One encoded value that is handed on without being parsed.
///
/// Cheap to clone. One that came from elsewhere may be kept for as long as you like: what is little of the buffer that it was read into is copied out of
/// it before you get it, so that no more stays in memory than a small multiple of its bytes (`PINNED_PARTS_MAX`).
/// A payload in one encoding may be sent over a connection that speaks the other: it is transcoded on the way, by the rules of `docs/protocol.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawPayload {
    encoding: Encoding,
    /// One well-formed value, or empty for an absent one.
    bytes: Bytes,
}

impl RawPayload {
    /// No value: `undefined` in JavaScript. It decodes as `null`.
    pub const fn absent() -> Self {
        Self { encoding: Encoding::Json, bytes: Bytes::new() }
    }

    /// A value that is already encoded.
    ///
    /// # Errors
    /// `SERIALIZATION_FAILED` when `bytes` are not one well-formed value in that encoding (empty is accepted: absent).
    pub fn new(encoding: Encoding, bytes: impl Into<Bytes>) -> Result<Self, Error> {
        let payload = Self { encoding, bytes: bytes.into() };
        match encoding {
            Encoding::Json if !payload.bytes.is_empty() => {
                serde_json::from_slice::<&serde_json::value::RawValue>(&payload.bytes).map_err(|error| {
                    Error::caused(ErrorCode::SerializationFailed, "the payload is not one JSON value", error)
                })?;
            }
            Encoding::Msgpack if !payload.bytes.is_empty() => {
                decode::to_json(payload.as_proto()).map_err(|error| {
                    Error::caused(ErrorCode::SerializationFailed, "the payload is not one msgpack value", error)
                })?;
            }
            _ => {}
        }
        Ok(payload)
    }

    /// A value as JSON text.
    ///
    /// # Errors
    /// `SERIALIZATION_FAILED` when `text` is not one JSON value.
    pub fn json(text: &str) -> Result<Self, Error> {
        Self::new(Encoding::Json, Bytes::copy_from_slice(text.as_bytes()))
    }

    /// Encodes a value.
    ///
    /// # Errors
    /// `SERIALIZATION_FAILED` when the value has no form in that encoding (a map whose keys are not text, for one).
    pub fn encode<T: Serialize + ?Sized>(value: &T, encoding: Encoding) -> Result<Self, Error> {
        let bytes = match encoding {
            Encoding::Json => serde_json::to_vec(value)
                .map_err(|error| Error::caused(ErrorCode::SerializationFailed, "the value has no JSON form", error))?,
            Encoding::Msgpack => {
                let mut bytes = Vec::with_capacity(128);
                let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map().with_human_readable();
                value.serialize(&mut serializer).map_err(|error| {
                    Error::caused(ErrorCode::SerializationFailed, "the value has no msgpack form", error)
                })?;
                msgpack_numbers::for_the_wire(&mut bytes);
                bytes
            }
        };
        Ok(Self { encoding, bytes: bytes.into() })
    }

    /// Decodes the value. An absent one decodes as `null` does: `()`, `None`, [`serde_json::Value::Null`].
    ///
    /// # Errors
    /// `DESERIALIZATION_FAILED` when the value is of another shape than `T`; the cause names the field.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.decode_as().map_err(|error| {
            Error::caused(ErrorCode::DeserializationFailed, "the value does not have the expected shape", error)
        })
    }

    /// The value as a JSON tree.
    ///
    /// # Errors
    /// `DESERIALIZATION_FAILED` when it has no JSON form.
    pub fn to_json(&self) -> Result<serde_json::Value, Error> {
        if self.bytes.is_empty() {
            return Ok(serde_json::Value::Null);
        }
        decode::to_json(self.as_proto())
            .map_err(|error| Error::caused(ErrorCode::DeserializationFailed, "the value has no JSON form", error))
    }

    /// How [`RawPayload::bytes`] are encoded.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The encoded value; empty when it is absent.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes that the protocol has already checked.
    pub(crate) fn checked(encoding: Encoding, bytes: Bytes) -> Self {
        Self { encoding, bytes }
    }

    /// The value for a program that may keep it: a copy where it is little of the memory that it was read into, and would keep that.
    pub(crate) fn unpinned(self) -> Self {
        if self.bytes.len() >= CLIENT_READ_BYTES_MAX / PINNED_PARTS_MAX {
            return self;
        }
        Self { bytes: Bytes::copy_from_slice(&self.bytes), ..self }
    }

    pub(crate) fn as_proto(&self) -> Payload<'_> {
        Payload { encoding: self.encoding, bytes: &self.bytes }
    }

    /// As [`RawPayload::decode`], with the cause alone as the error.
    pub(crate) fn decode_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        if self.bytes.is_empty() || (self.encoding == Encoding::Msgpack && self.bytes[..] == MSGPACK_UNDEFINED) {
            return serde_json::from_slice(b"null");
        }
        match self.encoding {
            Encoding::Json => serde_json::from_slice(&self.bytes),
            Encoding::Msgpack => {
                let bytes = msgpack_numbers::from_the_wire(&self.bytes);
                let mut deserializer = rmp_serde::Deserializer::from_read_ref(&*bytes).with_human_readable();
                // What only JavaScript peers write (`undefined`, dates, keys that are numbers) has a JSON form by the
                // transcoding rules: decode that before giving up, and let its error tell the reason.
                T::deserialize(&mut deserializer).or_else(|_| {
                    let tree = decode::to_json(self.as_proto()).map_err(serde::de::Error::custom)?;
                    serde_json::from_value(tree)
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        id: u64,
        created_at: u64,
        ratio: f64,
        note: Option<String>,
        host: std::net::Ipv4Addr,
        lines: Vec<(String, i32)>,
    }

    fn order() -> Order {
        Order {
            id: 7,
            created_at: 1_699_005_123_456,
            ratio: 4_294_967_296_000.0,
            note: None,
            host: std::net::Ipv4Addr::LOCALHOST,
            lines: vec![("nut".into(), -3)],
        }
    }

    #[test]
    fn both_encodings_carry_the_same_value() {
        for encoding in [Encoding::Json, Encoding::Msgpack] {
            let payload = RawPayload::encode(&order(), encoding).unwrap();
            assert_eq!(payload.decode::<Order>().unwrap(), order());
            let tree = payload.to_json().unwrap();
            assert_eq!(tree["created_at"].as_f64(), Some(1_699_005_123_456.0), "{tree}");
            assert_eq!(tree["host"], "127.0.0.1", "text for people in both encodings");
            RawPayload::new(encoding, payload.bytes().clone()).unwrap();
        }
    }

    #[test]
    fn absent_and_undefined_are_null() {
        RawPayload::absent().decode::<()>().unwrap();
        let undefined = RawPayload::checked(Encoding::Msgpack, Bytes::from_static(&MSGPACK_UNDEFINED));
        assert_eq!(undefined.decode::<Option<u8>>().unwrap(), None);
        assert_eq!(RawPayload::absent().to_json().unwrap(), serde_json::Value::Null);
    }

    #[test]
    fn javascript_msgpack_decodes_into_integers() {
        // {"at": 1699005123456.0, "note": undefined}
        let mut bytes = vec![0xde, 0, 2, 0xa2, b'a', b't', 0xcb];
        bytes.extend_from_slice(&1_699_005_123_456_f64.to_be_bytes());
        bytes.extend_from_slice(&[0xa4, b'n', b'o', b't', b'e', 0xd4, 0, 0]);
        #[derive(Debug, Deserialize)]
        struct Stamp {
            at: u64,
            note: Option<String>,
        }
        let stamp: Stamp = RawPayload::new(Encoding::Msgpack, bytes).unwrap().decode().unwrap();
        assert_eq!((stamp.at, stamp.note), (1_699_005_123_456, None));
    }

    #[test]
    fn what_is_not_one_value_is_refused() {
        for text in ["", "{", "1 2", "nul"] {
            assert_eq!(RawPayload::json(text).is_ok(), text.is_empty(), "{text:?}");
        }
        for bytes in [&[0x92_u8, 1][..], &[1, 2], &[0xc1]] {
            let error = RawPayload::new(Encoding::Msgpack, bytes.to_vec()).unwrap_err();
            assert_eq!(error.code(), &ErrorCode::SerializationFailed, "{bytes:?}");
        }
        let keyed: BTreeMap<Vec<u8>, u8> = [(vec![1], 1)].into();
        assert_eq!(RawPayload::encode(&keyed, Encoding::Json).unwrap_err().code(), &ErrorCode::SerializationFailed);
    }

    #[test]
    fn another_shape_is_told_by_its_field() {
        use std::error::Error as _;
        let error = RawPayload::json(r#"{"id":"seven"}"#).unwrap().decode::<Order>().unwrap_err();
        assert_eq!(error.code(), &ErrorCode::DeserializationFailed);
        assert!(error.source().unwrap().to_string().contains("seven"), "{error:?}");
    }
}
