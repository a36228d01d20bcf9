//! The router's specification as a simulation: random peers, messages, disconnects and time, from one seed, and a model that
//! says after every step what the router must have done.
//!
//! | file | subject |
//! |---|---|
//! | `simulator` | the steps, and the order of inputs as a driver gives them |
//! | `config` | the limits of the routers |
//! | `summary` | what a run did, or what it found |
//! | `traffic`, `traffic_v2` | what random peers write |
//! | `network` | connections and queues, as a driver would hold them |
//! | `model`, `model_v2` | what is registered and in flight, what must come of each input, and what ends with what |
//! | `lanes`, `traffic_lanes` | who must have a lane and who must not, and what random peers say of theirs |
//! | `policy`, `reload` | random policies and what they allow; reading them again |
//! | `quota` | what users have taken, and what they may be refused for it |
//! | `verdict`, `verdict_v1`, `verdict_v2` | the checks of one input's outputs |
//! | `wire`, `wire_v2` | frames by code that shares nothing with bro-proto |
//! | `takeover` | the router is replaced by one that was made from its state |
//! | `fault`, `spoil` | deliberate defects, which the checks must catch |
//! | `system` | another one beside it: sessions, router, lanes and takeovers together, checked by what programs see of them |

mod config;
mod endings;
mod fault;
mod lanes;
mod model;
mod model_v2;
mod network;
mod policy;
mod quota;
mod reload;
mod simulator;
mod spoil;
mod summary;
mod system;
mod takeover;
mod traffic;
mod traffic_lanes;
mod traffic_v2;
mod verdict;
mod verdict_v1;
mod verdict_v2;
mod wire;
#[path = "../../crates/bro-proto/tests/oracle/v2.rs"]
mod wire_v2;

pub use fault::Fault;
pub use simulator::{Simulator, run};
pub use summary::{Summary, Violation};
pub use system::{System, SystemFault, SystemSummary, SystemViolation, run_system};
