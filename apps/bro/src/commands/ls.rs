//! `bro ls`

use crate::cli::LsArgs;
use crate::connection::{Connection, is_command};
use crate::exit::Failure;
use crate::output::{age, print_json, print_line, table, wall_ms};
use bro_proto::limits::GATEWAY_SERVICE;
use ipc_bro::{CallOptions, ErrorCode};
use serde_json::{Value, json};
use std::time::Duration;

/// How long the gateway may take for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);

pub async fn run(args: LsArgs) -> Result<(), Failure> {
    let connection = Connection::open(&args.socket.socket, Duration::ZERO).await?;
    let listed = list(&connection).await;
    connection.close().await;
    let Listed { mut services, omitted } = listed?;
    services.retain(|service| !service["name"].as_str().is_some_and(is_command));
    if args.json {
        return print_json(&match omitted {
            0 => json!({ "services": services }),
            _ => json!({ "services": services, "servicesOmitted": omitted }),
        });
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
    print_line(&table(&rows))?;
    match omitted {
        0 => Ok(()),
        _ => print_line(&format!("{omitted} more services are connected: the gateway tells no more names at once.")),
    }
}

struct Listed {
    services: Vec<Value>,
    /// Further ones, of which the gateway does not tell the names.
    omitted: u64,
}

/// All services: in one answer, or, where that would be too long, one by one, as far as the gateway tells their names.
async fn list(connection: &Connection) -> Result<Listed, Failure> {
    let options = CallOptions::new().timeout(ANSWER_TIME);
    match connection.client().call_with::<Value>(GATEWAY_SERVICE, "services", json!({}), options).await {
        Err(error) if *error.code() == ErrorCode::PayloadTooLarge => {}
        Err(error) => return Err(connection.explain(error)),
        Ok(mut answer) => return Ok(Listed { services: services_of(answer["services"].take())?, omitted: 0 }),
    }
    let mut status: Value = connection.ask("status", json!({}), ANSWER_TIME).await?;
    let mut services = Vec::new();
    for name in services_of(status["services"].take())? {
        let options = CallOptions::new().timeout(ANSWER_TIME);
        match connection.client().call_with(GATEWAY_SERVICE, "service", json!({ "name": name }), options).await {
            Ok(service) => services.push(service),
            // It has gone meanwhile.
            Err(error) if *error.code() == ErrorCode::ServiceNotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Listed { services, omitted: status["servicesOmitted"].as_u64().unwrap_or(0) })
}

fn services_of(list: Value) -> Result<Vec<Value>, Failure> {
    match list {
        Value::Array(services) => Ok(services),
        _ => Err(Failure::local("the gateway's answer has no list of services")),
    }
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
