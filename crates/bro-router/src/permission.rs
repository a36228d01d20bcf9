//! Who may do what, as the policy says: asked where something is about to be done, and once more of everybody when the policy changes.
//!
//! A peer that may do everything has no [`Restriction`], and costs one look at that. What a policy is, and who it speaks of, is decided in
//! `bro-policy`.

use crate::event::{CloseReason, Event, EventMask};
use crate::introspect::Inquiry;
use crate::outbox::{Outbox, PeerId};
use crate::parked::Wait;
use crate::peers::{LastRoute, NIL, PeerIdentity};
use crate::router::Router;
use bro_policy::{Access, Calls, Policy, Rights, Subject};
use bro_proto::limits::GATEWAY_SERVICE;
use bro_proto::{ErrorBody, ErrorCode, Now};

/// What a peer may do that may not do everything.
#[derive(Debug)]
pub(crate) struct Restriction {
    rights: Rights,
    /// What was found out of the services of its routes, by route number.
    routes: Vec<Option<Calls>>,
}

impl Restriction {
    /// A route means another service from now on.
    pub(crate) fn forget_route(&mut self, number: u64) {
        let known = usize::try_from(number).ok().and_then(|number| self.routes.get_mut(number));
        if let Some(calls) = known {
            *calls = None;
        }
    }
}

/// The policy that is in force, and who waits for another one.
#[derive(Debug)]
pub(crate) struct Permissions {
    policy: Policy,
    /// The file that it was read from.
    pub(crate) file: Option<Box<str>>,
    /// Loads of the file that peers asked for, and how many of them the driver knows of.
    asked: u64,
    taken: u64,
}

impl Default for Permissions {
    fn default() -> Self {
        Permissions { policy: Policy::everybody(), file: None, asked: 0, taken: 0 }
    }
}

impl Permissions {
    pub(crate) fn rules_len(&self) -> usize {
        self.policy.rules_len()
    }

    /// A load that has begun may have read the file before it was changed: it is the one after that which is wished for.
    fn next_wish(&self) -> u64 {
        self.taken + 1
    }

    pub(crate) fn make_wish(&mut self) -> u64 {
        self.asked = self.next_wish();
        self.asked
    }

    /// Whether a peer has wished for this load.
    pub(crate) fn has_wish(&self, wish: u64) -> bool {
        wish <= self.asked
    }
}

/// What the driver does about the policy.
impl Router {
    /// Puts a policy in force; before the first one, everybody may do everything. It counts for everything that is begun from now on.
    /// Calls in flight end as they would have. Connections that may do nothing any more, or not be the service that they are, are closed with
    /// `PERMISSION_DENIED`; lanes that are not allowed any more are taken back; who waits for what it may not know is told so.
    ///
    /// `file` is where the policy was read from; only with one can peers ask for it to be read again. `groups_of` tells the supplementary
    /// groups of a peer, as far as [`Policy::knows_groups`]. `wish` is what [`Router::take_policy_wish`] gave, if that was the reason.
    pub fn set_policy<'a>(
        &mut self,
        policy: Policy,
        file: Option<&str>,
        groups_of: impl Fn(PeerId) -> &'a [u32],
        wish: Option<u64>,
        now: Now,
        out: &mut impl Outbox,
    ) {
        self.permissions.policy = policy;
        self.permissions.file = file.map(Box::from);
        let live: Vec<u32> = self.peers.live().collect();
        let mut denied = Vec::new();
        for slot in live {
            let id = self.peers.id(slot);
            let access = self.access_of(&self.peers[slot].identity, groups_of(id));
            let (restriction, is_denied) = match access {
                Access::Everything => (None, false),
                Access::Some(rights) => {
                    let service = self.peers[slot].service;
                    let may_be = |service: u32| self.permissions.policy.may_own(&rights, &self.registry[service].name);
                    let is_denied = service != NIL && !may_be(service);
                    (Some(restriction(rights)), is_denied)
                }
                // It is closed below, and does nothing before that.
                Access::Nothing => (None, true),
            };
            self.peers[slot].restriction = restriction;
            self.peers[slot].last_route = LastRoute::NONE;
            if is_denied {
                denied.push(id);
            }
        }
        for peer in denied {
            // One that was closed may have taken others with it.
            let Some(slot) = self.peers.find(peer) else { continue };
            let what = match self.peers[slot].service {
                NIL => "be connected".to_owned(),
                service => format!("be {}", self.registry[service].name),
            };
            let error = denial(&self.peers[slot].identity, &format!("{what} any more"));
            self.note_denied(Some(slot), &error, now, out);
            self.close_peer(slot, CloseReason::Denied, Some(&error), now, out);
        }
        self.revoke_forbidden_lanes(now, out);
        self.dismiss_forbidden_parked(now, out);
        let rules = format!("{{\"rules\":{}}}", self.permissions.rules_len());
        self.grant_policy_wish(wish, Ok(rules.as_bytes()), now, out);
        self.settle(now, out);
    }

    /// The policy that a peer wished for could not be loaded: the present one stays in force, and who wished is told why.
    pub fn handle_policy_failed(&mut self, wish: u64, why: &str, now: Now, out: &mut impl Outbox) {
        let error = ErrorBody::new(ErrorCode::ExecutionFailed, format!("the policy stays as it is: {why}"));
        self.grant_policy_wish(Some(wish), Err(&error), now, out);
        self.settle(now, out);
    }

    /// Whether a peer has wished for the policy to be read again since the last time. The driver reads it, and then calls
    /// [`Router::set_policy`] or [`Router::handle_policy_failed`] with the wish.
    pub fn take_policy_wish(&mut self) -> Option<u64> {
        let permissions = &mut self.permissions;
        let is_new = permissions.asked > permissions.taken;
        permissions.taken = permissions.asked;
        is_new.then_some(permissions.taken)
    }

    /// Whether the supplementary groups of a peer matter.
    pub fn knows_groups(&self) -> bool {
        self.permissions.policy.knows_groups()
    }
}

