//! Sessions, the router, lanes and takeovers together: real sessions call each other through the real router and on lanes, in a world whose
//! connections are cut anywhere, whose clock jumps and whose gateway is replaced, from one seed.
//!
//! | file | subject |
//! |---|---|
//! | `steps` | [`System`], and what happens next |
//! | `clients` | programs with a session each: what they do, and what they are told |
//! | `gateway` | the router and its driver: reading, orders, crash, drain, takeover |
//! | `lines` | connections between the two, byte by byte |
//! | `lanes` | lanes between clients |
//! | `ledger` | every call: who carried it out, and what its caller was told |
//! | `settle` | everything flows, and what must be true then; the end |
//! | `fault` | deliberate defects, which the checks must catch |

mod clients;
mod fault;
mod gateway;
mod lanes;
mod ledger;
mod lines;
mod settle;
mod steps;

pub use fault::SystemFault;
pub use steps::{System, SystemSummary, SystemViolation, run_system};
