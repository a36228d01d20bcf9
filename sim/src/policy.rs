//! Policies as an outsider reads them: random ones, and who may do what by each rule as it is written.

use crate::model::World;
use crate::traffic::{METHODS, NAMES, below};
use bro_policy::{NoAccounts, Policy};
use bro_proto::rng::Rng;
use bro_router::PeerId;
use serde_json::{Value, json};

/// The user that the gateway runs as.
const GATEWAY_UID: u32 = 1000;
const UIDS: [u32; 2] = [1000, 1001];
/// Supplementary groups of peers.
pub(crate) const GROUPS: [u32; 2] = [7, 8];
const PATTERNS: [&str; 8] = ["*", "o*", "order*", "user", "a*", "zahlung*", "m*", "s*"];

/// What may be called: a service, and which methods; `None` for all of them.
type Callable = (String, Option<Vec<String>>);

/// One policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    trusts_gateway_user: bool,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default)]
struct Rule {
    is_for_everybody: bool,
    uids: Vec<u32>,
    gids: Vec<u32>,
    own: Vec<String>,
    call: Vec<Callable>,
    watch: bool,
    administer: bool,
}

impl Rules {
    /// Mostly one under which something is allowed, and something not.
    pub(crate) fn random(rng: &mut Rng) -> Rules {
        let mut rules: Vec<Rule> = (0..rng.below(5)).map(|_| Rule::random(rng)).collect();
        if rng.below(2) == 0 {
            // Nobody has to go, and perhaps everybody may call everybody, so that there are lanes.
            let call = if rng.below(2) == 0 { vec![("*".to_owned(), None)] } else { Vec::new() };
            rules.push(Rule { is_for_everybody: true, own: vec!["*".to_owned()], call, ..Rule::default() });
        }
        Rules { trusts_gateway_user: rng.below(3) > 0, rules }
    }

    /// As a file says it.
    pub(crate) fn parse(&self) -> Policy {
        let mut text = format!("trust_gateway_user = {}\n", self.trusts_gateway_user);
        for rule in &self.rules {
            let mut users: Vec<Value> = rule.uids.iter().map(|uid| json!(uid)).collect();
            users.extend(rule.is_for_everybody.then(|| json!("*")));
            text += &format!("[[rules]]\nusers = {}\ngroups = {}\n", json!(users), json!(rule.gids));
            text += &format!("own = {}\ncall = [", json!(rule.own));
            for (service, methods) in &rule.call {
                text += &match methods {
                    None => format!("{}, ", json!(service)),
                    Some(methods) => format!("{{ service = {}, methods = {} }}, ", json!(service), json!(methods)),
                };
            }
            text += &format!("]\nwatch = {}\nadminister = {}\n", rule.watch, rule.administer);
        }
        Policy::parse(&text, GATEWAY_UID, &NoAccounts).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

impl Rule {
    fn random(rng: &mut Rng) -> Rule {
        let mut rule = Rule {
            is_for_everybody: rng.below(4) == 0,
            uids: some(&UIDS, rng),
            gids: if rng.below(2) == 0 { some(&GROUPS, rng) } else { Vec::new() },
            own: patterns(rng),
            watch: rng.below(3) == 0,
            administer: rng.below(8) == 0,
            call: Vec::new(),
        };
        if rule.uids.is_empty() && rule.gids.is_empty() {
            rule.is_for_everybody = true;
        }
        for service in patterns(rng) {
            let methods = (rng.below(3) == 0).then(|| match rng.below(4) {
                0 => vec!["*".to_owned()],
                1 => vec!["g*".to_owned(), METHODS[3].to_owned()],
                _ => vec![METHODS[below(METHODS.len() as u64, rng)].to_owned()],
            });
            rule.call.push((service, methods));
        }
        // One that allows nothing is none.
        rule.watch |= rule.own.is_empty() && rule.call.is_empty() && !rule.administer;
        rule
    }
}

fn some(all: &[u32], rng: &mut Rng) -> Vec<u32> {
    all.iter().copied().filter(|_| rng.below(2) == 0).collect()
}

fn patterns(rng: &mut Rng) -> Vec<String> {
    let one = |rng: &mut Rng| match rng.below(3) {
        0 => NAMES[below(10, rng)],
        _ => PATTERNS[below(PATTERNS.len() as u64, rng)],
    };
    (0..rng.below(4)).map(|_| one(rng).to_owned()).collect()
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        Some((beginning, _)) => name.starts_with(beginning),
        None => pattern == name,
    }
}

fn any_matches(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, name))
}

