//! The checks of what becomes of frames of version 2, and of the frames of version 2 that the router sends.

use crate::model::{Flight, World};
use crate::model_v2::{Prospect, value_of};
use crate::network::{Arrival, Id, Request};
use crate::traffic::Planned;
use crate::verdict::{Forecast, Input, Tally};
use crate::verdict_v1::is_beyond_v2;
use crate::wire::is_same;
use crate::wire_v2::{self, Body, Call, Frame, Section, text_of};
use bro_proto::limits::GATEWAY_SERVICE;
use bro_proto::v1::Encoding;
use bro_router::PeerId;
use serde_json::{Value, json};

/// The flag of an ERROR that the gateway itself wrote.
const IS_OWN: u8 = 1;
/// The flag of a NAME before which all others are forgotten.
const FORGETS: u8 = 1;

/// A CALL or NOTIFY as its callee has to see it.
struct Expected<'a> {
    caller: PeerId,
    id: Option<Id>,
    to: &'a str,
    method: &'a str,
    codec: u8,
    /// `None`: compared by the caller of the check.
    payload: Option<&'a [u8]>,
    section: Option<Section>,
    parent: Option<u64>,
    echo: Value,
}

impl World {
    /// Whether a frame of version 2 may be too large once it has a context, or is of version 1.
    pub(crate) fn may_be_too_large_v2(&self, frame: &Frame, prospect: &Prospect) -> bool {
        let (value, context) = match &frame.body {
            Body::Call(call) => (value_of(frame.codec, &call.payload), prospect.section.as_ref()),
            Body::Payload(payload) => (value_of(frame.codec, payload), None),
            _ => return false,
        };
        let as_json = value.map_or(0, |value| serde_json::to_vec(&value).expect("a value is JSON").len());
        let section = context.map_or(0, |section| section.chain.iter().map(|name| name.len() + 8).sum());
        // Names, an id and the shape of a message; a context that is given back.
        as_json.max(wire_v2::write(frame).len()) + section + 1700 > self.config.frame_bytes_max
    }

    /// A frame of version 2 to a peer.
    pub(crate) fn sent_v2(
        &mut self,
        input: &Input<'_>,
        forecast: &Forecast,
        answered: Option<&Flight>,
        peer: PeerId,
        frame: &Frame,
        tally: &mut Tally,
    ) -> Result<Option<Arrival>, String> {
        let allowed_flags = match frame.kind {
            wire_v2::ERROR => IS_OWN,
            wire_v2::CANCEL => 3,
            wire_v2::NAME => FORGETS,
            _ => 0,
        };
        if frame.flags & !allowed_flags != 0 {
            return Err(format!("flags that mean nothing: {frame:?}"));
        }
        match (frame.kind, &frame.body) {
            (wire_v2::CALL | wire_v2::NOTIFY, Body::Call(call)) => {
                self.check_call_to_v2(input, forecast, peer, frame, call, tally)?;
                tally.forwarded += 1;
                let to = self.names[&peer].clone();
                return Ok((frame.kind == wire_v2::CALL).then(|| {
                    let (serial, id) = (self.serial, Id::Number(frame.id));
                    Arrival::Request(Request { serial, id, from: String::new(), to, context: Value::Null })
                }));
            }
            (wire_v2::RESPONSE | wire_v2::ERROR, _) => {
                self.check_response_to_v2(input, forecast, answered, peer, frame, tally)?;
            }
            (wire_v2::CANCEL, _) => {
                self.check_cancel(peer, frame)?;
                return Ok(Some(Arrival::Cancelled(frame.id)));
            }
            (wire_v2::NAME, Body::Name(name)) => self.check_name(input, peer, frame, name, tally)?,
            (wire_v2::LANE_READY | wire_v2::LANE_CLOSE, _) => self.told_of_lane(peer, frame)?,
            (wire_v2::PONG, _) => {
                let is_asked = matches!(input, Input::Frame(from, Planned::V2(ping, _))
                    if *from == peer && ping.kind == wire_v2::PING && ping.id == frame.id);
                if !is_asked {
                    return Err(format!("a PONG without its PING: {frame:?}"));
                }
                tally.pongs += 1;
                self.saw("pong");
            }
            (wire_v2::DRAIN, _) if matches!(input, Input::Drain) && !tally.drained.contains(&peer) => {
                tally.drained.push(peer);
            }
            _ => return Err(format!("a gateway does not say {frame:?} after {input:?}")),
        }
        Ok(None)
    }

