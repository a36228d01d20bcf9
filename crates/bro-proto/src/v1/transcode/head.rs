//! Reading msgpack, one value head at a time.

use crate::v1::rewrite::TranscodeError;
use rmp::Marker;

/// The ext type that msgpackr writes for `undefined`.
pub(crate) const EXT_UNDEFINED: i8 = 0;
/// The ext type of timestamps, by the msgpack specification.
pub(crate) const EXT_TIMESTAMP: i8 = -1;
/// The ext type of msgpackr's records (`r`), if it has one byte or two: a stream with state, which no single message can
/// be read from.
const EXT_RECORD: u8 = 0x72;

/// What the first bytes of a value say. Strings, bins and exts are followed by that many bytes, arrays and maps by that
/// many elements or pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Head {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Str(usize),
    Bin(usize),
    Array(u32),
    Map(u32),
    Ext { kind: i8, len: usize },
}

/// The head of the value at `at`, and where it ends.
pub(crate) fn read_head(source: &[u8], at: usize) -> Result<(Head, usize), TranscodeError> {
    let malformed = TranscodeError::Malformed { at };
    let marker = Marker::from_u8(*source.get(at).ok_or(malformed)?);
    let after = at + 1;
    let head = match marker {
        Marker::FixPos(value) => (Head::Unsigned(u64::from(value)), after),
        Marker::FixNeg(value) => (Head::Signed(i64::from(value)), after),
        Marker::FixMap(len) => (Head::Map(u32::from(len)), after),
        Marker::FixArray(len) => (Head::Array(u32::from(len)), after),
        Marker::FixStr(len) => (Head::Str(usize::from(len)), after),
        Marker::Null => (Head::Nil, after),
        Marker::False => (Head::Bool(false), after),
        Marker::True => (Head::Bool(true), after),
        Marker::U8 => (Head::Unsigned(be_unsigned::<1>(source, after)?), after + 1),
        Marker::U16 => (Head::Unsigned(be_unsigned::<2>(source, after)?), after + 2),
        Marker::U32 => (Head::Unsigned(be_unsigned::<4>(source, after)?), after + 4),
        Marker::U64 => (Head::Unsigned(be_unsigned::<8>(source, after)?), after + 8),
        Marker::I8 => (Head::Signed(i64::from(i8::from_be_bytes(take(source, after)?))), after + 1),
        Marker::I16 => (Head::Signed(i64::from(i16::from_be_bytes(take(source, after)?))), after + 2),
        Marker::I32 => (Head::Signed(i64::from(i32::from_be_bytes(take(source, after)?))), after + 4),
        Marker::I64 => (Head::Signed(i64::from_be_bytes(take(source, after)?)), after + 8),
        Marker::F32 => (Head::Float(f64::from(f32::from_be_bytes(take(source, after)?))), after + 4),
        Marker::F64 => (Head::Float(f64::from_be_bytes(take(source, after)?)), after + 8),
        Marker::Str8 => (Head::Str(be_len::<1>(source, after)?), after + 1),
        Marker::Str16 => (Head::Str(be_len::<2>(source, after)?), after + 2),
        Marker::Str32 => (Head::Str(be_len::<4>(source, after)?), after + 4),
        Marker::Bin8 => (Head::Bin(be_len::<1>(source, after)?), after + 1),
        Marker::Bin16 => (Head::Bin(be_len::<2>(source, after)?), after + 2),
        Marker::Bin32 => (Head::Bin(be_len::<4>(source, after)?), after + 4),
        Marker::Array16 => (Head::Array(u32::from(u16::from_be_bytes(take(source, after)?))), after + 2),
        Marker::Array32 => (Head::Array(u32::from_be_bytes(take(source, after)?)), after + 4),
        Marker::Map16 => (Head::Map(u32::from(u16::from_be_bytes(take(source, after)?))), after + 2),
        Marker::Map32 => (Head::Map(u32::from_be_bytes(take(source, after)?)), after + 4),
        Marker::FixExt1 | Marker::FixExt2 if source.get(after) == Some(&EXT_RECORD) => return Err(malformed),
        Marker::FixExt1 => ext(source, after, 1)?,
        Marker::FixExt2 => ext(source, after, 2)?,
        Marker::FixExt4 => ext(source, after, 4)?,
        Marker::FixExt8 => ext(source, after, 8)?,
        Marker::FixExt16 => ext(source, after, 16)?,
        Marker::Ext8 => ext(source, after + 1, be_len::<1>(source, after)?)?,
        Marker::Ext16 => ext(source, after + 2, be_len::<2>(source, after)?)?,
        Marker::Ext32 => ext(source, after + 4, be_len::<4>(source, after)?)?,
        Marker::Reserved => return Err(malformed),
    };
    Ok(head)
}

/// The `len` bytes at `at`.
pub(crate) fn bytes_at(source: &[u8], at: usize, len: usize) -> Result<&[u8], TranscodeError> {
    at.checked_add(len).and_then(|end| source.get(at..end)).ok_or(TranscodeError::Malformed { at })
}

/// Where the value at `at` ends. Iterative: a value may be nested as deep as it likes.
pub(crate) fn skip_value(source: &[u8], mut at: usize) -> Result<usize, TranscodeError> {
    let mut values_left = 1_u64;
    while values_left > 0 {
        values_left -= 1;
        let (head, after) = read_head(source, at)?;
        at = after;
        match head {
            Head::Str(len) | Head::Bin(len) => at += bytes_at(source, at, len)?.len(),
            Head::Ext { len, .. } => at += bytes_at(source, at, len)?.len(),
            Head::Array(len) => values_left += u64::from(len),
            Head::Map(len) => values_left += 2 * u64::from(len),
            Head::Nil | Head::Bool(_) | Head::Unsigned(_) | Head::Signed(_) | Head::Float(_) => {}
        }
    }
    Ok(at)
}

/// The texts of the array of strings that `source` is; `None` when it is anything else or has more than `len_max`.
pub(crate) fn read_strings(source: &[u8], len_max: usize) -> Option<Vec<&str>> {
    let (Head::Array(len), mut at) = read_head(source, 0).ok()? else { return None };
    let len = usize::try_from(len).ok().filter(|&len| len <= len_max)?;
    let mut texts = Vec::with_capacity(len.min(source.len()));
    for _ in 0..len {
        let (Head::Str(bytes), after) = read_head(source, at).ok()? else { return None };
        texts.push(simdutf8::basic::from_utf8(bytes_at(source, after, bytes).ok()?).ok()?);
        at = after + bytes;
    }
    (at == source.len()).then_some(texts)
}

fn ext(source: &[u8], at: usize, len: usize) -> Result<(Head, usize), TranscodeError> {
    let kind = i8::from_be_bytes(take(source, at)?);
    Ok((Head::Ext { kind, len }, at + 1))
}

fn take<const N: usize>(source: &[u8], at: usize) -> Result<[u8; N], TranscodeError> {
    source.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(TranscodeError::Malformed { at })
}

fn be_unsigned<const N: usize>(source: &[u8], at: usize) -> Result<u64, TranscodeError> {
    Ok(take::<N>(source, at)?.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

fn be_len<const N: usize>(source: &[u8], at: usize) -> Result<usize, TranscodeError> {
    usize::try_from(be_unsigned::<N>(source, at)?).map_err(|_| TranscodeError::Malformed { at })
}
