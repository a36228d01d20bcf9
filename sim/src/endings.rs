//! Calls that end together. What has been decided about each is known here at once; the router may carry it out in pieces.
//!
//! What the router has left cannot be seen but by how many calls it has in flight beyond those that go on here. So it is the number that is
//! checked: nothing due may be missing when nothing is left, every input of time carries out as many as it may, and no input carries out more.

use crate::model::{Flight, Phase, World};
use crate::network::Id;
use crate::verdict::Input;
use bro_router::{PeerId, Router};

/// A call that does not go on, until both ends have been told.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) flight: Flight,
    /// What the callee may be told as the reason, while it has to be told.
    pub(crate) cancel_due: Option<Vec<u8>>,
    /// The code with which the caller has to be answered.
    pub(crate) answer_due: Option<&'static str>,
    /// One of both was told: the other one must be in the same input.
    pub(crate) is_told: bool,
}

impl World {
    /// A call ends without its callee, and all that were made for it: each caller is to be told, and each callee.
    pub(crate) fn give_up(&mut self, serial: u64, reason: u8, answer: Option<&'static str>) {
        let mut ending = vec![(serial, reason, answer)];
        while let Some((serial, reason, answer)) = ending.pop() {
            let Some(at) = self.flights.iter().position(|flight| flight.serial == serial) else { continue };
            let flight = self.flights.swap_remove(at);
            let children = self.flights.iter().filter(|other| other.parent == Some(serial));
            ending.extend(children.map(|child| (child.serial, 0, Some("CANCELLED"))));
            let is_caller_there = self.connections.contains_key(&flight.caller);
            let mut cancel_due = None;
            if self.connections.contains_key(&flight.callee) {
                match &flight.callee_id {
                    Id::Text(id) => drop(self.abandoned.insert((flight.callee, id.clone()))),
                    // Of those that end with their caller, some are reached from above first.
                    Id::Number(_) if !is_caller_there => cancel_due = Some(vec![0, 2]),
                    Id::Number(_) => cancel_due = Some(vec![reason]),
                }
            }
            if reason == 0 && answer.is_some() {
                self.saw("cascade");
            }
            let answer_due = answer.filter(|_| is_caller_there);
            self.endings.push(Ending { flight, cancel_due, answer_due, is_told: false });
        }
    }

    /// The calls that a peer was asked end with it. What was made for them goes on.
    pub(crate) fn lose_calls_to(&mut self, callee: PeerId) {
        for flight in self.flights.extract_if(.., |flight| flight.callee == callee) {
            let is_caller_there = self.connections.contains_key(&flight.caller);
            let answer_due = is_caller_there.then_some("CONNECTION_LOST");
            self.endings.push(Ending { flight, cancel_due: None, answer_due, is_told: false });
        }
    }

    /// Whether all that is due about calls that end has been said, as far as the router may not have left them. Before the input it had
    /// `before` calls in flight.
    pub(crate) fn check_endings(&mut self, input: &Input<'_>, router: &Router, before: usize) -> Result<(), String> {
        let connections = &self.connections;
        for Ending { flight, cancel_due, answer_due, is_told } in &mut self.endings {
            cancel_due.take_if(|_| !connections.contains_key(&flight.callee));
            answer_due.take_if(|_| !connections.contains_key(&flight.caller));
            if *is_told && (cancel_due.is_some() || answer_due.is_some()) {
                return Err(format!(
                    "one is told, not the other, who is due {cancel_due:?} or {answer_due:?}: {flight:?}"
                ));
            }
        }
        self.endings.retain(|ending| !ending.is_told);
        let present = router.in_flight_len();
        let is_due = |ending: &&Ending| ending.cancel_due.is_some() || ending.answer_due.is_some();
        let due = self.endings.iter().filter(is_due).count();
        let Some(left) = present.checked_sub(self.flights.len()) else {
            return Err(format!("{} calls are in flight, the router has {present}", self.flights.len()));
        };
        if left < due || left > self.endings.len() {
            let first = self.endings.iter().find(is_due);
            return Err(format!("{due} of {} ends are due, the router has {left} left: {first:?}", self.endings.len()));
        }
        // With the call that the input itself is about.
        let max = self.config.ends_per_input_max;
        let is_whole = self.phase == Phase::Ended || matches!(input, Input::Finish);
        let ended = before.saturating_sub(present);
        if is_whole && left > 0 || !is_whole && ended > max + usize::from(!matches!(input, Input::Time)) {
            return Err(format!("{ended} calls have ended after {input:?}, and {left} are left"));
        }
        if left > 0 {
            self.saw("ended in pieces");
            if router.wakeup_ms() != Some(0) || matches!(input, Input::Time) && ended < max {
                return Err(format!("{left} calls are left, {ended} have ended after {input:?}"));
            }
        } else {
            self.endings.clear();
        }
        if router.is_ending() != (left > 0) {
            return Err(format!("{left} calls are left, and the router does not say so"));
        }
        Ok(())
    }
}
