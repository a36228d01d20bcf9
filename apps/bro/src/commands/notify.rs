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
    let known = known(&connection, &args.service).await;
    let mistake = known.ok().and_then(|known| mistake(&known.services, &args));
    let sent = match &mistake {
        Some(_) => Ok(()),
        None => connection.client().notify(&args.service, &args.method, params).await,
    };
    connection.close().await;
    sent?;
    mistake.map_or(Ok(()), |mistake| Err(Failure::local(mistake)))
}

/// The services that are connected; only the one that is meant, where there are too many for one answer.
async fn known(connection: &Connection, service: &str) -> Result<Services, ipc_bro::Error> {
    let client = connection.client();
    match client.call::<Services>(GATEWAY_SERVICE, "services", json!({})).await {
        Err(error) if *error.code() == ErrorCode::PayloadTooLarge => {}
        known => return known,
    }
    match client.call::<Service>(GATEWAY_SERVICE, "service", json!({ "name": service })).await {
        Ok(service) => Ok(Services { services: vec![service] }),
        Err(error) if *error.code() == ErrorCode::ServiceNotFound => Ok(Services { services: Vec::new() }),
        Err(error) => Err(error),
    }
}

fn mistake(services: &[Service], args: &NotifyArgs) -> Option<String> {
    let Some(service) = services.iter().find(|service| service.name == args.service) else {
        return Some(format!("SERVICE_NOT_FOUND: no service {:?} is connected", args.service));
    };
    let is_known = service.methods.contains(&args.method);
    (!is_known).then(|| format!("METHOD_NOT_FOUND: service {:?} has no method {:?}", args.service, args.method))
}
