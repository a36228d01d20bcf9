//! Every call that any program made: who carried it out, and what its caller was told.

use bro_proto::error::{ErrorBody, ErrorCode};
use bro_session::Origin;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a callee answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Success,
    Failure,
}

/// What a caller knows of its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Pending,
    Ended,
    /// The caller gave it up, or its deadline passed.
    GivenUp,
    /// The caller is no more.
    Orphaned,
    /// Nobody waits for an answer.
    Notified,
}

/// One call.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) fate: Fate,
    /// It was handed to its callee.
    is_carried_out: bool,
    answer: Option<Answer>,
    /// Its caller was told that it was not carried out.
    is_denied: bool,
}

/// All calls by their serial numbers, as far as something may still come of them.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    records: BTreeMap<u64, Record>,
    last: u64,
}

/// So many of the last calls are remembered.
const KEPT: u64 = 20_000;

impl Ledger {
    /// A call is about to be made; what it has to carry.
    pub(super) fn open(&mut self, from: usize, to: usize) -> u64 {
        self.last += 1;
        let fate = Fate::Pending;
        self.records
            .insert(self.last, Record { from, to, fate, is_carried_out: false, answer: None, is_denied: false });
        if let Some(old) = self.last.checked_sub(KEPT) {
            self.records.retain(|serial, record| *serial > old || record.fate == Fate::Pending);
        }
        self.last
    }

    /// The call was not accepted: nothing may come of it.
    pub(super) fn refuse(&mut self, serial: u64) {
        let record = self.records.get_mut(&serial).expect("it was opened");
        (record.fate, record.is_denied) = (Fate::Ended, true);
    }

    pub(super) fn set_fate(&mut self, serial: u64, fate: Fate) {
        self.records.get_mut(&serial).expect("it was opened").fate = fate;
    }

    pub(super) fn get(&self, serial: u64) -> Option<&Record> {
        self.records.get(&serial)
    }

    /// A callee is handed a request.
    pub(super) fn carry_out(&mut self, serial: u64, from: &str, to: usize) -> Result<(), String> {
        let record = self.records.get_mut(&serial).ok_or_else(|| format!("nobody made call {serial}"))?;
        if record.to != to || name_of(record.from) != from {
            return Err(format!("call {serial}, {record:?}, reached {} as one of {from}", name_of(to)));
        }
        if record.is_carried_out {
            return Err(format!("call {serial} was handed out twice: {record:?}"));
        }
        if record.is_denied {
            return Err(format!(
                "call {serial} was handed out although its caller was told that it was not: {record:?}"
            ));
        }
        record.is_carried_out = true;
        Ok(())
    }

    /// A callee has answered.
    pub(super) fn answer(&mut self, serial: u64, answer: Answer) {
        if let Some(record) = self.records.get_mut(&serial) {
            record.answer = Some(answer);
        }
    }

    /// A caller is told how its call ended.
    pub(super) fn end(
        &mut self,
        serial: u64,
        outcome: Result<&Value, &ErrorBody>,
        origin: Origin,
    ) -> Result<(), String> {
        let record = self.records.get_mut(&serial).ok_or_else(|| format!("nobody made call {serial}"))?;
        if record.fate != Fate::Pending {
            return Err(format!("call {serial} ended twice: {record:?}"));
        }
        record.fate = Fate::Ended;
        let error = match outcome {
            Ok(value) if *value == success(serial) && record.answer == Some(Answer::Success) => return Ok(()),
            Ok(value) => return Err(format!("call {serial}, {record:?}, ended with {value}")),
            Err(error) => error,
        };
        let Some(code) = &error.code else { return Err(format!("call {serial} ended without a code: {error:?}")) };
        match (code, origin) {
            (ErrorCode::Custom(_), _) => {
                if error.message != failure(serial) || record.answer != Some(Answer::Failure) {
                    return Err(format!("call {serial}, {record:?}, ended with {error:?}"));
                }
            }
            (ErrorCode::Timeout | ErrorCode::DeadlineExceeded | ErrorCode::Cancelled, _) => {
                record.fate = Fate::GivenUp;
            }
            (ErrorCode::NotConnected, Origin::Local)
            | (
                ErrorCode::ServiceNotFound
                | ErrorCode::ShuttingDown
                | ErrorCode::Overloaded
                | ErrorCode::ResourceExhausted,
                Origin::Gateway,
            ) => {
                if record.is_carried_out {
                    return Err(format!("call {serial} was carried out, and its caller was told {error:?}"));
                }
                record.is_denied = true;
            }
            (ErrorCode::ConnectionLost | ErrorCode::Overloaded | ErrorCode::ShuttingDown, _)
            | (ErrorCode::ServiceNotFound | ErrorCode::ResourceExhausted, Origin::Local) => {}
            _ => return Err(format!("call {serial}, {record:?}, ended with {error:?} of {origin:?}")),
        }
        Ok(())
    }
}

/// The name of a client.
pub(super) fn name_of(client: usize) -> String {
    format!("s{client}")
}

/// What a call carries.
pub(super) fn params(serial: u64, pad: usize) -> Vec<u8> {
    json!({"serial": serial, "pad": "x".repeat(pad)}).to_string().into_bytes()
}

/// What a successful answer is.
pub(super) fn success(serial: u64) -> Value {
    json!({"answer": serial})
}

/// What the error of a callee says.
pub(super) fn failure(serial: u64) -> String {
    format!("no {serial}")
}
