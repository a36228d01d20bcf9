//! Fuzz targets, and a runner that needs no nightly toolchain.
//!
//! A target is a function of bytes that panics when something is wrong: [`targets::TARGETS`] lists them. The runner takes
//! inputs of a [`corpus`], breaks them with a seeded [`mutate::Mutator`], and reports inputs that made a target panic:
//!
//! ```text
//! cargo run --release -p bro-fuzz -- json_scan --seconds 60 --seed 1
//! cargo run --release -p bro-fuzz -- json_scan --input fuzz/failures/json_scan-0123456789abcdef
//! ```
//!
//! A failure is saved in `fuzz/failures/`. Once understood, it belongs in `fuzz/corpus/<target>/` under a name that says what it
//! was, so that every later run begins with it.

pub mod corpus;
pub mod mutate;
pub mod run;
pub mod targets;
mod targets_policy;
mod targets_session;
mod targets_state;
mod targets_v2;
