//! Policies: who is let in, what everybody may do, and what happens when the policy changes.

mod support;

use bro_policy::{NoAccounts, Policy};
use bro_proto::ErrorCode;
use bro_proto::limits::LANE_BUSY_CALLS;
use bro_proto::v1::Encoding::{Json, Msgpack};
use bro_proto::v2::encode::{self, CallHead};
use bro_proto::v2::lane::CloseLane;
use bro_proto::v2::{self, Codec, Frame, FrameKind};
use bro_router::{CloseReason, EventMask, LanePolicy, PeerId, PeerIdentity, RouterConfig};
use serde_json::{Value, json};
use support::v2_peers::draft;
use support::{Gateway, answer, code};

/// The user of the gateway. Others are made up as needed.
const OWN: u32 = 8;
const WEB: u32 = 1001;
const ORDER: u32 = 1002;

/// `web` may call one method of `order`; `order` may call all of `user.*`.
const RULES: &str = r#"
    [[rules]]
    users = [1001]
    own = ["web", "web.*"]
    call = [{ service = "order", methods = ["get"] }]

    [[rules]]
    users = [1002]
    own = ["order"]
    call = ["user.*"]
"#;

impl Gateway {
    fn ruled_by(rules: &str) -> Gateway {
        let mut gateway = Gateway::new();
        gateway.rule(rules);
        gateway
    }

    fn rule(&mut self, rules: &str) {
        self.rule_for(rules, None);
    }

    fn rule_for(&mut self, rules: &str, wish: Option<u64>) {
        let policy = Policy::parse(rules, OWN, &NoAccounts).expect("a policy");
        self.router.set_policy(policy, Some("/etc/bro.toml"), |_| &[], wish, self.now, &mut self.orders);
        self.router.check_invariants();
    }

    fn connect_uid(&mut self, uid: u32) -> PeerId {
        self.connect_as(PeerIdentity { pid: Some(7), uid: Some(uid), gid: Some(uid), ..PeerIdentity::default() })
    }

    fn service_of(&mut self, uid: u32, name: &str) -> PeerId {
        let peer = self.connect_uid(uid);
        self.send_json(peer, &json!({"type": "REGISTER", "serviceName": name, "methods": ["get"]}));
        assert_eq!(self.take_one(peer)["type"], "REGISTER_ACK");
        peer
    }

    fn service_v2_of(&mut self, uid: u32, name: &str, routes: &[&str]) -> PeerId {
        let peer = self.connect_uid(uid);
        self.register_v2(peer, name, routes);
        peer
    }

    fn call_method(&mut self, caller: PeerId, to: &str, method: &str) {
        let mut call = self.call("c1", "whoever", to);
        call["method"] = json!(method);
        self.send_json(caller, &call);
    }

    /// A call of version 2 on route 0.
    fn call_v2_method(&mut self, caller: PeerId, kind: FrameKind, id: u64, method: &str) {
        let head = CallHead {
            kind,
            id,
            origin: 0,
            root: 0,
            peer: 0,
            timeout_ms: 5000,
            method,
            section: &[],
            codec: Codec::ABSENT,
        };
        let mut frame = Vec::new();
        encode::call_head(&mut frame, &head, 0);
        self.send_frame(caller, frame);
    }

    fn bind(&mut self, caller: PeerId, route: u32, service: &str) {
        let mut resolve = Vec::new();
        encode::resolve(&mut resolve, route, service);
        self.send_frame(caller, resolve);
    }

    fn denied(&self) -> u64 {
        self.router.counters().permission_denied
    }

    fn why_closed(&self, peer: PeerId) -> Option<CloseReason> {
        self.orders.closed.iter().find(|(closed, _)| *closed == peer).map(|(_, reason)| *reason)
    }
}