    fn check_call_to_v2(
        &mut self,
        input: &Input<'_>,
        forecast: &Forecast,
        callee: PeerId,
        frame: &Frame,
        call: &Call,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what} of {frame:?}, made from {input:?}"));
        let Input::Frame(caller, planned) = input else { return wrong("the cause") };
        let expected = match planned {
            Planned::V2(asked, _) => {
                let Body::Call(own) = &asked.body else { return wrong("the cause") };
                let prospect = &forecast.prospect;
                if asked.kind != frame.kind {
                    return wrong("the kind");
                }
                Expected {
                    caller: *caller,
                    id: (asked.kind == wire_v2::CALL).then_some(Id::Number(asked.id)),
                    to: &prospect.to,
                    method: &own.method,
                    codec: asked.codec,
                    payload: Some(&own.payload),
                    section: prospect.section.clone(),
                    parent: prospect.parent,
                    echo: Value::Null,
                }
            }
            Planned::Message(asked, encoding, _) if asked["type"] == "CALL" && frame.kind == wire_v2::CALL => {
                if !is_carried(asked.get("params"), *encoding, frame.codec, &call.payload) {
                    return wrong("the params");
                }
                let context = &asked["context"];
                if is_beyond_v2(context) {
                    return wrong("the context");
                }
                Expected {
                    caller: *caller,
                    id: Some(Id::Text(asked["id"].as_str().unwrap_or_default().to_owned())),
                    to: asked["to"].as_str().unwrap_or_default(),
                    method: asked["method"].as_str().unwrap_or_default(),
                    codec: frame.codec,
                    payload: None,
                    section: (!context.is_null()).then(|| section_of(context)),
                    parent: None,
                    echo: context.clone(),
                }
            }
            _ => return wrong("the cause"),
        };
        if !forecast.refusals.is_empty() || forecast.is_violation {
            return Err(format!("{input:?} is passed on, not refused with {:?}", forecast.refusals));
        }
        let connection = &self.connections[&callee];
        if self.names.get(&callee).is_none_or(|name| name != expected.to) || connection.is_leaving {
            return wrong("the callee");
        }
        let caller_name = &self.names[&expected.caller];
        let told = connection.names.get(&call.peer);
        if told.is_none_or(|(name, serial)| name != caller_name || *serial != self.services[name].serial) {
            return Err(format!("{} stands for {told:?}, not for {caller_name}: {frame:?}", call.peer));
        }
        if tally.introduced.take_if(|introduced| introduced.0 == callee).is_some_and(|(_, number)| number != call.peer)
        {
            return wrong("the name");
        }
        if call.method != expected.method {
            return wrong("the method");
        }
        if expected.payload.is_some_and(|payload| payload != call.payload) || frame.codec != expected.codec {
            return wrong("the payload");
        }
        let left_ms = u32::try_from(forecast.timeout_ms.max(1)).unwrap_or(u32::MAX);
        if call.timeout_ms != left_ms {
            return wrong("the time that is left");
        }
        let origin = expected.id.as_ref().and_then(Id::number).unwrap_or(0);
        if call.origin != origin {
            return wrong("the caller's number");
        }
        let context = self.check_context(caller, expected.to, expected.section.as_ref(), call, frame)?;
        if expected.parent.is_some() {
            self.saw(&format!("derived at depth {}", context.depth));
        }
        let is_from_v2 = matches!(planned, Planned::V2(..));
        self.serial += 1;
        let Some(id) = expected.id else {
            self.saw("notified");
            return if frame.id == 0 { Ok(()) } else { wrong("the number") };
        };
        if frame.id == 0 || !self.numbers.insert(frame.id) {
            return wrong("the number, which was used before,");
        }
        self.saw(if is_from_v2 { "version 2 to 2" } else { "version 1 to 2" });
        self.flights.push(Flight {
            caller: expected.caller,
            id,
            callee,
            callee_id: Id::Number(frame.id),
            deadline_ms: self.now.mono_ms() + forecast.timeout_ms,
            serial: self.serial,
            parent: expected.parent,
            context: Some(context),
            echo: expected.echo,
        });
        if is_from_v2 {
            let flight = self.flights.last().cloned().expect("just added");
            self.count_for_lane(&flight);
        }
        Ok(())
    }

    /// The context that a callee gets: as expected, or that of a chain that begins here.
    fn check_context(
        &mut self,
        caller: &PeerId,
        to: &str,
        expected: Option<&Section>,
        call: &Call,
        frame: &Frame,
    ) -> Result<Section, String> {
        if let Some(expected) = expected {
            return match &call.section {
                Some(section) if section == expected && call.root == 0 => Ok(expected.clone()),
                _ => Err(format!("the context of {frame:?}, expected {expected:?}")),
            };
        }
        let (ms, count) = (call.root >> 22, call.root & 0x003f_ffff);
        if call.section.is_some() || ms != self.now.wall_ms || !self.roots.insert(call.root) {
            return Err(format!("the root of {frame:?}"));
        }
        Ok(Section {
            root: text_of("root", ms, count),
            chain: vec![self.names[caller].clone(), to.to_owned()],
            depth: 2,
        })
    }

    fn check_cancel(&mut self, callee: PeerId, frame: &Frame) -> Result<(), String> {
        let id = Id::Number(frame.id);
        let is_late = |flight: &&Flight| {
            flight.callee == callee && flight.callee_id == id && flight.deadline_ms <= self.now.mono_ms()
        };
        if let Some(flight) = self.flights.iter().find(is_late) {
            self.give_up(flight.serial, 1, Some("TIMEOUT"));
        }
        let ending = self.endings.iter_mut().find(|ending| {
            let flight = &ending.flight;
            flight.callee == callee && flight.callee_id == id && ending.cancel_due.is_some()
        });
        let reasons = ending.and_then(|ending| {
            ending.is_told = true;
            ending.cancel_due.take()
        });
        let reasons = reasons.ok_or_else(|| format!("{callee:?} is told to give up what goes on: {frame:?}"))?;
        if !reasons.contains(&frame.flags) {
            return Err(format!("the reason of {frame:?} should be of {reasons:?}"));
        }
        self.saw("cancel told");
        Ok(())
    }

    fn check_name(
        &mut self,
        input: &Input<'_>,
        peer: PeerId,
        frame: &Frame,
        name: &str,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what} of {frame:?} after {input:?}"));
        let Input::Frame(caller, _) = input else { return wrong("the cause") };
        let own = self.names.get(caller).filter(|own| *own == name);
        let Some(service) = own.and_then(|own| self.services.get(own)) else { return wrong("the name") };
        let connection = self.connections.get_mut(&peer).expect("it is open");
        if frame.flags & FORGETS != 0 {
            connection.names.clear();
        }
        let told = (name.to_owned(), service.serial);
        let number = u32::try_from(frame.id).unwrap_or(u32::MAX);
        if number >= 4096 || connection.names.values().any(|other| *other == told) {
            return wrong("the need");
        }
        if connection.names.insert(number, told).is_some() || tally.introduced.replace((peer, number)).is_some() {
            return wrong("the number");
        }
        self.saw("name told");
        Ok(())
    }

    fn check_response_to_v2(
        &mut self,
        input: &Input<'_>,
        forecast: &Forecast,
        answered: Option<&Flight>,
        peer: PeerId,
        frame: &Frame,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let is_own = frame.flags & IS_OWN != 0;
        let code = match &frame.body {
            Body::Failure { code, .. } => Some(code.as_str()),
            _ => None,
        };
        if let Some(code) = code {
            self.saw(code);
        }
        let id = Id::Number(frame.id);
        // A number that is given to a new call before it is known that the one before has ended: that ends first.
        if is_own && code.is_some() && self.end(peer, &id, code, &Value::Null) {
            return Ok(());
        }
        // The answer to a CALL that was refused at once.
        if let Input::Frame(caller, Planned::V2(asked, _)) = input
            && asked.kind == wire_v2::CALL
            && *caller == peer
            && asked.id == frame.id
            && tally.forwarded + tally.refused == 0
        {
            tally.refused += 1;
            let Body::Call(call) = &asked.body else { return Err(format!("{asked:?} is answered")) };
            if forecast.prospect.to == GATEWAY_SERVICE {
                let params = value_of(asked.codec, &call.payload).ok().flatten().unwrap_or_default();
                let value = match &frame.body {
                    Body::Payload(payload) => value_of(frame.codec, payload).ok().flatten(),
                    _ => None,
                };
                self.check_told(peer, (&call.method, &params), code, value.as_ref())?;
                if code.is_none() && call.method == "events" {
                    self.watched();
                }
                return Ok(());
            }
            let is_right = is_own
                && match code {
                    Some("PAYLOAD_TOO_LARGE") => forecast.may_be_too_large,
                    // By an instance of version 1.
                    Some("SERIALIZATION_FAILED") => value_of(asked.codec, &call.payload).is_err(),
                    Some(code) => {
                        forecast.refusals.contains(&code) || self.may_refuse(peer, &forecast.prospect.to, code, tally)
                    }
                    None => false,
                };
            if is_right {
                return Ok(());
            }
            return Err(format!("{asked:?} is refused with {frame:?}, expected {:?}", forecast.refusals));
        }
        if let (Some(flight), Input::Frame(_, planned)) = (answered, input)
            && flight.caller == peer
            && flight.id == id
            && !tally.answered
        {
            tally.answered = true;
            return match planned {
                Planned::V2(answer, _) => {
                    let is_same = answer.kind == frame.kind && answer.body == frame.body && frame.flags == 0;
                    if is_same && (answer.kind == wire_v2::ERROR || answer.codec == frame.codec) {
                        return Ok(());
                    }
                    Err(format!("{frame:?} is made from {answer:?}"))
                }
                Planned::Message(answer, encoding, _) => check_answer_from_v1(answer, *encoding, frame, forecast),
                _ => Err(format!("{frame:?} out of nothing")),
            };
        }
        if (is_own || frame.kind == wire_v2::RESPONSE) && self.own_answer(input, peer, &id, code, &Value::Null) {
            return Ok(());
        }
        Err(format!("{peer:?} got an answer that it has no call for: {frame:?} ({input:?})"))
    }

    /// A CALL to an instance of version 1, made from a CALL or NOTIFY of version 2.
    pub(crate) fn check_call_from_v2(
        &mut self,
        caller: PeerId,
        frame: &Frame,
        forecast: &Forecast,
        callee: PeerId,
        message: &Value,
    ) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what} of {message}, made from {frame:?}"));
        let prospect = &forecast.prospect;
        let Body::Call(call) = &frame.body else { return wrong("the cause") };
        if !forecast.refusals.is_empty() || forecast.is_violation {
            return Err(format!("{frame:?} is passed on, not refused with {:?}", forecast.refusals));
        }
        if message["from"] != *self.names[&caller] || message["to"] != *prospect.to {
            return wrong("the ends");
        }
        if self.names.get(&callee) != Some(&prospect.to) {
            return wrong("the callee");
        }
        let value = value_of(frame.codec, &call.payload);
        let is_carried = match &value {
            Ok(Some(value)) => message.get("params").is_some_and(|params| is_same(params, value)),
            Ok(None) => message.get("params").is_none(),
            Err(()) => false,
        };
        if message["method"] != *call.method || !is_carried {
            return wrong("method or params");
        }
        let context = &message["context"];
        if context["deadline"].as_f64() != Some((self.now.wall_ms + forecast.timeout_ms) as f64) {
            return wrong("the deadline");
        }
        let got = section_of(context);
        match &prospect.section {
            Some(section) if *section == got => {}
            None if got.chain == [&*self.names[&caller], &*prospect.to] && got.depth == 2 => {
                if !got.root.starts_with(&format!("root-{}-", self.now.wall_ms)) {
                    return wrong("the root");
                }
            }
            _ => return wrong("the context"),
        }
        if message.as_object().is_some_and(|fields| fields.len() != 6 + usize::from(call_has_params(&value))) {
            return wrong("the number of fields");
        }
        self.serial += 1;
        if frame.kind == wire_v2::NOTIFY {
            let id = message["id"].as_str().ok_or("a CALL without an id")?.to_owned();
            // Whatever it answers is nobody's.
            self.abandoned.insert((callee, id));
            self.saw("notified in version 1");
            return Ok(());
        }
        let text = text_of("req", frame.id >> 32, frame.id & 0xffff_ffff);
        let callee_id = self.check_callee_id(callee, &text, message)?;
        self.saw("version 2 to 1");
        self.flights.push(Flight {
            caller,
            id: Id::Number(frame.id),
            callee,
            callee_id: Id::Text(callee_id),
            deadline_ms: self.now.mono_ms() + forecast.timeout_ms,
            serial: self.serial,
            parent: prospect.parent,
            context: None,
            echo: Value::Null,
        });
        Ok(())
    }

    /// A RESPONSE to a caller of version 1, made from the answer of a callee of version 2.
    pub(crate) fn check_answer_from_v2(
        &self,
        flight: &Flight,
        answer: &Frame,
        message: &Value,
        forecast: &Forecast,
    ) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what} of {message}, made from {answer:?} to {flight:?}"));
        let echo_bytes = wire_v2_context_bytes(&flight.echo);
        if echo_bytes <= 1024 && !is_same(&message["context"], &flight.echo) {
            return wrong("the context");
        }
        let value = match &answer.body {
            Body::Payload(payload) => value_of(answer.codec, payload),
            _ => Ok(None),
        };
        if message["from"] == GATEWAY_SERVICE {
            let is_right = match message["error"]["code"].as_str() {
                Some("PAYLOAD_TOO_LARGE") => forecast.may_be_too_large,
                Some("SERIALIZATION_FAILED") => value.is_err(),
                _ => false,
            };
            return if is_right { Ok(()) } else { wrong("the error") };
        }
        if message["from"] != *self.names[&flight.callee] {
            return wrong("the `from`");
        }
        let is_right = match (&answer.body, value) {
            (Body::Failure { code, message: text, stack }, _) => {
                message["status"] == "error"
                    && message["error"] == json!({"code": code, "message": text, "stack": stack})
                    && message.get("data").is_none()
            }
            (_, Ok(Some(value))) => {
                message["status"] == "success" && message.get("data").is_some_and(|data| is_same(data, &value))
            }
            (_, Ok(None)) => message["status"] == "success" && message.get("data").is_none(),
            (_, Err(())) => false,
        };
        if is_right { Ok(()) } else { wrong("the outcome") }
    }

    /// A CALL or NOTIFY of version 2 has one end, and a RESPONSE reaches its caller.
    pub(crate) fn check_outcome_v2(
        &mut self,
        peer: PeerId,
        frame: &Frame,
        forecast: &Forecast,
        answered: Option<&Flight>,
        tally: &Tally,
    ) -> Result<(), String> {
        let is_open = self.connections.contains_key(&peer);
        let ends = tally.forwarded + tally.refused;
        match frame.kind {
            wire_v2::CALL => {
                let is_asked = forecast.prospect.to == GATEWAY_SERVICE;
                if is_asked && ends == 0 && is_open {
                    self.inquiries.push((peer, Id::Number(frame.id)));
                    if let Body::Call(call) = &frame.body {
                        let params = value_of(frame.codec, &call.payload).ok().flatten().unwrap_or_default();
                        self.questions.insert((peer, Id::Number(frame.id)), (call.method.clone(), params));
                    }
                    if matches!(&frame.body, Body::Call(call) if call.method == "events") {
                        self.watched();
                    }
                } else if ends > 1 || ends == 0 && is_open {
                    return Err(format!("{ends} ends of {frame:?}"));
                }
            }
            wire_v2::NOTIFY => {
                let Body::Call(call) = &frame.body else { return Err("a NOTIFY that is none".to_owned()) };
                let may_be_dropped = !forecast.refusals.is_empty()
                    || forecast.prospect.to == GATEWAY_SERVICE
                    || forecast.may_be_too_large
                    || ["RESOURCE_EXHAUSTED", "OVERLOADED", "CONNECTION_LOST"]
                        .iter()
                        .any(|code| self.may_refuse(peer, &forecast.prospect.to, code, tally))
                    || value_of(frame.codec, &call.payload).is_err();
                if tally.refused > 0 || ends > 1 || ends == 0 && !may_be_dropped {
                    return Err(format!("{ends} ends of {frame:?}"));
                }
            }
            _ => {
                if let Some(flight) = answered
                    && !tally.answered
                    && self.connections.contains_key(&flight.caller)
                {
                    return Err(format!("the answer to {flight:?} is lost"));
                }
                if ends > 0 {
                    return Err(format!("{ends} calls out of {frame:?}"));
                }
            }
        }
        Ok(())
    }
}

