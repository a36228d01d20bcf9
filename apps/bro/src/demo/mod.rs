//! `bro demo`: a gateway and four services in processes of their own, and what happens to their calls.
//!
//! Every line that is printed with a tick was checked; the first that does not hold ends the demo with exit code 1.

mod process;
pub mod service;
mod tally;
mod tree;

use crate::cli::DemoArgs;
use crate::exit::Failure;
use crate::output::{duration_us, in_ms, in_us, print_line, wall_ms};
use anstyle::{AnsiColor, Style};
use bro_proto::limits::GATEWAY_SERVICE;
use bro_proto::{Now, rng::Rng};
use ipc_bro::{CallContext, CallOptions, Client, ErrorCode};
use process::Process;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tally::Tally;
use tree::CallTree;

/// How long any single step may take before the demo counts as failed. Nothing waits this long when all is well.
const STEP_LIMIT: Duration = Duration::from_secs(20);
/// Calls in flight at once in the measured part.
const IN_FLIGHT: usize = 64;

pub async fn run(args: DemoArgs) -> Result<(), Failure> {
    let dir = tempfile::Builder::new().prefix("bro-demo-").tempdir()?;
    let mut demo = Demo::start(dir.path().join("gateway.sock")).await?;
    demo.nested_call().await?;
    demo.errors().await?;
    demo.killed_service().await?;
    demo.killed_gateway().await?;
    demo.load(args.calls).await?;
    demo.finish().await
}

struct Demo {
    socket: PathBuf,
    gateway: Option<Process>,
    services: Vec<(&'static str, Process)>,
    client: Client,
    shown: Tally,
    one_by_one: Tally,
    together: Tally,
}

impl Demo {
    async fn start(socket: PathBuf) -> Result<Demo, Failure> {
        heading("Five processes: a gateway and four services")?;
        let gateway = Process::gateway(&socket)?;
        let gateway_id = gateway.id();
        let mut services = Vec::new();
        for name in service::NAMES {
            services.push((name, Process::service(name, &socket)?));
        }
        let client = Client::builder("demo")
            .gateway_path(&socket)
            .reconnect_delay(Duration::from_millis(100))
            .wait_for_gateway(STEP_LIMIT)
            .connect()
            .await
            .map_err(|error| Failure::connect(error, &socket))?;
        let (shown, one_by_one, together) =
            (Tally::new("shown above"), Tally::new("one at a time"), Tally::new("64 in flight"));
        let demo = Demo { socket, gateway: Some(gateway), services, client, shown, one_by_one, together };
        demo.wait_for_services().await?;
        tick(&format!("gateway, pid {gateway_id}"))?;
        for (name, process) in &demo.services {
            tick(&format!("{name}, pid {}", process.id()))?;
        }
        Ok(demo)
    }

    /// A call that makes calls: drawn from what the gateway reports to anybody who watches.
    async fn nested_call(&mut self) -> Result<(), Failure> {
        heading("A nested call, and what the gateway saw of it")?;
        let mut cursor = self.ask("events", json!({})).await?["cursor"].clone();
        let root = new_chain();
        let options = CallOptions::new().context(root.clone());
        let order = self.call("order-service", "getOrderDetails", json!({ "orderId": "ORD-1" }), options).await?;
        check(order["user"]["role"] == "admin", "the nested calls' results arrive in the outer one")?;
        let mut events = Vec::new();
        let started = Instant::now();
        let tree = loop {
            let batch = self.ask("events", json!({ "cursor": cursor, "timeoutMs": 1000 })).await?;
            cursor = batch["cursor"].clone();
            events.extend(batch["events"].as_array().into_iter().flatten().cloned());
            let tree = CallTree::from_events(&events, &root.root);
            if tree.is_complete() && tree.chains().len() >= 4 {
                break tree;
            }
            if started.elapsed() > STEP_LIMIT {
                return Err(Failure::local("the gateway did not report all four calls"));
            }
        };
        for line in tree.draw()? {
            print_line(&format!("    {line}"))?;
        }
        let longest = tree.chains().into_iter().max_by_key(|chain| chain.len()).unwrap_or_default();
        check(
            longest == ["demo", "order-service", "user-service", "role-service"],
            "the chain names every service on the way",
        )
    }