#[test]
fn who_no_rule_speaks_of_is_not_let_in() {
    let mut gateway = Gateway::ruled_by(RULES);
    for identity in [
        PeerIdentity { pid: Some(7), uid: Some(4711), gid: Some(OWN), ..PeerIdentity::default() },
        PeerIdentity { pid: Some(7), uid: None, gid: Some(0), ..PeerIdentity::default() },
        PeerIdentity::default(),
    ] {
        let refused = gateway.router.handle_connect(identity, gateway.now, &mut gateway.orders).unwrap_err();
        assert_eq!(refused.code, Some(ErrorCode::PermissionDenied));
    }
    assert_eq!((gateway.denied(), gateway.router.peers_len()), (3, 0));
    assert!(gateway.orders.events.iter().any(|event| event.starts_with("Warning") && event.contains("uid 4711")));
    for uid in [OWN, 0, WEB, ORDER] {
        gateway.connect_uid(uid);
    }
}

#[test]
fn without_rules_only_the_gateways_own_user_and_root_are_let_in() {
    let mut gateway = Gateway::new();
    gateway.router.set_policy(Policy::only_user(OWN), None, |_| &[], None, gateway.now, &mut gateway.orders);
    let identity = PeerIdentity { pid: None, uid: Some(WEB), ..PeerIdentity::default() };
    assert!(gateway.router.handle_connect(identity, gateway.now, &mut gateway.orders).is_err());
    let (own, root) = (gateway.service_of(OWN, "own"), gateway.service_of(0, "root"));
    gateway.call_method(own, "root", "anything");
    assert_eq!(gateway.take_one(root)["method"], "anything");
    let refused = gateway.ask(own, "reloadPolicy", json!({}));
    assert_eq!(code(&refused), "EXECUTION_FAILED", "there is no file: {refused}");
}

#[test]
fn groups_of_a_peer_give_it_rights_too() {
    let mut gateway = Gateway::ruled_by("[[rules]]\ngroups = [77]\nown = [\"ops.*\"]");
    assert!(gateway.router.knows_groups());
    let identity = PeerIdentity { pid: Some(7), uid: Some(WEB), gid: Some(1), ..PeerIdentity::default() };
    let (now, orders) = (gateway.now, &mut gateway.orders);
    assert!(gateway.router.handle_connect_in_groups(identity, &[3, 4], now, orders).is_err());
    let peer = gateway.router.handle_connect_in_groups(identity, &[3, 77], now, orders).unwrap();
    let by_gid = gateway.router.handle_connect(PeerIdentity { gid: Some(77), ..identity }, now, orders).unwrap();
    let rules = Policy::parse("[[rules]]\ngroups = [3]\nwatch = true", OWN, &NoAccounts).unwrap();
    let groups_of = |id| if id == peer { &[3_u32, 77][..] } else { &[] };
    gateway.router.set_policy(rules, None, groups_of, None, now, &mut gateway.orders);
    assert_eq!((gateway.why_closed(peer), gateway.why_closed(by_gid)), (None, Some(CloseReason::Denied)));
}

#[test]
fn a_name_is_for_those_who_may_own_it() {
    let mut gateway = Gateway::ruled_by(RULES);
    let claims = json!({"uid": OWN, "gid": 0, "pid": 1, "owner": "root", "bro": {"v": 2, "uid": 0}});
    for name in ["order", "webx", "bro.gateway", "bro.mine", "anything"] {
        for encoding in [Json, Msgpack] {
            let squatter = gateway.connect_uid(WEB);
            let register = json!({"type": "REGISTER", "serviceName": name, "methods": [], "metadata": claims});
            gateway.send(squatter, &register, encoding);
            let refused = gateway.orders.frames.pop().expect("an answer").1;
            let refused = support::parse(&refused);
            assert_eq!((&refused["type"], code(&refused)), (&json!("ERROR"), "PERMISSION_DENIED"), "{name}");
            assert_eq!(gateway.why_closed(squatter), Some(CloseReason::Refused));
        }
    }
    assert_eq!((gateway.denied(), gateway.router.service_names().len()), (10, 0));
    let web = gateway.connect_uid(WEB);
    let register = json!({"type": "REGISTER", "serviceName": "web.eu", "methods": [], "metadata": claims});
    gateway.send_json(web, &register);
    assert_eq!(gateway.take_one(web)["type"], "REGISTER_ACK");
    let root = gateway.service_of(0, "root");
    let shown = gateway.ask(root, "service", json!({"name": "web.eu"}))["data"]["instances"][0].clone();
    assert_eq!((&shown["uid"], &shown["gid"], &shown["pid"]), (&json!(WEB), &json!(WEB), &json!(7)), "not as claimed");
    let view = gateway.router.service("web.eu").unwrap().instances.remove(0);
    assert_eq!((view.uid, view.gid, view.pid), (Some(WEB), Some(WEB), Some(7)));
}

