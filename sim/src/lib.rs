//! The router's specification as a simulation: random peers, messages, disconnects and time, from one seed, and a model that
//! says after every step what the router must have done.
//!
//! | file | subject |
//! |---|---|
//! | `simulator` | the steps, and the order of inputs as a driver gives them |
//! | `traffic` | what random peers write |
//! | `network` | connections and queues, as a driver would hold them |
//! | `model` | what is registered and in flight, and what must come of each input |
//! | `verdict` | the checks of one input's outputs |
//! | `wire` | frames by code that shares nothing with bro-proto |
//! | `fault` | deliberate defects, which the checks must catch |

mod fault;
mod model;
mod network;
mod simulator;
mod traffic;
mod verdict;
mod wire;

pub use fault::Fault;
pub use simulator::{Simulator, Summary, Violation, run};
