//! `bro status`

use crate::cli::StatusArgs;
use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::{age, print_json, print_line, table};
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
        for (name, value) in fields.iter().filter(|(name, _)| *name != "counters") {
            let text = match value {
                Value::Number(ms) if name == "uptimeMs" => age(ms.as_u64().unwrap_or(0)),
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
    if let Value::Object(counters) = &status["counters"] {
        for (name, value) in counters {
            rows.push(vec![format!("counters.{name}"), value.to_string()]);
        }
    }
    print_line(&table(&rows))
}
