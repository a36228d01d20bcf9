//! What each user has taken of what all share.
//!
//! Everything that peers can make the gateway keep is charged to the account of a user, and to the total. A user may take a
//! share of what the others leave: whatever it does, another one finds something left. See `docs/decisions/0006-accounts.md`.

use crate::config::RouterConfig;
use crate::peers::NIL;
use bro_proto::limits::{
    ACCOUNTS_MAX, LANES_MAX, MEMORY_RESERVE_PARTS, PARKED_MAX, REGISTRY_BYTES_MAX, ROUTES_BYTES_MAX, SECTIONS_BYTES_MAX,
};
use hashbrown::HashTable;

/// What there is a bounded amount of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Bytes of everything that is kept for peers, whatever else it is charged as.
    Memory,
    /// Connections.
    Peers,
    /// Calls in flight, by their callers.
    Calls,
    /// Bytes of what services say of themselves.
    Registry,
    /// Bytes of routes.
    Routes,
    /// Bytes of the contexts of calls in flight.
    Sections,
    /// Parked introspection calls.
    Parked,
    /// Lanes.
    Lanes,
    /// Bytes of the shared memory of lanes. They are not the gateway's, and not in [`Resource::Memory`].
    LaneBytes,
}

impl Resource {
    pub(crate) const ALL: [Resource; 9] = [
        Resource::Memory,
        Resource::Peers,
        Resource::Calls,
        Resource::Registry,
        Resource::Routes,
        Resource::Sections,
        Resource::Parked,
        Resource::Lanes,
        Resource::LaneBytes,
    ];

    /// As it stands in the text of an error, behind a number.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Resource::Memory => "bytes of the gateway's memory",
            Resource::Peers => "connections",
            Resource::Calls => "calls in flight",
            Resource::Registry => "bytes of registrations",
            Resource::Routes => "bytes of routes",
            Resource::Sections => "bytes of contexts",
            Resource::Parked => "waiting calls of `bro.gateway`",
            Resource::Lanes => "lanes",
            Resource::LaneBytes => "bytes of the memory of lanes",
        }
    }
}

/// Amounts by [`Resource`].
type Amounts = [usize; Resource::ALL.len()];

/// One user. Invariant: one with nothing charged and a full bucket says nothing, and may be forgotten.
#[derive(Debug)]
struct Account {
    used: Amounts,
    uid: Option<u32>,
    /// Thousandths of the connections that may still be opened at once, at `refilled_ms`.
    millitokens: u64,
    refilled_ms: u64,
}

/// All users who have something, or had lately.
#[derive(Debug)]
pub(crate) struct Accounts {
    total: Amounts,
    /// Totals below these leave room for everybody: nothing has to be looked at.
    easy: Amounts,
    /// What new work may fill.
    max: Amounts,
    slots: Vec<Account>,
    by_uid: HashTable<u32>,
    /// What is never exceeded.
    pub(crate) memory_max: usize,
    /// A total of memory below this leaves room for everybody's answers.
    pub(crate) easy_answers: usize,
    answers_percent: usize,
    share_percent: usize,
    /// In thousandths of a connection: at once, and for each millisecond.
    burst_millitokens: u64,
    rate_per_s: u64,
}

/// Why something is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) resource: Resource,
    /// What the user has.
    own: usize,
    /// What it may have at present.
    limit: usize,
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shortage { resource, own, limit } = self;
        write!(f, "this user has {own} {}, and at most {limit} are for it at present", resource.unit())
    }
}

/// What one user has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserView {
    /// User id by peer credentials, where known.
    pub uid: Option<u32>,
    /// Bytes of the gateway's memory.
    pub memory_bytes: usize,
    /// Open connections.
    pub connections: usize,
    /// Calls in flight that it made.
    pub in_flight: usize,
    /// Bytes of what its services say of themselves.
    pub registry_bytes: usize,
    /// Lanes between its peers.
    pub lanes: usize,
    /// Bytes of shared memory that these lanes take when they are used to the full. They are not in `memory_bytes`: they are not the gateway's.
    pub lane_bytes: usize,
}

