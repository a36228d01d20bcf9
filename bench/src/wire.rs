//! What load generators say to each other, made before it is sent: only a number in it changes from call to call.

use anyhow::{Result, ensure};
use memchr::memmem::find_iter;
use std::os::unix::net::UnixStream;

/// Digits of what tells calls apart: one for the caller, the others count.
pub(crate) const NUMBER_DIGITS: usize = 10;
/// Longer frames are compared in part, so that comparing is not what is measured.
const COMPARED_WHOLE_BYTES_MAX: usize = 64 * 1024;
/// Of longer frames: this much at both ends, and a piece of every page between.
const COMPARED_END_BYTES: usize = 4096;
const PAGE_BYTES: usize = 4096;
const COMPARED_PIECE_BYTES: usize = 64;

/// One side of a connection: how it registers, what its frames look like, and how it knows that what comes is right.
///
/// A caller has one of its own and so has each connection of a callee.
pub(crate) trait Wire {
    /// Says who this is, and returns when calls may follow.
    fn register(&mut self, stream: &mut UnixStream, name: &str) -> Result<()>;
    /// The length of the frame that begins here, or `None` when too little has arrived to tell.
    fn frame_bytes(&self, bytes: &[u8]) -> Option<usize>;
    /// The whole frame of one call, its number below 10^9.
    fn call(&mut self, number: u64) -> &[u8];
    /// The callee's answer to a call, or `None` when that is not the frame that a caller sends. Empty for a frame that is not to be
    /// answered.
    fn answer(&mut self, call: &[u8]) -> Option<&[u8]>;
    /// The number of the call that this frame answers, or `None` when the callee never sent it so.
    fn answered(&mut self, answer: &[u8]) -> Option<u64>;
}

/// The call and its answer, with the places in them that change.
pub(crate) struct Template {
    pub(crate) call: Stencil,
    pub(crate) answer: Stencil,
}

/// One frame with the places in it that change.
pub(crate) struct Stencil {
    bytes: Vec<u8>,
    number_at: usize,
    /// Where the caller's digit stands besides: in its name.
    caller_at: Vec<usize>,
}

impl Stencil {
    /// A frame in which `number` stands once and the name `caller` anywhere, its digit last.
    pub(crate) fn new(bytes: Vec<u8>, number: &str, caller: &str) -> Result<Stencil> {
        ensure!(number.len() == NUMBER_DIGITS, "a number of {NUMBER_DIGITS} digits");
        let places = |text: &str| -> Vec<usize> { find_iter(&bytes, text).collect() };
        let numbers = places(number);
        ensure!(numbers.len() == 1, "the number stands {} times in a frame", numbers.len());
        let caller_at = places(caller).into_iter().map(|at| at + caller.len() - 1).collect();
        Ok(Stencil { number_at: numbers[0], caller_at, bytes })
    }

    /// The frame with this number.
    pub(crate) fn with_number(&mut self, caller: u8, mut number: u64) -> &[u8] {
        let mut digits = [b'0' + caller; NUMBER_DIGITS];
        for digit in digits[1..].iter_mut().rev() {
            *digit = b'0' + u8::try_from(number % 10).expect("a digit");
            number /= 10;
        }
        self.with_digits(digits)
    }

    /// The frame with the number that stands in a frame of the other stencil.
    fn with_digits(&mut self, digits: [u8; NUMBER_DIGITS]) -> &[u8] {
        self.bytes[self.number_at..self.number_at + NUMBER_DIGITS].copy_from_slice(&digits);
        for &at in &self.caller_at {
            self.bytes[at] = digits[0];
        }
        &self.bytes
    }

    /// The digits in `frame`, when everything else in it is as it should be.
    fn digits_of(&mut self, frame: &[u8]) -> Option<[u8; NUMBER_DIGITS]> {
        let digits = *frame.get(self.number_at..)?.first_chunk::<NUMBER_DIGITS>()?;
        let is_number = digits.iter().all(u8::is_ascii_digit);
        (is_number && is_same(self.with_digits(digits), frame)).then_some(digits)
    }
}

impl Template {
    /// See [`Wire::answer`].
    pub(crate) fn answer(&mut self, call: &[u8]) -> Option<&[u8]> {
        let digits = self.call.digits_of(call)?;
        Some(self.answer.with_digits(digits))
    }

    /// See [`Wire::answered`].
    pub(crate) fn answered(&mut self, caller: u8, answer: &[u8]) -> Option<u64> {
        let digits = self.answer.digits_of(answer)?;
        let number = digits[1..].iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        (digits[0] == b'0' + caller).then_some(number)
    }
}

/// Whether a frame, or a part of one, is what it must be.
pub(crate) fn is_same(expected: &[u8], frame: &[u8]) -> bool {
    if expected.len() != frame.len() || expected.len() <= COMPARED_WHOLE_BYTES_MAX {
        return expected == frame;
    }
    let end = expected.len() - COMPARED_END_BYTES;
    expected[..COMPARED_END_BYTES] == frame[..COMPARED_END_BYTES]
        && expected[end..] == frame[end..]
        && (COMPARED_END_BYTES..end).step_by(PAGE_BYTES).all(|at| {
            let piece = at..at + COMPARED_PIECE_BYTES;
            expected[piece.clone()] == frame[piece]
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(padding: usize) -> Template {
        let padding = "x".repeat(padding);
        let make =
            |text: &str| Stencil::new(format!("{text}{padding}").into_bytes(), "0000000000", "caller-0").unwrap();
        Template { call: make("call 0000000000 of caller-0, "), answer: make("done 0000000000 to caller-0, ") }
    }

    #[test]
    fn an_answer_has_the_number_and_the_caller_of_its_call() {
        let mut template = template(3);
        let call = template.call.with_number(2, 45).to_vec();
        assert_eq!(call, b"call 2000000045 of caller-2, xxx");
        let answer = template.answer(&call).unwrap().to_vec();
        assert_eq!(answer, b"done 2000000045 to caller-2, xxx");
        assert_eq!(template.answered(2, &answer), Some(45));
        assert_eq!(template.answered(1, &answer), None, "somebody else's");
    }

    #[test]
    fn frames_that_differ_are_not_taken() {
        for padding in [0, 40, 100_000] {
            let mut template = template(padding);
            let call = template.call.with_number(0, 7).to_vec();
            for at in [0, 6, 16, call.len() - 1] {
                let mut bad = call.clone();
                bad[at] = b'?';
                assert_eq!(template.answer(&bad), None, "{padding} {at}");
            }
            assert_eq!(template.answer(&call[..call.len() - 1]), None);
            assert_eq!(template.answer(b""), None);
        }
        let mut template = template(100_000);
        let mut bad = template.call.with_number(0, 7).to_vec();
        bad[50_000 / PAGE_BYTES * PAGE_BYTES] = b'?';
        assert_eq!(template.answer(&bad), None, "every page is looked at");
    }
}
