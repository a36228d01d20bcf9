//! Claiming to be somebody else.

use super::Attack;
use crate::raw::{Raw, call, register};
use crate::scene::Scene;
use crate::victim::{ORDER, USER};
use serde_json::{Value, json};

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("forged `from`", "calls with the name of another service as the sender", forged_from),
    Attack::new("forged chain", "calls with a chain that it has no part in", forged_chain),
    Attack::new("name squatting", "registers a name that is taken", squatted_name),
    Attack::new("pool squatting", "registers as a further pool member of another process", squatted_pool),
    Attack::new("reserved names", "registers names of the gateway's own", reserved_names),
    Attack::new("claimed identity", "writes another pid and uid into its metadata", claimed_identity),
    Attack::new("change of name", "registers again under another name", renamed),
    Attack::new("call before REGISTER", "calls without a name", nameless),
    Attack::new("names beyond names", "registers names that are empty, too long, or not text", odd_names),
];

/// Registers with `value` on a new connection, again and again; each must end with `code`.
fn refused(scene: &Scene, value: &Value, code: &str) -> u64 {
    let mut count = 0;
    while scene.goes_on() {
        let mut raw = Raw::connect(scene);
        raw.send_json(value);
        assert_eq!(raw.end(), code);
        count += 1;
    }
    count
}

fn forged_from(scene: &Scene) -> String {
    let mut mallory = Raw::registered(scene, "mallory");
    let mut accomplice = Raw::registered(scene, "accomplice");
    let mut count = 0;
    while scene.goes_on() {
        mallory.send_json(&call(&format!("id-{count}"), ORDER, "accomplice", "echo", json!({})));
        let asked = accomplice.hear_json();
        assert_eq!(asked["from"], "mallory", "{asked}");
        count += 1;
    }
    format!("its own name stands in all {count} calls")
}

fn forged_chain(scene: &Scene) -> String {
    let mut mallory = Raw::registered(scene, "mallory");
    let mut accomplice = Raw::registered(scene, "accomplice");
    let mut count = 0;
    while scene.goes_on() {
        let mut message = call(&format!("id-{count}"), ORDER, "accomplice", "echo", json!({}));
        message["context"] = json!({ "root": "root-1-a", "chain": [ORDER, USER], "depth": 2, "deadline": 9e15 });
        mallory.send_json(&message);
        let asked = accomplice.hear_json();
        assert_eq!(asked["from"], "mallory", "{asked}");
        count += 1;
    }
    format!("in version 1 the chain is the sender's word; the name of the sender is right in all {count} calls")
}

fn squatted_name(scene: &Scene) -> String {
    let count = refused(scene, &register(USER, json!({})), "DUPLICATE_SERVICE");
    format!("refused {count} times: DUPLICATE_SERVICE")
}

fn squatted_pool(scene: &Scene) -> String {
    let count = refused(scene, &register(USER, json!({ "poolSize": 4, "poolIndex": 1 })), "DUPLICATE_SERVICE");
    format!("refused {count} times: DUPLICATE_SERVICE")
}

fn reserved_names(scene: &Scene) -> String {
    let mut count = 0;
    while scene.goes_on() {
        for name in ["bro.gateway", "bro.anything"] {
            let mut raw = Raw::connect(scene);
            raw.send_json(&register(name, json!({})));
            assert_eq!(raw.end(), "PERMISSION_DENIED");
            count += 1;
        }
    }
    format!("refused {count} times: PERMISSION_DENIED")
}

fn claimed_identity(scene: &Scene) -> String {
    let metadata = json!({ "pid": 1, "uid": 12345, "gid": 12345, "instances": [{ "pid": 1, "uid": 12345 }] });
    let mut mallory = Raw::registered_with(scene, "mallory", metadata);
    let mut count = 0;
    while scene.goes_on() {
        mallory.send_json(&call("who", "mallory", "bro.gateway", "service", json!({ "name": "mallory" })));
        let answer = mallory.hear_json();
        let instance = &answer["data"]["instances"][0];
        assert_eq!(instance["pid"], std::process::id(), "{answer}");
        assert_eq!(instance["uid"], rustix::process::getuid().as_raw(), "{answer}");
        count += 1;
    }
    format!("the kernel's word stands in all {count} entries, and its own only under metadata")
}

fn renamed(scene: &Scene) -> String {
    let mut count = 0;
    while scene.goes_on() {
        let mut raw = Raw::registered(scene, "mallory");
        raw.send_json(&register("mallory.two", json!({})));
        assert_eq!(raw.end(), "INVALID_MESSAGE");
        count += 1;
    }
    format!("disconnected {count} times: INVALID_MESSAGE")
}

fn nameless(scene: &Scene) -> String {
    let mut count = 0;
    while scene.goes_on() {
        let mut raw = Raw::connect(scene);
        raw.send_json(&call("id", ORDER, USER, "echo", json!({})));
        let answer = raw.hear_json();
        assert_eq!(answer["error"]["code"], "NOT_REGISTERED", "{answer}");
        count += 1;
    }
    format!("refused {count} times: NOT_REGISTERED")
}

fn odd_names(scene: &Scene) -> String {
    let names = [json!(""), json!("x".repeat(256)), json!("a\nb"), json!("a\u{0}b"), json!(5), json!(["victim.user"])];
    let mut count = 0;
    while scene.goes_on() {
        for name in &names {
            let mut raw = Raw::connect(scene);
            raw.send_json(&json!({ "type": "REGISTER", "serviceName": name, "methods": [], "metadata": {} }));
            assert_eq!(raw.end(), "INVALID_MESSAGE", "{name}");
            count += 1;
        }
    }
    format!("refused {count} times: INVALID_MESSAGE")
}
