//! The oracle for msgpack.

use super::{CONTEXT_KEYS, Faults, KEYS, TEXT_KEYS, assert_text, has_duplicates};
use bro_proto::limits::NESTING_MAX;
use bro_proto::v1::{Header, Kind, ScanError, Status, msgpack};
use rmp::Marker;
use rmp::decode::{RmpRead, read_marker};
use std::ops::Range;

/// Scans a body and panics when a reader on top of rmp sees it otherwise.
pub fn check(body: &[u8]) {
    let scanned = msgpack::scan(body);
    let shown = || body.escape_ascii();
    let mut reader = Reader { body, rest: body };
    let entries = match reader.value(0) {
        Ok(Value { shape: Shape::Map(entries), .. }) if reader.rest.is_empty() => entries,
        read => {
            let fault = scanned.expect_err("not one map");
            match (fault, read.err()) {
                (ScanError::RecordExtension { .. }, bad) => assert_eq!(bad, Some(Bad::Record), "{}", shown()),
                (ScanError::TooDeep { .. }, bad) => assert_eq!(bad, Some(Bad::TooDeep), "{}", shown()),
                _ => {}
            }
            return;
        }
    };
    let context = entries.iter().find(|(key, _)| key.is("context")).and_then(|(_, value)| match &value.shape {
        Shape::Map(entries) => Some((entries, value.span.clone())),
        _ => None,
    });
    let faults = faults(&entries, context.as_ref().map_or(&[], |(entries, _)| entries));
    match scanned {
        Ok(header) => {
            assert!(!faults.any(), "accepted in spite of {faults:?}: {}", shown());
            compare(&header, &entries, context);
        }
        Err(fault) => assert!(faults.allow(fault), "{fault} but {faults:?}: {}", shown()),
    }
}

#[derive(Debug, PartialEq)]
enum Bad {
    Form,
    TooDeep,
    Record,
}

struct Value<'a> {
    span: Range<usize>,
    shape: Shape<'a>,
}

enum Shape<'a> {
    Nil,
    Undefined,
    Number(u64),
    Text(&'a [u8]),
    Other,
    Array(usize),
    Map(Vec<Entry<'a>>),
}

type Entry<'a> = (Value<'a>, Value<'a>);

impl Value<'_> {
    fn is(&self, name: &str) -> bool {
        matches!(self.shape, Shape::Text(bytes) if bytes == name.as_bytes())
    }
}

