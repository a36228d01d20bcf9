//! Alone in its process: it measures a thread, and must not meet the threads of other tests' gateways.

mod common;

use common::{RawPeer, start};
use std::time::Duration;

/// An idle gateway does not wake up: a watchdog for busy loops, which no other test would notice.
#[test]
fn an_idle_gateway_sleeps() {
    let (directory, gateway) = start();
    let _peers: Vec<_> =
        (0..20).map(|index| RawPeer::registered(&directory.socket(), &format!("peer-{index}"))).collect();
    std::thread::sleep(Duration::from_millis(50));
    let before_ns = processor_ns();
    std::thread::sleep(Duration::from_millis(300));
    let busy_ns = processor_ns() - before_ns;
    assert!(busy_ns < 30_000_000, "{busy_ns} ns of work in 300 ms without anything to do");
    gateway.stop().unwrap();
}

/// Time that the gateway's thread has spent on a processor, in nanoseconds.
fn processor_ns() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let gateways: Vec<_> = tasks
        .filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "bro-gateway"))
        .collect();
    assert_eq!(gateways.len(), 1);
    let stat = std::fs::read_to_string(gateways[0].join("schedstat")).unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}