#[test]
fn calls_of_version_1_are_allowed_or_denied_at_once() {
    let mut gateway = Gateway::ruled_by(RULES);
    let (web, order) = (gateway.service_of(WEB, "web"), gateway.service_of(ORDER, "order"));
    let names = gateway.service_of(OWN, "user.names");
    gateway.call_method(web, "order", "get");
    let asked = gateway.take_one(order);
    gateway.send_json(order, &answer(&asked, json!(1)));
    assert_eq!(gateway.take_one(web)["data"], 1);
    for (to, method) in
        [("order", "cancel"), ("order", "getAll"), ("order", "bro.ping"), ("user.names", "get"), ("nobody", "get")]
    {
        gateway.call_method(web, to, method);
        let refused = gateway.take_one(web);
        assert_eq!((&refused["type"], code(&refused)), (&json!("RESPONSE"), "PERMISSION_DENIED"), "{to}.{method}");
    }
    assert_eq!((gateway.denied(), gateway.router.counters().calls_refused), (5, 5));
    assert!(gateway.take(order).is_empty() && gateway.take(names).is_empty());
    gateway.call_method(order, "user.names", "anything");
    assert_eq!(gateway.take_one(names)["from"], "order");
    gateway.call_method(order, "user.gone", "get");
    let unknown = gateway.take_one(order);
    assert_eq!(code(&unknown), "SERVICE_NOT_FOUND");
    assert!(!unknown["error"]["message"].as_str().unwrap().contains("names"), "who else is there is not told");
    gateway.call_method(names, "order", "cancel");
    assert_eq!(gateway.take_one(order)["method"], "cancel", "the gateway's own user may do everything");
}

#[test]
fn calls_of_version_2_are_allowed_or_denied_at_once() {
    let mut gateway = Gateway::ruled_by(RULES);
    let order = gateway.service_v2_of(ORDER, "order", &["user.names"]);
    let web = gateway.service_v2_of(WEB, "web", &["order"]);
    gateway.call_v2_method(web, FrameKind::Call, 1, "get");
    let asked = gateway.asked(order, "order", &mut Vec::new());
    gateway.answer_v2(order, asked.id, b"1");
    gateway.take_frames(web);
    for (id, method) in [(2, "cancel"), (3, "bro.ping"), (4, "cancel")] {
        gateway.call_v2_method(web, FrameKind::Call, id, method);
        assert_eq!(gateway.failed_with(web), (id, ErrorCode::PermissionDenied), "{method}");
    }
    gateway.call_v2_method(web, FrameKind::Notify, 0, "cancel");
    let counters = *gateway.router.counters();
    assert_eq!((counters.permission_denied, counters.notifications_dropped, counters.calls_refused), (4, 1, 3));
    assert!(gateway.take_frames(order).is_empty(), "nothing of it arrives");
    gateway.call_v2_method(web, FrameKind::Notify, 0, "get");
    assert_eq!(gateway.take_frames(order).len(), 1);
    gateway.call_v2_method(order, FrameKind::Call, 1, "whatever");
    assert_eq!(gateway.failed_with(order).1, ErrorCode::ServiceNotFound, "allowed, and not there");
    let mut unbound = draft(9);
    unbound.route = 7;
    gateway.call_v2(web, &unbound);
    assert!(gateway.is_closed(web), "a route that was not bound stays a violation");
}

