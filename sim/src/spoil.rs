//! How deliberate defects are made to look: the router's orders are changed before they are judged.

use crate::fault::Fault;
use crate::network::Order;
use crate::simulator::Simulator;
use crate::wire;
use crate::wire_v2::{self, Body, Call, Frame};
use bro_router::PeerId;
use serde_json::Value;

/// What becomes of a frame of version 2.
enum Spoilt {
    Not,
    Changed(Frame),
    Misled(PeerId),
    Twice,
    Lost,
}

impl Simulator {
    /// Makes the router's orders look as if it had the defect.
    pub(crate) fn spoil(&mut self, orders: &mut Vec<Order>) {
        let is_response = |frame: &[u8]| wire::parse(frame).is_ok_and(|(message, _)| message["type"] == "RESPONSE");
        let mut at = 0;
        while at < orders.len() {
            if self.spoil_offer(orders, at) {
                orders.remove(at);
                continue;
            }
            let Order::Send { peer, frame } = &mut orders[at] else {
                at += 1;
                continue;
            };
            let peer = *peer;
            if self.fault == Fault::Misdirect && self.fault.strikes(Fault::Misdirect, &mut self.rng) {
                if let Some(other) = self.random_peer() {
                    orders[at] = Order::Send { peer: other, frame: std::mem::take(frame) };
                }
            } else if self.fault == Fault::DropResponse && is_response(frame) {
                if self.fault.strikes(Fault::DropResponse, &mut self.rng) {
                    self.lose(orders, at);
                    continue;
                }
            } else if self.fault == Fault::RepeatResponse && is_response(frame) {
                if self.fault.strikes(Fault::RepeatResponse, &mut self.rng) {
                    let again = orders[at].clone();
                    orders.insert(at, again);
                    at += 1;
                }
            } else if matches!(self.fault, Fault::WrongStamp | Fault::ChangedPayload)
                && let Ok((mut message, encoding)) = wire::parse(frame)
                && message["type"] == "CALL"
                && self.fault.strikes(self.fault, &mut self.rng)
            {
                let (key, value) = match self.fault {
                    Fault::WrongStamp => ("from", "somebody"),
                    _ => ("params", "something else"),
                };
                message[key] = Value::from(value);
                *frame = wire::frame(&message, encoding);
            } else if frame.get(4) == Some(&0xb2)
                && let Ok(read) = wire_v2::read(frame)
            {
                match self.spoil_v2(peer, read) {
                    Spoilt::Not => {}
                    Spoilt::Changed(changed) => *frame = wire_v2::write(&changed),
                    Spoilt::Misled(other) => orders[at] = Order::Send { peer: other, frame: std::mem::take(frame) },
                    Spoilt::Twice => {
                        let again = orders[at].clone();
                        orders.insert(at, again);
                        at += 1;
                    }
                    Spoilt::Lost => {
                        self.lose(orders, at);
                        continue;
                    }
                }
            }
            at += 1;
        }
    }

    /// Takes an order away as if nothing had ever been charged for it.
    pub(crate) fn lose(&mut self, orders: &mut Vec<Order>, at: usize) {
        let Order::Send { peer, frame } = orders.remove(at) else { return };
        self.router.handle_written(peer, frame.len(), self.world.now, &mut self.orders);
        orders.append(&mut self.orders.list);
    }

    /// Changes what two peers are offered. True when they are not to be offered anything.
    fn spoil_offer(&mut self, orders: &mut [Order], at: usize) -> bool {
        let Order::Offer(offer) = &mut orders[at] else { return false };
        if !self.fault.strikes(self.fault, &mut self.rng) {
            return false;
        }
        match self.fault {
            Fault::DropOffer => return true,
            Fault::OneSidedLane => offer.frames[1][16] = 0,
            Fault::StrangerLane => {
                let uid = self.world.connections[&offer.peers[0]].identity.uid;
                let stranger = self.world.connections.iter().find(|(_, connection)| connection.identity.uid != uid);
                offer.peers[1] = stranger.map_or(offer.peers[1], |(peer, _)| *peer);
            }
            Fault::UsedLane => {
                if let Some(number) = self.world.lanes.any_used() {
                    offer.number = number;
                    offer.frames.iter_mut().for_each(|frame| frame[8..16].copy_from_slice(&number.to_le_bytes()));
                }
            }
            _ => {}
        }
        false
    }

