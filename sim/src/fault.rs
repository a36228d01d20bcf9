//! Deliberate defects: a checker that catches nothing proves nothing.

use bro_proto::rng::Rng;

/// A way in which the router is made to look broken, once in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None: the router as it is.
    None,
    /// A RESPONSE to a caller is lost.
    DropResponse,
    /// A RESPONSE goes to its caller twice.
    RepeatResponse,
    /// A frame goes to another peer than it should.
    Misdirect,
    /// A CALL reaches its callee in the name of another service.
    WrongStamp,
    /// An answer is taken for that of another connection.
    ForeignAnswer,
    /// A charge is not taken back when the bytes are gone.
    ForgetRelease,
    /// A peer that has gone is not noticed.
    ForgetDisconnect,
    /// Deadlines are not kept.
    ForgetTime,
    /// The payload of a call is changed under way.
    ChangedPayload,
}

impl Fault {
    /// Every defect there is.
    pub const ALL: [Fault; 9] = [
        Fault::DropResponse,
        Fault::RepeatResponse,
        Fault::Misdirect,
        Fault::WrongStamp,
        Fault::ForeignAnswer,
        Fault::ForgetRelease,
        Fault::ForgetDisconnect,
        Fault::ForgetTime,
        Fault::ChangedPayload,
    ];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::None => "none",
            Fault::DropResponse => "drop-response",
            Fault::RepeatResponse => "repeat-response",
            Fault::Misdirect => "misdirect",
            Fault::WrongStamp => "wrong-stamp",
            Fault::ForeignAnswer => "foreign-answer",
            Fault::ForgetRelease => "forget-release",
            Fault::ForgetDisconnect => "forget-disconnect",
            Fault::ForgetTime => "forget-time",
            Fault::ChangedPayload => "changed-payload",
        }
    }

    /// The defect of that name.
    pub fn from_name(name: &str) -> Option<Fault> {
        [Fault::None].into_iter().chain(Fault::ALL).find(|fault| fault.as_str() == name)
    }

    /// Whether this defect shows now: one time in a hundred.
    pub(crate) fn strikes(self, kind: Fault, rng: &mut Rng) -> bool {
        self == kind && rng.below(100) == 0
    }
}
