//! Calls that nobody waits for any more, calls that nobody ever waits for, and services that leave.

use crate::place::{ENCODING_PAIRS, Place, run, until};
use ipc_bro::{
    CallContext, CallOptions, Client, ClientBuilder, ClientEvent, Context, ErrorCode, FailedBy, HandlerError,
};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Times that are waited for until they are over, one after the other where handlers have not begun by then.
const TIMEOUTS: [Duration; 4] =
    [Duration::from_millis(300), Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(60)];

/// What happens to the handlers of one test's services.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Begun(String),
    Dropped(String),
    /// As [`Context::cancelled`] tells it.
    Cancelled(String, ErrorCode),
}

struct Watch {
    service: String,
    seen: UnboundedSender<Seen>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The test may be over.
        let _ = self.seen.send(Seen::Dropped(self.service.clone()));
    }
}

/// Watches a handler: its begin, its end without an answer, and what its context tells.
fn watch(context: &Context, seen: &UnboundedSender<Seen>) -> Watch {
    let service = context.client().service_name().to_owned();
    let tell = |what| {
        // The test may be over.
        let _ = seen.send(what);
    };
    tell(Seen::Begun(service.clone()));
    let (told, watched, name) = (seen.clone(), context.clone(), service.clone());
    tokio::spawn(async move {
        let reason = watched.cancelled().await;
        assert!(watched.is_cancelled());
        let _ = told.send(Seen::Cancelled(name, reason));
    });
    Watch { service, seen: seen.clone() }
}

/// A service whose method `pass` calls the next one of a list with the rest, and hangs at the end of the list.
fn passing(builder: ClientBuilder, seen: &UnboundedSender<Seen>) -> ClientBuilder {
    let seen = seen.clone();
    builder.method("pass", move |names: Vec<String>, context: Context| {
        let watch = watch(&context, &seen);
        async move {
            match names.split_first() {
                Some((next, rest)) => context.client().call::<()>(next, "pass", rest).await?,
                None => pending::<()>().await,
            }
            std::mem::forget(watch);
            Ok::<_, HandlerError>(())
        }
    })
}

/// Waits for so many things to happen; in any order, so they come sorted.
async fn expect(seen: &mut UnboundedReceiver<Seen>, mut wanted: Vec<Seen>) {
    while !wanted.is_empty() {
        let next = seen.recv().await.expect("the sender is here");
        let at = wanted.iter().position(|wanted| *wanted == next);
        wanted.swap_remove(at.unwrap_or_else(|| panic!("{next:?} came before {wanted:?}")));
    }
}

fn begun(service: &str) -> Seen {
    Seen::Begun(service.to_owned())
}

fn dropped(service: &str) -> Seen {
    Seen::Dropped(service.to_owned())
}

fn cancelled(service: &str, reason: ErrorCode) -> Seen {
    Seen::Cancelled(service.to_owned(), reason)
}

#[test]
fn giving_a_call_up_reaches_everybody_who_works_for_it() {
    run(async {
        let place = Place::new();
        let (tell, mut seen) = unbounded_channel();
        let mut services = Vec::new();
        for (name, pool) in [("user", 1), ("role", 3), ("right", 1)] {
            services.push(passing(place.builder(name).pool_size(pool), &tell).connect().await.unwrap());
        }
        let order = place.builder("order").pool_size(2).connect().await.unwrap();
        for _ in 0..10 {
            let call = {
                let order = order.clone();
                tokio::spawn(async move { order.call::<()>("user", "pass", ["role", "right"]).await })
            };
            expect(&mut seen, ["user", "role", "right"].map(begun).into()).await;
            call.abort();
            let all = ["user", "role", "right"];
            let told = all.map(|name| cancelled(name, ErrorCode::Cancelled));
            expect(&mut seen, all.map(dropped).into_iter().chain(told).collect()).await;
        }
        for client in services.iter().chain([&order]) {
            assert!(client.is_connected());
            until(|| client.status().pending_requests == 0).await;
        }
    });
}

