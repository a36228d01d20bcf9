//! Which calls are made, and how each of them may end.

use crate::report::Report;
use bro_proto::rng::Rng;
use serde_json::{Value, json};
use std::time::Duration;

/// The code with which the method `refuse` fails.
pub(crate) const REFUSAL: &str = "SOAK_REFUSED";
/// How long an ordinary call waits. Far beyond what any needs: when one times out, its answer was lost.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long a call that is meant to time out waits.
const SHORT_TIMEOUT: Duration = Duration::from_millis(10);
/// How long a callee sleeps over a call that is meant to time out, in milliseconds.
const LONG_SLEEP_MS: u64 = 60;
/// Codes with which any call may fail while processes are being killed, stopped and flooded.
const CHAOS_CODES: [&str; 5] =
    ["CONNECTION_LOST", "SERVICE_NOT_FOUND", "NOT_CONNECTED", "CONNECTION_FAILED", "OVERLOADED"];

/// The name of a callee.
pub(crate) fn callee_name(index: u64) -> String {
    format!("callee-{index}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Echo,
    Large,
    Slow,
    Nested,
    Refuse,
    Short,
}

/// One call.
#[derive(Debug)]
pub(crate) struct Plan {
    kind: Kind,
    /// The callee.
    pub(crate) to: String,
    /// Its method.
    pub(crate) method: &'static str,
    /// Comes back unchanged when the call succeeds.
    pub(crate) params: Value,
    /// How long to wait.
    pub(crate) timeout: Duration,
}

impl Plan {
    /// The next call to one of so many callees.
    pub(crate) fn draw(rng: &mut Rng, callees: u32) -> Plan {
        let kind = match rng.below(100) {
            0..50 => Kind::Echo,
            50..52 => Kind::Large,
            52..67 => Kind::Slow,
            67..87 => Kind::Nested,
            87..95 => Kind::Refuse,
            _ => Kind::Short,
        };
        let method = match kind {
            Kind::Echo | Kind::Large => "echo",
            Kind::Slow | Kind::Short => "sleep",
            Kind::Nested => "nested",
            Kind::Refuse => "refuse",
        };
        let pad_len = if kind == Kind::Large { 100_000 + rng.below(400_000) } else { rng.below(2000) };
        let sleep_ms = if kind == Kind::Short { LONG_SLEEP_MS } else { rng.below(40) };
        let to = rng.below(callees.into());
        let next = (to + 1 + rng.below(u64::from(callees) - 1)) % u64::from(callees);
        let params = json!({
            "nonce": rng.below(1 << 31), "ms": sleep_ms, "next": callee_name(next),
            "pad": "x".repeat(usize::try_from(pad_len).expect("a small number"))
        });
        let timeout = if kind == Kind::Short { SHORT_TIMEOUT } else { TIMEOUT };
        Plan { kind, to: callee_name(to), method, params, timeout }
    }

    /// A call that is answered at once, with so many bytes in it at least.
    pub(crate) fn echo(rng: &mut Rng, callees: u32, pad_len: u64) -> Plan {
        let to = rng.below(callees.into());
        let pad = "x".repeat(usize::try_from(pad_len + rng.below(200)).expect("a small number"));
        let params = json!({ "nonce": rng.below(1 << 31), "pad": pad });
        Plan { kind: Kind::Echo, to: callee_name(to), method: "echo", params, timeout: TIMEOUT }
    }

    /// Enters in the report how the call ended: with this answer, or with this code.
    pub(crate) fn judge(&self, report: &mut Report, outcome: Result<&Value, &str>) {
        match outcome {
            Ok(answer) => {
                report.ok += 1;
                if *answer != self.params || self.kind == Kind::Refuse {
                    report.wrong_answers += 1;
                    *report.unfit.entry(format!("an answer of another call to a {:?} call", self.kind)).or_default() +=
                        1;
                }
            }
            Err(code) => {
                *report.failed.entry(code.to_owned()).or_default() += 1;
                let fits = match code {
                    REFUSAL => self.kind == Kind::Refuse,
                    "TIMEOUT" | "DEADLINE_EXCEEDED" => self.kind == Kind::Short,
                    code => CHAOS_CODES.contains(&code),
                };
                if !fits {
                    *report.unfit.entry(format!("{code} for a {:?} call", self.kind)).or_default() += 1;
                }
            }
        }
    }

    /// Whether how long it took says something: nothing in it waits for long.
    pub(crate) fn is_quick(&self) -> bool {
        self.kind != Kind::Short
    }
}
