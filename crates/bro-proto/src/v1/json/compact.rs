//! Proving that an array or an object is well-formed JSON without walking it, when it is written as programs write it: without
//! white space between tokens.
//!
//! Then nearly every rule of the grammar is about a byte and the one before it, so that it can be decided for 64
//! bytes at once. What remains are brackets, which are taken one by one, and numbers that are more than digits. Whatever is
//! unusual or wrong is only refused here: the walker looks at it again, and says why.
//!
//! A block begins with the last byte of the block before it: so nearly all that is asked about the byte before is known from the same
//! block. Its first byte was judged there, and is not again.

use super::blocks::{BLOCK_BYTES, Classes, between, is_plain};
use super::text;

/// Where the array or object ends that opens at `open`, proven well-formed but for being UTF-8 and for control characters, of which
/// `body` has none.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
pub(super) fn container_end(body: &[u8], open: usize) -> Option<usize> {
    let mut before = Before { in_string: 0, escaped: 0, scalar: 0, key: 0 };
    let mut nesting = Nesting { shape: 0b10 | is_brace(*body.get(open)?) };
    let mut base = open;
    let mut padded;
    loop {
        let rest = body.get(base..)?;
        let block = match rest.first_chunk() {
            Some(block) => block,
            None if rest.is_empty() => return None,
            None => {
                // Behind the body nothing closes, and what it is made of is only asked about what is inside.
                padded = [b','; BLOCK_BYTES];
                padded[..rest.len()].copy_from_slice(rest);
                &padded
            }
        };
        let classes = Classes::of(block);
        let tokens = before.tokens(body, base, &classes)?;
        let (objects, inside) = nesting.follow(block, tokens.edges & !1)?;
        let wrong = tokens.wrong | tokens.only_arrays & objects | tokens.only_objects & !objects;
        if wrong & inside & !1 != 0 {
            return None;
        }
        if tokens.odd_scalars & inside != 0 {
            check_scalars(rest, &tokens, classes.digits, inside)?;
        }
        if nesting.shape == 1 {
            return Some(base + inside.trailing_ones() as usize);
        }
        if rest.len() < BLOCK_BYTES {
            return None;
        }
        base += BLOCK_BYTES - 1;
        // Long strings are mostly blocks in which nothing happens.
        if tokens.strings == u64::MAX && before.escaped == 0 {
            base += plain_bytes(&body[base..]);
        }
    }
}

/// How many bytes of whole blocks hold neither quotes nor backslashes.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
#[inline]
fn plain_bytes(rest: &[u8]) -> usize {
    let (blocks, _) = rest.as_chunks::<BLOCK_BYTES>();
    let mut bytes = 0;
    for block in blocks {
        if !is_plain(block) {
            break;
        }
        bytes += BLOCK_BYTES;
    }
    bytes
}

/// The tokens of a block, by bits. What they say of the first byte means nothing.
struct Tokens {
    /// Something here breaks a rule.
    wrong: u64,
    /// From opening quotes to before closing ones.
    strings: u64,
    /// Brackets.
    edges: u64,
    /// Right where something could stand only in an object.
    only_objects: u64,
    /// Right where something could stand only in an array.
    only_arrays: u64,
    /// What is neither string nor bracket: numbers and names, if all is well.
    scalars: u64,
    /// Their first bytes.
    scalar_starts: u64,
    /// Bytes of those that are to be looked at one by one.
    odd_scalars: u64,
}

/// What a block cannot tell by itself.
struct Before {
    /// All bits, when its first byte stands behind an opening quote.
    in_string: u64,
    /// 1 when its first byte belongs to an escape as its second.
    escaped: u64,
    /// 1 when the byte before its first one is one of a number or a name.
    scalar: u64,
    /// 1 when its first byte is within, opens or closes a string that may be a key.
    key: u64,
}

impl Before {
    /// Looks at every byte together with the one before it, and goes on to the next block.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
    #[inline]
    fn tokens(&mut self, body: &[u8], base: usize, classes: &Classes) -> Option<Tokens> {
        let mut quotes = classes.quotes;
        if classes.backslashes | self.escaped != 0 {
            quotes &= !escaped(body, base, classes.backslashes, &mut self.escaped)?;
        }
        let strings = between(quotes) ^ self.in_string;
        self.in_string = ((strings << 1).cast_signed() >> 63).cast_unsigned();
        let opening = quotes & strings;
        let closing = quotes & !strings;
        let openers = classes.openers & !strings;
        let closers = classes.closers & !strings;
        let commas = classes.commas & !strings;
        let colons = classes.colons & !strings;
        let edges = openers | closers;
        let separators = commas | colons;
        let scalars = !(strings | quotes | edges | separators);
        let scalar_starts = scalars & !(scalars << 1 | self.scalar);

        // Behind these a value is to come, and behind everything else it is not.
        let before_value = (separators | openers) << 1;
        let starts = openers | scalar_starts;
        let before_element = (commas | openers) << 1;
        // A string that may be a key: from the opening quote the sum runs over to the closing one.
        let (sum, over) = strings.overflowing_add(opening & before_element | self.key);
        let keys = sum & closing;
        self.key = u64::from(over) | keys >> 63;
        let behind_key = keys << 1;
        let behind_zero = (classes.zeros & scalar_starts) << 1;
        let wrong = before_value & separators
            | (starts | opening) & !before_value
            | separators << 1 & closers
            | colons & !behind_key
            | behind_zero & classes.digits;
        // Those that run on from before the block were looked at there, and so is the one that runs into the next.
        let continued = scalars & !scalars.wrapping_add(self.scalar);
        let odd_scalars = (scalars & !classes.digits | scalars & scalars << 1 & 1 << 63) & !continued;
        self.scalar = scalars >> 62 & 1;
        Some(Tokens {
            wrong,
            strings,
            edges,
            only_objects: colons,
            only_arrays: before_element & starts | behind_key & !colons,
            scalars,
            scalar_starts,
            odd_scalars,
        })
    }
}