/// What is asked before something is done.
impl Router {
    /// What a new connection may do, or why it is refused.
    pub(crate) fn restriction_of(
        &self,
        identity: &PeerIdentity,
        groups: &[u32],
    ) -> Result<Option<Box<Restriction>>, ErrorBody> {
        match self.access_of(identity, groups) {
            Access::Nothing => Err(denial(identity, "use this gateway")),
            Access::Some(rights) => Ok(Some(restriction(rights))),
            Access::Everything => Ok(None),
        }
    }

    /// Whether a connection may register under a name.
    pub(crate) fn check_own(&self, slot: u32, name: &str) -> Result<(), ErrorBody> {
        let peer = &self.peers[slot];
        match &peer.restriction {
            Some(restriction) if !self.permissions.policy.may_own(&restriction.rights, name) => {
                Err(denial(&peer.identity, &format!("be {name}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether a peer may call a method. The gateway's own are not asked for here.
    #[inline]
    pub(crate) fn check_call(&self, caller: u32, service: &str, method: &str) -> Result<(), ErrorBody> {
        match &self.peers[caller].restriction {
            None => Ok(()),
            Some(_) if service == GATEWAY_SERVICE => Ok(()),
            Some(restriction) if self.permissions.policy.may_call(&restriction.rights, service, method) => Ok(()),
            Some(_) => Err(denial(&self.peers[caller].identity, &format!("call {service}.{method}"))),
        }
    }

    /// The same for a restricted peer of version 2, which names the service by a route. A route that is not bound is somebody else's business.
    pub(crate) fn check_route(&mut self, caller: u32, number: u32, method: &str) -> Result<(), ErrorBody> {
        let policy = &self.permissions.policy;
        let peer = &mut self.peers[caller];
        let (Some(restriction), Some(state)) = (&mut peer.restriction, &peer.v2) else { return Ok(()) };
        let Some(route) = state.route(number) else { return Ok(()) };
        let service = &*route.name;
        if service == GATEWAY_SERVICE {
            return Ok(());
        }
        let place = number as usize;
        if restriction.routes.len() <= place {
            restriction.routes.resize(place + 1, None);
        }
        let rights = &restriction.rights;
        let is_allowed = match *restriction.routes[place].get_or_insert_with(|| policy.calls(rights, service)) {
            Calls::Every => true,
            Calls::ByMethod => policy.may_call(rights, service, method),
            Calls::None => false,
        };
        if is_allowed { Ok(()) } else { Err(denial(&peer.identity, &format!("call {service}.{method}"))) }
    }

    /// Whether a peer may use a method of the gateway itself.
    pub(crate) fn check_inquiry(&self, caller: u32, method: &str) -> Result<(), ErrorBody> {
        let peer = &self.peers[caller];
        let Some(restriction) = &peer.restriction else { return Ok(()) };
        let is_allowed = match method {
            "events" => restriction.rights.may_watch,
            "reloadPolicy" | "takeover" => restriction.rights.may_administer,
            _ => true,
        };
        let what = if method == "events" { "watch" } else { "administer this gateway" };
        if is_allowed { Ok(()) } else { Err(denial(&peer.identity, what)) }
    }

    /// Whether a peer may know that a service is there.
    pub(crate) fn may_see(&self, slot: u32, service: &str) -> bool {
        let restriction = self.peers[slot].restriction.as_ref();
        restriction.is_none_or(|restriction| self.permissions.policy.may_see(&restriction.rights, service))
    }

    /// Whether a peer may know what a user has taken: of its own, or of all where it watches or administers.
    pub(crate) fn may_see_user(&self, slot: u32, uid: Option<u32>) -> bool {
        let peer = &self.peers[slot];
        let sees_all = |restriction: &Restriction| restriction.rights.may_watch || restriction.rights.may_administer;
        peer.restriction.as_deref().is_none_or(sees_all) || uid == peer.identity.uid
    }

    /// Like [`Router::may_see`], with the error that says so.
    pub(crate) fn check_see(&self, slot: u32, service: &str) -> Result<(), ErrorBody> {
        let what = || denial(&self.peers[slot].identity, &format!("know of {service}"));
        if self.may_see(slot, service) { Ok(()) } else { Err(what()) }
    }

    /// Whether two peers may call every method of each other: what goes over a lane, nobody looks at.
    pub(crate) fn may_share_lane(&self, ends: [u32; 2]) -> bool {
        let may_call_all =
            |caller: u32, callee: u32| match (&self.peers[caller].restriction, self.peers[callee].service) {
                (None, _) => true,
                (Some(_), NIL) => false,
                (Some(restriction), service) => {
                    let name = &self.registry[service].name;
                    self.permissions.policy.calls(&restriction.rights, name) == Calls::Every
                }
            };
        may_call_all(ends[0], ends[1]) && may_call_all(ends[1], ends[0])
    }

    /// Counts a denial, and tells who listens. Other errors are none of its business.
    #[cold]
    pub(crate) fn note_denied(&mut self, slot: Option<u32>, error: &ErrorBody, now: Now, out: &mut impl Outbox) {
        if error.code != Some(ErrorCode::PermissionDenied) {
            return;
        }
        self.counters.permission_denied += 1;
        match slot {
            Some(slot) => self.warn(slot, &error.message, now, out),
            None if self.reporter.wants(EventMask::WARNINGS) => {
                self.reporter.report(Event::Warning { peer: None, service: None, message: &error.message }, now, out);
            }
            None => {}
        }
    }

    /// Parks a call that wishes for the policy to be read again.
    pub(crate) fn wish_for_policy(&mut self, inquiry: &Inquiry<'_>, now: Now) -> Result<(), ErrorBody> {
        if self.permissions.file.is_none() {
            let message = "this gateway has no policy file: start it with one, as `bro gateway --policy FILE` does";
            return Err(ErrorBody::new(ErrorCode::ExecutionFailed, message));
        }
        let wish = self.permissions.next_wish();
        self.park_for_policy(inquiry, wish, now)?;
        self.permissions.make_wish();
        Ok(())
    }

    fn access_of(&self, identity: &PeerIdentity, groups: &[u32]) -> Access {
        self.permissions.policy.access(&Subject { uid: identity.uid, gid: identity.gid, groups })
    }

    /// Answers what waits for something that the caller may not know any more.
    fn dismiss_forbidden_parked(&mut self, now: Now, out: &mut impl Outbox) {
        let check = |call: &crate::parked::ParkedCall| match &call.wait {
            Wait::Service { name, .. } => self.check_see(call.caller, name),
            Wait::Events { .. } => self.check_inquiry(call.caller, "events"),
            Wait::Policy { .. } => Ok(()),
        };
        let forbidden: Vec<(u32, ErrorBody)> =
            self.parked.iter().filter_map(|(index, call)| Some((index, check(call).err()?))).collect();
        for (index, error) in forbidden {
            let call = self.unpark(index);
            self.note_denied(Some(call.caller), &error, now, out);
            self.answer_parked(&call, Err(&error), now, out);
        }
    }

    fn grant_policy_wish(
        &mut self,
        granted: Option<u64>,
        result: Result<&[u8], &ErrorBody>,
        now: Now,
        out: &mut impl Outbox,
    ) {
        let Some(granted) = granted else { return };
        let waits = |wait: &Wait| matches!(wait, Wait::Policy { wish } if *wish <= granted);
        let waiting: Vec<u32> =
            self.parked.iter().filter(|(_, call)| waits(&call.wait)).map(|(index, _)| index).collect();
        for index in waiting {
            let call = self.unpark(index);
            self.answer_parked(&call, result, now, out);
        }
    }
}

fn restriction(rights: Rights) -> Box<Restriction> {
    Box::new(Restriction { rights, routes: Vec::new() })
}

fn denial(identity: &PeerIdentity, what: &str) -> ErrorBody {
    let who = identity.uid.map_or_else(|| "an unknown user".to_owned(), |uid| format!("uid {uid}"));
    ErrorBody::new(ErrorCode::PermissionDenied, format!("{who} may not {what}: the gateway's policy does not allow it"))
}
