//! The keys of a header that mean something.

/// A key at the top level or in a context. Those with a text as value come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Type,
    Status,
    Id,
    From,
    To,
    Method,
    ServiceName,
    Version,
    Methods,
    Metadata,
    Params,
    Data,
    Error,
    Timestamp,
    Context,
    Root,
    Chain,
    Depth,
    Deadline,
    /// Any other; may stand more than once.
    Unknown,
}

impl Key {
    /// The top-level key with this name.
    #[inline(always)]
    pub(super) fn named(name: &[u8]) -> Key {
        match name {
            b"type" => Key::Type,
            b"status" => Key::Status,
            b"id" => Key::Id,
            b"from" => Key::From,
            b"to" => Key::To,
            b"method" => Key::Method,
            b"serviceName" => Key::ServiceName,
            b"version" => Key::Version,
            b"methods" => Key::Methods,
            b"metadata" => Key::Metadata,
            b"params" => Key::Params,
            b"data" => Key::Data,
            b"error" => Key::Error,
            b"timestamp" => Key::Timestamp,
            b"context" => Key::Context,
            _ => Key::Unknown,
        }
    }

    /// The key of a context with this name.
    #[inline(always)]
    pub(super) fn named_in_context(name: &[u8]) -> Key {
        match name {
            b"root" => Key::Root,
            b"chain" => Key::Chain,
            b"depth" => Key::Depth,
            b"deadline" => Key::Deadline,
            _ => Key::Unknown,
        }
    }
}

/// The keys that an object has had so far.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    bits: u32,
}

impl Seen {
    /// Adds a key; false when it means something and was there already.
    #[inline(always)]
    pub(super) fn add(&mut self, key: Key) -> bool {
        let bit = 1 << key as u32;
        let is_new = self.bits & bit == 0;
        self.bits |= bit;
        is_new || key == Key::Unknown
    }

    /// Whether a key was added.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn has(self, key: Key) -> bool {
        self.bits & 1 << key as u32 != 0
    }
}
