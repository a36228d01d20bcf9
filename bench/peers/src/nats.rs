//! NATS: request and reply through `nats-server` on a loopback port, with its Rust client.

use crate::window::say;
use crate::{server, turns};
use anyhow::{Context as _, Result};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio_stream::StreamExt as _;

const SUBJECT: &str = "echo";

/// The server, on a port that nobody listens on.
pub(crate) fn serve(directory: &Path) -> Result<()> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut command = Command::new("nats-server");
    command.args(["--addr", "127.0.0.1", "--port", &address.port().to_string()]);
    fs::write(address_file(directory), address.to_string())?;
    server::run(&mut command, || TcpStream::connect(address).is_ok())
}

/// Answers until the connection ends.
pub(crate) async fn answer(directory: &Path) -> Result<()> {
    let client = connect(directory).await?;
    let mut requests = client.subscribe(SUBJECT).await?;
    client.flush().await?;
    say("ready")?;
    while let Some(request) = requests.next().await {
        client.publish(request.reply.context("a request without a reply subject")?, request.payload).await?;
    }
    Ok(())
}

/// Calls until standard input ends.
pub(crate) async fn call(directory: &Path) -> Result<()> {
    let client = connect(directory).await?;
    turns::call(move |text| {
        let client = client.clone();
        async move {
            let answer = client.request(SUBJECT, text.into()).await?;
            Ok(std::str::from_utf8(&answer.payload)?.to_owned())
        }
    })
    .await
}

async fn connect(directory: &Path) -> Result<async_nats::Client> {
    Ok(async_nats::connect(fs::read_to_string(address_file(directory))?).await?)
}

fn address_file(directory: &Path) -> PathBuf {
    directory.join("nats-address")
}
