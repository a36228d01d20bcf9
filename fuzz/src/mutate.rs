//! Breaking inputs in ways that parsers do not like.

use bro_proto::rng::Rng;

/// Longest input that mutation makes, in bytes.
const INPUT_BYTES_MAX: usize = 8 * 1024;

/// Pieces that mean something in one of the encodings.
const TOKENS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b"\\\"",
    b"\\u",
    b"\\ud800",
    b"\\udc00",
    b"\\u0000",
    b"null",
    b"true",
    b"false",
    b"-",
    b"0",
    b"1e",
    b"e+5",
    b".5",
    b"-0",
    b"1e999",
    b"18446744073709551616",
    b" ",
    b"\n",
    b"\x00",
    b"\x1f",
    b"\x7f",
    b"\xc3\xa9",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
    b"\xff",
    b"\"type\":\"CALL\"",
    b"\"to\":\"a\"",
    b"\"id\"",
    b"\"status\":\"error\"",
    b"\"context\":{",
    b"\"depth\":1",
    b"\"deadline\":1e3",
    b"\"chain\":[",
    b"\"root\":\"r\"",
    b"\"params\":",
    b"\"error\":{\"message\":\"m\"}",
    b"\x80",
    b"\x81",
    b"\x8f",
    b"\x90",
    b"\x91",
    b"\xa0",
    b"\xbf",
    b"\xc0",
    b"\xc1",
    b"\xc4\x01",
    b"\xc6\xff\xff\xff\xff",
    b"\xc7\x00\x00",
    b"\xca",
    b"\xcb",
    b"\xcf",
    b"\xd3",
    b"\xd4\x00\x00",
    b"\xd4\x72\x40",
    b"\xd6\xff\x00\x00\x00\x00",
    b"\xd9\x01",
    b"\xda\x00\x01",
    b"\xdb\x00\x00\x00\x01",
    b"\xdc\x00\x01",
    b"\xdd\x00\x00\x00\x01",
    b"\xde\x00\x01",
    b"\xdf\x00\x00\x00\x01",
    b"\xdf\xff\xff\xff\xff",
    b"\xa4type\xa4CALL",
    b"\xa2to\xa1a",
    b"\xa7context\x81",
    b"\xa5depth\x01",
    b"\xa6params",
    b"\x00\x00\x00\x01",
    b"\xb2\x01\x00\x01",
    b"\xb2\x02\x00\x01",
    b"\xb2\x03\x00\x00",
    b"\xb2\x04\x00\x00",
    b"\xb2\x05\x00\x02",
    b"\xb2\x06\x00\x00",
    b"\xb2\x63\x80\x00",
    b"\x00\x00\x00\x00\x01\x00\x00\x00",
    b"\x01\x00\x00\x00\x01\x00\x00\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x03\x00get",
    b"[[rules]]\n",
    b"users = [\"*\"]\n",
    b"groups = [8]\n",
    b"own = [\"a*\"]\n",
    b"call = [\"user\"]\n",
    b"{ service = \"a.*\", methods = [\"get\"] }",
    b"watch = true\n",
    b"\"\"\"",
    b"#",
    b"*",
];

/// A seeded source of broken inputs.
pub struct Mutator {
    rng: Rng,
}

impl Mutator {
    /// Equal seeds give equal inputs from an equal corpus.
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed) }
    }

    /// The next input: one of the corpus after one to eight changes.
    pub fn next_input(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.pick(corpus).clone();
        for _ in 0..=self.below(8) {
            self.change(&mut input, corpus);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = at + self.below((input.len() - at).min(64) + 1);
        match self.below(10) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.byte(),
            2 => input.insert(at, self.byte()),
            3 => drop(input.drain(at..end)),
            4 => input.truncate(at),
            5 => {
                // The same piece once more, or many times: depth and repeated keys.
                let piece = input[at..end].to_vec();
                let times = if self.below(16) == 0 { 200 } else { 1 };
                insert(input, at, &piece.repeat(times));
            }
            6 => {
                let other = self.pick(corpus);
                let from = self.below(other.len() + 1);
                let to = from + self.below(other.len() - from + 1);
                insert(input, at, &other[from..to]);
            }
            7 => {
                let piece = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                insert(input, to, &piece);
            }
            _ => {
                let token = self.pick(TOKENS);
                // Over what stands there, or between.
                if self.below(2) == 0 {
                    let end = (at + token.len()).min(input.len());
                    input.drain(at..end);
                }
                insert(input, at, token);
            }
        }
    }

    fn pick<'l, T>(&mut self, list: &'l [T]) -> &'l T {
        &list[self.below(list.len())]
    }

    fn byte(&mut self) -> u8 {
        self.rng.next_u64().to_le_bytes()[0]
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).expect("below a usize")
    }
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    if input.len() + piece.len() <= INPUT_BYTES_MAX {
        input.splice(at..at, piece.iter().copied());
    }
}
