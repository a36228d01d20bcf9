//! The checks of frames of version 1 that the router sends about calls.

use crate::endings::Ending;
use crate::model::{Flight, Phase, World};
use crate::network::Id;
use crate::traffic::Planned;
use crate::verdict::{Forecast, Input, Tally};
use crate::wire::is_same;
use bro_proto::limits::GATEWAY_SERVICE;
use bro_router::PeerId;
use serde_json::{Value, json};

impl World {
    pub(crate) fn check_forwarded_call(
        &mut self,
        input: &Input<'_>,
        forecast: &Forecast,
        callee: PeerId,
        message: &Value,
    ) -> Result<(), String> {
        if let Input::Frame(caller, Planned::V2(frame, _)) = input {
            return self.check_call_from_v2(*caller, frame, forecast, callee, message);
        }
        let Input::Frame(caller, Planned::Message(call, ..)) = input else {
            return Err(format!("a CALL out of nothing: {message}"));
        };
        if call["type"] != "CALL" || !forecast.refusals.is_empty() {
            return Err(format!("{call} is passed on, not refused with {:?}", forecast.refusals));
        }
        let wrong = |what: &str| Err(format!("{what} of {message}, made from {call}"));
        let caller_name = &self.names[caller];
        if message["from"] != **caller_name {
            return wrong("the `from`");
        }
        if self.names.get(&callee).is_none_or(|name| call["to"] != **name) || message["to"] != call["to"] {
            return wrong("the callee");
        }
        if message["method"] != call["method"] || !is_same(&message["params"], &call["params"]) {
            return wrong("method or params");
        }
        let context = &message["context"];
        if call["context"].is_null() {
            let expected = json!([caller_name, call["to"]]);
            let is_made = context["chain"] == expected && context["depth"] == 2 && context["root"].is_string();
            if !is_made || context["deadline"].as_f64().is_none() {
                return wrong("the context that the gateway made");
            }
        } else if !is_same(context, &call["context"]) {
            return wrong("the context");
        }
        let id = call["id"].as_str().expect("it was not refused").to_owned();
        let callee_id = self.check_callee_id(callee, &id, message)?;
        self.saw("version 1 to 1");
        self.serial += 1;
        self.flights.push(Flight {
            caller: *caller,
            id: Id::Text(id),
            callee,
            callee_id: Id::Text(callee_id),
            deadline_ms: self.now.mono_ms() + forecast.timeout_ms,
            serial: self.serial,
            parent: None,
            context: None,
            echo: call["context"].clone(),
        });
        Ok(())
    }

    /// The id under which a callee of version 1 is asked: the caller's, unless the callee might take it for that of another call.
    pub(crate) fn check_callee_id(&mut self, callee: PeerId, id: &str, message: &Value) -> Result<String, String> {
        let callee_id = message["id"].as_str().ok_or("a CALL without an id")?.to_owned();
        let is_taken = |id: &str| {
            let has_it = |flight: &Flight| flight.callee == callee && flight.callee_id.is_text(id);
            self.flights.iter().any(has_it) || self.abandoned.contains(&(callee, id.to_owned()))
        };
        if is_taken(&callee_id) {
            return Err(format!("the callee may take the id for that of another call: {message}"));
        }
        if self.connections[&callee].is_leaving {
            return Err(format!("{callee:?} takes no more calls, and gets {message}"));
        }
        if callee_id != id && !is_taken(id) {
            return Err(format!("the id {id} is changed without need: {message}"));
        }
        Ok(callee_id)
    }

    pub(crate) fn check_response(
        &mut self,
        input: &Input<'_>,
        forecast: &Forecast,
        answered: Option<&Flight>,
        peer: PeerId,
        message: &Value,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let id = message["id"].as_str().ok_or("a RESPONSE without an id")?;
        if let Some(name) = self.names.get(&peer)
            && message["to"] != **name
        {
            return Err(format!("{peer:?} is {name:?}, got {message}"));
        }
        let code = message["error"]["code"].as_str();
        let own_id = Id::Text(id.to_owned());
        let is_own = message["from"] == GATEWAY_SERVICE;
        // The answer to a CALL that was refused at once.
        if let Input::Frame(caller, Planned::Message(call, ..)) = input
            && call["type"] == "CALL"
            && *caller == peer
            && call["id"] == *id
            && tally.forwarded + tally.refused == 0
            && is_own
        {
            if call["to"] == GATEWAY_SERVICE && forecast.refusals.is_empty() {
                let question = (call["method"].as_str().unwrap_or_default(), &call["params"]);
                self.check_told(peer, question, code, Some(&message["data"]))?;
                if code.is_none() && call["method"] == "events" {
                    self.watched();
                }
                tally.refused += 1;
                return Ok(());
            }
            let code = code.unwrap_or_default();
            let is_too_large = code == "PAYLOAD_TOO_LARGE" && forecast.may_be_too_large;
            let is_unreadable = code == "INVALID_CONTEXT" && is_beyond_v2(&call["context"]);
            let may_be = is_too_large
                || is_unreadable
                || self.may_refuse(peer, call["to"].as_str().unwrap_or_default(), code, tally);
            if !forecast.refusals.contains(&code) && !may_be {
                return Err(format!("{call} is refused with {message}, expected {:?}", forecast.refusals));
            }
            if !is_same(&message["context"], &call["context"]) {
                return Err(format!("{call} is refused without its context: {message}"));
            }
            tally.refused += 1;
            return Ok(());
        }
        // The answer of a callee.
        if let (Some(flight), Input::Frame(callee, planned)) = (answered, input)
            && flight.caller == peer
            && flight.id == own_id
            && !tally.answered
        {
            tally.answered = true;
            return match planned {
                Planned::Message(answer, ..) => self.check_forwarded_answer(*callee, answer, message, forecast),
                Planned::V2(answer, _) => self.check_answer_from_v2(flight, answer, message, forecast),
                _ => Err("an answer out of nothing".to_owned()),
            };
        }
        if is_own && self.own_answer(input, peer, &own_id, code, &message["context"]) {
            return Ok(());
        }
        Err(format!("{peer:?} got an answer that it has no call for: {message} ({input:?})"))
    }

