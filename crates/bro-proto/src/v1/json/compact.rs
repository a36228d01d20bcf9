//! Proving that an array or an object is well-formed JSON without walking it, when it is written as programs write it: without
//! white space between tokens.
//!
//! Then nearly every rule of the grammar is about a byte and the one before it, so that it can be decided for 64
//! bytes at once. What remains are brackets, which are taken one by one, and numbers that are more than digits. Whatever is
//! unusual or wrong is only refused here: the walker looks at it again, and says why.

use super::blocks::{BLOCK_BYTES, Classes, Range, between};
use super::text;

/// Where the array or object ends that opens at `open`, proven well-formed but for being UTF-8.
#[inline(always)]
pub(super) fn container_end(body: &[u8], open: usize) -> Option<usize> {
    let can = std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("bmi1")
        && std::arch::is_x86_feature_detected!("bmi2")
        && std::arch::is_x86_feature_detected!("lzcnt")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    if !can {
        return None;
    }
    // SAFETY: the processor has what the function is compiled for.
    unsafe { end_by_blocks(body, open) }
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
fn end_by_blocks(body: &[u8], open: usize) -> Option<usize> {
    let last = body.last_chunk::<BLOCK_BYTES>()?;
    let mut range = Range::new();
    let mut before = Before::start();
    let mut nesting = Nesting { shape: 1 };
    let mut base = open;
    while base < body.len() {
        let (classes, real) = if let Some(block) = body[base..].first_chunk::<BLOCK_BYTES>() {
            // Long strings are mostly blocks in which nothing happens.
            if before.in_string & !before.escaping & 1 != 0 && range.is_plain(block) {
                base += BLOCK_BYTES;
                continue;
            }
            (range.classify(block), u64::MAX)
        } else {
            // The last block ends behind the body: take the 64 bytes that end with it, without those that came before.
            let surplus = BLOCK_BYTES - (body.len() - base);
            (range.classify(last).behind(surplus), u64::MAX >> surplus)
        };
        let mut quotes = classes.quotes;
        if classes.backslashes | before.escaping != 0 {
            quotes &= !escaped(body, base, classes.backslashes, &mut before.escaping)?;
        }
        let in_string = between(quotes) ^ before.in_string;
        let tokens = before.tokens(&classes, quotes, in_string, real);
        let inside = nesting.follow(body, base, &tokens)?;
        if tokens.wrong & inside != 0 {
            return None;
        }
        if tokens.odd_scalars & inside != 0 {
            check_scalars(body, base, &tokens, inside)?;
        }
        if nesting.shape == 1 {
            return (!range.has_control()).then_some(base + inside.trailing_ones() as usize);
        }
        base += BLOCK_BYTES;
    }
    None
}

/// The tokens of a block, by bits.
struct Tokens {
    /// Something here breaks a rule.
    wrong: u64,
    braces: u64,
    openers: u64,
    closers: u64,
    /// Right where something could stand only in an object.
    only_objects: u64,
    /// Right where something could stand only in an array.
    only_arrays: u64,
    /// First bytes of what is neither string nor bracket: numbers and names, if all is well.
    scalar_starts: u64,
    /// Bytes of those that are to be looked at one by one.
    odd_scalars: u64,
}

/// What the byte before a block is, in bit 0 of each.
struct Before {
    /// All bits, when the block begins within a string.
    in_string: u64,
    /// The first byte is part of an escape.
    escaping: u64,
    value: u64,
    scalar: u64,
    comma: u64,
    colon: u64,
    brace: u64,
    bracket: u64,
    /// The closing quote of what may be a key.
    key: u64,
    /// The string that the block begins with may be a key.
    in_key: u64,
    /// A zero that begins a number.
    zero: u64,
}

impl Before {
    /// Before a value: as behind a colon.
    fn start() -> Before {
        Before {
            in_string: 0,
            escaping: 0,
            value: 0,
            scalar: 0,
            comma: 0,
            colon: 1,
            brace: 0,
            bracket: 0,
            key: 0,
            in_key: 0,
            zero: 0,
        }
    }

    /// Looks at every byte together with the one before it, and goes on to the next block. `in_string` has the bytes from opening
    /// quotes to before closing ones; `real` those that are of the body.
    #[inline(always)]
    fn tokens(&mut self, classes: &Classes, quotes: u64, in_string: u64, real: u64) -> Tokens {
        let opening = quotes & in_string;
        let closing = quotes & !in_string;
        let braces = classes.braces & !in_string;
        let brackets = classes.brackets & !in_string;
        let closers = classes.closers & !in_string;
        let commas = classes.commas & !in_string;
        let colons = classes.colons & !in_string;
        let openers = braces | brackets;
        let scalars = real & !(in_string | closing | openers | closers | commas | colons);
        let scalar_carry = self.scalar;

        let behind_value = behind(closing | scalars | closers, &mut self.value);
        let scalar_starts = scalars & !behind(scalars, &mut self.scalar);
        let behind_comma = behind(commas, &mut self.comma);
        let behind_colon = behind(colons, &mut self.colon);
        let behind_brace = behind(braces, &mut self.brace);
        let behind_bracket = behind(brackets, &mut self.bracket);
        // A string that may be a key: from the opening quote the sum runs over to the closing one.
        let key_openings = opening & (behind_brace | behind_comma);
        let (sum, over) = in_string.overflowing_add(key_openings);
        let (sum, over_too) = sum.overflowing_add(self.in_key);
        self.in_key = u64::from(over | over_too);
        let behind_key = behind(sum & closing, &mut self.key);
        let behind_zero = behind(classes.zeros & scalar_starts, &mut self.zero);
        self.in_string = (in_string.cast_signed() >> 63).cast_unsigned();

        let behind_separator = behind_comma | behind_colon;
        let starts = opening | openers | scalar_starts;
        let wrong = starts & !(behind_separator | behind_brace | behind_bracket)
            | commas & !behind_value
            | closers & behind_separator
            | colons & !behind_key
            | behind_brace & !(opening | closers)
            | behind_zero & classes.digits & scalars;
        // Those that run on from the last block were looked at there, and so is the one that runs into the next.
        let continued = scalars & !scalars.wrapping_add(scalar_carry);
        let odd_scalars = (scalars & !classes.digits | scalars & 1 << 63) & !continued;
        Tokens {
            wrong: wrong & real,
            braces,
            openers,
            closers,
            only_objects: colons,
            only_arrays: (behind_key & !colons | behind_comma & !opening) & real,
            scalar_starts,
            odd_scalars,
        }
    }
}

/// The bytes behind those. `carry` is the one behind the last block, and becomes the one behind this.
#[inline(always)]
fn behind(bits: u64, carry: &mut u64) -> u64 {
    let behind = bits << 1 | *carry;
    *carry = bits >> 63;
    behind
}

/// The arrays and objects that are open.
struct Nesting {
    /// A bit for each, the innermost lowest: whether it is an object. The highest bit stands for what they are in.
    shape: u64,
}

impl Nesting {
    /// Matches brackets, and sees to it that what stands between two of them may stand in what they are in. The bytes of the block
    /// up to the last closing bracket are given back; all, when there is more to come.
    #[inline(always)]
    fn follow(&mut self, body: &[u8], base: usize, tokens: &Tokens) -> Option<u64> {
        let (mut only_arrays, mut only_objects) = (tokens.only_arrays, tokens.only_objects);
        let mut edges = tokens.openers | tokens.closers;
        while edges != 0 {
            let up_to = edges ^ (edges - 1);
            let edge = edges & up_to;
            let foreign = if self.shape & 1 != 0 { only_arrays } else { only_objects };
            if foreign & up_to != 0 {
                return None;
            }
            only_arrays &= !up_to;
            only_objects &= !up_to;
            edges &= !up_to;
            if tokens.openers & edge != 0 {
                if self.shape >> 63 != 0 {
                    return None;
                }
                self.shape = self.shape << 1 | u64::from(tokens.braces & edge != 0);
                continue;
            }
            let at = base + edge.trailing_zeros() as usize;
            // A brace has this bit, a bracket has not.
            let is_brace = u64::from(body[at] >> 5 & 1);
            if (self.shape ^ is_brace) & 1 != 0 {
                return None;
            }
            self.shape >>= 1;
            if self.shape == 1 {
                return Some(up_to);
            }
        }
        let foreign = if self.shape & 1 != 0 { only_arrays } else { only_objects };
        (foreign == 0).then_some(u64::MAX)
    }
}

/// The bytes that belong to an escape as its second, when all escapes that begin in this block are well-formed.
#[cold]
fn escaped(body: &[u8], base: usize, backslashes: u64, carry: &mut u64) -> Option<u64> {
    let mut escaped = *carry;
    let mut left = backslashes & !escaped;
    *carry = 0;
    while left != 0 {
        let backslash = left & left.wrapping_neg();
        text::escape_end(body, base + left.trailing_zeros() as usize).ok()?;
        *carry = backslash >> 63;
        escaped |= backslash << 1;
        left &= !(backslash | backslash << 1);
    }
    Some(escaped)
}

/// Looks at each number or name inside that has more than digits.
#[inline(always)]
fn check_scalars(body: &[u8], base: usize, tokens: &Tokens, inside: u64) -> Option<()> {
    let mut left = tokens.odd_scalars & inside;
    while left != 0 {
        let up_to = left ^ (left - 1);
        let start = (tokens.scalar_starts & up_to).checked_ilog2()?;
        let end = scalar_end(body, base + start as usize)?;
        if !matches!(body.get(end), Some(b',' | b'}' | b']')) {
            return None;
        }
        left &= u64::MAX.checked_shl(u32::try_from(end - base).ok()?).unwrap_or(0);
    }
    Some(())
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
