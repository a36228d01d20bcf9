//! The tape of a value that JavaScript has taken apart, as JSON.

use crate::commands::Text;
use crate::shapes::Shapes;
use crate::tape::{ARRAY, DOUBLE, FALSE, INT, NULL, OBJECT, TRUE};

/// Values nested deeper are not written; JavaScript takes none apart that are.
const DEPTH_MAX: usize = 64;

/// What remains of the tape.
pub(crate) struct Folder<'a> {
    pub(crate) ints: &'a [i32],
    pub(crate) doubles: &'a [f64],
    pub(crate) text: &'a mut Text,
    pub(crate) shapes: &'a Shapes,
}

impl Folder<'_> {
    /// Appends the next value. `None` when the tape makes no sense: a defect of the JavaScript side.
    pub(crate) fn value(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match self.int()? {
            OBJECT => {
                let number = self.int()?;
                let shape = self.shapes.shape(number)?;
                out.push(b'{');
                for at in 0..shape.len() {
                    if at > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(shape.fragment(at));
                    self.value(out, depth + 1)?;
                }
                out.push(b'}');
            }
            ARRAY => {
                out.push(b'[');
                for at in 0..self.int()? {
                    if at > 0 {
                        out.push(b',');
                    }
                    self.value(out, depth + 1)?;
                }
                out.push(b']');
            }
            INT => {
                let int = self.int()?;
                // Writing to a vector does not fail.
                let _ = serde_json::to_writer(&mut *out, &int);
            }
            DOUBLE => {
                let (number, others) = self.doubles.split_first()?;
                self.doubles = others;
                double(*number, out);
            }
            NULL => out.extend_from_slice(b"null"),
            TRUE => out.extend_from_slice(b"true"),
            FALSE => out.extend_from_slice(b"false"),
            units => self.text.take_quoted(units, out)?,
        }
        Some(())
    }

    fn int(&mut self) -> Option<i32> {
        let (int, others) = self.ints.split_first()?;
        self.ints = others;
        Some(*int)
    }
}

/// As `JSON.stringify`: whole numbers without a fraction, and `null` for what is none. JavaScript keeps those back that are whole and not
/// exact.
fn double(number: f64, out: &mut Vec<u8>) {
    if !number.is_finite() {
        out.extend_from_slice(b"null");
    } else if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 {
        #[expect(clippy::cast_possible_truncation, reason = "whole, and below 2^53")]
        let _ = serde_json::to_writer(out, &(number as i64));
    } else {
        let _ = serde_json::to_writer(out, &number);
    }
}
