//! `bro wait-for`

use crate::cli::WaitForArgs;
use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::in_ms;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub async fn run(args: WaitForArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let connection = Connection::open(&args.socket.socket, args.timeout).await?;
    let left = args.timeout.saturating_sub(started.elapsed());
    let ask = json!({ "service": args.service, "timeoutMs": in_ms(left) });
    // The gateway answers when the time is up; a little more for the answer itself.
    let answer = connection.ask::<Value>("waitFor", ask, left + Duration::from_secs(2)).await;
    connection.close().await;
    answer.map(|_| ())
}