#[test]
fn a_route_that_is_bound_anew_is_decided_anew() {
    let mut gateway = Gateway::ruled_by("[[rules]]\nusers = [1001]\nown = [\"web\"]\ncall = [\"order\"]");
    let (order, secret) = (gateway.service_v2_of(OWN, "order", &[]), gateway.service_v2_of(OWN, "secret", &[]));
    let web = gateway.service_v2_of(WEB, "web", &["order"]);
    gateway.call_v2_method(web, FrameKind::Call, 1, "get");
    assert!(!gateway.take_frames(order).is_empty());
    gateway.bind(web, 0, "secret");
    gateway.call_v2_method(web, FrameKind::Call, 2, "get");
    assert_eq!(gateway.failed_with(web), (2, ErrorCode::PermissionDenied));
    gateway.bind(web, 0, "order");
    gateway.call_v2_method(web, FrameKind::Call, 3, "get");
    assert!(!gateway.take_frames(order).is_empty() && gateway.take_frames(secret).is_empty());
}

#[test]
fn a_new_policy_counts_for_new_calls_also_on_routes_in_use() {
    let mut gateway = Gateway::ruled_by("[[rules]]\nusers = [1001]\nown = [\"web\"]\ncall = [\"order\"]");
    let order = gateway.service_v2_of(OWN, "order", &[]);
    let web = gateway.service_v2_of(WEB, "web", &["order"]);
    gateway.call_v2_method(web, FrameKind::Call, 1, "cancel");
    let asked = gateway.asked(order, "order", &mut Vec::new());
    gateway.rule(RULES);
    gateway.answer_v2(order, asked.id, b"1");
    assert_eq!(gateway.take_frames(web).len(), 1, "what was under way ends as it would have");
    gateway.call_v2_method(web, FrameKind::Call, 2, "cancel");
    assert_eq!(gateway.failed_with(web), (2, ErrorCode::PermissionDenied));
    gateway.bind(web, 0, "order");
    gateway.call_v2_method(web, FrameKind::Call, 3, "cancel");
    assert_eq!(gateway.failed_with(web), (3, ErrorCode::PermissionDenied), "binding it anew changes nothing");
    gateway.call_v2_method(web, FrameKind::Call, 4, "get");
    assert_eq!(gateway.take_frames(order).len(), 1);
    gateway.rule("[[rules]]\nusers = [1001]\nown = [\"web\"]");
    gateway.call_v2_method(web, FrameKind::Call, 5, "get");
    assert_eq!(gateway.failed_with(web), (5, ErrorCode::PermissionDenied));
    gateway.rule("[[rules]]\nusers = [1001]\nown = [\"web\"]\ncall = [\"*\"]");
    gateway.call_v2_method(web, FrameKind::Call, 6, "get");
    assert_eq!(gateway.take_frames(order).len(), 1);
    // Of one that might do everything the gateway remembered where its calls go.
    let own = gateway.service_v2_of(OWN, "own", &["order"]);
    gateway.call_v2_method(own, FrameKind::Call, 7, "get");
    assert!(!gateway.take_frames(order).is_empty());
    gateway.rule("trust_gateway_user = false\n[[rules]]\nusers = [8]\nown = [\"own\", \"order\"]");
    gateway.call_v2_method(own, FrameKind::Call, 8, "get");
    assert_eq!(gateway.failed_with(own), (8, ErrorCode::PermissionDenied));
}

