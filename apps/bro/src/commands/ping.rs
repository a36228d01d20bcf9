//! `bro ping`

use crate::cli::PingArgs;
use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::{duration_us, in_us, print_line};
use bro_proto::limits::PING_METHOD;
use ipc_bro::{CallOptions, ErrorCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub async fn run(args: PingArgs) -> Result<(), Failure> {
    let connection = Connection::open(&args.socket.socket, Duration::ZERO).await?;
    for number in 1..=args.count {
        let options = CallOptions::new().timeout(args.timeout);
        let started = Instant::now();
        let answer = connection.client().call_with::<Value>(&args.service, PING_METHOD, json!({}), options).await;
        let spent = duration_us(in_us(started.elapsed()));
        match answer {
            Ok(_) => print_line(&format!("{}: {number} of {}, {spent}", args.service, args.count))?,
            // An old program has no such method; that it says so is as good a sign of life.
            Err(error) if *error.code() == ErrorCode::MethodNotFound => {
                print_line(&format!(
                    "{}: {number} of {}, {spent} (a program of the JavaScript library)",
                    args.service, args.count
                ))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    connection.close().await;
    Ok(())
}
