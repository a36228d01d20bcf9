//! What must come of frames of version 2, and which calls end with another.

use crate::model::{Flight, Phase, World};
use crate::network::Id;
use crate::wire_v2::{self, Body, Call, Frame, Section};
use bro_proto::limits::{CALL_TIMEOUT_MAX_MS, CHAIN_LEN_MAX, GATEWAY_SERVICE};
use bro_router::PeerId;
use serde_json::Value;

/// What a CALL or a NOTIFY of version 2 must come to.
#[derive(Debug, Default)]
pub(crate) struct Prospect {
    pub(crate) to: String,
    pub(crate) refusals: Vec<&'static str>,
    /// Serial of the call that it is made for.
    pub(crate) parent: Option<u64>,
    /// The context that it goes on with; `None` when its chain begins.
    pub(crate) section: Option<Section>,
    pub(crate) timeout_ms: u64,
}

impl World {
    /// Whether a frame of version 2 must cost its sender the connection.
    pub(crate) fn is_violation(&self, peer: PeerId, frame: &Frame) -> bool {
        let connection = &self.connections[&peer];
        if !connection.speaks_v2 {
            return true;
        }
        match &frame.body {
            Body::Call(call) => {
                let is_unbound = connection.routes.len() <= call.peer as usize;
                let id = Id::Number(frame.id);
                let is_taken = self.flights.iter().any(|flight| flight.caller == peer && flight.id == id)
                    || self.inquiries.contains(&(peer, id));
                is_unbound || frame.kind == wire_v2::CALL && (frame.id == 0 || is_taken)
            }
            Body::Name(_) if frame.kind == wire_v2::RESOLVE => {
                frame.id > connection.routes.len() as u64 || frame.id >= 1024
            }
            _ => false,
        }
    }

    pub(crate) fn prospect(&self, caller: PeerId, call: &Call) -> Prospect {
        let connection = &self.connections[&caller];
        let Some(to) = connection.routes.get(call.peer as usize).filter(|_| connection.speaks_v2) else {
            return Prospect::default();
        };
        let asked_ms = if call.timeout_ms == 0 { self.config.call_timeout_ms } else { u64::from(call.timeout_ms) };
        let mut prospect =
            Prospect { to: to.clone(), timeout_ms: asked_ms.min(CALL_TIMEOUT_MAX_MS), ..Prospect::default() };
        if to == GATEWAY_SERVICE {
            return prospect;
        }
        if !self.may_call(caller, to, &call.method) {
            prospect.refusals.push("PERMISSION_DENIED");
            return prospect;
        }
        let mut codes = self.refusals_of_target(caller, to);
        if let Some(section) = &call.section {
            prospect.section = Some(section.clone());
        } else if call.origin != 0 {
            match self.parent(caller, call.origin) {
                None => codes.push("CANCELLED"),
                Some((parent, context)) => {
                    let mut section = context.clone();
                    section.chain.push(to.clone());
                    section.depth += 1;
                    if section.chain.len() > CHAIN_LEN_MAX {
                        codes.push("MAX_DEPTH_EXCEEDED");
                    }
                    prospect.parent = Some(parent.serial);
                    let left_ms = parent.deadline_ms.saturating_sub(self.now.mono_ms());
                    prospect.timeout_ms = prospect.timeout_ms.min(left_ms);
                    if left_ms == 0 {
                        // Others came in before the router could do all that is due.
                        codes.push("DEADLINE_EXCEEDED");
                    }
                    prospect.section = Some(section);
                }
            }
        }
        if prospect.section.as_ref().is_some_and(|section| section.depth > self.config.depth_max) {
            codes.push("MAX_DEPTH_EXCEEDED");
        }
        prospect.refusals = codes;
        prospect
    }

    /// The call that the caller's service works on under this number of the gateway's.
    fn parent(&self, caller: PeerId, number: u64) -> Option<(&Flight, &Section)> {
        let is_it = |flight: &&Flight| {
            flight.callee_id == Id::Number(number) && self.names.get(&flight.callee) == self.names.get(&caller)
        };
        let flight = self.flights.iter().find(is_it)?;
        Some((flight, flight.context.as_ref()?))
    }

    /// The error codes with which a call to that service may be refused because of the callee, or of the number of calls.
    pub(crate) fn refusals_of_target(&self, caller: PeerId, to: &str) -> Vec<&'static str> {
        let mut codes = Vec::new();
        if self.phase != Phase::Running {
            codes.push("SHUTTING_DOWN");
        }
        let Some(service) = self.services.get(to) else {
            codes.push("SERVICE_NOT_FOUND");
            return codes;
        };
        let own = self.flights.iter().filter(|flight| flight.caller == caller).count();
        if self.has_too_many_calls(caller) || own >= self.config.in_flight_per_peer_max {
            codes.push("RESOURCE_EXHAUSTED");
        }
        let is_leaving = |peer: &PeerId| self.connections[peer].is_leaving;
        if service.instances.keys().all(is_leaving) {
            codes.push("SHUTTING_DOWN");
        } else if service.instances.keys().all(|peer| is_leaving(peer) || self.is_crowded(caller, *peer)) {
            codes.push("OVERLOADED");
        }
        codes
    }

    /// CANCEL: the caller waits no longer.
    pub(crate) fn cancelled(&mut self, caller: PeerId, number: u64, flags: u8) {
        let id = Id::Number(number);
        if let Some(flight) = self.flights.iter().find(|flight| flight.caller == caller && flight.id == id) {
            let reason = [0, 1, 2, 0][usize::from(flags & 3)];
            let serial = flight.serial;
            self.saw("cancel");
            self.give_up(serial, reason, None);
        } else if let Some(at) = self.inquiries.iter().position(|(peer, own)| *peer == caller && *own == id) {
            self.saw("cancel of an inquiry");
            self.inquiries.swap_remove(at);
            self.questions.remove(&(caller, id));
        } else {
            self.saw("cancel of nothing");
        }
    }
}

/// The value of a payload, `None` when there is none; an error when it is not one value.
pub(crate) fn value_of(codec: u8, payload: &[u8]) -> Result<Option<Value>, ()> {
    match codec {
        0 => Ok(None),
        1 => serde_json::from_slice(payload).map(Some).map_err(drop),
        2 => {
            let mut reader = rmp_serde::Deserializer::new(std::io::Cursor::new(payload));
            let value = serde::Deserialize::deserialize(&mut reader).map_err(drop)?;
            if reader.position() == payload.len() as u64 { Ok(Some(value)) } else { Err(()) }
        }
        _ => Err(()),
    }
}
