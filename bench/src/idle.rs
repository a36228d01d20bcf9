//! How much memory a gateway needs for a service that is connected and does nothing.

use bro_gateway::{Gateway, GatewayConfig};
use bro_proto::frame::finish_frame;
use bro_proto::limits::FRAME_PREFIX_BYTES;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Makes this program the gateway that is measured, in a process of its own.
pub(crate) const GATEWAY_ARGUMENT: &str = "idle-gateway";

/// What one connection may cost, in bytes.
const BYTES_PER_SERVICE_MAX: u64 = 1024;

/// Descriptors that are needed besides the connections.
const OTHER_DESCRIPTORS: u64 = 64;

/// Prints the figures. True when the goal is met.
pub(crate) fn measure(services: u64) -> Result<bool, Box<dyn Error>> {
    raise_open_files_limit(services + OTHER_DESCRIPTORS)?;
    let directory = std::env::temp_dir().join(format!("bro-bench-{}", std::process::id()));
    fs::create_dir(&directory)?;
    let measured = measure_in(&directory.join("gateway.sock"), services);
    fs::remove_dir_all(&directory)?;
    measured
}

/// Serves until standard input ends.
pub(crate) fn run_gateway(socket: &str) -> Result<bool, Box<dyn Error>> {
    let gateway = Gateway::start(GatewayConfig::new(socket))?;
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    gateway.stop()?;
    Ok(true)
}

fn measure_in(socket: &std::path::Path, services: u64) -> Result<bool, Box<dyn Error>> {
    let mut gateway = Command::new(std::env::current_exe()?)
        .arg(GATEWAY_ARGUMENT)
        .arg(socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut ready = String::new();
    BufReader::new(gateway.stdout.take().ok_or("no output")?).read_line(&mut ready)?;
    let fresh = Memory::of(&gateway)?;

    let start = Instant::now();
    let mut connections = Vec::new();
    for index in 0..services {
        let mut connection = UnixStream::connect(socket)?;
        connection.set_read_timeout(Some(Duration::from_secs(30)))?;
        let service = format!("service-{index}");
        let frame = frame(&json!({
            "type": "REGISTER", "serviceName": service, "methods": ["get"], "version": "1.0.0", "metadata": {},
        }));
        connection.write_all(&frame)?;
        let answer = read_frame(&mut connection)?;
        if answer["type"] != "REGISTER_ACK" {
            return Err(format!("{service} got {answer}").into());
        }
        connections.push(connection);
    }
    let took = start.elapsed();
    let full = Memory::of(&gateway)?;
    drop(connections);
    let empty = Memory::after_disconnects(&gateway)?;
    drop(gateway.stdin.take());
    gateway.wait()?;

    let per_service = full.resident.saturating_sub(fresh.resident) / services;
    let dirty_per_service = full.dirty.saturating_sub(fresh.dirty) / services;
    println!("{services} services connected and registered in {} ms", took.as_millis());
    println!("                      VmRSS   Private_Dirty");
    for (name, memory) in [("fresh gateway", fresh), ("all connected", full), ("all gone", empty)] {
        println!("{name:<16} {:>7} KiB  {:>9} KiB", memory.resident / 1024, memory.dirty / 1024);
    }
    println!("per service      {per_service:>7} B    {dirty_per_service:>9} B");
    let is_met = per_service <= BYTES_PER_SERVICE_MAX && dirty_per_service <= BYTES_PER_SERVICE_MAX;
    println!("goal: at most {BYTES_PER_SERVICE_MAX} B: {}", if is_met { "met" } else { "MISSED" });
    Ok(is_met)
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy)]
struct Memory {
    resident: u64,
    dirty: u64,
}

impl Memory {
    fn of(process: &Child) -> Result<Memory, Box<dyn Error>> {
        let id = process.id();
        let resident = kib(&fs::read_to_string(format!("/proc/{id}/status"))?, "VmRSS:")?;
        let dirty = kib(&fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?, "Private_Dirty:")?;
        Ok(Memory { resident: resident * 1024, dirty: dirty * 1024 })
    }

    /// Waits until the gateway has closed its side of every connection.
    fn after_disconnects(process: &Child) -> Result<Memory, Box<dyn Error>> {
        let descriptors = format!("/proc/{}/fd", process.id());
        let start = Instant::now();
        while fs::read_dir(&descriptors)?.count() > 32 && start.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Memory::of(process)
    }
}

fn kib(text: &str, name: &str) -> Result<u64, Box<dyn Error>> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line in /proc")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn frame(value: &serde_json::Value) -> Vec<u8> {
    let mut frame = vec![0; FRAME_PREFIX_BYTES];
    frame.extend_from_slice(value.to_string().as_bytes());
    finish_frame(&mut frame, 0);
    frame
}

fn read_frame(connection: &mut UnixStream) -> Result<serde_json::Value, Box<dyn Error>> {
    let mut prefix = [0; FRAME_PREFIX_BYTES];
    connection.read_exact(&mut prefix)?;
    let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
    connection.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

fn raise_open_files_limit(needed: u64) -> Result<(), Box<dyn Error>> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        // Only a privileged process may go beyond its hard limit; the gateway inherits it.
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: Some(needed) })
            .map_err(|error| format!("{needed} open files are needed, {:?} are allowed: {error}", limit.maximum))?;
    } else {
        setrlimit(Resource::Nofile, wanted)?;
    }
    Ok(())
}
