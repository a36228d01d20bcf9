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
    /// A CANCEL to a callee of version 2 is lost.
    DropCancel,
    /// Who made a call for one that was given up is not told.
    NoCascade,
    /// An answer of version 2 is taken for that of another connection.
    ForeignNumber,
    /// A CALL of version 2 reaches an instance of another service.
    StaleRoute,
    /// A CALL of version 2 names its caller by another number.
    WrongName,
    /// A NAME is lost.
    DropName,
    /// A call of version 2 gets more time on its way.
    GrownDeadline,
    /// A nested call is not deeper than its parent.
    ForgetDepth,
    /// An answer of version 2 goes to its caller twice.
    RepeatAnswer,
    /// The payload between peers of version 2 is changed under way.
    ChangedBytes,
    /// The error of a callee of version 2 looks like the gateway's own.
    StolenVoice,
    /// A gateway that takes over has lost a call in flight.
    DropInTakeover,
    /// A gateway that takes over does not know which names were told.
    ForgetInTakeover,
}

impl Fault {
    /// Every defect there is.
    pub const ALL: [Fault; 22] = [
        Fault::DropResponse,
        Fault::RepeatResponse,
        Fault::Misdirect,
        Fault::WrongStamp,
        Fault::ForeignAnswer,
        Fault::ForgetRelease,
        Fault::ForgetDisconnect,
        Fault::ForgetTime,
        Fault::ChangedPayload,
        Fault::DropCancel,
        Fault::NoCascade,
        Fault::ForeignNumber,
        Fault::StaleRoute,
        Fault::WrongName,
        Fault::DropName,
        Fault::GrownDeadline,
        Fault::ForgetDepth,
        Fault::RepeatAnswer,
        Fault::ChangedBytes,
        Fault::StolenVoice,
        Fault::DropInTakeover,
        Fault::ForgetInTakeover,
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
            Fault::DropCancel => "drop-cancel",
            Fault::NoCascade => "no-cascade",
            Fault::ForeignNumber => "foreign-number",
            Fault::StaleRoute => "stale-route",
            Fault::WrongName => "wrong-name",
            Fault::DropName => "drop-name",
            Fault::GrownDeadline => "grown-deadline",
            Fault::ForgetDepth => "forget-depth",
            Fault::RepeatAnswer => "repeat-answer",
            Fault::ChangedBytes => "changed-bytes",
            Fault::StolenVoice => "stolen-voice",
            Fault::DropInTakeover => "drop-in-takeover",
            Fault::ForgetInTakeover => "forget-in-takeover",
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
