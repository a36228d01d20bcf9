//! `bro call`

use crate::cli::CallArgs;
use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::print_json;
use bro_proto::limits::FRAME_BYTES_MAX;
use ipc_bro::CallOptions;
use serde_json::Value;
use std::io::Read;
use std::time::Instant;

pub async fn run(args: CallArgs) -> Result<(), Failure> {
    let params = params(args.params.as_deref())?;
    let started = Instant::now();
    let wait = args.wait.unwrap_or_default().min(args.timeout);
    let opening = Connection::open(&args.socket.socket, wait);
    let Ok(connection) = tokio::time::timeout(args.timeout, opening).await else {
        return Err(Failure::silent(&args.socket.socket, args.timeout));
    };
    let connection = connection?;
    let options = CallOptions::new().timeout(args.timeout.saturating_sub(started.elapsed()));
    let options = options.wait_for_service(wait.saturating_sub(started.elapsed()));
    let result = connection.client().call_with::<Value>(&args.service, &args.method, params, options).await;
    connection.close().await;
    print_json(&result?)
}

/// The parameters that an argument stands for; an empty object where there is none.
pub(super) fn params(text: Option<&str>) -> Result<Value, Failure> {
    let text = match text {
        None => return Ok(Value::Object(serde_json::Map::new())),
        Some("-") => {
            let mut text = Vec::new();
            let mut input = std::io::stdin().lock().take(FRAME_BYTES_MAX as u64 + 1);
            input
                .read_to_end(&mut text)
                .map_err(|error| Failure::local(format!("cannot read standard input: {error}")))?;
            if text.len() > FRAME_BYTES_MAX {
                let message = format!("the parameters have more than {FRAME_BYTES_MAX} bytes: send them in pieces");
                return Err(Failure::Usage(message));
            }
            return serde_json::from_slice(&text)
                .map_err(|error| Failure::Usage(format!("the parameters on standard input are not JSON: {error}")));
        }
        Some(text) => text,
    };
    serde_json::from_str(text).map_err(|error| {
        Failure::Usage(format!(
            "the parameters are not JSON: {error}\nQuote them for the shell: '{{\"userId\": \"123\"}}'"
        ))
    })
}