struct Reader<'a> {
    body: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn at(&self) -> usize {
        self.body.len() - self.rest.len()
    }

    /// Recursion is bounded by [`NESTING_MAX`].
    fn value(&mut self, depth: usize) -> Result<Value<'a>, Bad> {
        let start = self.at();
        let shape = self.shape(depth)?;
        Ok(Value { span: start..self.at(), shape })
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    fn shape(&mut self, depth: usize) -> Result<Shape<'a>, Bad> {
        let positive = |number: i64| Shape::Number(number.max(0) as u64);
        Ok(match read_marker(&mut self.rest).map_err(|_| Bad::Form)? {
            Marker::Null => Shape::Nil,
            Marker::True | Marker::False => Shape::Other,
            Marker::Reserved => return Err(Bad::Form),
            Marker::FixPos(number) => Shape::Number(u64::from(number)),
            Marker::FixNeg(_) => Shape::Number(0),
            Marker::U8 => Shape::Number(u64::from(self.rest.read_data_u8().map_err(|_| Bad::Form)?)),
            Marker::U16 => Shape::Number(u64::from(self.rest.read_data_u16().map_err(|_| Bad::Form)?)),
            Marker::U32 => Shape::Number(u64::from(self.rest.read_data_u32().map_err(|_| Bad::Form)?)),
            Marker::U64 => Shape::Number(self.rest.read_data_u64().map_err(|_| Bad::Form)?),
            Marker::I8 => positive(i64::from(self.rest.read_data_i8().map_err(|_| Bad::Form)?)),
            Marker::I16 => positive(i64::from(self.rest.read_data_i16().map_err(|_| Bad::Form)?)),
            Marker::I32 => positive(i64::from(self.rest.read_data_i32().map_err(|_| Bad::Form)?)),
            Marker::I64 => positive(self.rest.read_data_i64().map_err(|_| Bad::Form)?),
            Marker::F32 => Shape::Number(self.rest.read_data_f32().map_err(|_| Bad::Form)? as u64),
            Marker::F64 => Shape::Number(self.rest.read_data_f64().map_err(|_| Bad::Form)? as u64),
            Marker::FixStr(len) => Shape::Text(self.take(usize::from(len))?),
            Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                let len = self.length()?;
                Shape::Text(self.take(len)?)
            }
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
                let len = self.length()?;
                self.take(len)?;
                Shape::Other
            }
            Marker::FixExt1 => self.extension(1, true)?,
            Marker::FixExt2 => self.extension(2, true)?,
            Marker::FixExt4 => self.extension(4, true)?,
            Marker::FixExt8 => self.extension(8, true)?,
            Marker::FixExt16 => self.extension(16, true)?,
            Marker::Ext8 | Marker::Ext16 | Marker::Ext32 => {
                let len = self.length()?;
                self.extension(len, false)?
            }
            Marker::FixArray(len) => self.array(usize::from(len), depth)?,
            Marker::Array16 | Marker::Array32 => {
                let len = self.length()?;
                self.array(len, depth)?
            }
            Marker::FixMap(len) => self.map(usize::from(len), depth)?,
            Marker::Map16 | Marker::Map32 => {
                let len = self.length()?;
                self.map(len, depth)?
            }
        })
    }

    /// The length behind the marker that was read last, whose size its number tells.
    fn length(&mut self) -> Result<usize, Bad> {
        let marker = self.body[self.at() - 1];
        let bytes = match Marker::from_u8(marker) {
            Marker::Str8 | Marker::Bin8 | Marker::Ext8 => 1,
            Marker::Str16 | Marker::Bin16 | Marker::Ext16 | Marker::Array16 | Marker::Map16 => 2,
            _ => 4,
        };
        Ok(self.take(bytes)?.iter().fold(0, |length, byte| length * 256 + usize::from(*byte)))
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Bad> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(Bad::Form)?;
        self.rest = rest;
        Ok(taken)
    }

    fn extension(&mut self, bytes: usize, fixed: bool) -> Result<Shape<'a>, Bad> {
        let kind = self.take(1)?[0];
        self.take(bytes)?;
        match (fixed, kind, bytes) {
            (true, 0x72, 1 | 2) => Err(Bad::Record),
            (true, 0, 1) => Ok(Shape::Undefined),
            _ => Ok(Shape::Other),
        }
    }

    fn array(&mut self, len: usize, depth: usize) -> Result<Shape<'a>, Bad> {
        if depth == NESTING_MAX {
            return Err(Bad::TooDeep);
        }
        for _ in 0..len {
            self.value(depth + 1)?;
        }
        Ok(Shape::Array(len))
    }

    fn map(&mut self, len: usize, depth: usize) -> Result<Shape<'a>, Bad> {
        if depth == NESTING_MAX {
            return Err(Bad::TooDeep);
        }
        let mut entries = Vec::new();
        for _ in 0..len {
            entries.push((self.value(depth + 1)?, self.value(depth + 1)?));
        }
        Ok(Shape::Map(entries))
    }
}