#[test]
fn a_deadline_and_the_end_of_the_caller_are_seen_by_the_callee() {
    run(async {
        // Long enough for both to have begun, be the machine as busy as it is.
        let mut timeouts = TIMEOUTS.into_iter();
        while !is_deadline_seen(timeouts.next().expect("enough time for two handlers to begin")).await {}

        let place = Place::new();
        let (tell, mut seen) = unbounded_channel();
        let _user = passing(place.builder("user"), &tell).connect().await.unwrap();
        let _role = passing(place.builder("role"), &tell).connect().await.unwrap();
        let order = place.client("order").await;
        let call = {
            let order = order.clone();
            tokio::spawn(async move { order.call::<()>("user", "pass", ["role"]).await })
        };
        expect(&mut seen, ["user", "role"].map(begun).into()).await;
        order.disconnect().await;
        assert_eq!(call.await.unwrap().unwrap_err().code(), &ErrorCode::ConnectionLost);
        expect_ends(&mut seen, ErrorCode::ConnectionLost).await;
    });
}

/// False if the time was over before both handlers had begun.
async fn is_deadline_seen(timeout: Duration) -> bool {
    let place = Place::new();
    let (tell, mut seen) = unbounded_channel();
    let _user = passing(place.builder("user"), &tell).connect().await.unwrap();
    let _role = passing(place.builder("role"), &tell).connect().await.unwrap();
    let order = place.client("order").await;
    let options = CallOptions::new().timeout(timeout);
    let mut call = tokio::spawn(order.call_with::<()>("user", "pass", ["role"], options));
    tokio::select! {
        biased;
        () = expect(&mut seen, ["user", "role"].map(begun).into()) => {}
        ended = &mut call => {
            assert_eq!(ended.unwrap().unwrap_err().code(), &ErrorCode::Timeout);
            return false;
        }
    }
    assert_eq!(call.await.unwrap().unwrap_err().code(), &ErrorCode::Timeout);
    expect_ends(&mut seen, ErrorCode::Timeout).await;
    true
}

/// The end of `user` and of `role`, which it has called. The latter may be told by the gateway why, or by `user`, whose handler is
/// dropped and its call with it.
async fn expect_ends(seen: &mut UnboundedReceiver<Seen>, reason: ErrorCode) {
    let mut ends: Vec<Seen> = ["user", "role"].map(dropped).into();
    ends.push(cancelled("user", reason.clone()));
    let mut was_role_told = false;
    while !(ends.is_empty() && was_role_told) {
        match seen.recv().await.unwrap() {
            Seen::Cancelled(service, told) if service == "role" => {
                assert!(told == reason || told == ErrorCode::Cancelled, "{told}");
                was_role_told = true;
            }
            other => drop(ends.swap_remove(ends.iter().position(|end| *end == other).unwrap())),
        }
    }
}

#[test]
fn a_callee_that_disconnects_takes_down_what_it_had_called() {
    run(async {
        let place = Place::new();
        let (tell, mut seen) = unbounded_channel();
        let user = passing(place.builder("user"), &tell).connect().await.unwrap();
        let _role = passing(place.builder("role"), &tell).connect().await.unwrap();
        let order = place.client("order").await;
        let call = order.call::<()>("user", "pass", ["role"]);
        let call = tokio::spawn(call);
        expect(&mut seen, ["user", "role"].map(begun).into()).await;
        user.disconnect().await;
        assert_eq!(call.await.unwrap().unwrap_err().code(), &ErrorCode::ShuttingDown);
        let mut role_ended = false;
        while !role_ended {
            role_ended = seen.recv().await.unwrap() == dropped("role");
        }
    });
}

