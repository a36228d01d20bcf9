//! Our client, which speaks version 2, beside old programs and at old gateways: what version 1 has no words for ends at them, and
//! disturbs nobody.

use bro_testing::client::{block_on, builder, code, start_call};
use bro_testing::gateway::{bro_path, wait_until};
use bro_testing::{OldGateway, TempGateway, V1Peer, for_each_encoding, for_each_mix};
use ipc_bro::{Client, Context, Error, ErrorCode, HandlerError};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What a handler of `hang` tells.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Begun { caller: String, wants_answer: bool },
    Ended(ErrorCode),
}

/// A service with `hang`, which answers nothing and tells when nobody waits any more, and `echo`.
async fn hanging(path: &Path, encoding: bro_testing::Encoding) -> (Client, UnboundedReceiver<Seen>) {
    let (tell, seen) = unbounded_channel();
    let service = builder("user", path, encoding).keep_cancelled_handlers(true);
    let service = service.method("hang", move |_: Value, context: Context| watch(tell.clone(), context));
    let service = service.method("echo", async |params: Value, _| Ok::<_, Error>(params));
    (service.connect().await.expect("the gateway is there"), seen)
}

async fn watch(tell: UnboundedSender<Seen>, context: Context) -> Result<(), HandlerError> {
    tell.send(Seen::Begun { caller: context.caller().to_owned(), wants_answer: context.wants_answer() })?;
    let reason = context.cancelled().await;
    tell.send(Seen::Ended(reason))?;
    Ok(())
}

fn begun(caller: &str) -> Option<Seen> {
    Some(Seen::Begun { caller: caller.to_owned(), wants_answer: true })
}

#[test]
fn the_end_of_an_old_caller_is_seen_by_our_callee() {
    for_each_mix(|mix| {
        block_on(async {
            let gateway = TempGateway::start();
            let (user, mut seen) = hanging(gateway.socket_path(), mix.callee).await;
            let mut caller = V1Peer::register(gateway.socket_path(), mix.caller, "old", &[]);
            caller.start_call("user", "hang", json!({}));
            assert_eq!(seen.recv().await, begun("old"));
            drop(caller);
            assert_eq!(seen.recv().await, Some(Seen::Ended(ErrorCode::ConnectionLost)));
            // A deadline of its own is told as well, if its time was not over before the handler began.
            let mut caller = V1Peer::register(gateway.socket_path(), mix.caller, "old", &[]);
            let is_told = [60, 500, 5000, 30_000].into_iter().any(|timeout_ms| {
                let mut context = caller.old_context(timeout_ms);
                context["chain"] = json!(["old"]);
                let id = caller.start_call_with("user", "hang", json!({}), context);
                let code = tokio::task::block_in_place(|| caller.expect_response(&id))["error"]["code"].take();
                assert!(code == "TIMEOUT" || code == "DEADLINE_EXCEEDED", "{code}");
                let begun = seen.try_recv().ok();
                assert!(begun.is_none() || begun == self::begun("old"), "{begun:?}");
                begun.is_some()
            });
            assert!(is_told);
            assert_eq!(seen.recv().await, Some(Seen::Ended(ErrorCode::Timeout)));
            assert!(user.is_connected());
        });
    });
}

#[test]
fn the_death_of_a_calling_process_is_seen_by_the_callee() {
    block_on(async {
        let gateway = TempGateway::start();
        let (_user, mut seen) = hanging(gateway.socket_path(), bro_testing::Encoding::Json).await;
        let mut command = Command::new(bro_path());
        command.args(["call", "user", "hang", "--socket"]).arg(gateway.socket_path());
        let mut caller = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("bro runs");
        let name = format!("bro-cli-{}", caller.id());
        assert_eq!(seen.recv().await, begun(&name));
        caller.kill().expect("a child can be killed");
        caller.wait().expect("it was killed");
        assert_eq!(seen.recv().await, Some(Seen::Ended(ErrorCode::ConnectionLost)));
    });
}

