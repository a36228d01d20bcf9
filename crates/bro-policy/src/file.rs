//! The text of a policy: TOML, with everything checked before anything counts.

use crate::accounts::Accounts;
use crate::error::PolicyError;
use crate::pattern::{Pattern, Patterns};
use crate::policy::{Policy, Rule, Trust};
use bro_proto::limits::{
    POLICY_ACCOUNTS_MAX, POLICY_BYTES_MAX, POLICY_PATTERNS_MAX, POLICY_RULES_MAX, RESERVED_PREFIX,
};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use toml::Spanned;

/// The whole file.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "yes")]
    trust_gateway_user: bool,
    #[serde(default)]
    rules: Vec<Spanned<Named<RuleTable>>>,
}

/// Something whose fields stand under their names: serde by itself takes a list of their values as well.
struct Named<T>(T);

/// One of `[[rules]]`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleTable {
    #[serde(default)]
    users: Vec<Spanned<Account>>,
    #[serde(default)]
    groups: Vec<Spanned<Account>>,
    #[serde(default)]
    own: Vec<Spanned<String>>,
    #[serde(default)]
    call: Vec<Spanned<CallEntry>>,
    #[serde(default)]
    watch: bool,
    #[serde(default)]
    administer: bool,
}

/// A user or a group.
enum Account {
    Name(String),
    Number(i64),
}

/// What may be called.
enum CallEntry {
    Service(String),
    Methods(MethodsTable),
}

/// Some methods of a service.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct MethodsTable {
    service: Spanned<String>,
    methods: Vec<Spanned<String>>,
}

fn yes() -> bool {
    true
}

impl Policy {
    /// Reads a policy. `gateway_uid` is the user that the gateway runs as.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its place: no TOML, a key that does not exist, a user or group that does not exist, a text that
    /// is no pattern, a rule that is for nobody or allows nothing, or more than the limits `POLICY_*` in [`bro_proto::limits`].
    pub fn parse(text: &str, gateway_uid: u32, accounts: &impl Accounts) -> Result<Policy, PolicyError> {
        if text.len() > POLICY_BYTES_MAX {
            let message = format!("a policy may have {POLICY_BYTES_MAX} bytes, this one has {}", text.len());
            return Err(PolicyError::new(text, &(0..0), message));
        }
        let file: File = toml::from_str(text).map_err(|error| {
            let end = text.trim_end().len();
            PolicyError::new(text, &error.span().unwrap_or(end..end), explained(error.message()))
        })?;
        let trust = if file.trust_gateway_user { Trust::User(gateway_uid) } else { Trust::Nobody };
        if let Some(rule) = file.rules.get(POLICY_RULES_MAX) {
            let message = format!("a policy may have {POLICY_RULES_MAX} rules");
            return Err(PolicyError::new(text, &rule.span(), message));
        }
        let mut reader =
            Reader { text, accounts, accounts_left: POLICY_ACCOUNTS_MAX, patterns_left: POLICY_PATTERNS_MAX };
        let rules = file.rules.iter().map(|rule| reader.rule(rule)).collect::<Result<_, _>>()?;
        Ok(Policy { trust, rules })
    }
}

/// What the reader of TOML says, with what to do about the two mistakes that are made most easily.
fn explained(message: &str) -> String {
    let what_to_do = match message {
        "missing field `methods`" => ": a service all of whose methods may be called stands without a table",
        _ if message.ends_with("expected a sequence") => {
            ": lists stand in brackets, as own = [\"web\"], and each rule begins with [[rules]]"
        }
        _ => "",
    };
    format!("{message}{what_to_do}")
}

struct Reader<'a, A> {
    text: &'a str,
    accounts: &'a A,
    accounts_left: usize,
    patterns_left: usize,
}

