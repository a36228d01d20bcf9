//! `bro watch`

use crate::cli::WatchArgs;
use crate::connection::{Connection, is_command};
use crate::exit::Failure;
use crate::output::{duration_us, in_ms, print_line, time_of_day};
use bro_proto::name::printable;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// How long one question to the gateway stays open when nothing happens.
const POLL: Duration = Duration::from_secs(5);
/// Events asked for at once.
const BATCH: u32 = 512;

#[derive(Deserialize)]
struct Batch {
    cursor: u64,
    dropped: u64,
    events: Vec<Value>,
}

pub async fn run(args: WatchArgs) -> Result<(), Failure> {
    let connection = Connection::open(&args.socket.socket, Duration::ZERO).await?;
    let answer_limit = POLL + Duration::from_secs(10);
    let mut cursor = connection.ask::<Batch>("events", json!({}), answer_limit).await?.cursor;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let ask = json!({ "cursor": cursor, "timeoutMs": in_ms(POLL), "max": BATCH });
        let batch: Batch = tokio::select! {
            batch = connection.ask("events", ask, answer_limit) => batch?,
            _ = tokio::signal::ctrl_c() => break,
        };
        cursor = batch.cursor;
        if batch.dropped > 0 {
            anstream::eprintln!("bro: {} events were lost, this watcher is too slow", batch.dropped);
        }
        for event in &batch.events {
            let line = if args.json { Some(event.to_string()) } else { describe(event) };
            if let Some(line) = line {
                print_line(&line)?;
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
    }
    connection.close().await;
    Ok(())
}

/// One line for an event that a person wants to see. A call is one line, printed when it has ended.
fn describe(event: &Value) -> Option<String> {
    if event["serviceName"].as_str().is_some_and(is_command) {
        return None;
    }
    let text = |field: &str| printable(event[field].as_str().unwrap_or("?")).into_owned();
    let what = match event["event"].as_str()? {
        "response-routed" => {
            let outcome = match (event["status"].as_str(), event["gatewayCode"].as_str()) {
                (Some("success"), _) => "ok".to_owned(),
                (_, Some(code)) => format!("failed {code}"),
                _ => "failed".to_owned(),
            };
            let spent = event["elapsedUs"].as_u64().map_or_else(|| "-".to_owned(), duration_us);
            format!("{} -> {}.{}  {outcome}  {spent}", text("to"), text("from"), text("method"))
        }
        "service-registered" => {
            let methods: Vec<&str> =
                event["methods"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            format!("+ {}  [{}]", text("serviceName"), methods.join(" "))
        }
        "service-disconnected" => format!("- {}  {}", text("serviceName"), text("reason")),
        "warning" => format!("! {}", text("message")),
        _ => return None,
    };
    Some(format!("{}  {what}", time_of_day(event["time"].as_u64().unwrap_or(0))))
}
