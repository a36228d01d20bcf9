//! What is done, how often, and in which order.

use crate::intruder::Act;
use bro_proto::rng::Rng;
use std::collections::BTreeMap;

/// One kind of chaos.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chaos {
    KillCallee,
    KillCaller,
    KillGateway,
    /// Stopped with SIGSTOP, for a moment or until the gateway has given it up, and continued.
    FreezeCallee,
    FreezeCaller,
    FreezeGateway,
    Intrude(Act),
}

/// Every kind, how it is called in the summary, and how often it comes in one deck.
pub(crate) const KINDS: &[(Chaos, &str, usize)] = &[
    (Chaos::KillCallee, "callees killed", 6),
    (Chaos::KillCaller, "callers killed", 4),
    (Chaos::KillGateway, "gateways killed", 2),
    (Chaos::FreezeCallee, "callees stopped and continued", 4),
    (Chaos::FreezeCaller, "callers stopped and continued", 3),
    (Chaos::FreezeGateway, "gateways stopped and continued", 1),
    (Chaos::Intrude(Act::FloodCalls), "floods of calls", 2),
    (Chaos::Intrude(Act::FloodConnects), "floods of connections", 2),
    (Chaos::Intrude(Act::FloodRegistrations), "floods of registrations", 2),
    (Chaos::Intrude(Act::ReadSlowly), "slow readers", 2),
    (Chaos::Intrude(Act::SendGarbage), "senders of garbage", 2),
    (Chaos::Intrude(Act::SendHalfFrames), "senders of half frames", 2),
];

/// Draws every kind as often as [`KINDS`] says before any comes more often: a short run has all of them.
#[derive(Debug, Default)]
pub(crate) struct Deck {
    cards: Vec<Chaos>,
}

impl Deck {
    pub(crate) fn draw(&mut self, rng: &mut Rng) -> Chaos {
        if self.cards.is_empty() {
            self.cards = KINDS.iter().flat_map(|(kind, _, count)| std::iter::repeat_n(*kind, *count)).collect();
        }
        let at = usize::try_from(rng.below(self.cards.len() as u64)).expect("a small number");
        self.cards.swap_remove(at)
    }
}

/// How often each kind was done.
#[derive(Debug, Default)]
pub(crate) struct Done(BTreeMap<&'static str, u64>);

impl Done {
    pub(crate) fn note(&mut self, chaos: Chaos) {
        *self.0.entry(name_of(chaos)).or_default() += 1;
    }

    /// In the order of [`KINDS`].
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        KINDS.iter().map(|(_, name, _)| (*name, self.0.get(name).copied().unwrap_or(0)))
    }
}

/// How it is called in the summary.
pub(crate) fn name_of(chaos: Chaos) -> &'static str {
    KINDS.iter().find(|(kind, ..)| *kind == chaos).expect("every kind is in the table").1
}