    fn spoil_v2(&mut self, peer: PeerId, mut frame: Frame) -> Spoilt {
        let (kind, flags) = (frame.kind, frame.flags);
        if !fits(self.fault, &frame) || !self.fault.strikes(self.fault, &mut self.rng) {
            return Spoilt::Not;
        }
        match (self.fault, &mut frame.body) {
            (Fault::DropCancel | Fault::NoCascade | Fault::DropName, _)
            | (Fault::ForgetRevoke | Fault::DropLaneReady | Fault::DropLaneClose, _) => {
                return Spoilt::Lost;
            }
            (Fault::RepeatAnswer | Fault::RepeatLaneReady, _) => return Spoilt::Twice,
            (Fault::StaleRoute, _) => {
                let own = self.world.names.get(&peer);
                let others = self.world.connections.iter();
                let other = others.filter(|(_, connection)| connection.speaks_v2).map(|(other, _)| *other);
                let other = other.into_iter().find(|other| self.world.names.get(other) != own);
                return other.map_or(Spoilt::Not, Spoilt::Misled);
            }
            (Fault::StolenVoice, _) => frame.flags = flags | 1,
            (Fault::FalseDenial, Body::Failure { code, .. }) => "PERMISSION_DENIED".clone_into(code),
            (Fault::WrongName, Body::Call(call)) => call.peer ^= 1,
            (Fault::GrownDeadline, Body::Call(call)) => call.timeout_ms = call.timeout_ms.saturating_add(1),
            (Fault::ForgetDepth, Body::Call(Call { section: Some(section), .. })) => section.depth -= 1,
            (Fault::ChangedBytes, Body::Call(Call { payload, .. }) | Body::Payload(payload)) => {
                payload.iter_mut().take(1).for_each(|byte| *byte ^= 0x20);
            }
            _ => unreachable!("{kind} does not fit"),
        }
        Spoilt::Changed(frame)
    }
}

/// Whether a defect can show in such a frame.
fn fits(fault: Fault, frame: &Frame) -> bool {
    let is_answer = matches!(frame.kind, wire_v2::RESPONSE | wire_v2::ERROR);
    match (fault, &frame.body) {
        (Fault::DropCancel, _) => frame.kind == wire_v2::CANCEL,
        // Not the answer to a call that comes too late to be made for another.
        (Fault::NoCascade, Body::Failure { message, .. }) => message.ends_with("was given up"),
        (Fault::DropName, _) => frame.kind == wire_v2::NAME,
        (Fault::DropLaneReady | Fault::RepeatLaneReady, _) => frame.kind == wire_v2::LANE_READY,
        (Fault::DropLaneClose, Body::Other(why)) => frame.kind == wire_v2::LANE_CLOSE && why == &[0],
        (Fault::ForgetRevoke, Body::Other(why)) => frame.kind == wire_v2::LANE_CLOSE && why == &[1],
        (Fault::StaleRoute | Fault::WrongName | Fault::GrownDeadline, Body::Call(_)) => true,
        (Fault::ForgetDepth, Body::Call(call)) => call.section.is_some(),
        (Fault::RepeatAnswer, _) => is_answer,
        (Fault::FalseDenial, Body::Failure { code, .. }) => frame.flags == 1 && code == "SERVICE_NOT_FOUND",
        (Fault::StolenVoice, _) => frame.kind == wire_v2::ERROR && frame.flags == 0,
        (Fault::ChangedBytes, Body::Call(Call { payload, .. }) | Body::Payload(payload)) => !payload.is_empty(),
        _ => false,
    }
}
