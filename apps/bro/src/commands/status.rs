//! `bro status`

use crate::cli::StatusArgs;
use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::{age, duration_us, print_json, print_line, table};
use serde_json::{Value, json};
use std::time::Duration;

pub async fn run(args: StatusArgs) -> Result<(), Failure> {
    let connection = Connection::open(&args.socket.socket, Duration::ZERO).await?;
    let status: Value = connection.ask("status", json!({}), Duration::from_secs(10)).await?;
    connection.close().await;
    if args.json {
        return print_json(&status);
    }
    let mut rows = Vec::new();
    if let Value::Object(fields) = &status {
        for (name, value) in fields.iter().filter(|(name, _)| !["counters", "loop"].contains(&name.as_str())) {
            let text = match value {
                Value::Number(ms) if name == "uptimeMs" => age(ms.as_u64().unwrap_or(0)),
                Value::Array(users) if name == "users" => {
                    users.iter().map(describe_user).collect::<Vec<_>>().join("; ")
                }
                Value::Array(items) => {
                    items.iter().map(|item| item.as_str().unwrap_or("?")).collect::<Vec<_>>().join(" ")
                }
                // The services that calls wait for.
                Value::Object(waiters) => {
                    waiters.iter().map(|(name, count)| format!("{name}:{count}")).collect::<Vec<_>>().join(" ")
                }
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let name = if name == "uptimeMs" { "uptime" } else { name };
            rows.push(vec![name.to_owned(), text]);
        }
    }
    rows.extend(loop_rows(&status["loop"]));
    if let Value::Object(counters) = &status["counters"] {
        for (name, value) in counters {
            rows.push(vec![format!("counters.{name}"), value.to_string()]);
        }
    }
    print_line(&table(&rows))
}

/// What one user has taken of what all share.
fn describe_user(user: &Value) -> String {
    let uid = user["uid"].as_u64().map_or("unknown".to_owned(), |uid| format!("uid {uid}"));
    let number = |name: &str| user[name].as_u64().unwrap_or(0);
    format!(
        "{uid}: {} bytes, {} connections, {} in flight, {} lanes of {} bytes",
        number("memoryBytes"),
        number("connections"),
        number("inFlight"),
        number("lanes"),
        number("laneBytes")
    )
}

/// How fast the gateway's thread comes round. A gateway that does not measure it has no rows.
fn loop_rows(measured: &Value) -> Vec<Vec<String>> {
    let row = |name: &str, text: String| vec![format!("loop.{name}"), text];
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let Some(wakeups) = measured["wakeups"].as_u64() else { return Vec::new() };
    let [p50, p99, max] = ["lagP50Us", "lagP99Us", "lagMaxUs"].map(|name| duration_us(number(&measured[name])));
    let mut rows = vec![
        row("wakeups", wakeups.to_string()),
        row("lag", format!("p50 {p50}, p99 {p99}, max {max} (last two minutes)")),
    ];
    let longest = &measured["longestWakeup"];
    if longest.is_object() {
        let [took, connections, frames, bytes, sent, accepted] =
            ["tookUs", "connectionsRead", "framesIn", "bytesIn", "framesOut", "accepted"]
                .map(|name| number(&longest[name]));
        rows.push(row(
            "longestWakeup",
            format!(
                "{}: read {connections} connections, took {frames} frames of {bytes} bytes, sent {sent}, accepted {accepted}",
                duration_us(took)
            ),
        ));
    }
    rows
}
