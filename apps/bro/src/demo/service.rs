//! The services of the demo: order, user, role and inventory, each in a process of its own.

use crate::cli::DemoServiceArgs;
use crate::exit::Failure;
use ipc_bro::{Client, Context, ErrorCode, HandlerError};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Every service of the demo, in the order in which they are started.
pub const NAMES: [&str; 4] = ["role-service", "user-service", "inventory-service", "order-service"];

/// Short, so that the demo does not wait long after its gateway has come back.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrderQuery {
    order_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserQuery {
    user_id: String,
}

#[derive(Deserialize)]
struct StockQuery {
    items: Vec<String>,
}

/// Serves until standard input is closed: the services end with the demo, however it ends.
pub async fn run(args: DemoServiceArgs) -> Result<(), Failure> {
    let client = Client::builder(args.name.as_str())
        .gateway_path(&args.socket.socket)
        .reconnect_delay(RECONNECT_DELAY)
        .wait_for_gateway(Duration::from_secs(10))
        .build()?;
    match args.name.as_str() {
        "order-service" => register_order(&client)?,
        "user-service" => register_user(&client)?,
        "role-service" => register_role(&client)?,
        "inventory-service" => register_inventory(&client)?,
        other => return Err(Failure::Usage(format!("the demo has no service {other:?}"))),
    }
    client.connect().await.map_err(|error| Failure::connect(error, &args.socket.socket))?;
    let mut input = tokio::io::stdin();
    let mut discarded = [0; 64];
    while matches!(input.read(&mut discarded).await, Ok(bytes) if bytes > 0) {}
    client.disconnect().await;
    Ok(())
}

fn register_order(client: &Client) -> Result<(), Failure> {
    let caller = client.clone();
    client.register("getOrderDetails", move |query: OrderQuery, _: Context| {
        let client = caller.clone();
        async move {
            if query.order_id != "ORD-1" {
                let text = format!("there is no order {}", query.order_id);
                return Err(HandlerError::new(ErrorCode::from("ORDER_NOT_FOUND"), text));
            }
            // Nothing is said of the context here: nested calls inherit it from the handler's task.
            let user: Value = client.call("user-service", "getUserById", json!({ "userId": "123" })).await?;
            let stock: Value =
                client.call("inventory-service", "checkStock", json!({ "items": ["pen", "ink"] })).await?;
            Ok(json!({ "order": { "id": query.order_id, "total": 99.99 }, "user": user, "stock": stock }))
        }
    })?;
    Ok(())
}

fn register_user(client: &Client) -> Result<(), Failure> {
    let caller = client.clone();
    client.register("getUserById", move |query: UserQuery, _: Context| {
        let client = caller.clone();
        async move {
            let role: Value = client.call("role-service", "getRole", json!({ "userId": query.user_id })).await?;
            Ok::<_, HandlerError>(json!({ "id": query.user_id, "name": "Asha", "role": role["role"] }))
        }
    })?;
    client.register("exportHistory", |_: Value, _: Context| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Ok::<_, HandlerError>(Value::Null)
    })?;
    Ok(())
}

fn register_role(client: &Client) -> Result<(), Failure> {
    client.register("getRole", |query: UserQuery, _: Context| async move {
        Ok::<_, HandlerError>(json!({ "role": if query.user_id == "123" { "admin" } else { "guest" } }))
    })?;
    Ok(())
}

fn register_inventory(client: &Client) -> Result<(), Failure> {
    client.register("checkStock", |query: StockQuery, _: Context| async move {
        Ok::<_, HandlerError>(query.items.iter().map(|item| (item.clone(), json!(item.len()))).collect::<Value>())
    })?;
    client.register("countEverything", |_: Value, _: Context| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Ok::<_, HandlerError>(Value::Null)
    })?;
    Ok(())
}
