//! The two encodings of v1, as old programs write and read them.
//!
//! msgpack follows what npm `msgpackr` does with `pack()`: every object is `map16`, integers beyond 32 bits are float64,
//! `undefined` is an extension. What JSON cannot say is marked in the decoded value: [`undefined`], and objects with one
//! of the keys `$bigint` (a 64-bit integer, which `msgpackr` hands to programs as a BigInt), `$binary` and `$ext`.

use serde_json::{Map, Number, Value, json};

/// How a program encodes its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8 JSON text.
    Json,
    /// msgpack in the dialect of `msgpackr`.
    Msgpack,
}

impl Encoding {
    /// Both.
    pub const ALL: [Encoding; 2] = [Encoding::Json, Encoding::Msgpack];

    /// The name that configurations use.
    pub fn as_str(self) -> &'static str {
        match self {
            Encoding::Json => "json",
            Encoding::Msgpack => "msgpack",
        }
    }

    /// What the first byte of a body says.
    pub fn detect(body: &[u8]) -> Option<Encoding> {
        match body.first()? {
            b'{' => Some(Encoding::Json),
            0x80..=0x8f | 0xde | 0xdf => Some(Encoding::Msgpack),
            _ => None,
        }
    }
}

/// The order in which the old library writes the fields of its messages.
const FIELD_ORDER: [&str; 16] = [
    "type",
    "id",
    "from",
    "to",
    "serviceName",
    "methods",
    "version",
    "metadata",
    "method",
    "params",
    "status",
    "data",
    "error",
    "context",
    "timestamp",
    "code",
];
/// Deepest value that [`decode`] follows.
const DEPTH_MAX: usize = 512;
const UNDEFINED_KEY: &str = "$undefined";

/// JavaScript's `undefined`: left out of JSON objects, an extension in msgpack.
pub fn undefined() -> Value {
    json!({ UNDEFINED_KEY: true })
}

/// One message as a body without its prefix.
pub fn encode(encoding: Encoding, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    match encoding {
        Encoding::Json => write_json(&mut out, value),
        Encoding::Msgpack => write_msgpack(&mut out, value),
    }
    out
}

/// A body behind the length of itself.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a test body fits a prefix");
    let mut out = Vec::with_capacity(4 + body.len());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// The message in a body, and the encoding that it has. `Err` says what is wrong with it.
pub fn decode(body: &[u8]) -> Result<(Encoding, Value), String> {
    match Encoding::detect(body) {
        Some(Encoding::Json) => {
            let value = serde_json::from_slice(body).map_err(|error| format!("JSON: {error}"))?;
            Ok((Encoding::Json, value))
        }
        Some(Encoding::Msgpack) => {
            let mut reader = Reader { rest: body };
            let value = reader.value(0)?;
            if !reader.rest.is_empty() {
                return Err(format!("msgpack: {} trailing bytes", reader.rest.len()));
            }
            Ok((Encoding::Msgpack, value))
        }
        None => Err(format!("first byte {:?} begins neither encoding", body.first())),
    }
}

fn ordered(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let rank = |key: &str| FIELD_ORDER.iter().position(|known| *known == key).unwrap_or(FIELD_ORDER.len());
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| rank(key));
    entries
}

fn is_undefined(value: &Value) -> bool {
    value.as_object().is_some_and(|map| map.len() == 1 && map.contains_key(UNDEFINED_KEY))
}

fn write_json(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Object(map) => {
            out.push(b'{');
            let mut first = true;
            for (key, value) in ordered(map) {
                if is_undefined(value) {
                    continue;
                }
                if !first {
                    out.push(b',');
                }
                first = false;
                serde_json::to_writer(&mut *out, key).expect("a Vec takes everything");
                out.push(b':');
                write_json(out, value);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                if is_undefined(item) { out.extend_from_slice(b"null") } else { write_json(out, item) }
            }
            out.push(b']');
        }
        scalar => serde_json::to_writer(out, scalar).expect("a Vec takes everything"),
    }
}

