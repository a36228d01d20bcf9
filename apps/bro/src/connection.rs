//! The command's own connection to the gateway.

use crate::exit::Failure;
use bro_proto::limits::GATEWAY_SERVICE;
use ipc_bro::{CallOptions, Client, ErrorCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;

/// What the names of these connections begin with.
const NAME_PREFIX: &str = "bro-cli-";

/// Whether a service is one of these connections, and of no interest to who lists services.
pub fn is_command(service: &str) -> bool {
    service.starts_with(NAME_PREFIX)
}

/// A short-lived client under a name that no service has.
pub struct Connection {
    client: Client,
}

impl Connection {
    /// Connects; `wait` is how long a gateway that is not there may take to appear.
    pub async fn open(socket: &Path, wait: Duration) -> Result<Connection, Failure> {
        let client = Client::builder(format!("{NAME_PREFIX}{}", std::process::id()))
            .gateway_path(socket)
            .auto_reconnect(false)
            .wait_for_gateway(wait)
            .connect()
            .await
            .map_err(|error| Failure::connect(error, socket))?;
        Ok(Connection { client })
    }

    /// The client itself.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Calls the gateway's own service.
    pub async fn ask<R: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
        timeout: Duration,
    ) -> Result<R, Failure> {
        let options = CallOptions::new().timeout(timeout);
        let answer = self.client.call_with(GATEWAY_SERVICE, method, params, options).await;
        answer.map_err(|error| self.explain(error))
    }

    /// What it means when the gateway's own service does not answer.
    pub fn explain(&self, error: ipc_bro::Error) -> Failure {
        match error.code() {
            ErrorCode::ServiceNotFound => Failure::local(
                "this gateway does not answer questions about itself: it is one of the JavaScript library",
            ),
            // Only the gateway's own connection is in the way to its own service.
            ErrorCode::ConnectionLost => Failure::NoGateway(format!("the gateway went away: {}", error.message())),
            _ => error.into(),
        }
    }

    /// Says goodbye to the gateway.
    pub async fn close(self) {
        self.client.disconnect().await;
    }
}
