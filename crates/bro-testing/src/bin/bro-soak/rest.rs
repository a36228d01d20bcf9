//! Rests: now and then all processes end in good order, and the gateway is looked at while nobody is connected.
//!
//! **Flat** means: of the gateway that lives through the second half of the run, the idle memory in the last third of the rests is not above that in
//! the first third by more than [`IDLE_GROWTH_KIB_MAX`], and what it has charged to accounts is the same in every rest, to the byte. The first is
//! resident memory as the system tells it, the lower quartile of each third: above it are rests in which the allocator holds back what is too little to be
//! given back (`SPARE_BYTES_MIN`). The second is what the gateway says. What it has allocated is counted elsewhere, to the byte, too: `tests/live_memory.rs`.

use bro_proto::limits::SPARE_AFTER_MS;
use bro_testing::{Encoding, TempGateway, V1Peer};
use serde_json::json;
use std::thread;
use std::time::{Duration, Instant};

/// How long nobody is connected. The gateway gives free memory back within that time.
const REST: Duration = Duration::from_millis(2 * SPARE_AFTER_MS);
/// How often memory is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How much more resident memory the idle gateway may have in the last third of the rests than in the first, in KiB. Single rests differ by 500 KiB, now and
/// then by 3 MiB, and quartiles of five by 250, see `docs/decisions/0008-free-memory-goes-back.md`; what gateways grew by before that was 3 MiB in 14 minutes.
const IDLE_GROWTH_KIB_MAX: u64 = 1024;
/// So many rests say something: three in each third do.
const RESTS_MIN: usize = 9;

/// What came of one check.
#[derive(Debug)]
pub(crate) enum Judgement {
    Held,
    Failed(String),
    /// There was too little to judge by: what is not known, and why.
    NotJudged(String),
}

/// The gateway in its rests.
#[derive(Debug, Default)]
pub(crate) struct Rests {
    memory_kib: Vec<u64>,
    /// What was charged in the first of them.
    charged_bytes: Option<u64>,
}

/// Resident memory of the gateway after a while in which nobody is connected, in KiB: the lowest, since the process may still be giving back.
pub(crate) fn idle_memory_kib(gateway: &TempGateway) -> u64 {
    let begun = Instant::now();
    let mut lowest = u64::MAX;
    while begun.elapsed() < REST {
        thread::sleep(LOOK_EVERY);
        lowest = lowest.min(gateway.memory_kib());
    }
    lowest
}

impl Rests {
    /// A new gateway begins anew.
    pub(crate) fn clear(&mut self) {
        *self = Rests::default();
    }

    /// Nobody is connected: looks at the gateway. What does not hold, if anything.
    pub(crate) fn look(&mut self, gateway: &TempGateway) -> Option<String> {
        self.memory_kib.push(idle_memory_kib(gateway));
        let mut observer = V1Peer::register(gateway.socket_path(), Encoding::Json, "observer", &[]);
        let status = observer.call("bro.gateway", "status", json!({}))["data"].take();
        let charged_bytes = status["memoryBytes"].as_u64().expect("a gateway says what it keeps");
        let before = *self.charged_bytes.get_or_insert(charged_bytes);
        (charged_bytes != before)
            .then(|| format!("{charged_bytes} bytes are charged in a rest, and {before} were in the first"))
    }

    /// Prints how it went.
    pub(crate) fn verdict(&self) -> Judgement {
        let (third, count) = (self.memory_kib.len() / 3, self.memory_kib.len());
        if count < RESTS_MIN {
            return Judgement::NotJudged(format!(
                "whether the idle memory of the last gateway grows: it had {count} rests, and {RESTS_MIN} say something"
            ));
        }
        let (first, last) = (low_kib(&self.memory_kib[..third]), low_kib(&self.memory_kib[2 * third..]));
        println!(
            "idle memory of the last gateway, {count} rests: {first} KiB in the first third, {last} KiB in the last third"
        );
        println!("  each, in KiB: {:?}", self.memory_kib);
        if last > first + IDLE_GROWTH_KIB_MAX {
            Judgement::Failed(format!("the gateway's idle memory went from {first} to {last} KiB"))
        } else {
            Judgement::Held
        }
    }
}

/// What a quarter of the samples are below.
pub(crate) fn low_kib(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 4]
}
