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
    /// Who has a lane is not told that somebody watches from now on.
    ForgetRevoke,
    /// A lane is offered to processes of two users.
    StrangerLane,
    /// Both ends are told that they have the first side.
    OneSidedLane,
    /// A lane gets a number that another had.
    UsedLane,
    /// Lanes are offered to those who hardly call each other, and where there must not be any.
    EagerLane,
    /// A lane that has to be offered is not.
    DropOffer,
    /// An end is not told that both have opened the lane.
    DropLaneReady,
    /// It is told so twice.
    RepeatLaneReady,
    /// An end is not told that the lane is gone.
    DropLaneClose,
    /// That an end has lost its lane is not noticed.
    DeafToLaneClose,
    /// What was done on a lane is counted wrongly.
    ChangedStats,
    /// A gateway that takes over has lost a call in flight.
    DropInTakeover,
    /// A gateway that takes over does not know which names were told.
    ForgetInTakeover,
    /// A new policy does not count.
    ForgetPolicy,
    /// A gateway that takes over knows no policy.
    ForgetPolicyInTakeover,
    /// The groups of peers are not known.
    ForgetGroups,
    /// What is refused for another reason is said to be denied.
    FalseDenial,
    /// Of calls that end together, those that have to wait are forgotten.
    ForgetEnds,
    /// All calls that end together end at once, however many they are.
    EndAtOnce,
}

impl Fault {
    /// Every defect there is.
    pub const ALL: [Fault; 39] = [
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
        Fault::ForgetRevoke,
        Fault::StrangerLane,
        Fault::OneSidedLane,
        Fault::UsedLane,
        Fault::EagerLane,
        Fault::DropOffer,
        Fault::DropLaneReady,
        Fault::RepeatLaneReady,
        Fault::DropLaneClose,
        Fault::DeafToLaneClose,
        Fault::ChangedStats,
        Fault::DropInTakeover,
        Fault::ForgetInTakeover,
        Fault::ForgetPolicy,
        Fault::ForgetPolicyInTakeover,
        Fault::ForgetGroups,
        Fault::FalseDenial,
        Fault::ForgetEnds,
        Fault::EndAtOnce,
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
            Fault::ForgetRevoke => "forget-revoke",
            Fault::StrangerLane => "stranger-lane",
            Fault::OneSidedLane => "one-sided-lane",
            Fault::UsedLane => "used-lane",
            Fault::EagerLane => "eager-lane",
            Fault::DropOffer => "drop-offer",
            Fault::DropLaneReady => "drop-lane-ready",
            Fault::RepeatLaneReady => "repeat-lane-ready",
            Fault::DropLaneClose => "drop-lane-close",
            Fault::DeafToLaneClose => "deaf-to-lane-close",
            Fault::ChangedStats => "changed-stats",
            Fault::DropInTakeover => "drop-in-takeover",
            Fault::ForgetInTakeover => "forget-in-takeover",
            Fault::ForgetPolicy => "forget-policy",
            Fault::ForgetPolicyInTakeover => "forget-policy-in-takeover",
            Fault::ForgetGroups => "forget-groups",
            Fault::FalseDenial => "false-denial",
            Fault::ForgetEnds => "forget-ends",
            Fault::EndAtOnce => "end-at-once",
        }
    }

    /// The defect of that name.
    pub fn from_name(name: &str) -> Option<Fault> {
        [Fault::None].into_iter().chain(Fault::ALL).find(|fault| fault.as_str() == name)
    }

    /// Whether this defect shows now: one time in a hundred; of those for which there is rarely an occasion, in three.
    pub(crate) fn strikes(self, kind: Fault, rng: &mut Rng) -> bool {
        self == kind && rng.below(if kind.is_rare() { 3 } else { 100 }) == 0
    }

    fn is_rare(self) -> bool {
        use Fault::{
            ChangedStats, DeafToLaneClose, DropLaneClose, DropLaneReady, DropOffer, ForgetPolicy, ForgetRevoke,
            NoCascade, OneSidedLane, RepeatLaneReady, StrangerLane, UsedLane,
        };
        let is_of_lanes =
            matches!(self, ForgetRevoke | StrangerLane | OneSidedLane | UsedLane | DropOffer | DropLaneReady)
                || matches!(self, RepeatLaneReady | DropLaneClose | DeafToLaneClose | ChangedStats);
        is_of_lanes || matches!(self, NoCascade | ForgetPolicy)
    }
}
