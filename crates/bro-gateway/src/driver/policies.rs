//! Policies: put in force, and read again when a peer wishes for it.

use super::Driver;
use crate::policy::load_for_wish;
use bro_policy::Policy;
use std::collections::HashMap;

impl Driver {
    /// Puts a policy in force, for a peer that wished for it or for the program around.
    pub(crate) fn set_policy(&mut self, policy: Policy, wish: Option<u64>) {
        let groups = if policy.knows_groups() { self.conns.groups() } else { HashMap::new() };
        let groups_of = |peer| groups.get(&peer).map_or(&[][..], |groups: &Vec<u32>| groups);
        let file = self.shared.policy.source().file().map(|path| path.to_string_lossy().into_owned());
        self.router.set_policy(policy, file.as_deref(), groups_of, wish, self.now, &mut self.conns);
    }

    pub(super) fn load_policy_if_wished(&mut self) {
        if self.is_loading_policy {
            return;
        }
        let Some(wish) = self.router.take_policy_wish() else { return };
        match load_for_wish(wish, self.shared.clone(), self.own_commands.clone()) {
            Ok(()) => self.is_loading_policy = true,
            Err(error) => {
                let why = format!("no thread could be started: {error}");
                self.router.handle_policy_failed(wish, &why, self.now, &mut self.conns);
            }
        }
    }
}