fn write_msgpack(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0xc0),
        Value::Bool(false) => out.push(0xc2),
        Value::Bool(true) => out.push(0xc3),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            match u16::try_from(items.len()) {
                Ok(len) if len < 16 => out.push(0x90 | len.to_be_bytes()[1]),
                Ok(len) => write_marked(out, 0xdc, &len.to_be_bytes()),
                Err(_) => {
                    let len = u32::try_from(items.len()).expect("a test array fits msgpack");
                    write_marked(out, 0xdd, &len.to_be_bytes());
                }
            }
            for item in items {
                write_msgpack(out, item);
            }
        }
        undefined if is_undefined(undefined) => out.extend_from_slice(&[0xd4, 0x00, 0x00]),
        Value::Object(map) => {
            let len = u16::try_from(map.len()).expect("msgpackr writes map16");
            write_marked(out, 0xde, &len.to_be_bytes());
            for (key, value) in ordered(map) {
                write_text(out, key);
                write_msgpack(out, value);
            }
        }
    }
}

fn write_marked(out: &mut Vec<u8>, marker: u8, bytes: &[u8]) {
    out.push(marker);
    out.extend_from_slice(bytes);
}

fn write_number(out: &mut Vec<u8>, number: &Number) {
    if let Some(int) = number.as_i64() {
        if let Ok(small) = i8::try_from(int)
            && small >= -32
        {
            return out.extend_from_slice(&small.to_be_bytes());
        }
        if let Ok(int) = u8::try_from(int) {
            return write_marked(out, 0xcc, &int.to_be_bytes());
        }
        if let Ok(int) = u16::try_from(int) {
            return write_marked(out, 0xcd, &int.to_be_bytes());
        }
        if let Ok(int) = u32::try_from(int) {
            return write_marked(out, 0xce, &int.to_be_bytes());
        }
        if let Ok(int) = i8::try_from(int) {
            return write_marked(out, 0xd0, &int.to_be_bytes());
        }
        if let Ok(int) = i16::try_from(int) {
            return write_marked(out, 0xd1, &int.to_be_bytes());
        }
        if let Ok(int) = i32::try_from(int) {
            return write_marked(out, 0xd2, &int.to_be_bytes());
        }
    }
    let float = number.as_f64().expect("every JSON number has a float");
    write_marked(out, 0xcb, &float.to_be_bytes());
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    match u16::try_from(text.len()) {
        Ok(len) if len < 32 => out.push(0xa0 | len.to_be_bytes()[1]),
        Ok(len) if len < 256 => write_marked(out, 0xd9, &len.to_be_bytes()[1..]),
        Ok(len) => write_marked(out, 0xda, &len.to_be_bytes()),
        Err(_) => {
            let len = u32::try_from(text.len()).expect("a test text fits msgpack");
            write_marked(out, 0xdb, &len.to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// A msgpack body, read from the front.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err("msgpack: nested too deep".into());
        }
        let marker = self.array::<1>()?[0];
        Ok(match marker {
            0x00..=0x7f => json!(marker),
            0x80..=0x8f => self.map(usize::from(marker & 0x0f), depth)?,
            0x90..=0x9f => self.list(usize::from(marker & 0x0f), depth)?,
            0xa0..=0xbf => self.text(usize::from(marker & 0x1f))?,
            0xc0 => Value::Null,
            0xc2 => json!(false),
            0xc3 => json!(true),
            0xc4..=0xc6 => {
                let len = self.length(marker - 0xc4)?;
                json!({ "$binary": self.take(len)? })
            }
            0xc7..=0xc9 => {
                let len = self.length(marker - 0xc7)?;
                self.extension(len)?
            }
            0xca => json!(f32::from_be_bytes(self.array()?)),
            0xcb => json!(f64::from_be_bytes(self.array()?)),
            0xcc => json!(u8::from_be_bytes(self.array()?)),
            0xcd => json!(u16::from_be_bytes(self.array()?)),
            0xce => json!(u32::from_be_bytes(self.array()?)),
            0xcf => json!({ "$bigint": u64::from_be_bytes(self.array()?).to_string() }),
            0xd0 => json!(i8::from_be_bytes(self.array()?)),
            0xd1 => json!(i16::from_be_bytes(self.array()?)),
            0xd2 => json!(i32::from_be_bytes(self.array()?)),
            0xd3 => json!({ "$bigint": i64::from_be_bytes(self.array()?).to_string() }),
            0xd4..=0xd8 => self.extension(1 << (marker - 0xd4))?,
            0xd9..=0xdb => {
                let len = self.length(marker - 0xd9)?;
                self.text(len)?
            }
            0xdc | 0xdd => {
                let len = self.length(marker - 0xdc + 1)?;
                self.list(len, depth)?
            }
            0xde | 0xdf => {
                let len = self.length(marker - 0xde + 1)?;
                self.map(len, depth)?
            }
            0xe0..=0xff => json!(marker.cast_signed()),
            0xc1 => return Err("msgpack: 0xc1 is no marker".into()),
        })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or("msgpack: ends in the middle of a value")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("N bytes were taken"))
    }

    /// A length of 1, 2 or 4 bytes.
    fn length(&mut self, power: u8) -> Result<usize, String> {
        let bytes = self.take(1 << power)?;
        Ok(bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)))
    }

    fn text(&mut self, len: usize) -> Result<Value, String> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|error| format!("msgpack: {error}"))?;
        Ok(json!(text))
    }

    fn list(&mut self, len: usize, depth: usize) -> Result<Value, String> {
        (0..len).map(|_| self.value(depth + 1)).collect::<Result<Vec<_>, _>>().map(Value::Array)
    }

    fn map(&mut self, len: usize, depth: usize) -> Result<Value, String> {
        let mut map = Map::new();
        for _ in 0..len {
            let Value::String(key) = self.value(depth + 1)? else {
                return Err("msgpack: a key is not a string".into());
            };
            let value = self.value(depth + 1)?;
            if is_undefined(&value) {
                continue;
            }
            if map.insert(key.clone(), value).is_some() {
                return Err(format!("msgpack: the key {key:?} stands twice"));
            }
        }
        Ok(Value::Object(map))
    }

    fn extension(&mut self, len: usize) -> Result<Value, String> {
        let kind = i8::from_be_bytes(self.array()?);
        let bytes = self.take(len)?;
        Ok(if kind == 0 { undefined() } else { json!({ "$ext": [kind, bytes] }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_carry_a_message() {
        let message = json!({
            "type": "CALL", "id": "req-1", "params": { "list": [1, -1, 200, -200, 70_000, -70_000, 1.5, null, true], "text": "é" }
        });
        for encoding in Encoding::ALL {
            let body = encode(encoding, &message);
            assert_eq!(decode(&body), Ok((encoding, message.clone())));
        }
    }

    #[test]
    fn msgpack_is_the_dialect_of_msgpackr() {
        let body = encode(Encoding::Msgpack, &json!({ "type": "X", "timestamp": 1_700_000_000_000_u64 }));
        assert_eq!(&body[..3], [0xde, 0x00, 0x02], "map16 even when small");
        assert_eq!(&body[3..8], b"\xa4type", "the type comes first");
        assert_eq!(body[body.len() - 9], 0xcb, "a timestamp is a float64");
        let (_, decoded) = decode(&body).unwrap();
        assert_eq!(decoded["timestamp"].as_f64(), Some(1_700_000_000_000.0));
    }

    #[test]
    fn undefined_is_absent_in_json_and_an_extension_in_msgpack() {
        let message = json!({ "type": "CALL", "params": undefined() });
        assert_eq!(encode(Encoding::Json, &message), br#"{"type":"CALL"}"#);
        let packed = encode(Encoding::Msgpack, &message);
        assert!(packed.ends_with(&[0xd4, 0x00, 0x00]));
        assert_eq!(decode(&packed).unwrap().1, json!({ "type": "CALL" }));
    }

    #[test]
    fn wide_integers_are_told_apart_since_msgpackr_makes_bigints_of_them() {
        let mut body = vec![0x81, 0xa1, b'n', 0xcf];
        body.extend_from_slice(&7_u64.to_be_bytes());
        assert_eq!(decode(&body).unwrap().1, json!({ "n": { "$bigint": "7" } }));
    }
}