fn call_has_params(value: &Result<Option<Value>, ()>) -> bool {
    matches!(value, Ok(Some(_)))
}

/// At least what the context takes in either encoding.
fn wire_v2_context_bytes(context: &Value) -> usize {
    serde_json::to_vec(context).expect("a value is JSON").len()
}

/// A context of version 1, but for its deadline.
fn section_of(context: &Value) -> Section {
    let texts = |chain: &Value| {
        let entries = chain.as_array().into_iter().flatten();
        entries.map(|name| name.as_str().unwrap_or_default().to_owned()).collect()
    };
    Section {
        root: context["root"].as_str().unwrap_or_default().to_owned(),
        chain: texts(&context["chain"]),
        depth: u32::try_from(context["depth"].as_u64().unwrap_or_default()).unwrap_or(u32::MAX),
    }
}

/// Whether a payload is the value that a peer of version 1 has sent, in its own encoding.
fn is_carried(value: Option<&Value>, encoding: Encoding, codec: u8, payload: &[u8]) -> bool {
    match value {
        None => codec == 0 && payload.is_empty(),
        Some(value) => {
            let expected = if encoding == Encoding::Json { 1 } else { 2 };
            codec == expected && value_of(codec, payload).is_ok_and(|got| got.is_some_and(|got| is_same(&got, value)))
        }
    }
}

fn check_answer_from_v1(answer: &Value, encoding: Encoding, frame: &Frame, forecast: &Forecast) -> Result<(), String> {
    let text = |key: &str| answer["error"][key].as_str().unwrap_or_default().to_owned();
    let is_right = match &frame.body {
        Body::Failure { code, .. } if frame.flags & IS_OWN != 0 => match code.as_str() {
            "PAYLOAD_TOO_LARGE" => forecast.may_be_too_large,
            "INVALID_MESSAGE" => answer["status"].is_null() && answer["error"].is_null(),
            _ => false,
        },
        Body::Failure { code, message, stack } => {
            !answer["error"].is_null() && (code, message, stack) == (&text("code"), &text("message"), &text("stack"))
        }
        Body::Payload(payload) => {
            answer["error"].is_null() && is_carried(answer.get("data"), encoding, frame.codec, payload)
        }
        _ => false,
    };
    if is_right { Ok(()) } else { Err(format!("{frame:?} is made from {answer}")) }
}