impl<A: Accounts> Reader<'_, A> {
    fn rule(&mut self, table: &Spanned<Named<RuleTable>>) -> Result<Rule, PolicyError> {
        let span = table.span();
        let Named(table) = table.get_ref();
        let is_everybody = |user: &Spanned<Account>| matches!(user.get_ref(), Account::Name(name) if name == "*");
        let is_for_everybody = table.users.iter().any(is_everybody);
        let mut uids = Vec::new();
        for user in table.users.iter().filter(|user| !is_everybody(user)) {
            uids.push(self.account(user, "user", |accounts, name| accounts.uid(name))?);
        }
        let mut gids = Vec::new();
        for group in &table.groups {
            gids.push(self.account(group, "group", |accounts, name| accounts.gid(name))?);
        }
        if !is_for_everybody && uids.is_empty() && gids.is_empty() {
            return self
                .wrong(&span, "a rule without `users` and `groups` is for nobody: users = [\"*\"] is everybody");
        }
        let own = self.patterns(&table.own, true)?;
        let (mut services, mut call_methods) = (Vec::new(), Vec::new());
        for entry in &table.call {
            match entry.get_ref() {
                CallEntry::Service(service) => services.push(self.pattern(service, &entry.span(), true)?),
                CallEntry::Methods(some) => {
                    let service = self.pattern(some.service.get_ref(), &some.service.span(), true)?;
                    let methods = self.patterns(&some.methods, false)?;
                    if methods.is_empty() {
                        return self.wrong(&entry.span(), "`methods` is empty: no method can be called so");
                    }
                    call_methods.push((Patterns::new([service]), methods));
                }
            }
        }
        let call = Patterns::new(services);
        let allows_nothing = own.is_empty() && call.is_empty() && call_methods.is_empty();
        if allows_nothing && !table.watch && !table.administer {
            return self.wrong(&span, "the rule allows nothing: give it `own`, `call`, `watch` or `administer`");
        }
        let sorted = |mut ids: Vec<u32>| {
            ids.sort_unstable();
            ids.dedup();
            ids.into_boxed_slice()
        };
        Ok(Rule {
            is_for_everybody,
            uids: sorted(uids),
            gids: sorted(gids),
            own,
            call,
            call_methods: call_methods.into(),
            may_watch: table.watch,
            may_administer: table.administer,
        })
    }

    fn account(
        &mut self,
        account: &Spanned<Account>,
        kind: &str,
        look_up: impl FnOnce(&A, &str) -> Option<u32>,
    ) -> Result<u32, PolicyError> {
        let span = account.span();
        match self.accounts_left.checked_sub(1) {
            Some(left) => self.accounts_left = left,
            None => return self.wrong(&span, format!("a policy may name {POLICY_ACCOUNTS_MAX} users and groups")),
        }
        match account.get_ref() {
            // The largest number stands for nobody in every system call.
            Account::Number(number) => match u32::try_from(*number) {
                Ok(number) if number != u32::MAX => Ok(number),
                _ => self.wrong(&span, format!("{number} is no number of a {kind}")),
            },
            Account::Name(name) if name == "*" => self.wrong(&span, "everybody is users = [\"*\"]"),
            Account::Name(name) => match look_up(self.accounts, name) {
                Some(number) => Ok(number),
                None if name.parse::<u32>().is_ok() => {
                    self.wrong(&span, format!("there is no {kind} {name:?}: numbers stand without quotes"))
                }
                None => self.wrong(&span, format!("there is no {kind} {name:?} on this machine")),
            },
        }
    }

    fn patterns(&mut self, texts: &[Spanned<String>], are_services: bool) -> Result<Patterns, PolicyError> {
        let mut patterns = Vec::with_capacity(texts.len());
        for text in texts {
            patterns.push(self.pattern(text.get_ref(), &text.span(), are_services)?);
        }
        Ok(Patterns::new(patterns))
    }

    fn pattern<'b>(
        &mut self,
        text: &'b str,
        span: &Range<usize>,
        is_service: bool,
    ) -> Result<Pattern<'b>, PolicyError> {
        match self.patterns_left.checked_sub(1) {
            Some(left) => self.patterns_left = left,
            None => return self.wrong(span, format!("a policy may have {POLICY_PATTERNS_MAX} patterns")),
        }
        match Pattern::parse(text) {
            Ok(pattern) if is_service && pattern.text().starts_with(RESERVED_PREFIX) => {
                let message = format!(
                    "names that begin with {RESERVED_PREFIX:?} are the gateway's own; see `watch` and `administer`"
                );
                self.wrong(span, message)
            }
            Ok(pattern) => Ok(pattern),
            Err(error) => self.wrong(span, format!("{text:?}: {error}")),
        }
    }

    fn wrong<T>(&self, span: &Range<usize>, message: impl Into<String>) -> Result<T, PolicyError> {
        Err(PolicyError::new(self.text, span, message))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NamedVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for NamedVisitor<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Named<T>, M::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Named)
            }
        }

        deserializer.deserialize_map(NamedVisitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AccountVisitor;

        impl Visitor<'_> for AccountVisitor {
            type Value = Account;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a number")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Account, E> {
                Ok(Account::Name(name.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Account, E> {
                Ok(Account::Number(number))
            }
        }

        deserializer.deserialize_any(AccountVisitor)
    }
}

impl<'de> Deserialize<'de> for CallEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CallVisitor;

        impl<'de> Visitor<'de> for CallVisitor {
            type Value = CallEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a service, or { service = \"…\", methods = [\"…\"] }")
            }

            fn visit_str<E: de::Error>(self, service: &str) -> Result<CallEntry, E> {
                Ok(CallEntry::Service(service.to_owned()))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<CallEntry, M::Error> {
                MethodsTable::deserialize(MapAccessDeserializer::new(map)).map(CallEntry::Methods)
            }
        }

        deserializer.deserialize_any(CallVisitor)
    }
}