#[test]
fn a_new_policy_closes_who_may_not_be_what_it_is() {
    let mut gateway = Gateway::ruled_by(RULES);
    let (web, order) = (gateway.service_of(WEB, "web"), gateway.service_v2_of(ORDER, "order", &[]));
    let (own, fresh) = (gateway.service_of(OWN, "own"), gateway.connect_uid(ORDER));
    gateway.call_method(web, "order", "get");
    assert!(!gateway.take_frames(order).is_empty());
    // `order` may not be a service any more, and `web` may not be `web`, but something else.
    gateway.rule("[[rules]]\nusers = [1001]\nown = [\"shop\"]\n[[rules]]\nusers = [4711]\nwatch = true");
    for peer in [web, order, fresh] {
        assert_eq!(gateway.why_closed(peer), Some(CloseReason::Denied));
    }
    assert_eq!(gateway.why_closed(own), None);
    let last = |peer| gateway.orders.frames.iter().rfind(|(to, _)| *to == peer).map(|(_, frame)| support::parse(frame));
    for peer in [web, order, fresh] {
        let last = last(peer).expect("it is told why");
        assert_eq!((&last["type"], code(&last)), (&json!("ERROR"), "PERMISSION_DENIED"));
    }
    assert_eq!((gateway.router.service_names(), gateway.router.in_flight_len()), (vec!["own".to_owned()], 0));
    let denied = gateway.denied();
    gateway.rule("[[rules]]\nusers = [1001]\nown = [\"shop\"]");
    assert_eq!(gateway.denied(), denied, "the same rules again change nothing");
    gateway.service_of(WEB, "shop");
}

#[test]
fn all_connections_of_a_pool_are_closed() {
    let mut gateway = Gateway::ruled_by(RULES);
    let members: Vec<PeerId> = (0..3).map(|_| gateway.connect_uid(WEB)).collect();
    for (index, &peer) in (0..).zip(&members) {
        let metadata = json!({"poolSize": 3, "poolIndex": index});
        gateway
            .send_json(peer, &json!({"type": "REGISTER", "serviceName": "web", "methods": [], "metadata": metadata}));
        assert_eq!(gateway.take_one(peer)["type"], "REGISTER_ACK");
    }
    gateway.rule("");
    assert!(members.iter().all(|&peer| gateway.why_closed(peer) == Some(CloseReason::Denied)));
    assert!(gateway.router.service_names().is_empty() && gateway.router.peers_len() == 0);
}

#[test]
fn names_are_shown_to_those_who_may_use_them() {
    let mut gateway = Gateway::ruled_by(RULES);
    let (web, order) = (gateway.service_of(WEB, "web"), gateway.service_of(ORDER, "order"));
    let own = gateway.service_of(OWN, "secret");
    let mut wait = gateway.call("w", "secret", "bro.gateway");
    wait["method"] = json!("waitFor");
    wait["params"] = json!({"service": "hidden"});
    gateway.send_json(own, &wait);
    assert_eq!(gateway.ask(own, "status", json!({}))["data"]["waitedFor"], json!({"hidden": 1}));
    for (peer, seen) in [(web, json!(["web", "order"])), (order, json!(["order"]))] {
        let status = gateway.ask(peer, "status", json!({}))["data"].clone();
        assert_eq!(status["waitedFor"], json!({}));
        assert_eq!(
            (&status["services"], &status["connectedServices"]),
            (&seen, &json!(seen.as_array().unwrap().len()))
        );
        let listed = gateway.ask(peer, "services", json!({}))["data"]["services"].clone();
        let names: Vec<&Value> = listed.as_array().unwrap().iter().map(|entry| &entry["name"]).collect();
        assert_eq!(json!(names), seen);
    }
    assert_eq!(gateway.ask(web, "service", json!({"name": "order"}))["data"]["name"], "order");
    for (method, params) in [
        ("service", json!({"name": "secret"})),
        ("service", json!({"name": "nobody"})),
        ("waitFor", json!({"service": "secret"})),
        ("waitFor", json!({"service": "nobody"})),
        ("events", json!({})),
        ("events", json!({"cursor": 0})),
        ("reloadPolicy", json!({})),
    ] {
        assert_eq!(code(&gateway.ask(web, method, params)), "PERMISSION_DENIED", "{method}");
    }
    assert_eq!(gateway.denied(), 7);
    // Who calls what is not there is told which services are; who may not know of them is not.
    gateway.call_method(order, "user.absent", "get");
    let absent = gateway.take_one(order);
    let message = absent["error"]["message"].as_str().expect("a message");
    assert_eq!((code(&absent), message), ("SERVICE_NOT_FOUND", "service \"user.absent\" is not registered"));
    gateway.call_method(own, "user.absent", "get");
    assert!(gateway.take_one(own)["error"]["message"].as_str().expect("a message").contains("web"));
    assert_eq!(gateway.ask(web, "ping", json!({}))["data"]["pong"], true);
    assert_eq!(gateway.router.parked_len(), 1, "that of the owner");
}

