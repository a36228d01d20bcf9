//! Deliberate defects of the whole system.

use bro_proto::rng::Rng;

/// A way in which router, sessions or lanes are made to look broken, once in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemFault {
    /// None: everything as it is.
    None,
    /// An answer is lost on its way to the caller.
    LoseAnswer,
    /// An answer carries another value than the callee gave.
    ChangeAnswer,
    /// A call reaches its callee, and once more under another number.
    RepeatCall,
    /// A call reaches another client than the router meant.
    Misdirect,
    /// What is told to a callee, that its caller has given up, is lost.
    LoseCancel,
    /// That a service is there is not told to who waits for it.
    LoseWait,
    /// A gateway that takes over has lost a call in flight.
    DropInTakeover,
    /// It has lost a connection.
    CloseInTakeover,
    /// The router is not told of a connection that was lost.
    ForgetDisconnect,
    /// The router is not told that bytes were written.
    ForgetWritten,
    /// A session is not told that time has passed.
    ForgetTime,
    /// The router is not told.
    ForgetRouterTime,
    /// A frame on a lane is lost.
    LoseOnLane,
    /// A frame on a lane arrives twice.
    RepeatOnLane,
    /// A lane is torn and its ends are not told.
    DeafLane,
    /// A session says that a call was not passed on that was.
    FalseRefusal,
    /// A byte towards a session is another one.
    ChangeByte,
}

impl SystemFault {
    /// Every defect there is.
    pub const ALL: [SystemFault; 17] = [
        SystemFault::LoseAnswer,
        SystemFault::ChangeAnswer,
        SystemFault::RepeatCall,
        SystemFault::Misdirect,
        SystemFault::LoseCancel,
        SystemFault::LoseWait,
        SystemFault::DropInTakeover,
        SystemFault::CloseInTakeover,
        SystemFault::ForgetDisconnect,
        SystemFault::ForgetWritten,
        SystemFault::ForgetTime,
        SystemFault::ForgetRouterTime,
        SystemFault::LoseOnLane,
        SystemFault::RepeatOnLane,
        SystemFault::DeafLane,
        SystemFault::FalseRefusal,
        SystemFault::ChangeByte,
    ];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            SystemFault::None => "none",
            SystemFault::LoseAnswer => "lose-answer",
            SystemFault::ChangeAnswer => "change-answer",
            SystemFault::RepeatCall => "repeat-call",
            SystemFault::Misdirect => "misdirect",
            SystemFault::LoseCancel => "lose-cancel",
            SystemFault::LoseWait => "lose-wait",
            SystemFault::DropInTakeover => "drop-in-takeover",
            SystemFault::CloseInTakeover => "close-in-takeover",
            SystemFault::ForgetDisconnect => "forget-disconnect",
            SystemFault::ForgetWritten => "forget-written",
            SystemFault::ForgetTime => "forget-time",
            SystemFault::ForgetRouterTime => "forget-router-time",
            SystemFault::LoseOnLane => "lose-on-lane",
            SystemFault::RepeatOnLane => "repeat-on-lane",
            SystemFault::DeafLane => "deaf-lane",
            SystemFault::FalseRefusal => "false-refusal",
            SystemFault::ChangeByte => "change-byte",
        }
    }

    /// The defect of that name.
    pub fn from_name(name: &str) -> Option<SystemFault> {
        [SystemFault::None].into_iter().chain(SystemFault::ALL).find(|fault| fault.as_str() == name)
    }

    /// Whether this defect shows now: one time in ten; of those for which there is rarely an occasion, every time.
    pub(super) fn strikes(self, kind: SystemFault, rng: &mut Rng) -> bool {
        let is_rare = matches!(kind, SystemFault::LoseCancel | SystemFault::DeafLane | SystemFault::RepeatOnLane);
        self == kind && (is_rare || rng.below(10) == 0)
    }
}
