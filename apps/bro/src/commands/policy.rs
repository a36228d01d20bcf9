//! `bro policy`

use crate::cli::{PolicyAction, PolicyArgs};
use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::print_line;
use bro_gateway::PolicySource;
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// How long a gateway may take to read its policy: names may have to be asked of another machine.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Loaded {
    rules: usize,
}

pub fn run(args: PolicyArgs) -> Result<(), Failure> {
    match args.action {
        PolicyAction::Check { file } => check(file),
        PolicyAction::Reload { socket } => crate::block_on(async move {
            let connection = Connection::open(&socket.socket, Duration::ZERO).await?;
            let loaded = connection.ask::<Loaded>("reloadPolicy", json!({}), RELOAD_TIMEOUT).await;
            connection.close().await;
            print_line(&format!("policy loaded: {}", rules(loaded?.rules)))
        }),
    }
}

fn check(file: PathBuf) -> Result<(), Failure> {
    let shown = file.display().to_string();
    let policy = PolicySource::File(file).load().map_err(|error| Failure::local(error.to_string()))?;
    print_line(&format!("{shown}: {}", rules(policy.rules_len())))
}

fn rules(count: usize) -> String {
    if count == 1 { "1 rule".to_owned() } else { format!("{count} rules") }
}
