//! Policies: what they allow, what is wrong with them, and that no text makes them panic.

use bro_policy::{Access, Accounts, Calls, NoAccounts, Policy, PolicyError, Rights, Subject};
use bro_proto::limits::{POLICY_ACCOUNTS_MAX, POLICY_BYTES_MAX, POLICY_PATTERNS_MAX, POLICY_RULES_MAX};
use proptest::prelude::*;

const GATEWAY_UID: u32 = 500;

/// Two users and a group.
struct Some2;

impl Accounts for Some2 {
    fn uid(&self, user: &str) -> Option<u32> {
        [("web", 1001), ("billing", 1002)].into_iter().find(|(name, _)| *name == user).map(|(_, uid)| uid)
    }

    fn gid(&self, group: &str) -> Option<u32> {
        (group == "ops").then_some(77)
    }
}

fn parse(text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(text, GATEWAY_UID, &Some2)
}

#[track_caller]
fn wrong(text: &str, line: usize, column: usize, says: &str) {
    let error = parse(text).expect_err("it must not load");
    assert_eq!((error.line, error.column), (line, column), "{error}");
    assert!(error.message.contains(says), "{error}");
}

fn subject(uid: u32, gid: u32, groups: &[u32]) -> Subject<'_> {
    Subject { uid: Some(uid), gid: Some(gid), groups }
}

#[track_caller]
fn rights(policy: &Policy, subject: Subject<'_>) -> Rights {
    match policy.access(&subject) {
        Access::Some(rights) => rights,
        other => panic!("some rights expected: {other:?}"),
    }
}

#[test]
fn without_rules_the_user_of_the_gateway_and_root_may_do_everything_and_others_nothing() {
    for policy in [Policy::only_user(GATEWAY_UID), parse("").unwrap(), parse("# nothing\n").unwrap()] {
        assert_eq!(policy.access(&subject(GATEWAY_UID, 1, &[])), Access::Everything);
        assert_eq!(policy.access(&subject(0, 0, &[])), Access::Everything);
        assert_eq!(
            policy.access(&subject(GATEWAY_UID + 1, GATEWAY_UID, &[0])),
            Access::Nothing,
            "groups are not users"
        );
        assert_eq!(policy.access(&Subject::default()), Access::Nothing, "who is not known may do nothing");
    }
    let nobody = parse("trust_gateway_user = false").unwrap();
    assert_eq!(nobody.access(&subject(0, 0, &[])), Access::Nothing);
    assert_eq!(Policy::default().access(&subject(0, 0, &[])), Access::Nothing);
    assert_eq!(Policy::everybody().access(&Subject::default()), Access::Everything);
}

#[test]
fn rights_of_all_rules_that_speak_of_a_peer_add_up() {
    let policy = parse(
        r#"
        [[rules]]
        users = ["web", 1003]
        own = ["web", "web.*"]
        call = [{ service = "order*", methods = ["get", "list.*"] }]

        [[rules]]
        groups = ["ops"]
        call = ["order.archive"]
        watch = true

        [[rules]]
        users = ["*"]
        call = [{ service = "clock", methods = ["now"] }]
        "#,
    )
    .unwrap();
    assert!(policy.knows_groups());
    let web = rights(&policy, subject(1001, 1, &[]));
    assert!(policy.may_own(&web, "web.eu") && !policy.may_own(&web, "order") && !policy.may_own(&web, "webx"));
    assert_eq!(policy.calls(&web, "order"), Calls::ByMethod);
    assert!(policy.may_call(&web, "order.archive", "list.all") && !policy.may_call(&web, "order", "delete"));
    assert!(policy.may_call(&web, "clock", "now") && !policy.may_call(&web, "clock", "get"), "rules do not mix");
    assert_eq!(policy.calls(&web, "user"), Calls::None);
    assert!(policy.may_see(&web, "order") && policy.may_see(&web, "web") && !policy.may_see(&web, "user"));
    assert!(!web.may_watch && !web.may_administer);
    for subject in [subject(1003, 77, &[]), subject(1003, 5, &[1, 77])] {
        let both = rights(&policy, subject);
        assert!(both.may_watch && policy.may_see(&both, "user"));
        assert_eq!(policy.calls(&both, "order.archive"), Calls::Every);
        assert_eq!(policy.calls(&both, "order"), Calls::ByMethod);
    }
    let anybody = rights(&policy, Subject::default());
    assert!(policy.may_call(&anybody, "clock", "now") && !policy.may_own(&anybody, "web"));
    assert_eq!(policy.access(&subject(GATEWAY_UID, 1, &[])), Access::Everything);
}