    async fn errors(&mut self) -> Result<(), Failure> {
        heading("Calls that fail say why, at once")?;
        let cases = [
            (
                "order-service",
                "getOrderDetails",
                json!({ "orderId": "ORD-2" }),
                "ORDER_NOT_FOUND",
                "a handler's own error",
            ),
            ("payment-service", "pay", json!({}), "SERVICE_NOT_FOUND", "a service that is not there"),
            ("user-service", "getUser", json!({}), "METHOD_NOT_FOUND", "a method that is not there"),
            (
                "inventory-service",
                "countEverything",
                json!({}),
                "TIMEOUT",
                "a handler that takes too long (300 ms allowed)",
            ),
        ];
        for (to, method, params, code, what) in cases {
            let options = CallOptions::new().timeout(Duration::from_millis(300));
            self.expect_error(to, method, params, options, code, what).await?;
        }
        Ok(())
    }

    async fn killed_service(&mut self) -> Result<(), Failure> {
        heading("kill -9 of a service in the middle of a call")?;
        let client = self.client.clone();
        self.shown.start();
        let started = Instant::now();
        let call = tokio::spawn(async move { client.call::<Value>("user-service", "exportHistory", json!({})).await });
        self.until_in_flight("user-service").await?;
        let killed = Instant::now();
        self.take_service("user-service")?.kill().await?;
        let outcome = call.await.map_err(|error| Failure::local(error.to_string()))?;
        let waited_us = in_us(killed.elapsed());
        self.shown.end(&outcome, started.elapsed());
        let code = outcome.err().map(|error| error.code().to_string()).unwrap_or_default();
        check(
            code == "CONNECTION_LOST",
            &format!("its caller is told {} after the kill: CONNECTION_LOST", duration_us(waited_us)),
        )?;
        let process = Process::service("user-service", &self.socket)?;
        let id = process.id();
        self.services.push(("user-service", process));
        self.wait_for_services().await?;
        let user = self.call("user-service", "getUserById", json!({ "userId": "123" }), CallOptions::new()).await?;
        check(user["name"] == "Asha", &format!("restarted as pid {id}, it answers again"))
    }

