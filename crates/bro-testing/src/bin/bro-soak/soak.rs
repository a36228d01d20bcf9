//! The kills, and the verdict.

use crate::SoakArgs;
use crate::plan::callee_name;
use crate::report::Report;
use crate::worker::{Role, Spec, Worker};
use bro_proto::rng::Rng;
use bro_testing::gateway::GatewayOptions;
use bro_testing::gateway::wait_until;
use bro_testing::{Encoding, TempGateway, V1Peer};
use serde_json::json;
use std::thread;
use std::time::{Duration, Instant};

/// How long a new gateway is left alone, so that the connection that found it accepting is closed.
const SETTLE: Duration = Duration::from_millis(500);
/// How long the load runs before anything is killed.
const WARM_UP: Duration = Duration::from_millis(1500);
/// The shortest pause between two kills, in milliseconds.
const PAUSE_MIN_MS: u64 = 40;
/// The longest time that a killed process stays away, in milliseconds.
const ABSENCE_MAX_MS: u64 = 60;
/// How often a line of progress is printed, in rounds.
const PROGRESS_ROUNDS: u64 = 100;

/// Who is killed, by how many times.
#[derive(Clone, Copy, Debug, Default)]
struct Kills {
    callees: u64,
    callers: u64,
    gateways: u64,
}

/// The gateway without anybody connected.
#[derive(Clone, Copy, Debug)]
struct Idle {
    memory_kib: u64,
    descriptors: usize,
}

struct Soak<'a> {
    args: &'a SoakArgs,
    rng: Rng,
    gateway: TempGateway,
    callees: Vec<(Spec, Option<Worker>)>,
    /// The first two are never killed.
    callers: Vec<(Spec, Option<Worker>)>,
    kills: Kills,
    /// The sum over callers that were killed: some of their calls have no end.
    of_killed: Report,
    /// The sum over callers that ended in good order: every one of their calls has an end.
    of_finished: Report,
    memory_peak_kib: u64,
    /// What did not hold.
    faults: Vec<String>,
}

/// Runs it and prints the verdict; whether everything held.
pub(crate) fn run(args: &SoakArgs, seed: u64) -> bool {
    println!("bro-soak: {} kills, seed {seed}", args.rounds);
    let begun = Instant::now();
    let gateway = GatewayOptions { lanes: Some(args.lanes.clone()), ..GatewayOptions::default() }.start();
    let mut soak = Soak {
        args,
        rng: Rng::new(seed),
        callees: callee_specs(args.callees).into_iter().map(|spec| (spec, None)).collect(),
        callers: caller_specs().into_iter().map(|spec| (spec, None)).collect(),
        gateway,
        kills: Kills::default(),
        of_killed: Report::default(),
        of_finished: Report::default(),
        memory_peak_kib: 0,
        faults: Vec::new(),
    };
    thread::sleep(SETTLE);
    let fresh = soak.idle();
    soak.start_all();
    thread::sleep(WARM_UP);
    soak.finish_all();
    soak.wait_for_descriptors(fresh);
    let before = soak.idle();
    soak.start_all();
    for round in 0..args.rounds {
        soak.kill_somebody(round);
        if (round + 1) % PROGRESS_ROUNDS == 0 {
            println!("  {} kills, {} s", round + 1, begun.elapsed().as_secs());
        }
    }
    soak.check_that_all_returned();
    soak.finish_all();
    soak.wait_for_descriptors(fresh);
    let after = soak.idle();
    soak.check_sums();
    soak.check_gateway(before, after);
    soak.print(fresh, before, after, begun.elapsed());
    let status = soak.gateway.stop();
    if !status.success() {
        soak.faults.push(format!("the gateway ended with {status}"));
    }
    for fault in &soak.faults {
        println!("FAILED: {fault}");
    }
    let held = soak.faults.is_empty();
    println!("{}", if held { "everything held" } else { "not everything held" });
    if !held {
        println!("repeat with: bro-soak --rounds {} --seed {seed}", args.rounds);
    }
    held
}

fn callee_specs(callees: u32) -> Vec<Spec> {
    (0..callees)
        .map(|index| Spec {
            role: Role::Callee,
            name: callee_name(index.into()),
            is_msgpack: index % 2 == 1,
            pool_size: 1 + index % 3,
        })
        .collect()
}

