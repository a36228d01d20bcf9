//! Caller and callee with the crate `ipc-bro`, as programs use it: typed calls on a runtime of one thread.

use crate::turns::{self, TEXT_BYTES};
use crate::v1::CALLEE;
use crate::window::{clock_ns, say};
use anyhow::{Result, ensure};
use bro_proto::limits::LANE_SPIN_US;
use ipc_bro::{Client, ClientBuilder, HandlerError};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, stdin};
use tokio::runtime::Builder;

const LANE_PATIENCE_NS: u64 = 10_000_000_000;

/// Whether calls go over a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// Through the gateway.
    None,
    /// Over a lane, as clients are when nobody says otherwise.
    Asleep,
    /// Over a lane, spinning for a while before they sleep.
    Spinning,
}

/// Answers calls until standard input ends.
pub(crate) fn answer(socket: &Path, lanes: Lanes) -> Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let client = builder(CALLEE, socket, lanes)
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
pub(crate) fn call(socket: &Path, lanes: Lanes) -> Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let client = builder("caller", socket, lanes).connect().await?;
        let expected = usize::from(lanes != Lanes::None);
        // The gateway offers a lane to those who have called each other.
        let start_ns = clock_ns();
        while client.status().lanes < expected {
            ensure!(clock_ns() - start_ns < LANE_PATIENCE_NS, "no lane was opened");
            client.call::<String>(CALLEE, "echo", &"x".repeat(TEXT_BYTES)).await?;
        }
        let caller = client.clone();
        turns::call(move |text| {
            let call = caller.call::<String>(CALLEE, "echo", &text);
            async { Ok(call.await?) }
        })
        .await?;
        ensure!(client.status().lanes == expected, "{} lanes at the end", client.status().lanes);
        client.disconnect().await;
        Ok(())
    })
}

fn builder(name: &str, socket: &Path, lanes: Lanes) -> ClientBuilder {
    let spin = if lanes == Lanes::Spinning { Duration::from_micros(LANE_SPIN_US) } else { Duration::ZERO };
    Client::builder(name).gateway_path(socket).lanes(lanes != Lanes::None).lane_spin(spin)
}
