//! How much memory a gateway needs for a service that is connected and does nothing.

use crate::children::Children;
use crate::figures::{Case, Figure, Measurement};
use crate::rows::Plan;
use anyhow::{Context as _, Result, ensure};
use bro_proto::frame::finish_frame;
use bro_proto::limits::FRAME_PREFIX_BYTES;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// What one connection may cost, in bytes.
const BYTES_PER_SERVICE_MAX: u64 = 1024;

/// Descriptors that are needed besides the connections.
const OTHER_DESCRIPTORS: u64 = 64;

/// Prints the figures. True when the goal is met.
pub(crate) fn measure(services: u64) -> Result<bool> {
    let found = Found::of(services)?;
    println!("{services} services connected and registered in {} ms", found.took.as_millis());
    println!("                      VmRSS   Private_Dirty");
    for (name, memory) in [("fresh gateway", found.fresh), ("all connected", found.full), ("all gone", found.empty)] {
        println!("{name:<16} {:>7} KiB  {:>9} KiB", memory.resident / 1024, memory.dirty / 1024);
    }
    let per_service = found.per_service();
    println!("per service      {:>7} B    {:>9} B", per_service.resident, per_service.dirty);
    let is_met = per_service.resident.max(per_service.dirty) <= BYTES_PER_SERVICE_MAX;
    println!("goal: at most {BYTES_PER_SERVICE_MAX} B: {}", if is_met { "met" } else { "MISSED" });
    Ok(is_met)
}

/// The same as a row: `idle`.
pub(crate) fn figures(plan: &Plan) -> Result<Vec<Measurement>> {
    let per_service = Found::of(plan.services)?.per_service();
    let case = Case { name: format!("memory for each of {} idle services", plan.services), is_pinned: None };
    let bytes = per_service.resident.max(per_service.dirty) as f64;
    Ok(vec![Measurement { row: "idle".to_owned(), case, figures: vec![(Figure::IdleBytes, bytes)] }])
}

struct Found {
    services: u64,
    took: Duration,
    fresh: Memory,
    full: Memory,
    empty: Memory,
}

impl Found {
    fn of(services: u64) -> Result<Found> {
        raise_open_files_limit(services + OTHER_DESCRIPTORS)?;
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("gateway.sock");
        let mut children = Children::new(false);
        let gateway =
            children.start_own(&["gateway", socket.to_str().context("a path that is no text")?, "--lanes", "auto"])?;
        children.wait_ready(gateway)?;
        let gateway = children.id(gateway);
        let fresh = Memory::of(gateway)?;

        let start = Instant::now();
        let mut connections = Vec::new();
        for index in 0..services {
            let mut connection = UnixStream::connect(&socket)?;
            connection.set_read_timeout(Some(Duration::from_secs(30)))?;
            let service = format!("service-{index}");
            let frame = frame(&json!({
                "type": "REGISTER", "serviceName": service, "methods": ["get"], "version": "1.0.0", "metadata": {},
            }));
            connection.write_all(&frame)?;
            let answer = read_frame(&mut connection)?;
            ensure!(answer["type"] == "REGISTER_ACK", "{service} got {answer}");
            connections.push(connection);
        }
        let took = start.elapsed();
        let full = Memory::of(gateway)?;
        drop(connections);
        let empty = Memory::after_disconnects(gateway)?;
        Ok(Found { services, took, fresh, full, empty })
    }

    fn per_service(&self) -> Memory {
        Memory {
            resident: self.full.resident.saturating_sub(self.fresh.resident) / self.services,
            dirty: self.full.dirty.saturating_sub(self.fresh.dirty) / self.services,
        }
    }
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy)]
struct Memory {
    resident: u64,
    dirty: u64,
}

impl Memory {
    fn of(id: u32) -> Result<Memory> {
        let resident = kib(&fs::read_to_string(format!("/proc/{id}/status"))?, "VmRSS:")?;
        let dirty = kib(&fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?, "Private_Dirty:")?;
        Ok(Memory { resident: resident * 1024, dirty: dirty * 1024 })
    }

    /// Waits until the gateway has closed its side of every connection.
    fn after_disconnects(id: u32) -> Result<Memory> {
        let descriptors = format!("/proc/{id}/fd");
        let start = Instant::now();
        while fs::read_dir(&descriptors)?.count() > 32 && start.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Memory::of(id)
    }
}

fn kib(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such line in /proc")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn frame(value: &serde_json::Value) -> Vec<u8> {
    let mut frame = vec![0; FRAME_PREFIX_BYTES];
    frame.extend_from_slice(value.to_string().as_bytes());
    finish_frame(&mut frame, 0);
    frame
}

fn read_frame(connection: &mut UnixStream) -> Result<serde_json::Value> {
    let mut prefix = [0; FRAME_PREFIX_BYTES];
    connection.read_exact(&mut prefix)?;
    let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
    connection.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

fn raise_open_files_limit(needed: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        // Only a privileged process may go beyond its hard limit; the gateway inherits it.
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: Some(needed) })
            .with_context(|| format!("{needed} open files are needed, {:?} are allowed", limit.maximum))?;
    } else {
        setrlimit(Resource::Nofile, wanted)?;
    }
    Ok(())
}
