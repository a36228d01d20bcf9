//! The attacks, by subject.
//!
//! An attack goes on while [`Scene::goes_on`], asserts what it must not get, and returns in words what it got.

mod answers;
mod descriptors;
mod files;
mod floods;
mod foreign;
mod frames;
mod identity;
mod lanes;
mod numbers;
mod oversize;
pub(crate) mod processes;
mod questions;
mod slow;

use crate::scene::Scene;
use bro_testing::GatewayOptions;

/// One attack.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// In words, for the table.
    pub(crate) what: &'static str,
    pub(crate) run: fn(&Scene) -> String,
    /// Which lanes the gateway gives, where not as by default.
    pub(crate) lanes: Option<&'static str>,
    /// How else the gateway differs from the default.
    pub(crate) gateway: Option<fn() -> GatewayOptions>,
}

impl Attack {
    const fn new(name: &'static str, what: &'static str, run: fn(&Scene) -> String) -> Attack {
        Attack { name, what, run, lanes: None, gateway: None }
    }

    const fn with_lanes(self) -> Attack {
        Attack { lanes: Some("always"), ..self }
    }

    const fn with_gateway(self, make: fn() -> GatewayOptions) -> Attack {
        Attack { gateway: Some(make), ..self }
    }
}

/// All attacks.
pub(crate) fn all() -> impl Iterator<Item = &'static Attack> {
    let subjects = [
        identity::ATTACKS,
        answers::ATTACKS,
        numbers::ATTACKS,
        frames::ATTACKS,
        oversize::ATTACKS,
        floods::ATTACKS,
        questions::ATTACKS,
        slow::ATTACKS,
        descriptors::ATTACKS,
        lanes::ATTACKS,
        processes::ATTACKS,
        files::ATTACKS,
        foreign::ATTACKS,
    ];
    subjects.into_iter().flatten()
}
