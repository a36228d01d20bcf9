//! A gateway takes over from the present one: the router goes on in another one, made from its state as bytes, and nobody may notice.

use crate::fault::Fault;
use crate::simulator::Simulator;
use crate::verdict::Input;
use bro_router::Router;
use bro_router::state::{PhaseState, RouterState};

impl Simulator {
    /// The router is exported, written, read and imported; the model and everybody in the world go on as if nothing had been.
    pub(crate) fn take_over(&mut self) -> Result<(), String> {
        let now = self.world.now;
        self.router.finish_ends(now, &mut self.orders);
        self.judge(&Input::Finish)?;
        let exported = self.router.export(now);
        let read = RouterState::decode(&exported.encode()).map_err(|error| format!("its own state: {error}"))?;
        if read != exported {
            return Err("the state as bytes is another one".to_owned());
        }
        let router = Router::import(self.world.config.clone(), self.spoil_state(read), now);
        self.router = router.map_err(|error| format!("its own state is refused: {error}"))?;
        self.router.check_invariants();
        let is_spoilt = matches!(self.fault, Fault::DropInTakeover | Fault::ForgetInTakeover);
        if self.router.export(now) != exported && !is_spoilt {
            return Err("what was imported is not what was exported".to_owned());
        }
        self.router.set_events(self.events);
        if self.fault != Fault::ForgetPolicyInTakeover {
            self.apply_policy()?;
        }
        let phase = if exported.phase == PhaseState::Running { "taken over" } else { "taken over while draining" };
        *self.world.seen.entry(phase.to_owned()).or_default() += 1;
        if !exported.calls.live.is_empty() {
            *self.world.seen.entry("taken over with calls in flight".to_owned()).or_default() += 1;
        }
        if !exported.parked.is_empty() {
            *self.world.seen.entry("taken over with parked calls".to_owned()).or_default() += 1;
        }
        Ok(())
    }

    fn spoil_state(&mut self, mut state: RouterState) -> RouterState {
        match self.fault {
            Fault::DropInTakeover => {
                // Not one that others belong to: that would be noticed by the import.
                let is_parent = |slot| state.calls.live.iter().any(|call| call.parent == Some(slot));
                let place = state.calls.live.iter().position(|call| !is_parent(call.slot));
                place.map(|place| state.calls.live.remove(place));
            }
            Fault::ForgetInTakeover => {
                for v2 in state.peers.live.iter_mut().filter_map(|peer| peer.v2.as_mut()) {
                    v2.names.pop();
                }
            }
            _ => {}
        }
        state
    }
}