impl Accounts {
    pub(crate) fn new(config: &RouterConfig) -> Self {
        let memory = config.memory_max - config.memory_max / MEMORY_RESERVE_PARTS;
        let max = Resource::ALL.map(|resource| match resource {
            Resource::Memory => memory,
            Resource::Peers => config.peers_max,
            Resource::Calls => config.in_flight_max,
            Resource::Registry => REGISTRY_BYTES_MAX,
            Resource::Routes => ROUTES_BYTES_MAX,
            Resource::Sections => SECTIONS_BYTES_MAX,
            Resource::Parked => PARKED_MAX,
            Resource::Lanes => LANES_MAX,
            Resource::LaneBytes => config.lanes_bytes_max,
        });
        let share_percent = usize::from(config.uid_share_percent);
        // Half way between new work and all: there is room for the answers to what was taken on, and some is left for others.
        let answers_percent = share_percent.midpoint(100);
        Self {
            total: [0; Resource::ALL.len()],
            easy: max.map(|max| share_of(max, share_percent)),
            max,
            slots: Vec::new(),
            by_uid: HashTable::new(),
            memory_max: config.memory_max,
            easy_answers: share_of(memory, answers_percent),
            answers_percent,
            share_percent,
            burst_millitokens: u64::from(config.connect_burst) * 1000,
            rate_per_s: config.connect_rate_per_s.into(),
        }
    }

    /// The account of a user; `None` when there are too many users.
    pub(crate) fn open(&mut self, uid: Option<u32>, now_ms: u64) -> Option<u32> {
        let slots = &self.slots;
        let known = self.by_uid.find(hash(uid), |&index| slots[index as usize].uid == uid);
        if let Some(&index) = known {
            return Some(index);
        }
        let fresh =
            Account { used: [0; Resource::ALL.len()], uid, millitokens: self.burst_millitokens, refilled_ms: now_ms };
        let index = match self.forgettable(now_ms) {
            Some(index) => {
                let before = std::mem::replace(&mut self.slots[index as usize], fresh);
                let entry = self.by_uid.find_entry(hash(before.uid), |&other| other == index);
                entry.expect("every account is in the table").remove();
                index
            }
            None if self.slots.len() >= ACCOUNTS_MAX => return None,
            None => {
                self.slots.push(fresh);
                u32::try_from(self.slots.len() - 1).expect("ACCOUNTS_MAX is far below 2^32")
            }
        };
        let slots = &self.slots;
        self.by_uid.insert_unique(hash(uid), index, |&other| hash(slots[other as usize].uid));
        Some(index)
    }

    /// Takes one connection from what a user may open now. False when there is none.
    pub(crate) fn take_token(&mut self, index: u32, now_ms: u64) -> bool {
        let account = &mut self.slots[index as usize];
        account.refill(self.burst_millitokens, self.rate_per_s, now_ms);
        let left = account.millitokens.checked_sub(1000);
        account.millitokens = left.unwrap_or(account.millitokens);
        left.is_some()
    }

    #[inline]
    pub(crate) fn charge(&mut self, index: u32, resource: Resource, amount: usize) {
        self.slots[index as usize].used[resource as usize] += amount;
        self.total[resource as usize] += amount;
    }

    #[inline]
    pub(crate) fn release(&mut self, index: u32, resource: Resource, amount: usize) {
        let used = &mut self.slots[index as usize].used[resource as usize];
        debug_assert!(amount <= *used, "more is released than was charged");
        *used -= amount;
        self.total[resource as usize] -= amount;
    }

    /// Replaces a charge.
    pub(crate) fn recharge(&mut self, index: u32, resource: Resource, before: usize, after: usize) {
        self.release(index, resource, before);
        self.charge(index, resource, after);
    }

    /// Whether so much is left of something that nobody can have too much of it.
    #[inline]
    pub(crate) fn is_easy(&self, resource: Resource) -> bool {
        self.total[resource as usize] < self.easy[resource as usize]
    }