/// `status` told everybody who may connect which users there are, and what each has.
#[test]
fn users_are_shown_to_themselves_and_to_those_who_watch_or_administer() {
    for (rights, seen) in [("", vec![WEB]), ("watch = true", vec![WEB, ORDER]), ("administer = true", vec![WEB, ORDER])]
    {
        let rules = format!(
            "[[rules]]\nusers = [{WEB}]\nown = [\"web\"]\n{rights}\n[[rules]]\nusers = [{ORDER}]\nown = [\"order\"]"
        );
        let mut gateway = Gateway::ruled_by(&rules);
        let (web, _order) = (gateway.service_of(WEB, "web"), gateway.service_of(ORDER, "order"));
        let users = gateway.ask(web, "status", json!({}))["data"]["users"].clone();
        let mut uids: Vec<u64> = users.as_array().unwrap().iter().filter_map(|user| user["uid"].as_u64()).collect();
        uids.sort_unstable();
        assert_eq!(uids, seen.iter().map(|&uid| u64::from(uid)).collect::<Vec<_>>(), "{rights}");
    }
}

#[test]
fn who_waits_for_what_it_may_not_know_any_more_is_told_so() {
    let mut gateway = Gateway::ruled_by(
        "[[rules]]\nusers = [1001]\nown = [\"web\"]\nwatch = true\n[[rules]]\nusers = [1002]\nown = [\"order\"]\ncall = [\"late\"]",
    );
    let (web, order) = (gateway.service_of(WEB, "web"), gateway.service_of(ORDER, "order"));
    let cursor = gateway.ask(web, "events", json!({}))["data"]["cursor"].clone();
    let ask = |gateway: &mut Gateway, peer, method: &str, params| {
        let mut call = gateway.call("waits", "x", "bro.gateway");
        (call["method"], call["params"]) = (json!(method), params);
        gateway.send_json(peer, &call);
    };
    ask(&mut gateway, web, "events", json!({"cursor": cursor}));
    ask(&mut gateway, order, "waitFor", json!({"service": "late"}));
    assert_eq!(gateway.router.parked_len(), 2);
    gateway.rule(RULES);
    for peer in [web, order] {
        let told = gateway.take_one(peer);
        assert_eq!((&told["id"], code(&told)), (&json!("waits"), "PERMISSION_DENIED"));
    }
    assert_eq!(gateway.router.parked_len(), 0);
}

#[test]
fn watching_of_version_2_needs_the_right_too() {
    let mut gateway = Gateway::ruled_by(RULES);
    let web = gateway.service_v2_of(WEB, "web", &["bro.gateway"]);
    gateway.call_v2_method(web, FrameKind::Call, 1, "events");
    assert_eq!(gateway.failed_with(web), (1, ErrorCode::PermissionDenied));
    gateway.call_v2_method(web, FrameKind::Call, 2, "reloadPolicy");
    assert_eq!(gateway.failed_with(web), (2, ErrorCode::PermissionDenied));
    gateway.call_v2_method(web, FrameKind::Call, 3, "ping");
    let frames = gateway.take_frames(web);
    assert!(matches!(v2::parse(&frames[0]), Ok(Frame::Response { id: 3, .. })));
}

