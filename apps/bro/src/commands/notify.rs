//! `bro notify`

use super::call::params;
use crate::cli::NotifyArgs;
use crate::connection::Connection;
use crate::exit::Failure;
use bro_proto::limits::GATEWAY_SERVICE;
use ipc_bro::ErrorCode;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// What the gateway tells of the services that are connected, as far as it matters here.
#[derive(Deserialize)]
struct Services {
    services: Vec<Service>,
}

#[derive(Deserialize)]
struct Service {
    name: String,
    methods: Vec<String>,
}

pub async fn run(args: NotifyArgs) -> Result<(), Failure> {
    let params = params(args.params.as_deref())?;
    let connection = Connection::open(&args.socket.socket, Duration::ZERO).await?;
    // Nobody answers a notification, so what is mistyped is found out beforehand. A gateway that cannot be asked is no hindrance.
    let sent = match mistake(&connection, &args).await {
        Some(mistake) => Err(mistake),
        None => connection.client().notify(&args.service, &args.method, params).await.map_err(Failure::from),
    };
    connection.close().await;
    sent
}

/// Why the notification would reach nobody, as far as the gateway tells.
async fn mistake(connection: &Connection, args: &NotifyArgs) -> Option<Failure> {
    let client = connection.client();
    let NotifyArgs { service: name, method, .. } = args;
    let listed = match client.call::<Services>(GATEWAY_SERVICE, "services", json!({})).await {
        Ok(known) => known.services.into_iter().find(|service| service.name == *name),
        // There are too many for one answer.
        Err(error) if *error.code() == ErrorCode::PayloadTooLarge => None,
        Err(_) => return None,
    };
    let service = match listed {
        Some(service) => service,
        // It may be there, and this user not be allowed to know of it.
        None => match client.call::<Service>(GATEWAY_SERVICE, "service", json!({ "name": name })).await {
            Ok(service) => service,
            Err(error) if *error.code() == ErrorCode::ServiceNotFound => {
                return Some(Failure::local(format!("SERVICE_NOT_FOUND: no service {name:?} is connected")));
            }
            Err(error) => return Some(error.into()),
        },
    };
    let is_known = service.methods.contains(method);
    (!is_known).then(|| Failure::local(format!("METHOD_NOT_FOUND: service {name:?} has no method {method:?}")))
}
