//! The processes together, what is done to them, and the verdict.

use crate::SoakArgs;
use crate::chaos::{Chaos, Deck, Done, KINDS, name_of};
use crate::faulty::GatewayFault;
use crate::intruder::{Act, intrude};
use crate::plan::callee_name;
use crate::report::Report;
use crate::rest::{Judgement, Rests, idle_memory_kib, low_kib};
use crate::worker::{Role, Spec, Worker};
use bro_proto::rng::Rng;
use bro_testing::gateway::GatewayOptions;
use bro_testing::gateway::wait_until;
use bro_testing::{Encoding, TempGateway, V1Peer};
use serde_json::json;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a new gateway is left alone, so that the connection that found it accepting is closed.
const SETTLE: Duration = Duration::from_millis(500);
/// How long the load runs before anything is done.
const WARM_UP: Duration = Duration::from_millis(1500);
/// The shortest pause between two rounds, in milliseconds.
const PAUSE_MIN_MS: u64 = 40;
/// The longest time that a killed process stays away, in milliseconds.
const ABSENCE_MAX_MS: u64 = 60;
/// How often a line of progress is printed, in rounds.
const PROGRESS_ROUNDS: u64 = 100;
/// How often the gateway wants a sign of life. Silent for three of these, a process is given up.
const GATEWAY_HEARTBEAT_MS: u64 = 500;
/// How long a new connection may stay without registering, in milliseconds.
const REGISTER_TIMEOUT_MS: u64 = 1500;
/// Processes are stopped for less than this, which nobody may notice, or for longer than the gateway waits for them, in milliseconds.
const SHORT_FREEZE_MS: u64 = 400;
const LONG_FREEZE_MS: u64 = 4 * GATEWAY_HEARTBEAT_MS;
/// Most intruders at once.
const INTRUDERS_MAX: usize = 4;
/// So many rounds have every kind of chaos in them.
const ROUNDS_OF_ALL_KINDS: u64 = 64;
/// So many samples of memory in each third of a run say something.
const SAMPLES_MIN: usize = 10;
/// The gateway closes what the dead had open within this time, or has lost it.
const DESCRIPTORS_WAIT: Duration = Duration::from_secs(30);

/// So many callers, the first ones, are never killed.
const LASTING_CALLERS: usize = 2;

/// The gateway without anybody connected.
#[derive(Clone, Copy, Debug)]
struct Idle {
    memory_kib: u64,
    descriptors: usize,
}

struct Soak<'a> {
    args: &'a SoakArgs,
    rng: Rng,
    /// For what is started anew after a rest: a seed means the same however often there is one.
    rest_rng: Rng,
    gateway: TempGateway,
    callees: Vec<(Spec, Option<Worker>)>,
    /// The first two are never killed.
    callers: Vec<(Spec, Option<Worker>)>,
    deck: Deck,
    done: Done,
    /// Under way, by name, and how many there were.
    intruders: Vec<JoinHandle<(Report, Option<String>)>>,
    intruders_begun: u64,
    rests: Rests,
    /// Memory of the last gateway under load, once a round.
    memory_kib: Vec<u64>,
    /// The sum over callers that were killed: some of their calls have no end.
    of_killed: Report,
    /// The sum over callers that ended in good order: every one of their calls has an end.
    of_finished: Report,
    memory_peak_kib: u64,
    /// What did not hold.
    faults: Vec<String>,
    /// What there was too little to judge by.
    not_judged: Vec<String>,
    /// Descriptors are lost: each further look would wait for them in vain.
    has_lost_descriptors: bool,
}

/// Runs it and prints the verdict; whether everything held.
pub(crate) fn run(args: &SoakArgs, seed: u64) -> bool {
    let command = command(args, seed);
    println!("{command}");
    // What a check waits for in vain ends the run by a panic, and is a failure like the others.
    let ran = catch_unwind(AssertUnwindSafe(|| run_to_the_end(args, seed)));
    let (faults, not_judged) = ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        (vec![format!("the run ended early: {}", text.unwrap_or("a panic without a text"))], Vec::new())
    });
    for fault in &faults {
        println!("FAILED: {fault}");
    }
    for what in &not_judged {
        println!("NOT JUDGED: {what}");
    }
    let held = faults.is_empty();
    println!(
        "{}",
        match (held, not_judged.is_empty()) {
            (true, true) => "everything held",
            (true, false) => "everything held that could be judged",
            (false, _) => "not everything held",
        }
    );
    if !held {
        println!("repeat with: {command}");
    }
    held
}