#[test]
fn who_administers_may_wish_for_the_policy_to_be_read_again() {
    let rules = "[[rules]]\nusers = [1001]\nown = [\"web\"]\nadminister = true";
    let mut gateway = Gateway::ruled_by(rules);
    let web = gateway.service_of(WEB, "web");
    assert_eq!(gateway.router.take_policy_wish(), None);
    let ask = |gateway: &mut Gateway, id: &str| {
        let mut call = gateway.call(id, "web", "bro.gateway");
        call["method"] = json!("reloadPolicy");
        gateway.send_json(web, &call);
    };
    ask(&mut gateway, "first");
    ask(&mut gateway, "second");
    let wish = gateway.router.take_policy_wish().expect("a wish");
    assert_eq!(gateway.router.take_policy_wish(), None);
    // The file may have been read by now.
    ask(&mut gateway, "third");
    gateway.rule_for(rules, Some(wish));
    let told = gateway.take(web);
    let ids: Vec<&Value> = told.iter().map(|answer| &answer["id"]).collect();
    assert!(ids.len() == 2 && ids.contains(&&json!("first")) && ids.contains(&&json!("second")), "{told:?}");
    assert_eq!(told[0]["data"], json!({"rules": 1}));
    let wish = gateway.router.take_policy_wish().expect("that of the third");
    gateway.router.handle_policy_failed(wish, "line 3: no", gateway.now, &mut gateway.orders);
    let told = gateway.take_one(web);
    assert_eq!((&told["id"], code(&told)), (&json!("third"), "EXECUTION_FAILED"));
    assert!(told["error"]["message"].as_str().unwrap().contains("line 3"));
    ask(&mut gateway, "fourth");
    gateway.pass(5001);
    assert_eq!(code(&gateway.take_one(web)), "TIMEOUT");
    ask(&mut gateway, "fifth");
    gateway.disconnect(web);
    assert_eq!((gateway.router.parked_len(), gateway.router.take_policy_wish().is_some()), (0, true));
    let root = gateway.service_of(0, "root");
    let status = gateway.ask(root, "status", json!({}))["data"].clone();
    assert_eq!((&status["policyFile"], &status["policyRules"]), (&json!("/etc/bro.toml"), &json!(1)));
}

#[test]
fn a_gateway_that_takes_over_decides_by_its_own_policy() {
    let rules = "[[rules]]\nusers = [1001]\nown = [\"web\"]\ncall = [\"order\"]\nadminister = true";
    let mut gateway = Gateway::ruled_by(rules);
    let order = gateway.service_v2_of(OWN, "order", &[]);
    let (web, other) = (gateway.service_v2_of(WEB, "web", &["order"]), gateway.connect_uid(WEB));
    gateway.bind(web, 1, "bro.gateway");
    let mut frame = Vec::new();
    let head = CallHead {
        kind: FrameKind::Call,
        id: 1,
        origin: 0,
        root: 0,
        peer: 1,
        timeout_ms: 5000,
        method: "reloadPolicy",
        section: &[],
        codec: Codec::ABSENT,
    };
    encode::call_head(&mut frame, &head, 0);
    gateway.send_frame(web, frame);
    let state = gateway.router.export(gateway.now);
    gateway.router = bro_router::Router::import(RouterConfig::default(), state, gateway.now).expect("a state");
    gateway.rule("[[rules]]\nusers = [1001]\nown = [\"web\"]\nwatch = true");
    assert_eq!(gateway.why_closed(other), None);
    gateway.call_v2_method(web, FrameKind::Call, 2, "get");
    assert_eq!(gateway.failed_with(web), (2, ErrorCode::PermissionDenied));
    let wish = gateway.router.take_policy_wish().expect("who wished before is not forgotten");
    gateway.rule_for(rules, Some(wish));
    let frames = gateway.take_frames(web);
    assert!(matches!(v2::parse(&frames[0]), Ok(Frame::Response { id: 1, .. })), "{frames:?}");
    gateway.call_v2_method(web, FrameKind::Call, 3, "get");
    assert_eq!(gateway.take_frames(order).len(), 2, "its name, and the call");
}

/// Lanes between two peers of one user, since others get none anyway.
const WHOLE: &str = "[[rules]]\nusers = [1001]\nown = [\"*\"]\ncall = [\"*\"]";
const BY_METHOD: &str =
    "[[rules]]\nusers = [1001]\nown = [\"*\"]\ncall = [\"a\", { service = \"b\", methods = [\"get\"] }]";