fn faults(entries: &[Entry<'_>], context: &[Entry<'_>]) -> Faults {
    let text = |value: &Value<'_>| match value.shape {
        Shape::Text(bytes) => Some(bytes.to_vec()),
        _ => None,
    };
    let keys = |entries: &[Entry<'_>]| entries.iter().filter_map(|(key, _)| text(key)).collect::<Vec<_>>();
    let (top_keys, context_keys) = (keys(entries), keys(context));
    let all = || entries.iter().chain(context);
    let header_texts = || entries.iter().filter(|(key, _)| TEXT_KEYS.iter().any(|name| key.is(name)));
    let is_nothing = |value: &Value<'_>| matches!(value.shape, Shape::Nil | Shape::Undefined);
    let mut utf8 = top_keys.iter().chain(&context_keys).cloned().collect::<Vec<_>>();
    utf8.extend(header_texts().filter_map(|(_, value)| text(value)));
    utf8.extend(context.iter().filter(|(key, _)| key.is("root")).filter_map(|(_, value)| text(value)));
    Faults {
        too_deep: false,
        duplicate_key: has_duplicates(top_keys.iter().map(|key| &**key), &KEYS)
            || has_duplicates(context_keys.iter().map(|key| &**key), &CONTEXT_KEYS),
        unusual_key: all().any(|(key, _)| {
            text(key).is_none_or(|name| name.iter().any(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\'))
        }),
        wrong_type: header_texts().any(|(_, value)| text(value).is_none() && !is_nothing(value))
            || header_texts().any(|(key, value)| {
                key.is("status") && text(value).is_some_and(|status| status != b"success" && status != b"error")
            })
            || entries.iter().filter(|(key, _)| key.is("type")).all(|(_, value)| is_nothing(value)),
        invalid_utf8: utf8.iter().any(|text| std::str::from_utf8(text).is_err()),
    }
}

fn compare(header: &Header<'_>, entries: &[Entry<'_>], context: Option<(&Vec<Entry<'_>>, Range<usize>)>) {
    fn value<'e, 'a>(entries: &'e [Entry<'a>], name: &str) -> Option<&'e Value<'a>> {
        entries.iter().find(|(key, _)| key.is(name)).map(|(_, value)| value)
    }
    let text_in = |entries: &[Entry<'_>], name: &str| match value(entries, name)? {
        Value { shape: Shape::Text(bytes), span } => Some((String::from_utf8(bytes.to_vec()).unwrap(), span.clone())),
        _ => None,
    };
    let number_in = |entries: &[Entry<'_>], name: &str| match value(entries, name)?.shape {
        Shape::Number(number) => Some(number),
        _ => None,
    };
    let text = |name: &str| text_in(entries, name);
    let span = |name: &str| {
        value(entries, name).filter(|value| !matches!(value.shape, Shape::Undefined)).map(|value| value.span.clone())
    };
    assert_eq!(header.kind, Kind::from_name(text("type").unwrap().0.as_bytes()));
    assert_eq!(header.status, text("status").and_then(|(status, _)| Status::from_name(status.as_bytes())));
    assert_text("id", header.id.as_ref(), text("id"));
    assert_text("from", header.from.as_ref(), text("from"));
    assert_text("to", header.to.as_ref(), text("to"));
    assert_text("method", header.method.as_ref(), text("method"));
    assert_text("serviceName", header.service_name.as_ref(), text("serviceName"));
    assert_text("version", header.version.as_ref(), text("version"));
    assert_eq!(header.methods, span("methods"));
    assert_eq!(header.metadata, span("metadata"));
    assert_eq!(header.params, span("params"));
    assert_eq!(header.data, span("data"));
    assert_eq!(header.error, span("error"));
    assert_eq!(header.timestamp_ms, number_in(entries, "timestamp"));

    assert_eq!(header.context.is_some(), context.is_some());
    let (Some(header), Some((context, context_span))) = (&header.context, context) else { return };
    assert_eq!(header.span, context_span);
    assert_text("root", header.root.as_ref(), text_in(context, "root"));
    let chain = value(context, "chain").and_then(|value| match value.shape {
        Shape::Array(len) => Some((value.span.clone(), len)),
        _ => None,
    });
    assert_eq!(header.chain_len, chain.as_ref().map_or(0, |(_, len)| *len));
    assert_eq!(header.chain, chain.map(|(span, _)| span));
    assert_eq!(header.depth, number_in(context, "depth").map(|depth| u32::try_from(depth).unwrap_or(u32::MAX)));
    assert_eq!(header.deadline_ms, number_in(context, "deadline"));
}
