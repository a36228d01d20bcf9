//! A short run of every target, so that targets and corpus keep working and old failures stay fixed.

use bro_fuzz::run::{self, Failure};
use bro_fuzz::targets::{self, TARGETS, Target};
use bro_fuzz::{corpus, mutate::Mutator};

/// Runs of each target, corpus included.
const RUNS: u64 = 20_000;
const SEED: u64 = 2026;

fn survive(name: &str) {
    survive_runs(name, RUNS);
}

fn survive_runs(name: &str, least: u64) {
    let target = targets::named(name).expect("a target");
    let corpus = corpus::load(name).expect("the corpus can be read");
    match run::run(target, &corpus, SEED, |runs| runs < least) {
        Ok(runs) => assert!(runs >= least),
        Err(Failure { input, said }) => panic!("{name}, seed {SEED}: {said}\ninput: {}", input.escape_ascii()),
    }
}

#[test]
fn json_scan() {
    survive("json_scan");
}

#[test]
fn msgpack_scan() {
    survive("msgpack_scan");
}

#[test]
fn deframer() {
    survive("deframer");
}

#[test]
fn rewrite() {
    survive("rewrite");
}

#[test]
fn message() {
    survive("message");
}

#[test]
fn v2_frame() {
    survive("v2_frame");
}

#[test]
fn v2_section() {
    survive("v2_section");
}

#[test]
fn router() {
    // One of these is some twenty inputs of a router.
    survive_runs("router", RUNS / 4);
}

#[test]
fn state() {
    survive("state");
}

#[test]
fn session() {
    // One of these is some twenty inputs of a session.
    survive_runs("session", RUNS / 4);
}

#[test]
fn policy() {
    survive("policy");
}

#[test]
fn every_target_is_run_here_and_has_seeds() {
    let source = include_str!("targets.rs");
    for target in TARGETS {
        let is_run = ["survive", "survive_runs"].map(|run| source.contains(&format!("{run}(\"{}\"", target.name)));
        assert!(is_run.contains(&true), "{} is not run", target.name);
        let own = std::fs::read_dir(corpus::folder().join("corpus").join(target.name)).expect(target.name);
        assert!(own.count() > 0, "{} has no seeds of its own", target.name);
    }
}

/// The runner itself must be able to find something.
#[test]
fn a_broken_target_is_found_out() {
    fn refuses_two_braces(input: &[u8]) {
        assert!(!input.windows(2).any(|pair| pair == b"]}"), "two closing brackets");
    }
    let canary = Target { name: "canary", run: refuses_two_braces, about: "" };
    let corpus = vec![b"{\"a\":[1],\"b\":2}".to_vec()];
    let failure = run::run(&canary, &corpus, SEED, |runs| runs < RUNS).expect_err("found");
    assert_eq!(failure.said, "two closing brackets");
    assert!(run::run_once(&canary, &failure.input).is_err(), "the input shows it again");
}

#[test]
fn equal_seeds_give_equal_inputs() {
    let corpus = corpus::load("json_scan").unwrap();
    let inputs = |seed| {
        let mut mutator = Mutator::new(seed);
        (0..100).map(|_| mutator.next_input(&corpus)).collect::<Vec<_>>()
    };
    assert_eq!(inputs(7), inputs(7));
    assert_ne!(inputs(7), inputs(8));
}
