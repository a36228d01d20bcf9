//! `bro ls`

use crate::cli::LsArgs;
use crate::connection::{Connection, is_command};
use crate::exit::Failure;
use crate::output::{age, print_json, print_line, table, wall_ms};
use serde_json::{Value, json};
use std::time::Duration;

pub async fn run(args: LsArgs) -> Result<(), Failure> {
    let connection = Connection::open(&args.socket.socket, Duration::ZERO).await?;
    let mut answer: Value = connection.ask("services", json!({}), Duration::from_secs(10)).await?;
    connection.close().await;
    let mut services = match answer["services"].take() {
        Value::Array(services) => services,
        _ => return Err(Failure::local("the gateway's answer has no list of services")),
    };
    services.retain(|service| !service["name"].as_str().is_some_and(is_command));
    if args.json {
        return print_json(&json!({ "services": services }));
    }
    if services.is_empty() {
        return print_line("No services are connected.");
    }
    let now = wall_ms();
    let mut rows =
        vec![["SERVICE", "INSTANCES", "UID", "GID", "PID", "AGE", "HEARTBEAT", "METHODS"].map(str::to_owned).to_vec()];
    for service in &services {
        let since =
            |field: &str| service[field].as_u64().map_or_else(|| "-".to_owned(), |at| age(now.saturating_sub(at)));
        let methods: Vec<&str> =
            service["methods"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        rows.push(vec![
            service["name"].as_str().unwrap_or("?").to_owned(),
            service["instances"].as_array().map_or(0, Vec::len).to_string(),
            of_instances(service, "uid"),
            of_instances(service, "gid"),
            of_instances(service, "pid"),
            since("connectedAt"),
            since("lastHeartbeat"),
            methods.join(" "),
        ]);
    }
    print_line(&table(&rows))
}

/// What the instances have in a field by peer credentials: mostly all of them the same.
fn of_instances(service: &Value, field: &str) -> String {
    let mut numbers: Vec<u64> =
        service["instances"].as_array().into_iter().flatten().filter_map(|instance| instance[field].as_u64()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    match numbers[..] {
        [] => "-".to_owned(),
        _ => numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(","),
    }
}
