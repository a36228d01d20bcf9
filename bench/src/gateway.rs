//! The gateway in a process of its own.

use crate::fairness::OTHER_UID;
use crate::window::say;
use anyhow::Result;
use bro_gateway::{Gateway, GatewayConfig, LanePolicy, PolicySource};
use clap::ValueEnum;
use std::io::Read as _;
use std::path::Path;

/// Which pairs get a lane, as `bro gateway --lanes` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lanes {
    Off,
    Auto,
    Always,
}

/// Serves until standard input ends.
pub(crate) fn run(socket: &Path, lanes: Lanes, is_open: bool) -> Result<()> {
    let mut config = GatewayConfig::new(socket);
    if is_open {
        config.mode = 0o666;
        config.policy =
            PolicySource::Text(format!("[[rules]]\nusers = [{OTHER_UID}]\nown = [\"*\"]\ncall = [\"*\"]\n"));
    }
    config.router.lanes = match lanes {
        Lanes::Off => LanePolicy::Off,
        Lanes::Auto => LanePolicy::Auto,
        Lanes::Always => LanePolicy::Always,
    };
    let gateway = Gateway::start(config)?;
    say("ready")?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    gateway.stop()?;
    Ok(())
}
