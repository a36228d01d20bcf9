//! The policy is read again, at random moments and by a gateway that takes over.

use crate::fault::Fault;
use crate::policy::{GROUPS, Rules};
use crate::simulator::Simulator;
use crate::verdict::Input;
use bro_router::PeerId;

impl Simulator {
    /// Whether a policy is read now: wherever one may forbid a lane, since these are few, and elsewhere at this `moment` or not.
    pub(crate) fn is_policy_due(&self, moment: bool) -> bool {
        self.has_policies && (moment || self.world.lanes.are_shared())
    }

    /// The policy file has changed, and is read again.
    pub(crate) fn load_policy(&mut self) -> Result<(), String> {
        let rules = Rules::random(&mut self.rng);
        self.world.policy = Some(rules);
        self.world.saw("policy loaded");
        self.apply_policy()
    }

    /// Puts the policy in force, if there is one.
    pub(crate) fn apply_policy(&mut self) -> Result<(), String> {
        let Some(rules) = &self.world.policy else { return Ok(()) };
        if self.fault.strikes(Fault::ForgetPolicy, &mut self.rng) {
            return self.judge(&Input::Policy);
        }
        let connections = &self.world.connections;
        let groups_of = |peer: PeerId| connections.get(&peer).map_or(&[][..], |connection| &connection.groups);
        let (policy, now) = (rules.parse(), self.world.now);
        self.router.set_policy(policy, Some("/etc/bro/policy.toml"), groups_of, None, now, &mut self.orders);
        self.judge(&Input::Policy)
    }

    /// The supplementary groups of a new peer.
    pub(crate) fn random_groups(&mut self) -> Vec<u32> {
        if !self.has_policies {
            return Vec::new();
        }
        GROUPS.into_iter().filter(|_| self.rng.below(3) == 0).collect()
    }
}
