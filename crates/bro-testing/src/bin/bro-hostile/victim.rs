//! The honest pairs, in a process of their own: they call each other, and measure how long that takes.

use bro_testing::{Encoding, V1Peer};
use hdrhistogram::Histogram;
use ipc_bro::{Client, Context, Error};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The service of our own kind that honest programs call.
pub(crate) const USER: &str = "victim.user";
/// The same, as an old program.
pub(crate) const OLD_USER: &str = "victim.old-user";
/// Who calls [`USER`].
pub(crate) const ORDER: &str = "victim.order";

/// Between two calls of a pair: an honest program does something else, too, and two cores are not many.
const PAUSE: Duration = Duration::from_micros(500);
/// The longest time that can be noted, in microseconds.
const SLOWEST_US: u64 = 60_000_000;

/// What was noticed in one span of time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Phase {
    pub(crate) calls: u64,
    pub(crate) failures: u64,
    /// The first failure, if any.
    pub(crate) failure: Option<String>,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) max_us: u64,
}

struct Notes {
    durations_us: Histogram<u64>,
    failures: u64,
    failure: Option<String>,
}

impl Notes {
    fn new() -> Notes {
        let durations_us = Histogram::new_with_bounds(1, SLOWEST_US, 3).expect("bounds are in order");
        Notes { durations_us, failures: 0, failure: None }
    }

    fn phase(&self) -> Phase {
        let quantile = |q| self.durations_us.value_at_quantile(q);
        Phase {
            calls: self.durations_us.len() + self.failures,
            failures: self.failures,
            failure: self.failure.clone(),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            max_us: self.durations_us.max(),
        }
    }
}

type Shared = Arc<Mutex<Notes>>;

/// Calls until standard input ends. For each line there, tells what was noticed since the last one.
pub(crate) fn run(path: &Path) {
    let notes: Shared = Arc::new(Mutex::new(Notes::new()));
    let old = V1Peer::register(path, Encoding::Json, OLD_USER, &["echo"]);
    let _old = old.serve(|call| Ok(call["params"].clone()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let (shared, socket) = (Arc::clone(&notes), path.to_owned());
    thread::spawn(move || call_as_old_program(&socket, &shared));
    let (shared, socket) = (Arc::clone(&notes), path.to_owned());
    thread::spawn(move || runtime.block_on(call_as_client(&socket, &shared)));
    for line in std::io::stdin().lock().lines() {
        if line.is_err() {
            break;
        }
        let phase = std::mem::replace(&mut *notes.lock().expect("no thread panics"), Notes::new()).phase();
        println!("{}", serde_json::to_string(&phase).expect("a phase is JSON"));
        std::io::stdout().flush().expect("the parent reads");
    }
    // The calling threads end with the process.
    std::process::exit(0);
}

fn note(notes: &Shared, began: Instant, outcome: Result<(), String>) {
    let mut notes = notes.lock().expect("no thread panics");
    match outcome {
        Ok(()) => notes.durations_us.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)),
        Err(why) => {
            notes.failures += 1;
            notes.failure.get_or_insert(why);
        }
    }
}

fn call_as_old_program(path: &Path, notes: &Shared) {
    let mut caller = V1Peer::register(path, Encoding::Json, "victim.old-order", &[]);
    for n in 0_u64.. {
        let params = json!({ "n": n, "text": "an honest call" });
        let began = Instant::now();
        let answer = caller.call(OLD_USER, "echo", params.clone());
        let is_right = answer["status"] == "success" && answer["data"] == params;
        note(notes, began, if is_right { Ok(()) } else { Err(answer.to_string()) });
        // An old program says that it lives, and this one speaks anyway.
        thread::sleep(PAUSE);
    }
}

async fn call_as_client(path: &Path, notes: &Shared) {
    let echo = async |params: Value, _: Context| Ok::<_, Error>(params);
    let user = Client::builder(USER).gateway_path(path).method("echo", echo).connect().await;
    let _user = user.expect("the gateway is there");
    let order = Client::builder(ORDER).gateway_path(path).connect().await.expect("the gateway is there");
    for n in 0_u64.. {
        let params = json!({ "n": n, "text": "an honest call" });
        let began = Instant::now();
        let answer: Result<Value, Error> = order.call(USER, "echo", params.clone()).await;
        let outcome = match answer {
            Ok(answer) if answer == params => Ok(()),
            Ok(other) => Err(format!("answered {other}")),
            Err(error) => Err(error.to_string()),
        };
        note(notes, began, outcome);
        tokio::time::sleep(PAUSE).await;
    }
}
