//! Every suite that `cargo xtask test` runs, and how many tests each has at least.
//!
//! A suite that runs fewer tests than its minimum has failed: tests that silently stop running are the worst kind.
//! Raise a minimum when tests are added. A lint counts as one test.

/// One line of the report, or for [`Work::Tests`] one line a crate.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// A hang is killed after this long, and is a failure. Generous: it is no measure of speed.
    pub(crate) watchdog_s: u64,
    /// Not used for [`Work::Tests`], where each crate has its own.
    pub(crate) tests_min: usize,
    pub(crate) work: Work,
}

/// What a suite does.
pub(crate) enum Work {
    /// The checks of `cargo xtask tidy`, one test each.
    Tidy,
    /// The licences of all dependencies.
    Licences,
    /// One cargo command whose success is the one test.
    Cargo { arguments: &'static [&'static str], environment: &'static [(&'static str, &'static str)] },
    /// Builds all that the later suites run.
    Build,
    /// Unit and integration tests of [`CRATES`].
    Tests,
    /// The tests that try every interleaving, in `crates/bro-lane/tests/loom.rs`. They are compiled apart, since all atomics of the crate
    /// are loom's then.
    Loom,
    /// The tests of the crates that have `unsafe` code, and the fuzz targets, compiled for AddressSanitizer: a wrong access to memory ends the
    /// test program.
    Sanitized { packages: &'static [&'static str] },
    /// Examples in the documentation of the crates, and in the Markdown files that they include.
    Doctests,
    /// One of our own programs: success, and each of `expected` in its output, are one test.
    Program { binary: &'static str, arguments: &'static [&'static str], expected: &'static [&'static str] },
    /// The counts of [`crate::instructions`], each a test.
    Instructions,
    /// `bindings/node/scripts/test.mjs` with these arguments. Its success is one test; if it `prints_tap`, all that it reports are.
    Node { arguments: &'static [&'static str], prints_tap: bool },
}

/// In the order in which they run: what is quick to know first.
pub(crate) const SUITES: &[Suite] = &[
    Suite {
        name: "fmt",
        about: "the formatting is rustfmt's",
        watchdog_s: 120,
        tests_min: 1,
        work: Work::Cargo { arguments: &["fmt", "--all", "--check", "--", "--color", "never"], environment: &[] },
    },
    Suite { name: "tidy", about: "what compilers do not check", watchdog_s: 120, tests_min: 8, work: Work::Tidy },
    Suite {
        name: "licences",
        about: "every dependency has a licence that we allow",
        watchdog_s: 600,
        tests_min: 1,
        work: Work::Licences,
    },
    Suite {
        name: "clippy",
        about: "no warnings, in any target and with every feature",
        watchdog_s: 1800,
        tests_min: 1,
        work: Work::Cargo {
            arguments: &["clippy", "--quiet", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
            environment: &[],
        },
    },
    Suite {
        name: "doc",
        about: "the documentation builds without warnings",
        watchdog_s: 1800,
        tests_min: 1,
        work: Work::Cargo {
            arguments: &["doc", "--quiet", "--workspace", "--no-deps", "--all-features"],
            environment: &[("RUSTDOCFLAGS", "-D warnings")],
        },
    },
    Suite {
        name: "build",
        about: "programs, tests and examples compile",
        watchdog_s: 1800,
        tests_min: 1,
        work: Work::Build,
    },
    Suite {
        name: "tests",
        about: "unit and integration tests, crate by crate (select one with tests/CRATE)",
        watchdog_s: 1800,
        tests_min: 0,
        work: Work::Tests,
    },
    Suite {
        name: "loom",
        about: "every interleaving of the two ends of a lane's ring, within a bound of preemptions",
        watchdog_s: 1800,
        tests_min: 7,
        work: Work::Loom,
    },
    Suite {
        name: "sanitized",
        about: "unsafe code under AddressSanitizer: tests of the crates that have some, and the fuzz targets",
        watchdog_s: 2400,
        tests_min: 295,
        work: Work::Sanitized { packages: &["bro-proto", "bro-lane", "bro-gateway", "bro-fuzz"] },
    },
    Suite {
        name: "doctests",
        about: "examples in documentation",
        watchdog_s: 1800,
        tests_min: 0,
        work: Work::Doctests,
    },
    Suite {
        name: "demo",
        about: "`bro demo` on real processes: it exits with 0 only if everything happened as it says",
        watchdog_s: 180,
        tests_min: 1,
        work: Work::Program { binary: "bro", arguments: &["demo"], expected: &["p50", "p99"] },
    },
    Suite {
        name: "soak",
        about: "processes killed, stopped, flooded, sent garbage: every call ends once, nothing grows (cargo xtask soak --minutes N for longer)",
        watchdog_s: 600,
        tests_min: 1,
        work: Work::Program {
            binary: "bro-soak",
            arguments: &["--minutes", "0.4", "--seed", "1", "--lanes", "always"],
            // Each kind of chaos was there; that calls were made, and ended, is what `bro-soak` itself insists on.
            expected: &[
                "everything held",
                "gateways stopped and continued",
                "began, of callers that were never killed",
            ],
        },
    },
    Suite {
        name: "instructions",
        about: "hot operations take as many instructions as bench/instructions.toml says",
        watchdog_s: 1800,
        tests_min: 13,
        work: Work::Instructions,
    },
    Suite {
        name: "node-lint",
        about: "the Node package and its examples: types and formatting",
        watchdog_s: 600,
        tests_min: 1,
        work: Work::Node { arguments: &["lint"], prints_tap: false },
    },
    Suite {
        name: "node",
        about: "the Node package, built, packed and installed into an empty project",
        watchdog_s: 3600,
        tests_min: 890,
        work: Work::Node { arguments: &[], prints_tap: true },
    },
    Suite {
        name: "node-sanitized",
        about: "the addon under AddressSanitizer",
        watchdog_s: 2400,
        tests_min: 530,
        work: Work::Node { arguments: NODE_SANITIZED, prints_tap: true },
    },
];

/// What goes between JavaScript's memory, lanes and Rust. The package is built already.
const NODE_SANITIZED: &[&str] = &[
    "--no-build",
    "--sanitized",
    "calls.test.mjs",
    "cancellation.test.mjs",
    "lanes.test.mjs",
    "lifecycle.test.mjs",
    "malformed.test.mjs",
    "payloads.test.mjs",
    "tape.test.mjs",
    "vectors.test.mjs",
    "waiting.test.mjs",
    "workers.test.mjs",
];

/// The tests of one crate.
pub(crate) struct CrateTests {
    pub(crate) name: &'static str,
    pub(crate) tests_min: usize,
    /// Optimised, because the tests are long loops.
    pub(crate) is_release: bool,
    /// Its tests start the `bro` program, which they find through the variable BRO_BIN.
    pub(crate) needs_bro: bool,
}

impl CrateTests {
    const fn new(name: &'static str, tests_min: usize) -> CrateTests {
        CrateTests { name, tests_min, is_release: false, needs_bro: false }
    }

    const fn with_bro(mut self) -> CrateTests {
        self.needs_bro = true;
        self
    }
}

/// Every member of the workspace: one that is missing here is a failure.
pub(crate) const CRATES: &[CrateTests] = &[
    CrateTests::new("bro-proto", 135),
    CrateTests::new("bro-policy", 10),
    CrateTests::new("bro-router", 165),
    CrateTests::new("bro-session", 148),
    CrateTests::new("bro-lane", 44),
    CrateTests::new("bro-gateway", 100),
    CrateTests::new("ipc-bro", 83),
    CrateTests::new("bro-testing", 130).with_bro(),
    CrateTests { name: "bro-sim", tests_min: 7, is_release: true, needs_bro: false },
    CrateTests::new("bro-fuzz", 18),
    CrateTests::new("bro", 45).with_bro(),
    CrateTests::new("bro-bench", 17),
    // Needs a running Node: its tests are the suite `node`.
    CrateTests::new("bro-node", 0),
    CrateTests::new("xtask", 42),
];

/// Tests that may be left out: crate, test, reason. Any other ignored test is a failure.
pub(crate) const IGNORED: &[(&str, &str, &str)] =
    &[("bro-lane", "the_other_process", "the peer's side of the tests with two processes, which start it themselves")];