    /// Whether the gateway may answer a call itself, with this code; then the call has ended. `context` is that of the answer, if it has one.
    pub(crate) fn own_answer(
        &mut self,
        input: &Input<'_>,
        peer: PeerId,
        id: &Id,
        code: Option<&str>,
        context: &Value,
    ) -> bool {
        if let Some(at) = self.inquiries.iter().position(|(caller, own)| *caller == peer && own == id) {
            self.inquiries.swap_remove(at);
            let (method, params) = self.questions.remove(&(peer, id.clone())).unwrap_or_default();
            return self.check_told(peer, (&method, &params), code, None).is_ok();
        }
        if self.end(peer, id, code, context) {
            return true;
        }
        // One caller of version 1 may have several calls under one id. Their contexts mostly differ.
        let is_its = |flight: &Flight| flight.caller == peer && flight.id == *id;
        let position = |is_ended: &dyn Fn(&Flight) -> bool| {
            self.flights.iter().position(|flight| is_its(flight) && is_ended(flight))
        };
        let has_context = |flight: &Flight| is_same(context, &flight.echo);
        match code {
            Some("TIMEOUT") => {
                let is_late = |flight: &Flight| flight.deadline_ms <= self.now.mono_ms();
                // A callee of version 2 has been told first, if it could be. And long contexts do not come back.
                let is_fit = |flight: &Flight| is_late(flight) && flight.callee_id.number().is_none();
                let exactly = position(&|flight| is_fit(flight) && has_context(flight));
                let Some(at) = exactly.or_else(|| position(&is_fit)).or_else(|| position(&is_late)) else {
                    return false;
                };
                self.give_up(self.flights[at].serial, 1, Some("TIMEOUT"));
                self.end(peer, id, code, context)
            }
            Some("CONNECTION_LOST") => {
                let is_end = self.phase == Phase::Ended || matches!(input, Input::Stop | Input::Time);
                let lost = position(&|flight| is_end && has_context(flight)).or_else(|| position(&|_| is_end));
                let Some(at) = lost else { return false };
                let flight = self.flights.swap_remove(at);
                if let Id::Text(callee_id) = flight.callee_id {
                    self.abandoned.insert((flight.callee, callee_id));
                }
                true
            }
            _ => false,
        }
    }

    /// Whether this is the answer that is due to a call that does not go on.
    pub(crate) fn end(&mut self, peer: PeerId, id: &Id, code: Option<&str>, context: &Value) -> bool {
        let is_it = |ending: &Ending| {
            ending.flight.caller == peer
                && ending.flight.id == *id
                && ending.answer_due.is_some_and(|due| Some(due) == code)
        };
        // Of several under one id, the one whose context comes back; and of those the one whose callee has been told, or need not be: it is told first.
        let is_fit =
            |ending: &Ending| (is_same(context, &ending.flight.echo), ending.is_told, ending.cancel_due.is_none());
        let (mut fit, mut at) = (None, 0);
        for (place, ending) in self.endings.iter().enumerate().filter(|(_, ending)| is_it(ending)) {
            if fit < Some(is_fit(ending)) {
                (fit, at) = (Some(is_fit(ending)), place);
            }
        }
        if fit.is_none() {
            return false;
        }
        self.endings[at].answer_due = None;
        self.endings[at].is_told = true;
        true
    }

    fn check_forwarded_answer(
        &self,
        callee: PeerId,
        answer: &Value,
        message: &Value,
        forecast: &Forecast,
    ) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what} of {message}, made from {answer}"));
        if message["from"] == GATEWAY_SERVICE {
            // The gateway had to say that the answer cannot be passed on.
            let is_right = match message["error"]["code"].as_str() {
                Some("PAYLOAD_TOO_LARGE") => forecast.may_be_too_large,
                Some("INVALID_MESSAGE") => answer["status"].is_null() && answer["error"].is_null(),
                _ => false,
            };
            return if is_right { Ok(()) } else { wrong("the error") };
        }
        if self.names.get(&callee).is_none_or(|name| message["from"] != **name) {
            return wrong("the `from`");
        }
        if !is_same(&message["data"], &answer["data"]) || !is_same(&message["error"], &answer["error"]) {
            return wrong("the outcome");
        }
        let status = if answer["error"].is_null() { "success" } else { "error" };
        if message["status"] != status {
            return wrong("the status");
        }
        if !is_same(&message["context"], &answer["context"]) {
            return wrong("the context");
        }
        Ok(())
    }
}

/// Whether a context that peers of version 1 may give each other cannot be a section.
pub(crate) fn is_beyond_v2(context: &Value) -> bool {
    let is_name = |entry: &Value| entry.as_str().is_some_and(|name| name.len() <= 255);
    context["chain"].as_array().is_some_and(|chain| !chain.iter().all(is_name))
}
