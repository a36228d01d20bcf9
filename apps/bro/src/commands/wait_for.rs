//! `bro wait-for`

use crate::cli::WaitForArgs;
use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::in_ms;
use bro_proto::limits::{GATEWAY_SERVICE, PARKED_TIMEOUT_MAX_MS};
use ipc_bro::{CallOptions, ErrorCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub async fn run(args: WaitForArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let connection = Connection::open(&args.socket.socket, args.timeout).await?;
    let waited = wait(&connection, &args, started).await;
    connection.close().await;
    waited
}

/// What a gateway may wait for one question is bounded: who wants to wait for longer asks again.
async fn wait(connection: &Connection, args: &WaitForArgs, started: Instant) -> Result<(), Failure> {
    // The gateway's own service is there when the gateway is.
    let (method, service) = match &*args.service {
        GATEWAY_SERVICE => ("ping", GATEWAY_SERVICE),
        service => ("waitFor", service),
    };
    loop {
        let left = args.timeout.saturating_sub(started.elapsed());
        let once = left.min(Duration::from_millis(PARKED_TIMEOUT_MAX_MS));
        let ask = json!({ "service": service, "timeoutMs": in_ms(once) });
        // The gateway answers when the time is up; a little more for the answer itself.
        match connection.client().call_with::<Value>(GATEWAY_SERVICE, method, ask, answer_within(once)).await {
            Ok(_) => return Ok(()),
            Err(error) if *error.code() == ErrorCode::Timeout => {}
            Err(error) => return Err(connection.explain(error)),
        }
        if started.elapsed() >= args.timeout {
            return Err(Failure::local(format!(
                "TIMEOUT: service {service:?} did not register within {}",
                humantime::format_duration(args.timeout)
            )));
        }
    }
}

fn answer_within(waiting: Duration) -> CallOptions {
    CallOptions::new().timeout(waiting + Duration::from_secs(2))
}
