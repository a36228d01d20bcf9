//! Three services and their gateway in one process: a call from "order" to "user" that calls "role" on its way.
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use ipc_bro::{CallContext, Client, Context, Gateway, GatewayConfig, HandlerError};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::temp_dir().join(format!("ipc-bro-nested-{}.sock", std::process::id()));
    let gateway = Gateway::start(GatewayConfig::new(&path))?;

    let see = async |(): (), context: Context| Ok::<_, HandlerError>(context.call().clone());
    let role = Client::builder("role").gateway_path(&path).method("see", see).connect().await?;

    let pass_on = async |(): (), context: Context| {
        let seen: CallContext = context.client().call("role", "see", ()).await?;
        Ok::<_, HandlerError>(seen)
    };
    let user = Client::builder("user").gateway_path(&path).method("passOn", pass_on).connect().await?;

    let order = Client::builder("order").gateway_path(&path).connect().await?;
    let seen: CallContext = order.call("user", "passOn", ()).await?;
    println!("{} at depth {}: {}", seen.root, seen.depth, seen.chain.join(" -> "));

    for client in [order, user, role] {
        client.disconnect().await;
    }
    gateway.stop()?;
    Ok(())
}
