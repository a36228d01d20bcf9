//! The policy file, against a reader and a matcher that take every rule as it is written.

use bro_policy::{Access, Accounts, Calls, Policy, PolicyError, Rights, Subject};
use bro_proto::limits::{
    POLICY_ACCOUNTS_MAX, POLICY_BYTES_MAX, POLICY_PATTERNS_MAX, POLICY_RULES_MAX, RESERVED_PREFIX,
};
use bro_proto::name::check_service_name;
use std::collections::BTreeSet;
use toml::{Table, Value};

const GATEWAY_UID: u32 = 1000;
/// Names and subjects that are asked for, at most of each.
const ASKED_MAX: usize = 24;

/// A system whose every second user and group is there.
struct Names;

impl Accounts for Names {
    fn uid(&self, user: &str) -> Option<u32> {
        number_of(user).map(|number| 2000 + number)
    }

    fn gid(&self, group: &str) -> Option<u32> {
        number_of(group).map(|number| 3000 + number)
    }
}

fn number_of(name: &str) -> Option<u32> {
    let sum = name.bytes().map(u32::from).sum::<u32>();
    sum.is_multiple_of(2).then_some(sum % 8)
}

/// A text is refused with a place in it, exactly where the slow reader refuses it, or both decide alike.
pub(crate) fn policy(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let plain = Plain::read(&text);
    let policy = match Policy::parse(&text, GATEWAY_UID, &Names) {
        Ok(policy) => policy,
        Err(error) => {
            check_place(&text, &error);
            return assert!(plain.is_none(), "{error}, but read slowly it is {plain:?}");
        }
    };
    let plain = plain.unwrap_or_else(|| panic!("read slowly it is no policy: {policy:?}"));
    assert_eq!(policy.rules_len(), plain.rules.len());
    assert_eq!(policy.knows_groups(), plain.rules.iter().any(|rule| !rule.gids.is_empty()));
    let names = plain.names();
    for (uid, gid, groups) in plain.subjects() {
        let subject = Subject { uid, gid, groups: &groups };
        compare(&policy, &plain, &subject, &names);
    }
}

fn check_place(text: &str, error: &PolicyError) {
    assert!(!error.message.is_empty());
    let line = error.line.checked_sub(1).and_then(|before| text.split('\n').nth(before));
    let line = line.unwrap_or_else(|| panic!("there is no such line: {error}"));
    assert!((1..=line.chars().count() + 1).contains(&error.column), "there is no such column: {error}");
}

fn compare(policy: &Policy, plain: &Plain, subject: &Subject<'_>, names: &[String]) {
    let is_trusted = plain.trusts_gateway_user && subject.uid.is_some_and(|uid| uid == GATEWAY_UID || uid == 0);
    let rules: Vec<&PlainRule> = plain.rules.iter().filter(|rule| rule.speaks_of(subject)).collect();
    let rights = match policy.access(subject) {
        Access::Everything => return assert!(is_trusted, "{subject:?} may do everything"),
        Access::Nothing => return assert!(!is_trusted && rules.is_empty(), "{subject:?} may do nothing"),
        Access::Some(rights) => rights,
    };
    assert!(!is_trusted && !rules.is_empty(), "{subject:?} may do something");
    assert_eq!(rights.may_watch, rules.iter().any(|rule| rule.may_watch));
    assert_eq!(rights.may_administer, rules.iter().any(|rule| rule.may_administer));
    for name in names {
        compare_name(policy, &rules, &rights, name, names);
    }
}

fn compare_name(policy: &Policy, rules: &[&PlainRule], rights: &Rights, name: &str, methods: &[String]) {
    let may_own = rules.iter().any(|rule| any_matches(&rule.own, name));
    assert_eq!(policy.may_own(rights, name), may_own, "own {name:?} by {rules:?}");
    let entries = || rules.iter().flat_map(|rule| &rule.call).filter(|(service, _)| matches(service, name));
    let calls = if entries().any(|(_, methods)| methods.is_none()) {
        Calls::Every
    } else if entries().next().is_some() {
        Calls::ByMethod
    } else {
        Calls::None
    };
    assert_eq!(policy.calls(rights, name), calls, "call {name:?} by {rules:?}");
    assert_eq!(policy.may_see(rights, name), rights.may_watch || may_own || calls != Calls::None);
    for method in methods {
        let may_call =
            entries().any(|(_, methods)| methods.as_ref().is_none_or(|methods| any_matches(methods, method)));
        assert_eq!(policy.may_call(rights, name, method), may_call, "call {name:?} {method:?} by {rules:?}");
    }
}

/// What a policy says, in the words of its text.
#[derive(Debug)]
struct Plain {
    trusts_gateway_user: bool,
    rules: Vec<PlainRule>,
}

#[derive(Debug, Default)]
struct PlainRule {
    is_for_everybody: bool,
    uids: Vec<u32>,
    gids: Vec<u32>,
    own: Vec<String>,
    /// Patterns of services; with those of methods, where not every method is meant.
    call: Vec<(String, Option<Vec<String>>)>,
    may_watch: bool,
    may_administer: bool,
}

/// Counts what a policy may have only so many of.
#[derive(Default)]
struct Counts {
    accounts: usize,
    patterns: usize,
}