impl Gateway {
    fn laned(rules: &str) -> (Gateway, PeerId, PeerId) {
        let mut gateway = Gateway::with(RouterConfig { lanes: LanePolicy::Auto, ..RouterConfig::default() });
        gateway.router.set_events(EventMask::NONE);
        gateway.rule(rules);
        let [a, b] = [("a", "b"), ("b", "a")].map(|(name, to)| {
            let peer = gateway.connect_uid(WEB);
            let metadata = json!({"bro": {"v": 2, "lanes": true}});
            gateway.send_json(
                peer,
                &json!({"type": "REGISTER", "serviceName": name, "methods": [], "metadata": metadata}),
            );
            gateway.take_frames(peer);
            gateway.bind(peer, 0, to);
            peer
        });
        for id in 1..=u64::from(LANE_BUSY_CALLS) {
            gateway.call_v2_method(a, FrameKind::Call, id, "get");
            let asked = gateway.take_frames(b);
            let Ok(Frame::Call(call)) = v2::parse(asked.last().expect("a call")) else { panic!("{asked:?}") };
            gateway.answer_v2(b, call.id, b"1");
            gateway.take_frames(a);
        }
        (gateway, a, b)
    }

    fn say_ready(&mut self, peer: PeerId, lane: u64) {
        let mut frame = Vec::new();
        encode::other(&mut frame, FrameKind::LaneReady, lane, &[]);
        self.send_frame(peer, frame);
    }

    fn last_of_lane(&mut self, peer: PeerId) -> Option<(FrameKind, CloseLane)> {
        match v2::parse(self.take_frames(peer).last()?) {
            Ok(Frame::Other { kind, payload, .. }) => Some((kind, CloseLane::parse(payload))),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn lanes_are_where_every_call_is_allowed() {
    let (gateway, _, _) = Gateway::laned(BY_METHOD);
    assert!(gateway.orders.offers.is_empty(), "what goes over a lane, nobody looks at");
    let (mut gateway, a, b) = Gateway::laned(WHOLE);
    let lane = gateway.orders.offers.pop().expect("an offer").number;
    gateway.say_ready(a, lane);
    gateway.say_ready(b, lane);
    assert_eq!(gateway.last_of_lane(a).unwrap().0, FrameKind::LaneReady);
    assert_eq!(gateway.last_of_lane(b).unwrap().0, FrameKind::LaneReady);
    gateway.rule(WHOLE);
    assert_eq!(gateway.router.lanes_len(), 1, "it is still allowed");
    gateway.rule(BY_METHOD);
    for peer in [a, b] {
        assert_eq!(gateway.last_of_lane(peer), Some((FrameKind::LaneClose, CloseLane::Revoked)));
    }
    assert_eq!(gateway.router.lanes_len(), 0);
}

#[test]
fn a_lane_that_a_gateway_is_told_of_is_decided_on_as_well() {
    let (mut gateway, a, b) = Gateway::laned(BY_METHOD);
    gateway.say_ready(a, 4711);
    assert_eq!(gateway.last_of_lane(a), None, "who the other end is, is not known yet");
    gateway.say_ready(b, 4711);
    for peer in [a, b] {
        assert_eq!(gateway.last_of_lane(peer), Some((FrameKind::LaneClose, CloseLane::Revoked)));
    }
    assert_eq!(gateway.router.lanes_len(), 0);
    // An offer that is under way when the policy changes is withdrawn.
    let (mut gateway, a, b) = Gateway::laned(WHOLE);
    let lane = gateway.orders.offers.pop().expect("an offer").number;
    gateway.say_ready(a, lane);
    gateway.rule(BY_METHOD);
    gateway.say_ready(b, lane);
    assert_eq!(gateway.last_of_lane(a), Some((FrameKind::LaneClose, CloseLane::Revoked)));
}