#[test]
fn an_old_callee_is_not_told_of_a_cancelled_call_and_its_answer_is_nobodys() {
    for_each_mix(|mix| {
        block_on(async {
            let gateway = TempGateway::start();
            let mut old = V1Peer::register(gateway.socket_path(), mix.callee, "old", &["find"]);
            let client = builder("order", gateway.socket_path(), mix.caller).connect().await.expect("a gateway");
            let call = start_call(&client, "old", "find", json!({"n": 1}));
            let given_up = tokio::task::block_in_place(|| old.expect_call());
            call.abort();
            wait_until("the call is given up", || client.status().pending_requests == 0);
            tokio::task::block_in_place(|| {
                old.expect_nothing_before_now();
                old.respond(&given_up, json!("late"));
            });
            let call = start_call(&client, "old", "find", json!({"n": 2}));
            tokio::task::block_in_place(|| {
                let next = old.expect_call();
                assert_eq!(next["params"]["n"].as_f64(), Some(2.0));
                old.respond(&next, json!("in time"));
            });
            assert_eq!(call.await.expect("no panic").expect("an answer"), "in time");
        });
    });
}

#[test]
fn an_old_program_is_notified_by_a_call_whose_answer_is_nobodys() {
    for_each_mix(|mix| {
        block_on(async {
            let gateway = TempGateway::start();
            let mut old = V1Peer::register(gateway.socket_path(), mix.callee, "old", &["note"]);
            let client = builder("order", gateway.socket_path(), mix.caller).connect().await.expect("a gateway");
            client.notify("old", "note", "something").await.expect("it goes out");
            tokio::task::block_in_place(|| {
                let call = old.expect_call();
                assert_eq!((&call["from"], &call["params"]), (&json!("order"), &json!("something")));
                assert_eq!(call["context"]["chain"], json!(["order", "old"]));
                old.respond(&call, json!("nobody reads this"));
                old.expect_nothing_before_now();
            });
            assert_eq!(client.status().pending_requests, 0);
            assert_eq!(code(client.call::<Value>("old", "", ()).await), "INVALID_ARGUMENT");
        });
    });
}

#[test]
fn a_gateway_that_comes_back_is_spoken_to_in_version_2_again() {
    block_on(async {
        let mut gateway = TempGateway::start();
        let (user, mut seen) = hanging(gateway.socket_path(), bro_testing::Encoding::Json).await;
        let order = builder("order", gateway.socket_path(), bro_testing::Encoding::Msgpack).pool_size(2);
        let order = order.connect().await.expect("a gateway");
        for _ in 0..2 {
            let before = start_call(&order, "user", "hang", json!({}));
            assert_eq!(seen.recv().await, begun("order"));
            order.notify("user", "hang", ()).await.expect("it goes out");
            let noted = Seen::Begun { caller: "order".into(), wants_answer: false };
            assert_eq!(seen.recv().await, Some(noted), "as only version 2 can tell");
            gateway.kill9();
            assert_eq!(code(before.await.expect("no panic")), "CONNECTION_LOST");
            for _ in 0..2 {
                assert_eq!(seen.recv().await, Some(Seen::Ended(ErrorCode::ConnectionLost)));
            }
            gateway.restart();
            wait_until("both are back", || user.is_connected() && order.is_connected());
            while order.call::<Value>("user", "echo", 1).await.is_err() {
                // One of the two may have registered before the other.
                tokio::task::yield_now().await;
            }
        }
    });
}

#[test]
fn at_an_old_gateway_everything_is_as_it_was() {
    for_each_encoding(|encoding| {
        for pool_size in [1, 3] {
            block_on(async {
                let gateway = OldGateway::start(encoding);
                let path = gateway.socket_path();
                let (user, mut seen) = hanging(path, encoding).await;
                let order = builder("order", path, encoding).pool_size(pool_size);
                let order = order.connect().await.expect("the old gateway registers us");
                // It cannot pass this on: the callee goes on until the deadline.
                let given_up = start_call(&order, "user", "hang", json!({}));
                assert_eq!(seen.recv().await, begun("order"));
                given_up.abort();
                wait_until("the call is given up", || order.status().pending_requests == 0);
                order.notify("user", "echo", 7).await.expect("it goes out");
                order.notify("nobody", "echo", 7).await.expect("it goes out");
                for n in 0..20 {
                    assert_eq!(order.call::<u32>("user", "echo", n).await.expect("an answer"), n);
                }
                assert!(seen.try_recv().is_err(), "nobody has told it");
                order.drain().await.expect("it works on nothing");
                assert_eq!(order.call::<u32>("user", "echo", 1).await.expect("an answer"), 1);
                user.disconnect().await;
                drop(user);
                assert_eq!(seen.recv().await, None, "disconnecting stops handlers");
            });
        }
    });
}