impl Plain {
    /// `None`: the text is no policy.
    fn read(text: &str) -> Option<Plain> {
        let mut table: Table = (text.len() <= POLICY_BYTES_MAX).then(|| text.parse().ok())??;
        let trusts_gateway_user = take_bool(&mut table, "trust_gateway_user", true)?;
        let tables = take_array(&mut table, "rules")?;
        let mut counts = Counts::default();
        let rules = tables.into_iter().map(|rule| PlainRule::read(rule, &mut counts)).collect::<Option<Vec<_>>>()?;
        let is_small = rules.len() <= POLICY_RULES_MAX
            && counts.accounts <= POLICY_ACCOUNTS_MAX
            && counts.patterns <= POLICY_PATTERNS_MAX;
        (table.is_empty() && is_small).then_some(Plain { trusts_gateway_user, rules })
    }

    /// Every pattern, what it nearly is, and what is none of them.
    fn names(&self) -> Vec<String> {
        let mut names = BTreeSet::from([String::new(), "*".to_owned(), "z".to_owned(), "bro.gateway".to_owned()]);
        for rule in &self.rules {
            let methods = rule.call.iter().filter_map(|(_, methods)| methods.as_ref()).flatten();
            for pattern in rule.own.iter().chain(rule.call.iter().map(|(service, _)| service)).chain(methods) {
                let text = pattern.trim_end_matches('*');
                names.extend([text.to_owned(), format!("{text}.x")]);
                let shorter: String = text.chars().take(text.chars().count().saturating_sub(1)).collect();
                names.insert(shorter);
            }
        }
        names.into_iter().take(ASKED_MAX).collect()
    }

    fn subjects(&self) -> Vec<(Option<u32>, Option<u32>, Vec<u32>)> {
        let mut subjects = vec![
            (None, None, Vec::new()),
            (Some(0), Some(0), Vec::new()),
            (Some(GATEWAY_UID), None, Vec::new()),
            (Some(7), Some(7), vec![8, 9]),
        ];
        for rule in &self.rules {
            let (uid, gid) = (rule.uids.first().copied(), rule.gids.first().copied());
            subjects.push((uid, None, Vec::new()));
            subjects.push((Some(7), gid, Vec::new()));
            subjects.push((rule.uids.last().copied(), Some(7), rule.gids.last().copied().into_iter().collect()));
        }
        subjects.truncate(ASKED_MAX);
        subjects
    }
}

impl PlainRule {
    fn read(rule: Value, counts: &mut Counts) -> Option<PlainRule> {
        let Value::Table(mut table) = rule else { return None };
        let mut rule = PlainRule::default();
        for user in take_array(&mut table, "users")? {
            match user {
                Value::String(name) if name == "*" => rule.is_for_everybody = true,
                user => rule.uids.push(account(&user, |name| Names.uid(name), counts)?),
            }
        }
        for group in take_array(&mut table, "groups")? {
            rule.gids.push(account(&group, |name| Names.gid(name), counts)?);
        }
        rule.own = patterns(take_array(&mut table, "own")?, true, counts)?;
        for entry in take_array(&mut table, "call")? {
            rule.call.push(match entry {
                Value::Table(mut entry) => {
                    let service = pattern(entry.remove("service")?, true, counts)?;
                    let Value::Array(methods) = entry.remove("methods")? else { return None };
                    let methods = patterns(methods, false, counts)?;
                    if methods.is_empty() || !entry.is_empty() {
                        return None;
                    }
                    (service, Some(methods))
                }
                service => (pattern(service, true, counts)?, None),
            });
        }
        rule.may_watch = take_bool(&mut table, "watch", false)?;
        rule.may_administer = take_bool(&mut table, "administer", false)?;
        let is_for_somebody = rule.is_for_everybody || !rule.uids.is_empty() || !rule.gids.is_empty();
        let allows_something = !rule.own.is_empty() || !rule.call.is_empty() || rule.may_watch || rule.may_administer;
        (table.is_empty() && is_for_somebody && allows_something).then_some(rule)
    }

    fn speaks_of(&self, subject: &Subject<'_>) -> bool {
        self.is_for_everybody
            || subject.uid.is_some_and(|uid| self.uids.contains(&uid))
            || subject.gid.iter().chain(subject.groups).any(|gid| self.gids.contains(gid))
    }
}

fn take_bool(table: &mut Table, key: &str, default: bool) -> Option<bool> {
    table.remove(key).map_or(Some(default), |value| value.as_bool())
}

fn take_array(table: &mut Table, key: &str) -> Option<Vec<Value>> {
    match table.remove(key) {
        None => Some(Vec::new()),
        Some(Value::Array(items)) => Some(items),
        Some(_) => None,
    }
}

fn account(account: &Value, number: impl Fn(&str) -> Option<u32>, counts: &mut Counts) -> Option<u32> {
    counts.accounts += 1;
    match account {
        Value::Integer(number) => u32::try_from(*number).ok().filter(|number| *number != u32::MAX),
        Value::String(name) if name != "*" => number(name),
        _ => None,
    }
}

fn patterns(items: Vec<Value>, are_services: bool, counts: &mut Counts) -> Option<Vec<String>> {
    items.into_iter().map(|item| pattern(item, are_services, counts)).collect()
}

fn pattern(item: Value, is_service: bool, counts: &mut Counts) -> Option<String> {
    counts.patterns += 1;
    let Value::String(text) = item else { return None };
    let is_name = |text: &str| check_service_name(text).is_ok() && !text.contains('*');
    let is_pattern = match text.strip_suffix('*') {
        Some(beginning) => beginning.is_empty() || is_name(beginning),
        None => is_name(&text),
    };
    (is_pattern && !(is_service && text.starts_with(RESERVED_PREFIX))).then_some(text)
}

fn any_matches(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, name))
}

/// Letter by letter.
fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    loop {
        match (pattern.next(), name.next()) {
            (Some('*'), _) | (None, None) => return true,
            (Some(letter), Some(own)) if letter == own => {}
            _ => return false,
        }
    }
}
