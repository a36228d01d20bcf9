//! What a peer may do.

use crate::pattern::Patterns;

/// Who may do what at one gateway. Made once and not changed: another policy takes its place as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub(crate) trust: Trust,
    pub(crate) rules: Vec<Rule>,
}

/// Who may do everything, whatever the rules say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trust {
    #[default]
    Nobody,
    /// This user, and root.
    User(u32),
    Everybody,
}

/// What some users and groups may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) is_for_everybody: bool,
    /// Sorted.
    pub(crate) uids: Box<[u32]>,
    /// Sorted.
    pub(crate) gids: Box<[u32]>,
    pub(crate) own: Patterns,
    /// Services whose methods may all be called.
    pub(crate) call: Patterns,
    /// Services, and which of their methods may be called.
    pub(crate) call_methods: Box<[(Patterns, Patterns)]>,
    pub(crate) may_watch: bool,
    pub(crate) may_administer: bool,
}

/// A peer, as the kernel knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject<'a> {
    /// Its user, where known.
    pub uid: Option<u32>,
    /// Its group, where known.
    pub gid: Option<u32>,
    /// Its supplementary groups, as far as they are known. They only ever add rights.
    pub groups: &'a [u32],
}

/// What a policy says of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may do everything.
    Everything,
    /// It may do what these say.
    Some(Rights),
    /// No rule speaks of it.
    Nothing,
}

/// What one peer may do under one policy, to be asked of that policy only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// The rules that speak of it.
    rules: Box<[u16]>,
    /// It may watch calls and services come and go, and knows of every name.
    pub may_watch: bool,
    /// It may use what changes the gateway itself.
    pub may_administer: bool,
}

/// Which methods of a service a peer may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// None.
    None,
    /// Some: each call has to be looked at, by [`Policy::may_call`].
    ByMethod,
    /// Every one.
    Every,
}

/// The user who may do everything anyway.
const ROOT: u32 = 0;

impl Policy {
    /// Everybody may do everything.
    pub fn everybody() -> Policy {
        Policy { trust: Trust::Everybody, rules: Vec::new() }
    }

    /// The user of the gateway, and root, may do everything, and others nothing: what holds without a policy file.
    pub fn only_user(uid: u32) -> Policy {
        Policy { trust: Trust::User(uid), rules: Vec::new() }
    }

    /// What a peer may do. Costs a walk through the rules: it is asked once for a connection.
    pub fn access(&self, subject: &Subject<'_>) -> Access {
        match (self.trust, subject.uid) {
            (Trust::Everybody, _) => return Access::Everything,
            (Trust::User(trusted), Some(uid)) if uid == trusted || uid == ROOT => return Access::Everything,
            (Trust::User(_) | Trust::Nobody, _) => {}
        }
        let speaks_of_it = |rule: &Rule| {
            let in_groups = |gid: &u32| rule.gids.binary_search(gid).is_ok();
            rule.is_for_everybody
                || subject.uid.is_some_and(|uid| rule.uids.binary_search(&uid).is_ok())
                || subject.gid.iter().chain(subject.groups).any(in_groups)
        };
        let rules: Box<[u16]> =
            (0_u16..).zip(&self.rules).filter(|(_, rule)| speaks_of_it(rule)).map(|(at, _)| at).collect();
        if rules.is_empty() {
            return Access::Nothing;
        }
        let any = |right: fn(&Rule) -> bool| rules.iter().any(|&at| right(&self.rules[usize::from(at)]));
        let (may_watch, may_administer) = (any(|rule| rule.may_watch), any(|rule| rule.may_administer));
        Access::Some(Rights { rules, may_watch, may_administer })
    }

    /// Whether a peer may register under a name.
    pub fn may_own(&self, rights: &Rights, name: &str) -> bool {
        self.rules_of(rights).any(|rule| rule.own.has(name))
    }

    /// Which methods of a service a peer may call.
    pub fn calls(&self, rights: &Rights, service: &str) -> Calls {
        if self.rules_of(rights).any(|rule| rule.call.has(service)) {
            return Calls::Every;
        }
        let has_some = |rule: &Rule| rule.call_methods.iter().any(|(services, _)| services.has(service));
        if self.rules_of(rights).any(has_some) { Calls::ByMethod } else { Calls::None }
    }

    /// Whether a peer may call a method.
    pub fn may_call(&self, rights: &Rights, service: &str, method: &str) -> bool {
        self.rules_of(rights).any(|rule| {
            let has_it = |(services, methods): &(Patterns, Patterns)| services.has(service) && methods.has(method);
            rule.call.has(service) || rule.call_methods.iter().any(has_it)
        })
    }

    /// Whether a peer may know that a service is there: who may call it, be it, or watch.
    pub fn may_see(&self, rights: &Rights, service: &str) -> bool {
        rights.may_watch || self.calls(rights, service) != Calls::None || self.may_own(rights, service)
    }

    /// Whether any rule is about groups: otherwise nobody needs to find out those of a peer.
    pub fn knows_groups(&self) -> bool {
        self.rules.iter().any(|rule| !rule.gids.is_empty())
    }

    /// How many rules it has.
    pub fn rules_len(&self) -> usize {
        self.rules.len()
    }

    /// Rights are made for one policy: of another one they could only mean less.
    fn rules_of(&self, rights: &Rights) -> impl Iterator<Item = &Rule> {
        rights.rules.iter().filter_map(|&at| self.rules.get(usize::from(at)))
    }
}