/// By which the same is done again.
fn command(args: &SoakArgs, seed: u64) -> String {
    let extent = match args.minutes {
        Some(minutes) => format!("--minutes {minutes}"),
        None => format!("--rounds {}", args.rounds),
    };
    let mut command = format!("bro-soak {extent} --seed {seed} --lanes {}", args.lanes);
    command.push_str(&format!(
        " --callees {} --pause-ms {} --rest-rounds {}",
        args.callees, args.pause_ms, args.rest_rounds
    ));
    command.push_str(&format!(" --gateway-kills-percent {}", args.gateway_kills_percent));
    if let Some(fault) = args.gateway_fault {
        command.push_str(&format!(" --gateway-fault {}", fault.name()));
    }
    command
}

/// What did not hold, and what could not be judged.
fn run_to_the_end(args: &SoakArgs, seed: u64) -> (Vec<String>, Vec<String>) {
    let begun = Instant::now();
    let options = GatewayOptions {
        lanes: Some(args.lanes.clone()),
        heartbeat_interval_ms: Some(GATEWAY_HEARTBEAT_MS),
        register_timeout_ms: Some(REGISTER_TIMEOUT_MS),
        program: args.gateway_fault.map(GatewayFault::program),
        ..GatewayOptions::default()
    };
    let gateway = options.start();
    let mut soak = Soak {
        args,
        rng: Rng::new(seed),
        rest_rng: Rng::new(!seed),
        callees: callee_specs(args.callees).into_iter().map(|spec| (spec, None)).collect(),
        callers: caller_specs().into_iter().map(|spec| (spec, None)).collect(),
        gateway,
        deck: Deck::default(),
        done: Done::default(),
        intruders: Vec::new(),
        intruders_begun: 0,
        rests: Rests::default(),
        memory_kib: Vec::new(),
        of_killed: Report::default(),
        of_finished: Report::default(),
        memory_peak_kib: 0,
        faults: Vec::new(),
        not_judged: Vec::new(),
        has_lost_descriptors: false,
    };
    thread::sleep(SETTLE);
    let fresh = soak.idle();
    soak.start_all();
    thread::sleep(WARM_UP);
    soak.warm_up();
    soak.finish_all();
    soak.wait_for_descriptors(fresh);
    let before = soak.idle();
    soak.start_all();
    let rounds = soak.run_rounds(begun, fresh);
    soak.end_chaos();
    soak.check_that_all_returned();
    soak.finish_all();
    soak.wait_for_descriptors(fresh);
    let after = soak.idle();
    soak.check_sums(rounds);
    soak.check_gateway(before, after);
    soak.print(rounds, fresh, before, after, begun.elapsed());
    let status = soak.gateway.stop();
    if !status.success() {
        soak.faults.push(format!("the gateway ended with {status}"));
    }
    (soak.faults, soak.not_judged)
}