    /// Whether a user may take so much more.
    pub(crate) fn check(&self, index: u32, resource: Resource, amount: usize) -> Result<(), Shortage> {
        let at = resource as usize;
        if self.total[at].saturating_add(amount) <= self.easy[at] {
            return Ok(());
        }
        let own = self.slots[index as usize].used[at];
        let limit = share_of(self.max[at].saturating_sub(self.total[at] - own), self.share_percent);
        if own.saturating_add(amount) <= limit { Ok(()) } else { Err(Shortage { resource, own, limit }) }
    }

    /// Bytes of memory that a user has beyond what answers to it may take, too.
    pub(crate) fn memory_excess(&self, index: u32) -> usize {
        let at = Resource::Memory as usize;
        let own = self.slots[index as usize].used[at];
        own.saturating_sub(share_of(self.max[at].saturating_sub(self.total[at] - own), self.answers_percent))
    }

    /// Of all users.
    #[inline]
    pub(crate) fn total(&self, resource: Resource) -> usize {
        self.total[resource as usize]
    }

    pub(crate) fn used(&self, index: u32, resource: Resource) -> usize {
        self.slots[index as usize].used[resource as usize]
    }

    /// The user who has most memory; `NIL` when nobody has any.
    pub(crate) fn largest(&self) -> u32 {
        let by_memory = |(_, account): &(u32, &Account)| account.used[Resource::Memory as usize];
        let largest = (0_u32..).zip(&self.slots).max_by_key(by_memory);
        largest.filter(|largest| by_memory(largest) > 0).map_or(NIL, |(index, _)| index)
    }

    /// Users who have something, those with most memory first.
    pub(crate) fn views(&self) -> Vec<UserView> {
        let used = |account: &Account, resource: Resource| account.used[resource as usize];
        let views = self.slots.iter().filter(|account| account.is_in_use()).map(|account| UserView {
            uid: account.uid,
            memory_bytes: used(account, Resource::Memory),
            connections: used(account, Resource::Peers),
            in_flight: used(account, Resource::Calls),
            registry_bytes: used(account, Resource::Registry),
            lanes: used(account, Resource::Lanes),
            lane_bytes: used(account, Resource::LaneBytes),
        });
        let mut views: Vec<UserView> = views.collect();
        views.sort_by_key(|view| (std::cmp::Reverse(view.memory_bytes), view.uid));
        views
    }

    /// Panics unless the totals are the sums, within their bounds.
    pub(crate) fn check_sums(&self) {
        for resource in Resource::ALL {
            let at = resource as usize;
            let sum: usize = self.slots.iter().map(|account| account.used[at]).sum();
            assert_eq!(sum, self.total[at], "the sum of the accounts is the total of {resource:?}");
            let max = if resource == Resource::Memory { self.memory_max } else { self.max[at] };
            assert!(sum <= max, "{sum} of {max} {}", resource.unit());
        }
        assert_eq!(self.by_uid.len(), self.slots.len());
        assert!(self.slots.len() <= ACCOUNTS_MAX);
    }

    /// An account that says nothing.
    fn forgettable(&mut self, now_ms: u64) -> Option<u32> {
        let (burst, rate_per_s) = (self.burst_millitokens, self.rate_per_s);
        let is_empty = |account: &mut Account| {
            account.refill(burst, rate_per_s, now_ms);
            !account.is_in_use() && account.millitokens == burst
        };
        self.slots.iter_mut().position(is_empty).map(|index| u32::try_from(index).expect("few accounts"))
    }
}

impl Account {
    fn is_in_use(&self) -> bool {
        self.used != [0; Resource::ALL.len()]
    }

    fn refill(&mut self, burst_millitokens: u64, rate_per_s: u64, now_ms: u64) {
        let earned = now_ms.saturating_sub(self.refilled_ms).saturating_mul(rate_per_s);
        self.millitokens = self.millitokens.saturating_add(earned).min(burst_millitokens);
        self.refilled_ms = self.refilled_ms.max(now_ms);
    }
}

