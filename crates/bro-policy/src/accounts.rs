//! Names of users and groups, as whoever asks the system for them tells them.

/// Turns names into numbers, once, while a policy is read.
pub trait Accounts {
    /// The number of a user; `None` when there is no such user.
    fn uid(&self, user: &str) -> Option<u32>;

    /// The number of a group; `None` when there is no such group.
    fn gid(&self, group: &str) -> Option<u32>;
}

/// A system without names: policies that use any do not load.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoAccounts;

impl Accounts for NoAccounts {
    fn uid(&self, _user: &str) -> Option<u32> {
        None
    }

    fn gid(&self, _group: &str) -> Option<u32> {
        None
    }
}
