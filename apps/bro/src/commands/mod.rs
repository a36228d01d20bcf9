//! One file a subcommand.

pub mod call;
pub mod gateway;
pub mod generate;
pub mod ls;
pub mod notify;
pub mod ping;
pub mod policy;
pub mod status;
pub(crate) mod successor;
pub mod wait_for;
pub mod watch;