#[test]
fn mistakes_are_told_with_their_place() {
    wrong("rules = 5", 1, 9, "expected a sequence");
    wrong("[rules]\nusers = [1]", 1, 1, "each rule begins with [[rules]]");
    wrong("[[rules]]\nusers = [1]\ncall = [{ service = \"a\" }]", 3, 9, "stands without a table");
    wrong("[[rule]]\nusers = [1]", 1, 3, "unknown field `rule`");
    wrong("[[rules]]\nusers = [1]\n  ownn = [\"a\"]", 3, 3, "unknown field `ownn`");
    wrong("[[rules]]\nusers = [\"web\", \"wbe\"]\nwatch = true", 2, 17, "no user \"wbe\"");
    wrong("[[rules]]\nusers = [\"1001\"]\nwatch = true", 2, 10, "without quotes");
    wrong("[[rules]]\ngroups = [\"*\"]\nwatch = true", 2, 11, "everybody is users");
    wrong("[[rules]]\ngroups = [-1]\nwatch = true", 2, 11, "no number of a group");
    wrong("[[rules]]\nusers = [4294967295]\nwatch = true", 2, 10, "no number of a user");
    wrong("[[rules]]\nusers = [true]\nwatch = true", 2, 10, "a name or a number");
    wrong("[[rules]]\nusers = [1]\nown = [\"é\", \"a*b\"]", 3, 13, "at the end only");
    wrong("[[rules]]\nusers = [1]\nown = [\"\"]", 3, 8, "empty");
    wrong("[[rules]]\nusers = [1]\nown = [\"bro.gateway\"]", 3, 8, "the gateway's own");
    wrong("[[rules]]\nusers = [1]\ncall = [5]", 3, 9, "a service, or");
    wrong("[[rules]]\nusers = [1]\ncall = [{ service = \"a\" }]", 3, 9, "methods");
    wrong("[[rules]]\nusers = [1]\ncall = [{ service = \"a\", methods = [] }]", 3, 9, "`methods` is empty");
    wrong("[[rules]]\nusers = [1]\ncall = [{ service = \"a\", methods = [\"x\", \"*y\"] }]", 3, 42, "at the end only");
    wrong("[[rules]]\nwatch = true", 1, 1, "for nobody");
    wrong("[[rules]]\nusers = [1]\nwatch = true\n[[rules]]\nusers = [2]", 4, 1, "allows nothing: give");
    wrong("rules = [[[1], [], [\"a\"], [], true, false]]", 1, 10, "expected a table");
    wrong("trust_gateway_user = 1", 1, 22, "boolean");
    wrong("trust_gateway_user", 1, 19, "");
    wrong("a = \"", 1, 6, "");
}

#[test]
fn everything_is_bounded() {
    let rule = "[[rules]]\nusers = [1]\nwatch = true\n";
    assert!(parse(&rule.repeat(POLICY_RULES_MAX)).is_ok());
    wrong(&rule.repeat(POLICY_RULES_MAX + 1), 3 * POLICY_RULES_MAX + 1, 1, "rules");
    let patterns = |count| format!("[[rules]]\nusers = [1]\nown = [{}]", "\"a\",".repeat(count));
    assert!(parse(&patterns(POLICY_PATTERNS_MAX)).is_ok());
    wrong(&patterns(POLICY_PATTERNS_MAX + 1), 3, 8 + 4 * POLICY_PATTERNS_MAX, "patterns");
    let accounts = |count| format!("[[rules]]\nwatch = true\nusers = [{}]", "1,".repeat(count));
    assert!(parse(&accounts(POLICY_ACCOUNTS_MAX)).is_ok());
    wrong(&accounts(POLICY_ACCOUNTS_MAX + 1), 3, 10 + 2 * POLICY_ACCOUNTS_MAX, "users and groups");
    wrong(&"#".repeat(POLICY_BYTES_MAX + 1), 1, 1, "bytes");
    assert!(parse(&format!("rules = {}", "[".repeat(100_000))).is_err(), "nesting costs no stack");
}

#[test]
fn names_need_accounts() {
    let text = "[[rules]]\nusers = [\"web\"]\nwatch = true";
    assert!(Policy::parse(text, 1, &NoAccounts).unwrap_err().message.contains("no user"));
}

/// Pieces of policies, so that random texts get far.
const PIECES: &[&str] = &[
    "[[rules]]\n",
    "users = [\"*\"]\n",
    "users = [1001, \"web\"]\n",
    "groups = [\"ops\", 3]\n",
    "own = [\"a.*\", \"b\"]\n",
    "call = [\"a\", { service = \"*\", methods = [\"x*\"] }]\n",
    "watch = true\n",
    "administer = true\n",
    "trust_gateway_user = false\n",
    "call = [",
    "]",
    "}",
    "\"",
    "*",
    "é",
    "\n",
    "=",
    "#",
    "\0",
    "''' ",
    "1e9",
    "[",
    "-1",
];

/// Patterns and names over a small alphabet, so that they meet.
fn short() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop::sample::select(vec!["a", "b", ".", "é"]), 1..5).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(pieces in proptest::collection::vec(prop::sample::select(PIECES.to_vec()), 0..40)) {
        let text = pieces.concat();
        match parse(&text) {
            Ok(policy) => {
                let access = policy.access(&subject(1001, 3, &[77]));
                if let Access::Some(rights) = access {
                    prop_assert!(!policy.may_call(&rights, "a", "x") || policy.calls(&rights, "a") != Calls::None);
                }
            }
            Err(error) => {
                let lines = text.split('\n').count();
                prop_assert!((1..=lines).contains(&error.line), "{error} of {lines} lines");
                let line = text.split('\n').nth(error.line - 1).unwrap();
                prop_assert!((1..=line.chars().count() + 1).contains(&error.column), "{error}: {line:?}");
            }
        }
    }

    #[test]
    fn any_bytes_that_are_text_are_read_or_refused(text in "\\PC*") {
        let _ = parse(&text);
    }

    /// The matcher searches; this one looks at each pattern.
    #[test]
    fn patterns_match_as_they_read(
        patterns in proptest::collection::vec((short(), any::<bool>()), 0..8),
        names in proptest::collection::vec(short(), 1..16),
    ) {
        let texts: Vec<String> =
            patterns.iter().map(|(text, star)| if *star { format!("{text}*") } else { text.clone() }).collect();
        let own: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
        let policy = parse(&format!("[[rules]]\nusers = [1]\nwatch = true\nown = [{}]", own.join(","))).unwrap();
        let rights = rights(&policy, subject(1, 1, &[]));
        for name in names {
            let expected = patterns.iter().any(|(text, star)| if *star { name.starts_with(text) } else { name == *text });
            prop_assert_eq!(policy.may_own(&rights, &name), expected, "{:?} of {:?}", name, texts);
        }
    }
}