#[test]
fn calls_for_a_call_that_was_answered_go_on() {
    run(async {
        let place = Place::new();
        let (heard, mut hears) = unbounded_channel();
        let (answered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let releasing = Arc::clone(&release);
        let role = place.builder("role").method("slow", move |(): (), context: Context| {
            let release = Arc::clone(&releasing);
            async move {
                release.notified().await;
                Ok::<_, HandlerError>(context.call().clone())
            }
        });
        let role = role.connect().await.unwrap();
        let answering = Arc::clone(&answered);
        let user = place.builder("user").method("leave", move |is_late: bool, context: Context| {
            let (heard, answered) = (heard.clone(), Arc::clone(&answering));
            async move {
                let client = context.client();
                tokio::spawn(context.scope(async move {
                    if is_late {
                        answered.notified().await;
                    }
                    let _ = heard.send(client.call::<CallContext>("role", "slow", ()).await);
                }));
                Ok::<_, HandlerError>(())
            }
        });
        let _user = user.connect().await.unwrap();
        let order = place.client("order").await;
        for is_late in [false, true] {
            order.call::<()>("user", "leave", is_late).await.unwrap();
            answered.notify_one();
            release.notify_one();
            let seen = hears.recv().await.unwrap().unwrap();
            assert_eq!(seen.chain, ["order", "user", "role"]);
            // Not used by the first round.
            let _ = tokio::time::timeout(Duration::ZERO, answered.notified()).await;
        }
        assert!(role.is_connected());
    });
}

/// Tells when it is dropped.
struct End(UnboundedSender<String>);

impl Drop for End {
    fn drop(&mut self) {
        // The test may be over.
        let _ = self.0.send("the end".to_owned());
    }
}

#[test]
fn handlers_may_be_kept_and_learn_that_they_work_for_nobody() {
    run(async {
        let place = Place::new();
        let (heard, mut hears) = unbounded_channel();
        let role = place.builder("role").method("get", async |(): (), _| Ok::<_, HandlerError>(5));
        let _role = role.connect().await.unwrap();
        let user =
            place.builder("user").keep_cancelled_handlers(true).method("write", move |(): (), context: Context| {
                let heard = heard.clone();
                async move {
                    let _end = End(heard.clone());
                    let before: i32 = context.client().call("role", "get", ()).await?;
                    assert!(!context.is_cancelled());
                    let _ = heard.send("begun".to_owned());
                    let reason = context.cancelled().await;
                    let further = context.client().call::<i32>("role", "get", ()).await.unwrap_err();
                    let noted = context.client().notify("role", "get", ()).await.unwrap_err();
                    assert_eq!(noted.code(), &ErrorCode::Cancelled);
                    let _ = heard.send(format!("{before} {reason} {} {:?}", further.code(), further.failed_by()));
                    Ok::<_, HandlerError>(())
                }
            });
        let user = user.connect().await.unwrap();
        let mut events = user.events();
        let order = place.client("order").await;
        for _ in 0..3 {
            let call = tokio::spawn(order.call::<()>("user", "write", ()));
            assert_eq!(hears.recv().await.unwrap(), "begun");
            call.abort();
            assert_eq!(hears.recv().await.unwrap(), "5 CANCELLED CANCELLED Local");
            assert_eq!(hears.recv().await.unwrap(), "the end");
        }
        let mut given_up = 0;
        while let Some(event) = events.try_recv() {
            if let ClientEvent::MethodExecuted { success, error, .. } = event {
                assert_eq!((success, error.as_deref()), (false, Some("given up: CANCELLED")));
                given_up += 1;
            }
        }
        assert_eq!(given_up, 3, "each is told once, though its handler came to an end later");

        let call = tokio::spawn(order.call::<()>("user", "write", ()));
        assert_eq!(hears.recv().await.unwrap(), "begun");
        user.disconnect().await;
        assert!(call.await.unwrap().is_err());
        assert_eq!(hears.recv().await.unwrap(), "the end", "without being told: disconnecting stops handlers");
    });
}

#[test]
fn old_and_new_clients_understand_each_other_in_every_combination() {
    run(async {
        let place = Place::new();
        for versions in 0..8_u32 {
            let is_v2 = |bit: u32| versions >> bit & 1 == 1;
            for (one, other) in ENCODING_PAIRS {
                let role = place.builder("role").serializer(one).speak_v2(is_v2(0));
                let role = role.method("see", async |fail: bool, context: Context| match fail {
                    false => {
                        assert!(context.is_caller_stamped());
                        Ok((context.call().clone(), context.caller().to_owned()))
                    }
                    true => Err(HandlerError::new("MINE", "no").with_details("at x")),
                });
                let role = role.connect().await.unwrap();
                let user = place.builder("user").serializer(other).speak_v2(is_v2(1));
                let user = user.method("pass", async |fail: bool, context: Context| {
                    let seen: (CallContext, String) = context.client().call("role", "see", fail).await?;
                    Ok::<_, HandlerError>((seen, context.call().clone()))
                });
                let user = user.connect().await.unwrap();
                let order = place.builder("order").serializer(one).speak_v2(is_v2(2)).connect().await.unwrap();
                let ((at_role, caller), at_user): ((CallContext, String), CallContext) =
                    order.call("user", "pass", false).await.unwrap();
                assert_eq!((&at_role.root, caller.as_str()), (&at_user.root, "user"), "versions {versions:b}");
                assert_eq!(at_user.chain, ["order", "user"]);
                assert_eq!((at_role.chain, at_role.depth), (["order", "user", "role"].map(String::from).into(), 3));
                // Each side computes it from the time that is left, and takes its own clock for it.
                assert!(at_role.deadline_ms.abs_diff(at_user.deadline_ms) < 5_000);
                let error = order.call::<()>("user", "pass", true).await.unwrap_err();
                assert_eq!((error.code().as_str(), error.message(), error.details()), ("MINE", "no", Some("at x")));
                assert_eq!(error.failed_by(), &FailedBy::Service("user".to_owned()));
                let error = order.call::<()>("nobody", "x", ()).await.unwrap_err();
                assert_eq!((error.code(), error.failed_by()), (&ErrorCode::ServiceNotFound, &FailedBy::Gateway));
                let error = order.call::<()>("user", "nothing", ()).await.unwrap_err();
                assert_eq!(error.code(), &ErrorCode::MethodNotFound);
                for client in [order, user, role] {
                    client.disconnect().await;
                }
            }
        }
    });
}

#[test]
fn callees_of_version_1_work_on_and_disturb_nobody() {
    run(async {
        let place = Place::new();
        let (tell, mut seen) = unbounded_channel();
        let user = passing(place.builder("user").speak_v2(false), &tell);
        let user = user.method("echo", async |n: u32, _| Ok::<_, HandlerError>(n)).connect().await.unwrap();
        let order = place.client("order").await;
        let none: &[&str] = &[];
        let mut timeouts = TIMEOUTS.into_iter();
        let call = loop {
            let options = CallOptions::new().timeout(timeouts.next().expect("enough time for a handler to begin"));
            let mut call = tokio::spawn(order.call_with::<()>("user", "pass", none, options));
            tokio::select! {
                biased;
                () = expect(&mut seen, vec![begun("user")]) => break call,
                ended = &mut call => assert_eq!(ended.unwrap().unwrap_err().code(), &ErrorCode::Timeout),
            }
        };
        call.abort();
        for n in 0..20 {
            assert_eq!(order.call::<u32>("user", "echo", n).await.unwrap(), n);
        }
        expect(&mut seen, vec![dropped("user"), cancelled("user", ErrorCode::Timeout)]).await;
        assert!(user.is_connected() && order.is_connected());
    });
}

#[test]
fn a_notification_arrives_and_nobody_answers_it() {
    run(async {
        let place = Place::new();
        let (heard, mut hears) = unbounded_channel();
        for (speaks_v2, hears_v2) in [(true, true), (true, false), (false, true), (false, false)] {
            let heard = heard.clone();
            let audit =
                place.builder("audit").speak_v2(hears_v2).method("record", move |line: String, context: Context| {
                    let _ = heard.send((line.clone(), context.call().chain.clone(), context.wants_answer()));
                    async move { line.parse::<u32>().map_err(HandlerError::from) }
                });
            let audit = audit.connect().await.unwrap();
            let order = place.builder("order").speak_v2(speaks_v2).method("place", async |(): (), context: Context| {
                context.client().notify("audit", "record", "nested").await?;
                Ok::<_, HandlerError>(())
            });
            let order = order.connect().await.unwrap();
            let mut events = order.events();
            for line in ["7", "no number"] {
                order.notify("audit", "record", line).await.unwrap();
                let (told, chain, wants_answer) = hears.recv().await.unwrap();
                assert_eq!((told.as_str(), chain), (line, vec!["order".to_owned(), "audit".to_owned()]));
                assert_eq!(wants_answer, !(speaks_v2 && hears_v2), "in version 1 it comes as a call");
            }
            order.notify("nobody", "record", "x").await.unwrap();
            order.notify("audit", "nothing", "x").await.unwrap();
            audit.call::<()>("order", "place", ()).await.unwrap();
            assert_eq!(hears.recv().await.unwrap().1, ["audit", "order", "audit"]);
            // Whatever was answered to the notifications has come by now, and concerns nobody.
            assert_eq!(order.call::<u32>("audit", "record", "5").await.unwrap(), 5);
            hears.recv().await.unwrap();
            assert_eq!(order.status().pending_requests, 0);
            while let Some(event) = events.try_recv() {
                let is_trouble = matches!(event, ClientEvent::Error(_) | ClientEvent::GatewayError { .. });
                assert!(!is_trouble, "{event:?}");
            }
            let error = order.notify_with("", "record", "x", CallOptions::new()).await.unwrap_err();
            assert_eq!(error.code(), &ErrorCode::InvalidArgument);
            order.disconnect().await;
            let error = order.notify("audit", "record", "x").await.unwrap_err();
            assert_eq!(error.code(), &ErrorCode::NotConnected);
            audit.disconnect().await;
        }
    });
}

#[test]
fn a_service_that_drains_answers_what_has_arrived() {
    run(async {
        let place = Place::new();
        for pool in [1, 3] {
            let finished = Arc::new(AtomicUsize::new(0));
            let counting = Arc::clone(&finished);
            let user = place.builder("user").pool_size(pool).method("work", move |ms: u64, _| {
                let finished = Arc::clone(&counting);
                async move {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    finished.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, HandlerError>(())
                }
            });
            let user = user.connect().await.unwrap();
            let order = place.client("order").await;
            let callers: Vec<_> = (0..16)
                .map(|n| {
                    let order = order.clone();
                    tokio::spawn(async move {
                        let mut answered = 0;
                        loop {
                            match order.call::<()>("user", "work", n % 4).await {
                                Ok(()) => answered += 1,
                                Err(error) => return (answered, error),
                            }
                        }
                    })
                })
                .collect();
            until(|| finished.load(Ordering::SeqCst) > 100).await;
            user.drain().await.unwrap();
            user.drain().await.unwrap();
            let at_the_end = finished.load(Ordering::SeqCst);
            user.disconnect().await;
            let mut answered = 0;
            for caller in callers {
                let (count, error) = caller.await.unwrap();
                answered += count;
                let is_expected = matches!(error.code(), ErrorCode::ShuttingDown | ErrorCode::ServiceNotFound);
                assert!(is_expected && error.failed_by() == &FailedBy::Gateway, "nothing is lost: {error:?}");
            }
            assert_eq!(answered, at_the_end, "all that was worked on was answered");
            order.disconnect().await;
        }
        let idle = Client::builder("idle").build().unwrap();
        idle.drain().await.unwrap();
    });
}

#[test]
fn a_gateway_that_stops_says_so_before() {
    run(async {
        let mut place = Place::new();
        let user = place.client("user").await;
        let mut events = user.events();
        place.stop();
        loop {
            match events.recv().await.unwrap() {
                ClientEvent::GatewayDraining => break,
                ClientEvent::Disconnected { .. } => panic!("it was not told"),
                _ => {}
            }
        }
    });
}
