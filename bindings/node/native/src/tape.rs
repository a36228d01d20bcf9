//! Values for JavaScript, taken apart: numbers in arrays, strings one behind the other, objects by the numbers of their shapes. JavaScript
//! puts them together several times faster than it parses JSON. `../src/tape.ts` is the other end.

use crate::node::{Env, Value};

/// Numbers of a batch at most.
pub(crate) const TAPE_INTS: usize = 16 * 1024;
/// Fractions of a batch at most.
pub(crate) const TAPE_DOUBLES: usize = 4 * 1024;
/// Strings are handed over in pieces of about so many bytes: a string that a program keeps may keep its whole piece in memory.
const PIECE_BYTES: usize = 1024;

// What stands on the tape for a value. Strings are their length in UTF-16 units.
pub(crate) const NULL: i32 = -1;
pub(crate) const TRUE: i32 = -2;
pub(crate) const FALSE: i32 = -3;
/// The number follows.
pub(crate) const INT: i32 = -4;
/// The next of the fractions.
pub(crate) const DOUBLE: i32 = -5;
/// The number of elements follows, then these.
pub(crate) const ARRAY: i32 = -6;
/// The number of the shape follows, then the values in the order of its keys.
pub(crate) const OBJECT: i32 = -7;

#[derive(Default)]
pub(crate) struct Tape {
    pub(crate) ints: Vec<i32>,
    pub(crate) doubles: Vec<f64>,
    text: Vec<u8>,
    /// Where pieces of the text end.
    ends: Vec<usize>,
}

/// How long a tape was.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    ints: usize,
    doubles: usize,
    text: usize,
    ends: usize,
}

impl Tape {
    /// Whether a further value may find no room.
    pub(crate) fn is_nearly_full(&self) -> bool {
        self.ints.len() > TAPE_INTS / 2 || self.doubles.len() > TAPE_DOUBLES / 2
    }

    pub(crate) fn is_over_full(&self) -> bool {
        self.ints.len() > TAPE_INTS || self.doubles.len() > TAPE_DOUBLES
    }

    pub(crate) fn push_ascii(&mut self, string: &[u8]) {
        self.ints.push(i32::try_from(string.len()).unwrap_or(0));
        self.begin_string(string.len());
        self.text.extend_from_slice(string);
        self.end_string();
    }

    pub(crate) fn push_string(&mut self, string: &str) {
        let units = if string.is_ascii() { string.len() } else { string.encode_utf16().count() };
        self.ints.push(i32::try_from(units).unwrap_or(0));
        self.begin_string(string.len());
        self.text.extend_from_slice(string.as_bytes());
        self.end_string();
    }

    /// A context, whose keys have the number `shape`.
    pub(crate) fn push_context(
        &mut self,
        shape: i32,
        root: &str,
        chain: &mut dyn Iterator<Item = &str>,
        depth: u32,
        deadline_ms: u64,
    ) {
        self.ints.extend([OBJECT, shape]);
        self.push_string(root);
        self.ints.extend([ARRAY, 0]);
        let count_at = self.ints.len() - 1;
        for name in chain {
            self.push_string(name);
            self.ints[count_at] += 1;
        }
        self.ints.extend([INT, depth.cast_signed(), DOUBLE]);
        #[expect(clippy::cast_precision_loss, reason = "JavaScript has no other numbers")]
        self.doubles.push(deadline_ms as f64);
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { ints: self.ints.len(), doubles: self.doubles.len(), text: self.text.len(), ends: self.ends.len() }
    }

    /// Takes back what was written since.
    pub(crate) fn reset(&mut self, mark: Mark) {
        self.ints.truncate(mark.ints);
        self.doubles.truncate(mark.doubles);
        self.text.truncate(mark.text);
        self.ends.truncate(mark.ends);
    }

    /// The pieces of the text; `undefined` when there are none.
    pub(crate) fn pieces(&mut self, env: Env) -> Option<Value> {
        if self.text.len() > self.piece_start() {
            self.ends.push(self.text.len());
        }
        if self.ends.is_empty() {
            return Some(env.undefined());
        }
        let mut start = 0;
        let mut pieces = Vec::with_capacity(self.ends.len());
        for end in &self.ends {
            pieces.push(env.string(&self.text[start..*end])?);
            start = *end;
        }
        env.array(&pieces)
    }

    /// Forgets everything, and memory beyond the usual.
    pub(crate) fn clear(&mut self, text_bytes_max: usize) {
        self.ints.clear();
        self.doubles.clear();
        self.ends.clear();
        self.text.clear();
        self.text.shrink_to(text_bytes_max);
    }

    fn piece_start(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// A string that is long by itself shares its piece with no other.
    fn begin_string(&mut self, bytes: usize) {
        if bytes >= PIECE_BYTES / 2 && self.text.len() > self.piece_start() {
            self.ends.push(self.text.len());
        }
    }

    fn end_string(&mut self) {
        if self.text.len() - self.piece_start() >= PIECE_BYTES / 2 {
            self.ends.push(self.text.len());
        }
    }
}
