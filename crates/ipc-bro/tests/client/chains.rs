use crate::place::{Place, run};
use ipc_bro::{CallContext, CallOptions, Client, Context, Error, ErrorCode, HandlerError, Serializer};
use std::time::Duration;

/// Calls the next service of a list with the rest of it; the last one answers with what it sees.
async fn relay(names: Vec<String>, context: Context) -> Result<CallContext, HandlerError> {
    tokio::task::yield_now().await;
    match names.split_first() {
        Some((next, rest)) => Ok(context.client().call(next, "relay", rest).await?),
        None => Ok(context.call().clone()),
    }
}

async fn chain_of_services(place: &Place) -> Vec<Client> {
    let mut services = Vec::new();
    for (name, serializer) in [("user", Serializer::Json), ("role", Serializer::Msgpack), ("right", Serializer::Json)] {
        let service = place.builder(name).serializer(serializer).method("relay", relay).connect().await.unwrap();
        services.push(service);
    }
    services
}

#[test]
fn nested_calls_extend_the_chain() {
    run(async {
        let place = Place::new();
        let _services = chain_of_services(&place).await;
        let order = place.client("order").await;
        let seen: CallContext = order.call("user", "relay", ["role", "right"]).await.unwrap();
        assert_eq!(seen.chain, ["order", "user", "role", "right"]);
        assert_eq!(seen.depth, 4);
        assert!(seen.root.starts_with("root-"));
        let next: CallContext = order.call("user", "relay", [""; 0]).await.unwrap();
        assert_eq!((next.chain, next.depth), (vec!["order".to_owned(), "user".to_owned()], 2));
        assert_ne!(next.root, seen.root);
    });
}

#[test]
fn a_nested_call_keeps_the_deadline_of_the_first() {
    run(async {
        let place = Place::new();
        let _services = chain_of_services(&place).await;
        let order = place.client("order").await;
        let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        let options = CallOptions::new().timeout(Duration::from_secs(100));
        let seen: CallContext = order.call_with("user", "relay", ["role", "right"], options).await.unwrap();
        // The services' own timeouts are 30 seconds, so the nested deadline is at most that far away.
        assert!(u128::from(seen.deadline_ms) >= before + 30_000 && u128::from(seen.deadline_ms) < before + 100_000);
        let options = CallOptions::new().timeout(Duration::from_secs(20));
        let seen: CallContext = order.call_with("user", "relay", ["role"], options).await.unwrap();
        let alone: CallContext = order
            .call_with("user", "relay", [""; 0], CallOptions::new().timeout(Duration::from_secs(20)))
            .await
            .unwrap();
        assert!(seen.deadline_ms <= alone.deadline_ms, "20 s from the first call, however deep");
    });
}

#[test]
fn a_thousand_concurrent_handlers_do_not_mix_their_chains() {
    run(async {
        let place = Place::new();
        let _services = chain_of_services(&place).await;
        let callers = [place.client("a").await, place.client("b").await];
        let mut calls = tokio::task::JoinSet::new();
        for n in 0..1000_usize {
            let caller = callers[n % 2].clone();
            calls.spawn(async move {
                let route = match n % 3 {
                    0 => vec!["role", "right"],
                    1 => vec!["right"],
                    _ => vec!["role", "user", "right"],
                };
                let root = format!("root-of-{n}");
                let parent = CallContext {
                    root: root.clone(),
                    chain: vec![caller.service_name().to_owned()],
                    depth: 1,
                    deadline_ms: u64::MAX >> 12,
                };
                let options = CallOptions::new().context(parent);
                let seen: CallContext = caller.call_with("user", "relay", &route, options).await.unwrap();
                let expected: Vec<&str> = [caller.service_name(), "user"].into_iter().chain(route).collect();
                assert_eq!((seen.root, seen.depth as usize), (root, expected.len()));
                assert_eq!(seen.chain, expected);
            });
        }
        while let Some(call) = calls.join_next().await {
            call.unwrap();
        }
    });
}