/// Who may do what now.
impl World {
    /// The rules that speak of a user in those groups; `None` when it may do everything.
    fn rules_of(&self, uid: Option<u32>, groups: &[u32]) -> Option<Vec<&Rule>> {
        let rules = self.policy.as_ref()?;
        if rules.trusts_gateway_user && uid == Some(GATEWAY_UID) {
            return None;
        }
        let speaks_of_it = |rule: &&Rule| {
            let has_uid = uid.is_some_and(|uid| rule.uids.contains(&uid));
            rule.is_for_everybody || has_uid || groups.iter().any(|gid| rule.gids.contains(gid))
        };
        Some(rules.rules.iter().filter(speaks_of_it).collect())
    }

    fn allows(&self, peer: PeerId, allows: impl Fn(&Rule) -> bool) -> bool {
        let connection = &self.connections[&peer];
        let rules = self.rules_of(connection.identity.uid, &connection.groups);
        rules.is_none_or(|rules| rules.into_iter().any(allows))
    }

    /// Whether such a peer may be connected at all.
    pub(crate) fn may_connect(&self, uid: Option<u32>, groups: &[u32]) -> bool {
        self.rules_of(uid, groups).is_none_or(|rules| !rules.is_empty())
    }

    pub(crate) fn may_own(&self, peer: PeerId, name: &str) -> bool {
        self.allows(peer, |rule| any_matches(&rule.own, name))
    }

    pub(crate) fn may_call(&self, peer: PeerId, service: &str, method: &str) -> bool {
        let has_method =
            |methods: &Option<Vec<String>>| methods.as_ref().is_none_or(|methods| any_matches(methods, method));
        self.allows(peer, |rule| rule.call.iter().any(|(own, methods)| matches(own, service) && has_method(methods)))
    }

    fn may_watch(&self, peer: PeerId) -> bool {
        self.allows(peer, |rule| rule.watch)
    }

    fn may_see(&self, peer: PeerId, service: &str) -> bool {
        let calls = |rule: &Rule| rule.call.iter().any(|(own, _)| matches(own, service));
        self.allows(peer, |rule| rule.watch || calls(rule) || any_matches(&rule.own, service))
    }

    /// Whether two peers may call every method of each other.
    pub(crate) fn may_share_lane(&self, first: PeerId, second: PeerId) -> bool {
        let may_call_all = |caller: PeerId, callee: PeerId| {
            let name = &self.names[&callee];
            self.allows(caller, |rule| rule.call.iter().any(|(own, methods)| methods.is_none() && matches(own, name)))
        };
        may_call_all(first, second) && may_call_all(second, first)
    }

    /// Whether a peer may not be connected any more, or not be what it is.
    pub(crate) fn is_denied(&self, peer: PeerId) -> bool {
        let connection = &self.connections[&peer];
        let may_be = self.names.get(&peer).is_none_or(|name| self.may_own(peer, name));
        !self.may_connect(connection.identity.uid, &connection.groups) || !may_be
    }

    /// What the gateway answers to a question about itself: with this code, or without one with this value, where it is known.
    pub(crate) fn check_told(
        &self,
        peer: PeerId,
        (method, params): (&str, &Value),
        code: Option<&str>,
        value: Option<&Value>,
    ) -> Result<(), String> {
        let service = match method {
            "service" => params["name"].as_str(),
            "waitFor" => params["service"].as_str(),
            _ => None,
        };
        let is_allowed = match method {
            "events" => self.may_watch(peer),
            _ => service.is_none_or(|service| self.may_see(peer, service)),
        };
        let is_denied = code == Some("PERMISSION_DENIED");
        if code.is_none() && !is_allowed || is_denied && is_allowed {
            return Err(format!("{peer:?} asked {method} {params}, and was told {code:?} {value:?}"));
        }
        let (None, Some(value)) = (code, value) else { return Ok(()) };
        if method == "services" {
            let listed = value["services"].as_array().into_iter().flatten();
            let mut shown: Vec<&str> = listed.filter_map(|entry| entry["name"].as_str()).collect();
            shown.sort_unstable();
            let seen = self.services.keys().map(String::as_str).filter(|name| self.may_see(peer, name));
            if !seen.eq(shown.iter().copied()) {
                return Err(format!("{peer:?} was shown {shown:?} of {:?}", self.services.keys()));
            }
        }
        if method == "waitFor" && params["brief"] == true && *value != json!({"name": service}) {
            return Err(format!("{peer:?} asked briefly for {service:?}, and was told {value}"));
        }
        Ok(())
    }
}
