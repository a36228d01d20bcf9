//! A callee process: serves until it is killed or its input ends.

use crate::WorkerArgs;
use crate::plan::REFUSAL;
use crate::report::{HEARTBEAT_INTERVAL, Report};
use bro_testing::client::builder;
use ipc_bro::{Client, Context, Error, HandlerError};
use serde_json::Value;
use std::sync::Mutex;
use std::time::Duration;

pub(crate) fn run(args: &WorkerArgs) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let client = builder(&args.name, &args.socket, args.encoding())
            .pool_size(args.pool_size)
            .heartbeat_interval(HEARTBEAT_INTERVAL)
            .wait_for_gateway(Duration::from_secs(60))
            .method("echo", |params: Value, _| async move { Ok::<_, Error>(params) })
            .method("sleep", sleep)
            .method("nested", nested)
            .method("refuse", |_: Value, _| async move {
                Err::<Value, _>(HandlerError::new(REFUSAL, "this method always fails"))
            })
            .build()
            .expect("good options");
        let end_of_input = tokio::task::spawn_blocking(crate::wait_for_end_of_input);
        let report = Mutex::new(Report::default());
        connect(&client, &report).await;
        tokio::select! {
            _ = end_of_input => client.disconnect().await,
            left = client.serve_until_signal() => left.expect("signals can be watched"),
        }
    });
    // Standard input may still be read from.
    runtime.shutdown_background();
}

/// Connects, trying again while a predecessor's name is not free yet.
pub(crate) async fn connect(client: &Client, report: &Mutex<Report>) {
    while client.connect().await.is_err() {
        report.lock().expect("no panic").refused_registrations += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn sleep(params: Value, _: Context) -> Result<Value, Error> {
    tokio::time::sleep(Duration::from_millis(params["ms"].as_u64().unwrap_or(0))).await;
    Ok(params)
}

/// Asks the next callee.
async fn nested(params: Value, context: Context) -> Result<Value, Error> {
    let next = params["next"].as_str().unwrap_or_default().to_owned();
    context.client().call(&next, "echo", params).await
}
