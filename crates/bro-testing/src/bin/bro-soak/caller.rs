//! A caller process on our own client.

use crate::WorkerArgs;
use crate::callee::connect;
use crate::plan::Plan;
use crate::report::{HEARTBEAT_INTERVAL, REPORT_INTERVAL, Report};
use bro_proto::rng::Rng;
use bro_testing::client::builder;
use ipc_bro::{CallOptions, Client};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Calls in flight at once.
const CALLS_AT_ONCE: u64 = 12;
/// How long after its timeout a call that has not ended counts as hung.
const HANG_AFTER: Duration = Duration::from_secs(10);
/// How long a task waits after a failure, so that an absent callee does not make it spin.
const FAILURE_PAUSE: Duration = Duration::from_millis(3);

struct Caller {
    client: Client,
    callees: u32,
    report: Mutex<Report>,
    is_stopping: AtomicBool,
}

pub(crate) fn run(args: &WorkerArgs) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let client = builder(&args.name, &args.socket, args.encoding());
        let client = client
            .pool_size(args.pool_size)
            .heartbeat_interval(HEARTBEAT_INTERVAL)
            .wait_for_gateway(Duration::from_secs(60))
            .build();
        let caller = Arc::new(Caller {
            client: client.expect("good options"),
            callees: args.callees,
            report: Mutex::default(),
            is_stopping: AtomicBool::new(false),
        });
        let end_of_input = tokio::task::spawn_blocking(crate::wait_for_end_of_input);
        connect(&caller.client, &caller.report).await;
        let tasks: Vec<_> = (0..CALLS_AT_ONCE)
            .map(|task| tokio::spawn(Arc::clone(&caller).call_on(Rng::new(args.seed ^ (task << 32)))))
            .collect();
        let reporting = tokio::spawn({
            let caller = Arc::clone(&caller);
            async move {
                loop {
                    tokio::time::sleep(REPORT_INTERVAL).await;
                    caller.report.lock().expect("no panic").tell();
                }
            }
        });
        let _ = end_of_input.await;
        caller.is_stopping.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.expect("no panic");
        }
        reporting.abort();
        let mut report = caller.report.lock().expect("no panic").clone();
        report.is_final = true;
        report.tell();
        caller.client.disconnect().await;
    });
}

impl Caller {
    /// Makes one call after the other.
    async fn call_on(self: Arc<Self>, mut rng: Rng) {
        while !self.is_stopping.load(Ordering::Relaxed) {
            let plan = Plan::draw(&mut rng, self.callees);
            let options = CallOptions::new().timeout(plan.timeout);
            self.report.lock().expect("no panic").started += 1;
            let begun = Instant::now();
            let call = self.client.call_with::<Value>(&plan.to, plan.method, &plan.params, options);
            let outcome = tokio::time::timeout(plan.timeout + HANG_AFTER, call).await;
            let failed = {
                let mut report = self.report.lock().expect("no panic");
                if plan.is_quick() {
                    report.note_duration(begun.elapsed());
                }
                match &outcome {
                    Ok(Ok(answer)) => plan.judge(&mut report, Ok(answer)),
                    Ok(Err(error)) => plan.judge(&mut report, Err(error.code().as_str())),
                    Err(_) => report.hung += 1,
                }
                !matches!(outcome, Ok(Ok(_)))
            };
            if failed {
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }
}
