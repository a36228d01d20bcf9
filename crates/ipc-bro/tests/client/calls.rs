use crate::place::{ENCODING_PAIRS, Place, run, until};
use ipc_bro::{CallOptions, Client, ClientEvent, Context, Encoding, ErrorCode, HandlerError, RawPayload, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::HashMap;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    created_at_ms: u64,
    total: f64,
    note: Option<String>,
    lines: Vec<Line>,
    tags: HashMap<String, i64>,
    state: OrderState,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    article: String,
    quantity: i32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum OrderState {
    Open,
    Shipped { carrier: String },
}

fn order() -> Order {
    Order {
        id: (1 << 53) - 1,
        created_at_ms: 1_699_005_123_456,
        total: 99.99,
        note: Some("\"quoted\" \u{1F980} \u{7f}\u{0}".into()),
        lines: vec![Line { article: "nut".into(), quantity: -3 }, Line { article: "bolt".into(), quantity: i32::MAX }],
        tags: [("a".into(), i64::from(u32::MAX)), ("b".into(), -1)].into(),
        state: OrderState::Shipped { carrier: "owl".into() },
    }
}

#[test]
fn typed_values_arrive_whole_in_every_mix_of_encodings() {
    run(async {
        let place = Place::new();
        for (caller, callee) in ENCODING_PAIRS {
            let orders = place.builder("orders").serializer(callee).build().unwrap();
            orders
                .register("store", async |mut order: Order, context: Context| {
                    assert_eq!(
                        (context.caller(), context.is_caller_stamped(), context.method()),
                        ("shop", true, "store")
                    );
                    order.state = OrderState::Open;
                    Ok::<_, HandlerError>(order)
                })
                .unwrap();
            orders.connect().await.unwrap();
            let shop = place.builder("shop").serializer(caller).connect().await.unwrap();
            let stored: Order = shop.call("orders", "store", order()).await.unwrap();
            assert_eq!(stored, Order { state: OrderState::Open, ..order() }, "{caller:?} to {callee:?}");
            shop.disconnect().await;
            orders.disconnect().await;
        }
    });
}

#[test]
fn raw_payloads_pass_unparsed_and_in_the_callers_encoding() {
    run(async {
        let place = Place::new();
        let value = json!({ "list": [1, 2.5, null, true, "text"], "map": {} });
        for (caller, callee) in ENCODING_PAIRS {
            let echo =
                place.builder("echo").serializer(callee).method_raw("echo", move |params: RawPayload, _| async move {
                    assert_eq!(params.encoding(), callee);
                    Ok::<_, HandlerError>(params)
                });
            let echo = echo.connect().await.unwrap();
            let client = place.builder("client").serializer(caller).connect().await.unwrap();
            for given in [Encoding::Json, Encoding::Msgpack] {
                let params = RawPayload::encode(&value, given).unwrap();
                let result = client.call_raw("echo", "echo", params, CallOptions::new()).await.unwrap();
                assert_eq!((result.encoding(), result.to_json().unwrap()), (caller, value.clone()));
            }
            let nothing = client.call_raw("echo", "echo", RawPayload::absent(), CallOptions::new()).await.unwrap();
            assert_eq!(nothing.decode::<Option<u8>>().unwrap(), None);
            client.disconnect().await;
            echo.disconnect().await;
        }
    });
}

#[test]
fn a_handler_may_return_nothing_and_take_nothing() {
    run(async {
        let place = Place::new();
        for serializer in [Serializer::Json, Serializer::Msgpack] {
            let service = place.builder("service").serializer(serializer);
            let service =
                service.method("reset", async |(): (), _| Ok::<(), HandlerError>(())).connect().await.unwrap();
            let client = place.client("client").await;
            client.call::<()>("service", "reset", ()).await.unwrap();
            assert_eq!(client.call::<Option<u8>>("service", "reset", json!(null)).await.unwrap(), None);
            client.disconnect().await;
            service.disconnect().await;
        }
    });
}

#[test]
fn a_client_may_call_itself() {
    run(async {
        let place = Place::new();
        let service = place.builder("self").method("add", async |(a, b): (i32, i32), context: Context| {
            assert_eq!(context.call().chain, ["self", "self"]);
            Ok::<_, HandlerError>(a + b)
        });
        let service = service.connect().await.unwrap();
        assert_eq!(service.call::<i32>("self", "add", (2, 3)).await.unwrap(), 5);
    });
}

#[test]
fn methods_registered_after_connecting_are_advertised_and_called() {
    run(async {
        let place = Place::new();
        let service = place.client("late").await;
        let client = place.client("client").await;
        assert_eq!(place.methods_of("late").unwrap(), Vec::<String>::new());
        assert_eq!(client.call::<()>("late", "hello", ()).await.unwrap_err().code(), &ErrorCode::MethodNotFound);
        service.register("hello", async |name: String, _| Ok::<_, HandlerError>(format!("hello {name}"))).unwrap();
        assert_eq!(client.call::<String>("late", "hello", "you").await.unwrap(), "hello you");
        until(|| place.methods_of("late").unwrap() == ["hello"]).await;
        service.register("hello", async |(): (), _| Ok::<_, HandlerError>("replaced")).unwrap();
        assert_eq!(client.call::<String>("late", "hello", ()).await.unwrap(), "replaced");
        assert_eq!(service.registered_methods(), ["hello"]);

        assert!(service.unregister("hello"));
        assert!(!service.unregister("hello"));
        until(|| place.methods_of("late").unwrap().is_empty()).await;
        let error = client.call::<()>("late", "hello", ()).await.unwrap_err();
        assert_eq!(error.code(), &ErrorCode::MethodNotFound);
    });
}

#[test]
fn events_come_in_order_under_the_names_of_the_readme() {
    run(async {
        let place = Place::new();
        let service = place
            .builder("service")
            .method("work", async |well: bool, _| if well { Ok(()) } else { Err(HandlerError::new("NOT_WELL", "no")) });
        let service = service.build().unwrap();
        let mut at_service = service.events();
        service.connect().await.unwrap();
        let client = place.client("client").await;
        let mut at_client = client.events();
        client.call::<()>("service", "work", true).await.unwrap();
        client.call::<()>("service", "work", false).await.unwrap_err();
        client.call::<()>("nowhere", "work", false).await.unwrap_err();
        client.disconnect().await;
        service.disconnect().await;
        drop((client, service));

        let mut story = Vec::new();
        while let Some(event) = at_service.recv().await {
            match event {
                ClientEvent::Log { service_name, .. } => assert_eq!(service_name, "service"),
                ClientEvent::MethodExecuted { method, success, error, .. } => {
                    story.push(format!("method-executed {method} {success} {error:?}"));
                }
                other => story.push(other.name().to_owned()),
            }
        }
        let executed = ["method-executed work true None", "method-executed work false Some(\"no\")"];
        assert_eq!(story, ["connected", "registered", executed[0], executed[1], "disconnected"]);

        let mut story = Vec::new();
        while let Some(event) = at_client.recv().await {
            match event {
                ClientEvent::Log { .. } => {}
                ClientEvent::ResponseReceived { success, request_id, .. } => {
                    assert!(request_id.starts_with("req-"));
                    story.push(format!("response-received {success}"));
                }
                ClientEvent::GatewayError { code, .. } => story.push(format!("gateway-error {code}")),
                other => story.push(other.name().to_owned()),
            }
        }
        assert_eq!(
            story,
            [
                "response-received true",
                "response-received false",
                "gateway-error SERVICE_NOT_FOUND",
                "response-received false",
                "disconnected"
            ]
        );
    });
}

#[test]
fn debug_logs_every_call() {
    run(async {
        let place = Place::new();
        for debug in [false, true] {
            let client = place.builder("client").debug(debug);
            let client = client.method("work", async |(): (), _| Ok::<(), HandlerError>(())).connect().await.unwrap();
            let mut events = client.events();
            client.call::<()>("client", "work", ()).await.unwrap();
            client.disconnect().await;
            drop(client);
            let mut lines = Vec::new();
            while let Some(event) = events.recv().await {
                if let ClientEvent::Log { message, timestamp_ms, .. } = event {
                    assert!(timestamp_ms > 1_600_000_000_000);
                    lines.push(message);
                }
            }
            let calls: &[&str] = if debug { &["calling", "answered", "call ended"] } else { &[] };
            assert_eq!(lines[..lines.len() - 1], *calls);
            assert_eq!(lines.last().map(String::as_str), Some("disconnected"));
        }
    });
}

#[test]
fn a_blocking_handler_does_not_stall_the_connection() {
    run(async {
        let place = Place::new();
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let blocked = std::sync::Mutex::new(blocked);
        let entered = std::sync::Arc::new(tokio::sync::Notify::new());
        let entering = std::sync::Arc::clone(&entered);
        let service = place.builder("service");
        let service = service.method("ping", async |(): (), _| Ok::<_, HandlerError>("pong"));
        let service: Client = service
            .method("block", move |(): (), _| {
                entering.notify_one();
                let outcome = blocked.lock().unwrap().recv();
                async move { outcome.map_err(|error| HandlerError::failed(error.to_string())) }
            })
            .connect()
            .await
            .unwrap();
        let client = place.client("client").await;
        let blocking = {
            let client = client.clone();
            tokio::spawn(async move { client.call::<()>("service", "block", ()).await })
        };
        entered.notified().await;
        for _ in 0..100 {
            assert_eq!(client.call::<String>("service", "ping", ()).await.unwrap(), "pong");
        }
        release.send(()).unwrap();
        blocking.await.unwrap().unwrap();
        assert!(service.is_connected());
    });
}
