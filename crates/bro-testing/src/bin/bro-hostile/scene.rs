//! A gateway, honest pairs, and an attacker for a while.

use crate::RunArgs;
use crate::attacks::Attack;
use crate::observer::{Observer, Pace};
use crate::raw::WAIT;
use crate::victim::Phase;
use bro_proto::rng::Rng;
use bro_testing::gateway::wait_until;
use bro_testing::{GatewayOptions, TempGateway};
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// More memory than this the gateway may never take, in KiB, whatever a peer does: its ceiling, with what the allocator keeps.
const PEAK_KIB_MAX: u64 = 512 * 1024;

/// So many calls the honest pairs have made before anything is measured.
const WARM_UP_CALLS: u64 = 50;

/// What an attack came to.
pub(crate) struct Row {
    pub(crate) attack: &'static Attack,
    /// In the attacker's words.
    pub(crate) got: String,
    /// What honest programs saw before and during it.
    pub(crate) noticed: (Phase, Phase),
    pub(crate) peak_kib: u64,
    pub(crate) pace: Option<Pace>,
    /// The promise that did not hold.
    pub(crate) broken: Option<String>,
}

/// Where an attack takes place.
pub(crate) struct Scene {
    gateway: RefCell<TempGateway>,
    until: Instant,
    rng: RefCell<Rng>,
}

impl Scene {
    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.gateway.borrow().socket_path().to_owned()
    }

    pub(crate) fn gateway(&self) -> std::cell::Ref<'_, TempGateway> {
        self.gateway.borrow()
    }

    /// Whether the attack should go on.
    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Whether the attack should go on, and on a slow machine longer, until what it is about has happened.
    pub(crate) fn goes_on_until(&self, has_happened: bool) -> bool {
        self.goes_on() || (!has_happened && Instant::now() < self.until + WAIT)
    }

    /// What is left of the attack.
    pub(crate) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// A random number below `bound`.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.rng.borrow_mut().below(bound)
    }

    pub(crate) fn random_bytes(&self, len: usize) -> Vec<u8> {
        (0..len).map(|_| u8::try_from(self.below(256)).expect("below 256")).collect()
    }
}

/// Attacks a new gateway.
pub(crate) fn run(attack: &'static Attack, args: &RunArgs) -> Row {
    let options = GatewayOptions {
        lanes: attack.lanes.map(str::to_owned),
        ..attack.gateway.map_or_else(Default::default, |make| make())
    };
    let gateway = options.start();
    let mut victims = Victims::start(gateway.socket_path());
    let span = Duration::from_millis(args.attack_ms);
    let mut warm_up = 0;
    wait_until("the honest pairs call each other", || {
        warm_up += victims.tell().calls;
        warm_up > WARM_UP_CALLS
    });
    thread::sleep(span / 2);
    let observer = Observer::start(gateway.socket_path());
    let before = victims.tell();
    let descriptors = gateway.fd_count();
    let rng = RefCell::new(Rng::new(args.seed));
    let scene = Scene { gateway: RefCell::new(gateway), until: Instant::now() + span, rng };
    // What its assertion says stands in its row.
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let outcome = catch_unwind(AssertUnwindSafe(|| (attack.run)(&scene)));
    set_hook(hook);
    let during = victims.tell();
    let mut gateway = scene.gateway.into_inner();
    let is_alive = gateway.is_running();
    let pace = is_alive.then(|| observer.pace());
    let peak_kib = if is_alive { peak_kib(gateway.pid()) } else { 0 };
    let left_over = is_alive && !forgets(|| gateway.fd_count() <= descriptors);
    let after = victims.tell();
    // Before the gateway goes, which they would complain of.
    drop(victims);
    let (got, mut broken) = match outcome {
        Ok(got) => (got, None),
        Err(panic) => (String::new(), Some(words_of(&*panic))),
    };
    let mut check = |holds: bool, why: String| {
        if !holds && broken.is_none() {
            broken = Some(why);
        }
    };
    check(is_alive, format!("the gateway died: {}", gateway.stderr()));
    check(peak_kib <= PEAK_KIB_MAX, format!("the gateway took {peak_kib} KiB"));
    check(!left_over, "descriptors of the attacker stay open".to_owned());
    for phase in [&during, &after] {
        check(phase.failures == 0, format!("honest calls failed: {:?}", phase.failure));
    }
    check(during.calls > 0, "no honest call ended during the attack".to_owned());
    Row { attack, got, noticed: (before, during), peak_kib, pace, broken }
}

/// Whether that comes to be in a while.
fn forgets(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// The most memory that a process ever had resident, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a live process has VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("VmHWM is a number of kB")
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_else(|| "a panic".to_owned())
}

/// The process of the honest pairs.
struct Victims {
    child: Child,
    ask: ChildStdin,
    told: BufReader<ChildStdout>,
}

impl Victims {
    fn start(path: &Path) -> Victims {
        let program = std::env::current_exe().expect("a program knows its path");
        let mut command = Command::new(program);
        command.arg("victims").arg("--socket").arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the honest pairs can be started");
        let ask = child.stdin.take().expect("stdin is piped");
        let told = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Victims { child, ask, told }
    }

    /// What was noticed since the last time.
    fn tell(&mut self) -> Phase {
        self.ask.write_all(b"tell\n").expect("the honest pairs live");
        let mut line = String::new();
        self.told.read_line(&mut line).expect("the honest pairs live");
        serde_json::from_str(&line).expect("a phase")
    }
}

impl Drop for Victims {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