/// Rounded up, so that a share of little is not nothing.
fn share_of(amount: usize, percent: usize) -> usize {
    amount / 100 * percent + (amount % 100 * percent).div_ceil(100)
}

/// Users are given by the system: nobody can choose them so that they collide.
fn hash(uid: Option<u32>) -> u64 {
    uid.map_or(u64::MAX, u64::from).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(config: RouterConfig) -> Accounts {
        Accounts::new(&config)
    }

    /// A user that is there.
    fn user(accounts: &mut Accounts, uid: u32) -> u32 {
        let index = accounts.open(Some(uid), 0).expect("there is room");
        accounts.charge(index, Resource::Peers, 1);
        index
    }

    #[test]
    fn one_user_leaves_something_for_another_and_that_one_for_a_third() {
        let config = RouterConfig { in_flight_max: 1000, ..RouterConfig::default() };
        let mut accounts = accounts(config);
        let users: Vec<u32> = (0..4).map(|uid| user(&mut accounts, uid)).collect();
        let taken = users.iter().map(|&user| {
            let mut taken = 0;
            while accounts.check(user, Resource::Calls, 1).is_ok() {
                accounts.charge(user, Resource::Calls, 1);
                taken += 1;
            }
            taken
        });
        assert_eq!(taken.collect::<Vec<_>>(), [750, 188, 47, 12]);
        let shortage = accounts.check(users[0], Resource::Calls, 1).unwrap_err();
        assert_eq!(shortage.resource, Resource::Calls);
        accounts.release(users[0], Resource::Calls, 700);
        assert!(accounts.check(users[3], Resource::Calls, 500).is_ok(), "what one gives back is there for all");
        accounts.check_sums();
    }

    #[test]
    fn what_easily_fits_fits_everybody() {
        for own in 0..=100 {
            for others in 0..=100 - own {
                let config = RouterConfig { in_flight_max: 100, ..RouterConfig::default() };
                let mut accounts = accounts(config);
                let [one, other] = [1, 2].map(|uid| user(&mut accounts, uid));
                accounts.charge(one, Resource::Calls, own);
                accounts.charge(other, Resource::Calls, others);
                let limit = share_of(100 - others, 75);
                let is_ok = accounts.check(one, Resource::Calls, 1).is_ok();
                assert_eq!(is_ok, own < limit, "{own} beside {others}");
                assert!(is_ok || !accounts.is_easy(Resource::Calls));
            }
        }
    }

    #[test]
    fn connections_come_in_bursts_and_then_at_a_rate() {
        let config = RouterConfig { connect_burst: 5, connect_rate_per_s: 3, ..RouterConfig::default() };
        let mut accounts = accounts(config);
        let user = accounts.open(Some(7), 1000).unwrap();
        let mut opened = |now_ms| {
            let mut count = 0;
            while accounts.take_token(user, now_ms) {
                count += 1;
            }
            count
        };
        assert_eq!(opened(1000), 5);
        assert_eq!(opened(1333), 0);
        assert_eq!(opened(1334), 1);
        assert_eq!((1335..=61_334).map(&mut opened).sum::<u32>(), 180, "no part of a token is lost");
        assert_eq!(opened(u64::MAX), 5);
    }

    #[test]
    fn an_account_is_forgotten_when_it_says_nothing() {
        let config = RouterConfig { connect_burst: 2, connect_rate_per_s: 1, ..RouterConfig::default() };
        let mut accounts = accounts(config);
        let first = accounts.open(Some(1), 0).unwrap();
        assert!(accounts.take_token(first, 0));
        accounts.charge(first, Resource::Memory, 10);
        assert_ne!(accounts.open(Some(2), 5000), Some(first), "it has something");
        accounts.release(first, Resource::Memory, 10);
        assert_eq!(accounts.open(Some(1), 5000), Some(first), "it is still the same");
        let reused = accounts.open(None, 5000).unwrap();
        assert_eq!(accounts.open(None, 5000), Some(reused));
        assert_eq!(accounts.slots.len(), 2);
        accounts.check_sums();
    }
}