fn callee_specs(callees: u32) -> Vec<Spec> {
    (0..callees)
        .map(|index| Spec {
            role: if index % 4 == 3 { Role::OldCallee } else { Role::Callee },
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
        let seeds = (0..self.callees.len() + self.callers.len()).map(|_| self.rng.next_u64()).collect();
        self.start_with(seeds);
    }

    fn start_with(&mut self, seeds: Vec<u64>) {
        let socket = self.gateway.socket_path();
        for ((spec, worker), seed) in self.callees.iter_mut().chain(&mut self.callers).zip(seeds) {
            *worker = Some(Worker::spawn(spec, socket, self.args.callees, seed));
        }
    }

    /// All end in good order, the gateway is looked at, and all begin again.
    fn rest(&mut self, fresh: Idle) {
        self.end_chaos();
        self.check_that_all_returned();
        self.finish_all();
        self.wait_for_descriptors(fresh);
        let fault = self.rests.look(&self.gateway);
        self.faults.extend(fault);
        let seeds = (0..self.callees.len() + self.callers.len()).map(|_| self.rest_rng.next_u64()).collect();
        self.start_with(seeds);
    }

    /// Lets the gateway see the most that it will be asked for, so that what it keeps for the next time is not taken for a leak.
    fn warm_up(&mut self) {
        for (chaos, ..) in KINDS.iter().chain(KINDS) {
            if let Chaos::Intrude(act) = chaos {
                let seed = self.rng.next_u64();
                self.intrude(*act, seed);
            }
        }
        let intruders = std::mem::take(&mut self.intruders);
        self.take_in(intruders);
    }

    /// Ends the callers in good order, and then the callees.
    fn finish_all(&mut self) {
        for (spec, worker) in self.callers.iter_mut().chain(&mut self.callees) {
            let Some(worker) = worker.take() else { continue };
            match worker.finish() {
                Ok(report) if spec.is_callee() || report.is_final => self.of_finished.add(&report),
                Ok(_) => self.faults.push(format!("{} ended without its last report", spec.name)),
                Err(status) => self.faults.push(format!("{} ended with {status}", spec.name)),
            }
        }
    }

    /// Does one thing after the other: how many it were.
    fn run_rounds(&mut self, begun: Instant, fresh: Idle) -> u64 {
        let started = Instant::now();
        let (rounds_max, length) = match self.args.minutes {
            Some(minutes) => (u64::MAX, Duration::from_secs_f64(minutes * 60.0)),
            None => (self.args.rounds, Duration::MAX),
        };
        let mut round = 0;
        while round < rounds_max && started.elapsed() < length {
            let done_percent = match self.args.minutes {
                Some(_) => 100.0 * started.elapsed().as_secs_f64() / length.as_secs_f64(),
                None => 100.0 * round as f64 / rounds_max as f64,
            };
            let pause_ms = PAUSE_MIN_MS + self.rng.below(self.args.pause_ms.saturating_sub(PAUSE_MIN_MS) + 1);
            thread::sleep(Duration::from_millis(pause_ms));
            self.look_around();
            let chaos = self.deck.draw(&mut self.rng);
            self.act(chaos, done_percent >= self.args.gateway_kills_percent as f64);
            round += 1;
            if round % PROGRESS_ROUNDS == 0 {
                println!("  {round} rounds, {} s", begun.elapsed().as_secs());
            }
            if round % self.args.rest_rounds == 0 {
                self.rest(fresh);
            }
        }
        round
    }

    fn act(&mut self, chaos: Chaos, is_last_gateway: bool) {
        let absence = Duration::from_millis(self.rng.below(ABSENCE_MAX_MS));
        let freeze = match self.rng.below(3) {
            0 => Duration::from_millis(LONG_FREEZE_MS + self.rng.below(LONG_FREEZE_MS / 4)),
            _ => Duration::from_millis(20 + self.rng.below(SHORT_FREEZE_MS)),
        };
        let (seed, choice) = (self.rng.next_u64(), self.rng.next_u64());
        match chaos {
            Chaos::KillGateway if is_last_gateway => return,
            Chaos::KillGateway => {
                self.gateway.kill9();
                thread::sleep(absence);
                self.gateway.restart();
                self.memory_kib.clear();
                self.rests.clear();
            }
            Chaos::FreezeGateway => {
                self.gateway.freeze();
                thread::sleep(freeze);
                self.gateway.go_on();
            }
            Chaos::KillCallee => self.kill(false, choice, absence, seed),
            Chaos::KillCaller => self.kill(true, choice, absence, seed),
            Chaos::FreezeCallee => self.freeze(false, choice, freeze),
            Chaos::FreezeCaller => self.freeze(true, choice, freeze),
            Chaos::Intrude(act) => self.intrude(act, seed),
        }
        self.done.note(chaos);
    }

    fn kill(&mut self, is_caller: bool, choice: u64, absence: Duration, seed: u64) {
        let (workers, lasting) = if is_caller { (&mut self.callers, LASTING_CALLERS) } else { (&mut self.callees, 0) };
        let (spec, worker) = choose(&mut workers[lasting..], choice);
        let report = worker.take().expect("every worker is up").kill();
        self.of_killed.add(&report);
        thread::sleep(absence);
        *worker = Some(Worker::spawn(spec, self.gateway.socket_path(), self.args.callees, seed));
    }

    fn freeze(&mut self, is_caller: bool, choice: u64, span: Duration) {
        let workers = if is_caller { &mut self.callers } else { &mut self.callees };
        let worker = choose(workers, choice).1.as_mut().expect("every worker is up");
        if !worker.is_frozen() {
            worker.freeze(Instant::now() + span);
        }
    }

    fn intrude(&mut self, act: Act, seed: u64) {
        while self.intruders.len() >= INTRUDERS_MAX {
            self.look_around();
            thread::sleep(Duration::from_millis(PAUSE_MIN_MS));
        }
        self.intruders_begun += 1;
        let name = format!("intruder-{}", self.intruders_begun);
        let (socket, callees) = (self.gateway.socket_path().to_owned(), self.args.callees);
        self.intruders.push(thread::spawn(move || intrude(act, &name, &socket, callees, Rng::new(seed))));
    }

    /// Lets those go on whose time has come, takes in the intruders that are done, and looks whether all others are alive.
    fn look_around(&mut self) {
        let now = Instant::now();
        for worker in self.callees.iter_mut().chain(&mut self.callers).filter_map(|(_, worker)| worker.as_mut()) {
            worker.thaw(now);
        }
        let (done, others) = std::mem::take(&mut self.intruders).into_iter().partition(JoinHandle::is_finished);
        self.intruders = others;
        self.take_in(done);
        self.look_for_the_dead();
        let memory_kib = self.gateway.memory_kib();
        self.memory_kib.push(memory_kib);
        self.memory_peak_kib = self.memory_peak_kib.max(memory_kib);
    }

    fn take_in(&mut self, intruders: Vec<JoinHandle<(Report, Option<String>)>>) {
        for intruder in intruders {
            let (report, fault) = intruder.join().expect("an intruder does not panic");
            self.of_finished.add(&report);
            self.faults.extend(fault);
        }
    }

    /// Nobody is stopped any more, and no intruder is left.
    fn end_chaos(&mut self) {
        for worker in self.callees.iter_mut().chain(&mut self.callers).filter_map(|(_, worker)| worker.as_mut()) {
            worker.thaw(Instant::now() + Duration::from_millis(2 * LONG_FREEZE_MS));
        }
        let intruders = std::mem::take(&mut self.intruders);
        self.take_in(intruders);
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
        let idle = Idle { memory_kib: idle_memory_kib(&self.gateway), descriptors: self.gateway.fd_count() };
        self.memory_peak_kib = self.memory_peak_kib.max(idle.memory_kib);
        idle
    }

    /// Waits until the gateway has closed what the dead had open.
    fn wait_for_descriptors(&mut self, fresh: Idle) {
        let begun = Instant::now();
        while !self.has_lost_descriptors && self.gateway.fd_count() > fresh.descriptors {
            if begun.elapsed() > DESCRIPTORS_WAIT {
                let (now, fresh) = (self.gateway.fd_count(), fresh.descriptors);
                self.faults
                    .push(format!("{now} descriptors are open while nobody is connected, and {fresh} were at first"));
                self.has_lost_descriptors = true;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn check_sums(&mut self, rounds: u64) {
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
        expect(all.ok > 20 * rounds, format!("only {} calls succeeded: that is no load", all.ok));
        let is_wanted = |what: &str| self.args.gateway_kills_percent > 0 || what != name_of(Chaos::KillGateway);
        for (what, count) in self.done.counts().filter(|(what, _)| rounds >= ROUNDS_OF_ALL_KINDS && is_wanted(what)) {
            expect(count > 0, format!("there were no {what}"));
        }
        for (what, count) in &all.unfit {
            expect(false, format!("{count} times {what}"));
        }
    }

    fn check_gateway(&mut self, before: Idle, after: Idle) {
        if after.memory_kib > before.memory_kib + self.args.memory_slack_kib {
            self.faults
                .push(format!("the gateway's memory went from {} to {} KiB", before.memory_kib, after.memory_kib));
        }
        match self.rests.verdict() {
            Judgement::Held => {}
            Judgement::Failed(fault) => self.faults.push(fault),
            Judgement::NotJudged(what) => self.not_judged.push(what),
        }
        // What is used under load comes and goes; what stays grows from the first third to the last one.
        let third = self.memory_kib.len() / 3;
        if third < SAMPLES_MIN {
            self.not_judged.push(format!(
                "whether the memory of the last gateway grows under load: there are {third} samples in each third of its time, and {SAMPLES_MIN} \
                 say something"
            ));
        } else {
            let (first, last) = (low_kib(&self.memory_kib[..third]), low_kib(&self.memory_kib[2 * third..]));
            println!(
                "memory under load of the last gateway: {first} KiB in its first third, {last} KiB in its last third"
            );
            if last > first + first / 4 + self.args.memory_slack_kib {
                self.faults.push(format!("the gateway's memory under load went from {first} to {last} KiB"));
            }
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

    fn print(&self, rounds: u64, fresh: Idle, before: Idle, after: Idle, elapsed: Duration) {
        let mut all = self.of_finished.clone();
        all.add(&self.of_killed);
        let row = |what: &str, value: String| println!("  {what:<44}{value:>12}");
        println!("{rounds} rounds in {} s", elapsed.as_secs());
        for (what, count) in self.done.counts() {
            row(what, count.to_string());
        }
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

fn choose<T>(workers: &mut [T], choice: u64) -> &mut T {
    let index = usize::try_from(choice % workers.len() as u64).expect("a small number");
    &mut workers[index]
}