#[test]
fn an_explicit_context_overrides_the_tasks_own() {
    run(async {
        let place = Place::new();
        let _services = chain_of_services(&place).await;
        let order = place.builder("order").method("mix", async |(): (), context: Context| {
            let client = context.client();
            let none: &[&str] = &[];
            let inherited: CallContext = client.call("role", "relay", none).await?;
            let fresh: CallContext = client.call_with("role", "relay", none, CallOptions::new().new_chain()).await?;
            let given = CallContext {
                root: "root-given".into(),
                chain: vec!["x".into(), "y".into()],
                depth: 2,
                deadline_ms: context.call().deadline_ms,
            };
            let options = CallOptions::new().context(given.clone());
            let continued: CallContext = client.call_with("role", "relay", none, options).await?;
            let options = CallOptions::new().exact_context(given);
            let exact: CallContext = client.call_with("role", "relay", none, options).await?;
            Ok::<_, HandlerError>([inherited, fresh, continued, exact])
        });
        let _order = order.connect().await.unwrap();
        let client = place.client("client").await;
        let [inherited, fresh, continued, exact]: [CallContext; 4] = client.call("order", "mix", ()).await.unwrap();
        assert_eq!(inherited.chain, ["client", "order", "role"]);
        assert_eq!(fresh.chain, ["order", "role"]);
        assert_ne!(fresh.root, inherited.root);
        assert_eq!((&*continued.root, continued.depth), ("root-given", 3));
        assert_eq!(continued.chain, ["x", "y", "role"]);
        assert_eq!((exact.chain, exact.depth), (vec!["x".to_owned(), "y".to_owned()], 2));
    });
}

#[test]
fn an_explicit_context_that_is_none_is_refused() {
    run(async {
        let place = Place::new();
        let client = place.client("client").await;
        let invalid =
            CallContext { root: String::new(), chain: vec!["x".into()], depth: 1, deadline_ms: u64::MAX >> 12 };
        for options in [CallOptions::new().context(invalid.clone()), CallOptions::new().exact_context(invalid)] {
            let error = client.call_with::<()>("client", "x", (), options).await.unwrap_err();
            assert_eq!(error.code(), &ErrorCode::InvalidContext);
        }
    });
}

#[test]
fn a_spawned_task_continues_the_chain_only_within_a_scope() {
    run(async {
        let place = Place::new();
        let _services = chain_of_services(&place).await;
        let order = place.builder("order").method("spawn", async |scoped: bool, context: Context| {
            let client = context.client();
            let none: &[&str] = &[];
            let call = async move {
                let seen = Context::current().is_some();
                Ok::<_, Error>((seen, client.call::<CallContext>("role", "relay", none).await?))
            };
            let task = if scoped { tokio::spawn(context.scope(call)) } else { tokio::spawn(call) };
            let (seen, nested) = task.await??;
            Ok::<_, HandlerError>((seen, nested.depth))
        });
        let _order = order.connect().await.unwrap();
        let client = place.client("client").await;
        assert_eq!(client.call::<(bool, u32)>("order", "spawn", true).await.unwrap(), (true, 3));
        assert_eq!(client.call::<(bool, u32)>("order", "spawn", false).await.unwrap(), (false, 2));
        assert!(Context::current().is_none());
    });
}

#[test]
fn an_endless_recursion_ends_by_its_depth() {
    run(async {
        let place = Place::new();
        let service = place.builder("loop").method("again", async |count: u32, context: Context| {
            Ok::<_, HandlerError>(context.client().call::<u32>("loop", "again", count + 1).await?)
        });
        let service = service.connect().await.unwrap();
        let error = service.call::<u32>("loop", "again", 0).await.unwrap_err();
        assert_eq!(error.code(), &ErrorCode::MaxDepthExceeded, "{error}");
        assert_eq!(service.status().pending_requests, 0);
    });
}