    async fn killed_gateway(&mut self) -> Result<(), Failure> {
        heading("kill -9 of the gateway")?;
        self.gateway.take().ok_or_else(|| Failure::local("no gateway to kill"))?.kill().await?;
        let started = Instant::now();
        while self.client.is_connected() && started.elapsed() < STEP_LIMIT {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.expect_error(
            "user-service",
            "getUserById",
            json!({}),
            CallOptions::new(),
            "NOT_CONNECTED",
            "a call meanwhile",
        )
        .await?;
        let gateway = Process::gateway(&self.socket)?;
        let id = gateway.id();
        self.gateway = Some(gateway);
        let restarted = Instant::now();
        while !self.client.is_connected() {
            if restarted.elapsed() > STEP_LIMIT {
                return Err(Failure::local("the demo's own client did not reconnect"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.wait_for_services().await?;
        let spent_us = in_us(restarted.elapsed());
        tick(&format!("a new gateway, pid {id}: all services are back by themselves after {}", duration_us(spent_us)))?;
        let order =
            self.call("order-service", "getOrderDetails", json!({ "orderId": "ORD-1" }), CallOptions::new()).await?;
        check(order["order"]["id"] == "ORD-1", "and calls go on")
    }

    async fn load(&mut self, calls: u32) -> Result<(), Failure> {
        heading(&format!("{calls} calls to user-service, which asks role-service each time"))?;
        let sequential = calls / 5;
        let query = || json!({ "userId": "123" });
        for _ in 0..sequential {
            let started = Instant::now();
            self.one_by_one.start();
            let outcome = self.client.call::<Value>("user-service", "getUserById", query()).await;
            self.one_by_one.end(&outcome, started.elapsed());
        }
        let mut running = tokio::task::JoinSet::new();
        let mut left = calls - sequential;
        while left > 0 || !running.is_empty() {
            while left > 0 && running.len() < IN_FLIGHT {
                left -= 1;
                self.together.start();
                let client = self.client.clone();
                running.spawn(async move {
                    let started = Instant::now();
                    let outcome = client.call::<Value>("user-service", "getUserById", query()).await;
                    (outcome, started.elapsed())
                });
            }
            if let Some(ended) = running.join_next().await {
                let (outcome, spent) = ended.map_err(|error| Failure::local(error.to_string()))?;
                self.together.end(&outcome, spent);
            }
        }
        check(self.one_by_one.failed() + self.together.failed() == 0, "none of them failed")
    }

    async fn finish(mut self) -> Result<(), Failure> {
        heading("All calls of this demo")?;
        for line in tally::summary(&[&self.shown, &self.one_by_one, &self.together]).lines() {
            print_line(&format!("    {line}"))?;
        }
        let settled = [&self.shown, &self.one_by_one, &self.together].iter().all(|tally| tally.is_settled());
        check(settled && self.client.status().pending_requests == 0, "every call ended, exactly once")?;
        let in_flight = self.ask("status", json!({})).await?["inFlight"].as_u64();
        check(in_flight == Some(0), "the gateway holds no call any more")?;
        self.client.disconnect().await;
        for (_, process) in self.services.drain(..) {
            process.finish().await?;
        }
        if let Some(gateway) = self.gateway.take() {
            gateway.finish().await?;
        }
        check(!self.socket.exists(), "services and gateway have stopped, the socket is gone")
    }

    async fn call(&mut self, to: &str, method: &str, params: Value, options: CallOptions) -> Result<Value, Failure> {
        self.shown.start();
        let started = Instant::now();
        let outcome = self.client.call_with::<Value>(to, method, params, options).await;
        self.shown.end(&outcome, started.elapsed());
        Ok(outcome?)
    }

    async fn expect_error(
        &mut self,
        to: &str,
        method: &str,
        params: Value,
        options: CallOptions,
        code: &str,
        what: &str,
    ) -> Result<(), Failure> {
        self.shown.start();
        let started = Instant::now();
        let outcome = self.client.call_with::<Value>(to, method, params, options).await;
        let spent = started.elapsed();
        self.shown.end(&outcome, spent);
        match outcome {
            Err(error) if *error.code() == ErrorCode::from(code) => {
                let spent_us = in_us(spent);
                tick(&format!("{what}: {code} after {}", duration_us(spent_us)))?;
                print_line(&format!("      {}", error.message()))
            }
            Err(error) => Err(Failure::local(format!("{what}: expected {code}, got {}: {error}", error.code()))),
            Ok(_) => Err(Failure::local(format!("{what}: expected {code}, but the call succeeded"))),
        }
    }

    /// Asks the gateway about itself; not counted among the demo's calls.
    async fn ask(&self, method: &str, params: Value) -> Result<Value, Failure> {
        let options = CallOptions::new().timeout(STEP_LIMIT);
        Ok(self.client.call_with(GATEWAY_SERVICE, method, params, options).await?)
    }

    async fn wait_for_services(&self) -> Result<(), Failure> {
        for name in service::NAMES {
            let limit_ms = in_ms(STEP_LIMIT) - 1000;
            self.ask("waitFor", json!({ "service": name, "timeoutMs": limit_ms })).await?;
        }
        Ok(())
    }

    async fn until_in_flight(&self, service: &str) -> Result<(), Failure> {
        let started = Instant::now();
        while started.elapsed() < STEP_LIMIT {
            let entry = self.ask("service", json!({ "name": service })).await?;
            let instances = entry["instances"].as_array();
            if instances.into_iter().flatten().any(|instance| instance["inFlight"].as_u64() > Some(0)) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(Failure::local(format!("no call to {service} came into flight")))
    }

    fn take_service(&mut self, name: &str) -> Result<Process, Failure> {
        let at = self.services.iter().position(|(known, _)| *known == name);
        at.map(|at| self.services.remove(at).1).ok_or_else(|| Failure::local(format!("{name} is not running")))
    }
}

/// The context of a chain that begins here, made by hand so that its root is known beforehand.
fn new_chain() -> CallContext {
    let now = Now { mono_us: 0, wall_ms: wall_ms() };
    let mut rng = Rng::new(now.wall_ms ^ u64::from(std::process::id()));
    CallContext::create("demo", in_ms(STEP_LIMIT), now, &mut rng)
}

fn heading(text: &str) -> Result<(), Failure> {
    let bold = Style::new().bold();
    print_line(&format!("\n{bold}{text}{bold:#}"))
}

fn tick(text: &str) -> Result<(), Failure> {
    let green = AnsiColor::Green.on_default();
    print_line(&format!("  {green}ok{green:#}  {text}"))
}

fn check(holds: bool, text: &str) -> Result<(), Failure> {
    if holds { tick(text) } else { Err(Failure::local(format!("did not hold: {text}"))) }
}
