//! Our own client, as tests start it.

use crate::codec::Encoding;
use ipc_bro::{Client, ClientBuilder, ClientEvent, Error, EventStream, Serializer};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long a future may take before that counts as a hang.
const WAIT: Duration = Duration::from_secs(240);

/// Runs a test body on a runtime with two threads. A body that hangs fails.
pub fn block_on<T>(body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let outcome = runtime.block_on(async { tokio::time::timeout(WAIT, body).await });
    runtime.shutdown_background();
    outcome.expect("the test hangs")
}

/// A client of `path` that speaks `encoding` and returns quickly after a lost connection.
pub fn builder(name: &str, path: &Path, encoding: Encoding) -> ClientBuilder {
    let serializer = match encoding {
        Encoding::Json => Serializer::Json,
        Encoding::Msgpack => Serializer::Msgpack,
    };
    Client::builder(name).gateway_path(path).serializer(serializer).reconnect_delay(Duration::from_millis(20))
}

/// The code of a failure.
pub fn code<T: std::fmt::Debug>(outcome: Result<T, Error>) -> String {
    outcome.expect_err("this must fail").code().as_str().to_owned()
}

/// Starts a call on a task of its own.
pub fn start_call(client: &Client, service: &str, method: &str, params: Value) -> JoinHandle<Result<Value, Error>> {
    let (client, service, method) = (client.clone(), service.to_owned(), method.to_owned());
    tokio::spawn(async move { client.call(&service, &method, params).await })
}

/// The next event of that name; others are passed over.
pub async fn next_event(events: &mut EventStream, name: &str) -> ClientEvent {
    loop {
        let event = events.recv().await.expect("the client is alive");
        if event.name() == name {
            return event;
        }
    }
}
