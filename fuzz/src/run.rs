//! Running a target until it panics or the time is over.

use crate::mutate::Mutator;
use crate::targets::Target;
use std::panic::{self, AssertUnwindSafe};

/// An input that made a target panic.
#[derive(Debug)]
pub struct Failure {
    /// What to run the target with to see it again.
    pub input: Vec<u8>,
    /// What the panic said.
    pub said: String,
}

/// Runs a target once.
pub fn run_once(target: &Target, input: &[u8]) -> Result<(), Failure> {
    panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input))).map_err(|cause| {
        let said = cause
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_default();
        Failure { input: input.to_vec(), said }
    })
}

/// Runs the whole corpus, then mutations of it for as long as `goes_on` says so after that many runs. Returns how many there were.
pub fn run(
    target: &Target,
    corpus: &[Vec<u8>],
    seed: u64,
    mut goes_on: impl FnMut(u64) -> bool,
) -> Result<u64, Failure> {
    let mut runs = 0;
    for input in corpus {
        run_once(target, input)?;
        runs += 1;
    }
    let mut mutator = Mutator::new(seed);
    while goes_on(runs) {
        run_once(target, &mutator.next_input(corpus))?;
        runs += 1;
    }
    Ok(runs)
}

/// A name for an input: FNV-1a of its bytes.
pub fn name_of(input: &[u8]) -> String {
    let hash = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}