/// The arrays and objects that are open.
struct Nesting {
    /// A bit for each, the innermost lowest: whether it is an object. The highest bit stands for what they are in.
    shape: u64,
}

impl Nesting {
    /// Matches brackets. What stands in an object is given back, a bracket belonging to what is around it and not to what it opens or
    /// closes; and the bytes of the block up to the last closing bracket, or all, when there is more to come.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
    #[inline]
    fn follow(&mut self, block: &[u8; BLOCK_BYTES], mut edges: u64) -> Option<(u64, u64)> {
        let mut objects = (self.shape & 1).wrapping_neg();
        while edges != 0 {
            let bracket = block[edges.trailing_zeros() as usize % BLOCK_BYTES];
            let up_to = edges ^ (edges - 1);
            edges &= edges - 1;
            let around = self.shape;
            // Openers have this bit, closers have not.
            if bracket & 0b10 != 0 {
                if self.shape >> 63 != 0 {
                    return None;
                }
                self.shape = self.shape << 1 | is_brace(bracket);
            } else {
                if (self.shape ^ is_brace(bracket)) & 1 != 0 {
                    return None;
                }
                self.shape >>= 1;
                if self.shape == 1 {
                    return Some((objects, up_to));
                }
            }
            objects ^= !up_to & ((around ^ self.shape) & 1).wrapping_neg();
        }
        Some((objects, u64::MAX))
    }
}

/// 1 for a brace, 0 for a bracket.
#[inline(always)]
fn is_brace(bracket: u8) -> u64 {
    u64::from(bracket >> 5 & 1)
}

/// The bytes that belong to an escape as its second, when all escapes that begin in this block are well-formed. One that begins with the
/// last byte is the next block's.
#[cold]
fn escaped(body: &[u8], base: usize, backslashes: u64, first: &mut u64) -> Option<u64> {
    let mut escaped = *first;
    let mut left = backslashes & !escaped;
    while left != 0 {
        let backslash = left & left.wrapping_neg();
        text::escape_end(body, base + left.trailing_zeros() as usize).ok()?;
        escaped |= backslash << 1;
        left &= !(backslash | backslash << 1);
    }
    *first = escaped >> 63;
    Some(escaped)
}

/// Looks at each number or name inside that has more than digits. `rest` is the body from the block on.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
#[inline]
fn check_scalars(rest: &[u8], tokens: &Tokens, digits: u64, inside: u64) -> Option<()> {
    let mut left = tokens.odd_scalars & inside;
    while left != 0 {
        let up_to = left ^ (left - 1);
        let start = (tokens.scalar_starts & up_to).checked_ilog2()?;
        let bytes = (tokens.scalars >> start).trailing_ones();
        if start + bytes == u64::BITS {
            let end = scalar_end(rest, start as usize)?;
            return matches!(rest.get(end), Some(b',' | b'}' | b']')).then_some(());
        }
        // What stands behind it was judged already.
        let scalar = rest.get(start as usize..)?.get(..bytes as usize)?;
        if !matches!(scalar, b"true" | b"false" | b"null") {
            check_number(scalar, digits >> start)?;
        }
        left &= u64::MAX << (start + bytes);
    }
    Some(())
}

/// Looks at a number, of which `digits` says which bytes are digits.
#[inline(always)]
fn check_number(number: &[u8], digits: u64) -> Option<()> {
    let digits_from = |at: usize| (digits >> (at % BLOCK_BYTES)).trailing_ones() as usize;
    let mut at = usize::from(number.first() == Some(&b'-'));
    let whole = digits_from(at);
    if whole == 0 || whole > 1 && number.get(at) == Some(&b'0') {
        return None;
    }
    at += whole;
    if number.get(at) == Some(&b'.') {
        let fraction = digits_from(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if at < number.len() {
        if number[at] | 0x20 != b'e' {
            return None;
        }
        at += 1 + usize::from(matches!(number.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits_from(at);
        if exponent == 0 {
            return None;
        }
        at += exponent;
    }
    (at == number.len()).then_some(())
}

/// Where the number or name ends that begins here.
pub(super) fn scalar_end(body: &[u8], at: usize) -> Option<usize> {
    let rest = &body[at..];
    match rest.first()? {
        b't' => rest.starts_with(b"true").then_some(at + 4),
        b'n' => rest.starts_with(b"null").then_some(at + 4),
        b'f' => rest.starts_with(b"false").then_some(at + 5),
        _ => {
            let mut end = usize::from(rest[0] == b'-');
            end = if rest.get(end) == Some(&b'0') { end + 1 } else { digits_end(rest, end)? };
            if rest.get(end) == Some(&b'.') {
                end = digits_end(rest, end + 1)?;
            }
            if let Some(b'e' | b'E') = rest.get(end) {
                let is_signed = matches!(rest.get(end + 1), Some(b'+' | b'-'));
                end = digits_end(rest, end + 1 + usize::from(is_signed))?;
            }
            Some(at + end)
        }
    }
}

/// Where the digits end that begin here, of which there must be one.
#[inline(always)]
fn digits_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    while bytes.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    (at > start).then_some(at)
}
