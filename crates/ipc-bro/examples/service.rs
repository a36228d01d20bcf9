//! A service named "user". Start a gateway first: `bro gateway`.
//!
//! Then try `bro call user byId 7`.
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use ipc_bro::{Client, Context, HandlerError};
use serde::Serialize;
use std::time::Duration;

#[derive(Serialize)]
struct User {
    id: u32,
    name: &'static str,
}

#[tokio::main]
async fn main() -> Result<(), ipc_bro::Error> {
    let path = std::env::args().nth(1).unwrap_or_else(|| ipc_bro::DEFAULT_GATEWAY_PATH.to_owned());
    let user = Client::builder("user")
        .gateway_path(path)
        .wait_for_gateway(Duration::from_secs(10))
        .method("byId", async |id: u32, context: Context| match id {
            7 => Ok(User { id, name: "Nirikshan" }),
            _ => Err(HandlerError::new("NO_SUCH_USER", format!("{} asked for user {id}", context.caller()))),
        })
        .connect()
        .await?;
    let mut events = user.events();
    while let Some(event) = events.recv().await {
        println!("{}: {event:?}", event.name());
    }
    Ok(())
}
