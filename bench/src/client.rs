//! Caller and callee with the crate `ipc-bro`, as programs use it: typed calls on a runtime of one thread.

use crate::turns;
use crate::v1::CALLEE;
use crate::window::say;
use anyhow::Result;
use ipc_bro::{Client, HandlerError};
use std::path::Path;
use tokio::io::{AsyncReadExt, stdin};
use tokio::runtime::Builder;

/// Answers calls until standard input ends.
pub(crate) fn answer(socket: &Path) -> Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let client = Client::builder(CALLEE)
            .gateway_path(socket)
            .method("echo", async |text: String, _| Ok::<_, HandlerError>(text))
            .connect()
            .await?;
        say("ready")?;
        stdin().read_to_end(&mut Vec::new()).await?;
        client.disconnect().await;
        Ok(())
    })
}

/// Calls as it is told to on standard input, until that ends.
pub(crate) fn call(socket: &Path) -> Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let client = Client::builder("caller").gateway_path(socket).connect().await?;
        let caller = client.clone();
        turns::call(move |text| {
            let call = caller.call::<String>(CALLEE, "echo", &text);
            async { Ok(call.await?) }
        })
        .await?;
        client.disconnect().await;
        Ok(())
    })
}