fn caller_specs() -> Vec<Spec> {
    let spec = |role, name: &str, is_msgpack, pool_size| Spec { role, name: name.to_owned(), is_msgpack, pool_size };
    vec![
        spec(Role::Caller, "caller-lasting", false, 1),
        spec(Role::OldCaller, "old-caller-lasting", true, 1),
        spec(Role::Caller, "caller-single", true, 1),
        spec(Role::Caller, "caller-pooled", false, 3),
        spec(Role::OldCaller, "old-caller", false, 1),
    ]
}

impl Soak<'_> {
    fn start_all(&mut self) {
        let socket = self.gateway.socket_path();
        for (spec, worker) in self.callees.iter_mut().chain(&mut self.callers) {
            *worker = Some(Worker::spawn(spec, socket, self.args.callees, self.rng.next_u64()));
        }
    }

    /// Ends the callers in good order, and then the callees.
    fn finish_all(&mut self) {
        for (spec, worker) in self.callers.iter_mut().chain(&mut self.callees) {
            let Some(worker) = worker.take() else { continue };
            match worker.finish() {
                Ok(report) if spec.role == Role::Callee || report.is_final => self.of_finished.add(&report),
                Ok(_) => self.faults.push(format!("{} ended without its last report", spec.name)),
                Err(status) => self.faults.push(format!("{} ended with {status}", spec.name)),
            }
        }
    }

    /// Waits a random time, kills a random process, and starts it again after a random absence.
    fn kill_somebody(&mut self, round: u64) {
        let pause_ms = PAUSE_MIN_MS + self.rng.below(self.args.pause_ms.saturating_sub(PAUSE_MIN_MS) + 1);
        let absence = Duration::from_millis(self.rng.below(ABSENCE_MAX_MS));
        thread::sleep(Duration::from_millis(pause_ms));
        self.look_for_the_dead();
        // The last third of the kills is one gateway's to bear: its memory is looked at in the end.
        let gateway_share = if round * 3 < self.args.rounds * 2 { 25 } else { 0 };
        let drawn = self.rng.below(100);
        let seed = self.rng.next_u64();
        self.memory_peak_kib = self.memory_peak_kib.max(self.gateway.memory_kib());
        if drawn < gateway_share {
            self.gateway.kill9();
            thread::sleep(absence);
            self.gateway.restart();
            self.kills.gateways += 1;
            return;
        }
        let (workers, lasting) = if drawn < 65 { (&mut self.callees, 0) } else { (&mut self.callers, 2) };
        let choice = self.rng.below((workers.len() - lasting) as u64);
        let (spec, worker) = &mut workers[lasting + usize::try_from(choice).expect("a small number")];
        let report = worker.take().expect("every worker is up").kill();
        match spec.role {
            Role::Callee => self.kills.callees += 1,
            Role::Caller | Role::OldCaller => self.kills.callers += 1,
        }
        self.of_killed.add(&report);
        thread::sleep(absence);
        *worker = Some(Worker::spawn(spec, self.gateway.socket_path(), self.args.callees, seed));
    }

    /// Whoever ends without having been killed is a fault.
    fn look_for_the_dead(&mut self) {
        for (spec, worker) in self.callees.iter_mut().chain(&mut self.callers) {
            if let Some(status) = worker.as_mut().and_then(Worker::has_died) {
                self.faults.push(format!("{} ended by itself: {status}", spec.name));
                *worker = Some(Worker::spawn(spec, self.gateway.socket_path(), self.args.callees, self.rng.next_u64()));
            }
        }
        assert!(self.gateway.is_running(), "the gateway ended by itself:\n{}", self.gateway.stderr());
        assert!(self.faults.len() < 50, "too many faults: {:#?}", self.faults);
    }

    /// Every callee answers again, and every caller gets answers again.
    fn check_that_all_returned(&mut self) {
        let mut observer = V1Peer::register(self.gateway.socket_path(), Encoding::Json, "observer", &[]);
        for (spec, _) in &self.callees {
            wait_until(&format!("{} answers again", spec.name), || {
                observer.call(&spec.name, "echo", json!(1))["status"] == "success"
            });
        }
        for (spec, worker) in &self.callers {
            let worker = worker.as_ref().expect("every worker is up");
            let ok = worker.report().ok;
            wait_until(&format!("{} gets answers again", spec.name), || worker.report().ok > ok);
        }
    }

    /// The gateway as it is when nobody is connected.
    fn idle(&mut self) -> Idle {
        let idle = Idle { memory_kib: self.gateway.memory_kib(), descriptors: self.gateway.fd_count() };
        self.memory_peak_kib = self.memory_peak_kib.max(idle.memory_kib);
        idle
    }

    /// Waits until the gateway has closed what the dead had open.
    fn wait_for_descriptors(&mut self, fresh: Idle) {
        let gateway = &self.gateway;
        wait_until("the gateway has closed every connection", || gateway.fd_count() <= fresh.descriptors);
    }

    fn check_sums(&mut self) {
        let (finished, killed) = (&self.of_finished, &self.of_killed);
        let mut all = finished.clone();
        all.add(killed);
        let faults = &mut self.faults;
        let mut expect = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        let (started, ended) = (finished.started, finished.ended());
        expect(started == ended, format!("{started} calls began, {ended} ended, of callers that were not killed"));
        expect(killed.started >= killed.ended(), "killed callers ended more calls than they began".into());
        expect(all.hung == 0, format!("{} calls hung", all.hung));
        expect(all.answered_twice == 0, format!("{} answers to calls that had ended", all.answered_twice));
        expect(all.wrong_answers == 0, format!("{} answers belong to other calls", all.wrong_answers));
        expect(all.ok > self.args.rounds, format!("only {} calls succeeded: that is no load", all.ok));
        for (what, count) in &all.unfit {
            expect(false, format!("{count} times {what}"));
        }
    }

    fn check_gateway(&mut self, before: Idle, after: Idle) {
        if after.memory_kib > before.memory_kib + self.args.memory_slack_kib {
            self.faults
                .push(format!("the gateway's memory went from {} to {} KiB", before.memory_kib, after.memory_kib));
        }
        let mut observer = V1Peer::register(self.gateway.socket_path(), Encoding::Json, "observer", &[]);
        let status = observer.call("bro.gateway", "status", json!({}))["data"].take();
        if status["services"] != json!(["observer"]) {
            self.faults.push(format!("services are left: {}", status["services"]));
        }
        let opened = &status["counters"]["lanesOpened"];
        println!("lanes opened by the last gateway: {opened}");
        if self.args.lanes == "always" && opened.as_u64().unwrap_or(0) == 0 {
            self.faults.push("no lane was opened".to_owned());
        }
        if status["lanes"] != json!(0) {
            self.faults.push(format!("lanes are left: {}", status["lanes"]));
        }
        if status["inFlight"] != json!(0) {
            self.faults.push(format!("calls are left in flight: {}", status["inFlight"]));
        }
        if self.gateway.stderr().contains("panicked") {
            self.faults.push(format!("the gateway panicked:\n{}", self.gateway.stderr()));
        }
    }

    fn print(&self, fresh: Idle, before: Idle, after: Idle, elapsed: Duration) {
        let mut all = self.of_finished.clone();
        all.add(&self.of_killed);
        let Kills { callees, callers, gateways } = self.kills;
        let row = |what: &str, value: String| println!("  {what:<44}{value:>12}");
        println!("kills in {} s", elapsed.as_secs());
        row("callees", callees.to_string());
        row("callers", callers.to_string());
        row("gateways", gateways.to_string());
        println!("calls");
        row("began, of callers that were never killed", self.of_finished.started.to_string());
        row("ended, of callers that were never killed", self.of_finished.ended().to_string());
        row("began, of killed callers", self.of_killed.started.to_string());
        row("ended, of killed callers", self.of_killed.ended().to_string());
        row("ended with a result", all.ok.to_string());
        for (code, count) in &all.failed {
            row(&format!("ended with {code}"), count.to_string());
        }
        row("slowest, in ms", all.slowest_ms.to_string());
        row("hung", all.hung.to_string());
        row("answered twice", all.answered_twice.to_string());
        row("answered wrongly", all.wrong_answers.to_string());
        row("registrations tried again", all.refused_registrations.to_string());
        println!("gateway, idle");
        row("memory fresh, in KiB", fresh.memory_kib.to_string());
        row("memory after the warm-up, in KiB", before.memory_kib.to_string());
        row("memory at the end, in KiB", after.memory_kib.to_string());
        row("memory at most under load, in KiB", self.memory_peak_kib.to_string());
        row("descriptors fresh", fresh.descriptors.to_string());
        row("descriptors at the end", after.descriptors.to_string());
    }
}
