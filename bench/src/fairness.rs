//! What one caller that makes one call at a time notices of others: alone, beside callers that keep many calls under way, of its user and of
//! another one, and beside those whose callee does not keep up. Each has a callee of its own, so that all they share is the gateway and the
//! processors.

use crate::children::Children;
use crate::ends::Kind;
use crate::figures::{Case, Figure, Measurement};
use crate::rows::Plan;
use crate::v1;
use crate::v2::METADATA;
use crate::window::{Order, Report, clock_ns, cpu_ns, say};
use anyhow::{Context as _, Result, bail, ensure};
use bro_proto::frame::Deframer;
use bro_proto::limits::FRAME_BYTES_MAX;
use bro_proto::v1::Encoding;
use bro_proto::v2::encode::{CallHead, call_head, resolve, response_head};
use bro_proto::v2::{self, Codec, Frame, FrameKind};
use clap::{Args, ValueEnum};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, chmod};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_gid, set_thread_uid};
use std::io::{Read as _, stdin};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What each row has beside the caller that is measured.
pub(crate) const ROWS: [&str; 5] = [BASE, "fair-busy", "fair-same-user", "fair-other-user", "fair-slow-reader"];
/// What they are compared with.
pub(crate) const BASE: &str = "fair-alone";

/// Processes that flood, each with so many calls under way.
const FLOODS: usize = 4;
const FLOOD_IN_FLIGHT: usize = 512;
const FLOOD_BYTES: usize = 400;
/// With a callee that does not keep up: more than the gateway queues for it.
const SLOW_BYTES: usize = 16 * 1024;
const SLOW_READ_BYTES: usize = 64 * 1024;
const SLOW_PAUSE: Duration = Duration::from_millis(5);
/// `nobody`, where there is such a user.
pub(crate) const OTHER_UID: u32 = 65_534;
const FRAME_BYTES: usize = 454;

/// What is beside the one that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nobody,
    /// As many processes that do nothing but want a processor: what the scheduler makes of it.
    Busy,
    Floods {
        manner: Manner,
        is_other_user: bool,
    },
}

/// How a flood goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Manner {
    /// Its calls are answered at once.
    Quick,
    /// Its callee takes little at a time.
    Slow,
}

/// A process that floods a gateway.
#[derive(Args)]
pub(crate) struct Flood {
    socket: PathBuf,
    #[arg(long)]
    number: usize,
    #[arg(long, value_enum)]
    manner: Manner,
    /// Become this user first
    #[arg(long)]
    uid: Option<u32>,
}

fn beside(row: &str) -> Beside {
    let floods = |manner, is_other_user| Beside::Floods { manner, is_other_user };
    match row {
        "fair-busy" => Beside::Busy,
        "fair-same-user" => floods(Manner::Quick, false),
        "fair-other-user" => floods(Manner::Quick, true),
        "fair-slow-reader" => floods(Manner::Slow, false),
        _ => Beside::Nobody,
    }
}

/// Whether the row that needs another user can be measured.
pub(crate) fn left_out() -> Option<String> {
    let row = "fair-other-user of fairness: only root can become another user";
    (!geteuid().is_root()).then(|| row.to_owned())
}

fn case_name() -> String {
    format!("1 in flight beside {FLOODS} others with {FLOOD_IN_FLIGHT}")
}

/// Measures all rows, on one core and on all.
pub(crate) fn measure(plan: &Plan) -> Result<Vec<Measurement>> {
    let mut measured = Vec::new();
    for is_pinned in [true, false] {
        for row in ROWS {
            let beside = beside(row);
            let needs_root = matches!(beside, Beside::Floods { is_other_user: true, .. });
            if needs_root && left_out().is_some() {
                continue;
            }
            let figures = run(plan, beside, is_pinned).with_context(|| row.to_owned())?;
            let case = Case { name: case_name(), is_pinned: Some(is_pinned) };
            measured.push(Measurement { row: row.to_owned(), case, figures });
        }
    }
    Ok(measured)
}

fn run(plan: &Plan, beside: Beside, is_pinned: bool) -> Result<Vec<(Figure, f64)>> {
    let directory = tempfile::Builder::new().prefix("bro-bench-").tempdir()?;
    chmod(directory.path(), Mode::from_raw_mode(0o755))?;
    let socket = directory.path().join("calls.sock");
    let path = socket.to_str().context("the temporary directory has a name that is no text")?;
    let mut children = Children::new(is_pinned);
    let gateway = children.start_own(&["gateway", path, "--lanes", "off", "--open"])?;
    children.wait_ready(gateway)?;
    let (bytes, ends) = (FRAME_BYTES.to_string(), Kind::V2.to_possible_value().context("a name")?);
    let shape = plan.shape.to_possible_value().context("a name")?;
    let common = ["--frame-bytes", &bytes, "--ends", ends.get_name(), "--shape", shape.get_name()];
    let callee = children.start_own(&[&["callee", path][..], &common].concat())?;
    children.wait_ready(callee)?;
    let caller = children.start_own(&[&["caller", path, "--number", "0"][..], &common].concat())?;
    children.wait_ready(caller)?;
    for number in 0..FLOODS {
        let number = number.to_string();
        let uid = OTHER_UID.to_string();
        let mut arguments = match beside {
            Beside::Nobody => break,
            Beside::Busy => vec!["lane-busy"],
            Beside::Floods { manner: Manner::Quick, .. } => {
                vec!["flood", path, "--number", &number, "--manner", "quick"]
            }
            Beside::Floods { manner: Manner::Slow, .. } => vec!["flood", path, "--number", &number, "--manner", "slow"],
        };
        if let Beside::Floods { is_other_user: true, .. } = beside {
            arguments.extend(["--uid", &uid]);
        }
        let flood = children.start_own(&arguments)?;
        children.wait_ready(flood)?;
    }
    let start_ns = clock_ns() + u64::try_from(plan.warm_up.as_nanos())?;
    let end_ns = start_ns + u64::try_from(plan.span.as_nanos())?;
    let order = Order { in_flight: 1, start_ns, end_ns, watched: Vec::new() };
    children.tell(caller, &serde_json::to_string(&order)?)?;
    let report: Report = serde_json::from_str(&children.hear(caller)?)?;
    children.finish(caller)?;
    let calls_per_s = report.calls as f64 / (report.span_ns as f64 / 1e9);
    let us = |ns: u64| ns as f64 / 1e3;
    ensure!(cpu_ns(children.id(gateway)).is_ok(), "the gateway has ended");
    Ok(vec![(Figure::P50Us, us(report.p50_ns)), (Figure::P99Us, us(report.p99_ns)), (Figure::CallsPerS, calls_per_s)])
}

impl Flood {
    /// Until standard input ends.
    pub(crate) fn run(&self) -> Result<()> {
        if let Some(uid) = self.uid {
            // This process has one thread: its user is that of all of it.
            set_thread_gid(Gid::from_raw(uid))?;
            set_thread_uid(Uid::from_raw(uid))?;
        }
        let [callee_name, caller_name] = ["callee", "caller"].map(|end| format!("flood-{end}-{}", self.number));
        let mut callee = End::register(&self.socket, &callee_name)?;
        let mut caller = End::register(&self.socket, &caller_name)?;
        resolve(&mut caller.outbound, 0, &callee_name);
        std::thread::spawn(|| {
            let _ = stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
        say("ready")?;
        let is_slow = self.manner == Manner::Slow;
        let payload = vec![b'1'; if is_slow { SLOW_BYTES } else { FLOOD_BYTES }];
        let mut number = 0_u64;
        let mut left_to_call = FLOOD_IN_FLIGHT;
        let mut reads_again = Instant::now();
        loop {
            for _ in 0..std::mem::take(&mut left_to_call) {
                number += 1;
                write_call(&mut caller.outbound, number, &payload);
            }
            let may_read = !is_slow || Instant::now() >= reads_again;
            wait(&caller, &callee, may_read)?;
            caller.write()?;
            left_to_call += caller.read(READ_BYTES, |frame, _| {
                matches!(v2::parse(frame), Ok(Frame::Response { .. } | Frame::Error { .. }))
            })?;
            if may_read {
                let bytes = if is_slow { SLOW_READ_BYTES } else { READ_BYTES };
                reads_again = Instant::now() + SLOW_PAUSE;
                callee.read(bytes, |frame, outbound| {
                    let Ok(Frame::Call(call)) = v2::parse(frame) else { return false };
                    response_head(outbound, call.id, Codec::JSON, 1);
                    outbound.push(b'1');
                    true
                })?;
            }
            callee.write()?;
        }
    }
}

/// What is read at once.
const READ_BYTES: usize = 256 * 1024;

/// One of the two connections of a flood.
struct End {
    stream: UnixStream,
    deframer: Deframer,
    inbound: Vec<u8>,
    outbound: Vec<u8>,
    written: usize,
}

impl End {
    fn register(socket: &PathBuf, name: &str) -> Result<End> {
        let mut stream = UnixStream::connect(socket)?;
        v1::register(&mut stream, Encoding::Json, name, METADATA)?;
        Ok(End { stream, deframer: Deframer::new(), inbound: vec![0; READ_BYTES], outbound: Vec::new(), written: 0 })
    }

    fn is_writing(&self) -> bool {
        self.written < self.outbound.len()
    }

    /// Writes what the socket takes.
    fn write(&mut self) -> Result<()> {
        while self.is_writing() {
            match send(&self.stream, &self.outbound[self.written..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => self.written += count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error).context("writing"),
            }
        }
        self.outbound.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads once; gives how many of the frames that came count.
    fn read(&mut self, bytes: usize, mut counts: impl FnMut(&[u8], &mut Vec<u8>) -> bool) -> Result<usize> {
        let arrived = match recv(&self.stream, &mut self.inbound[..bytes], RecvFlags::DONTWAIT) {
            Ok((0, _)) => bail!("the gateway has ended the connection"),
            Ok((arrived, _)) => arrived,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(0),
            Err(error) => return Err(error).context("reading"),
        };
        let mut frames = self.deframer.start(&self.inbound[..arrived], FRAME_BYTES_MAX);
        let mut counted = 0;
        while let Some(frame) = frames.next_frame()? {
            counted += usize::from(counts(frame, &mut self.outbound));
        }
        Ok(counted)
    }
}

/// Until something can be done. A callee that pauses is not waited for beyond its pause.
fn wait(caller: &End, callee: &End, may_read: bool) -> Result<()> {
    let flags = |end: &End, reads: bool| {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, reads);
        flags.set(PollFlags::OUT, end.is_writing());
        flags
    };
    let mut waiting =
        [PollFd::new(&caller.stream, flags(caller, true)), PollFd::new(&callee.stream, flags(callee, may_read))];
    let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(SLOW_PAUSE.subsec_nanos()) };
    match poll(&mut waiting, (!may_read).then_some(&pause)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("waiting"),
    }
}

fn write_call(out: &mut Vec<u8>, number: u64, payload: &[u8]) {
    let head = CallHead {
        kind: FrameKind::Call,
        id: number,
        origin: 0,
        root: 0,
        peer: 0,
        timeout_ms: 30_000,
        method: "flood",
        section: &[],
        codec: Codec::JSON,
    };
    call_head(out, &head, payload.len());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_something_else_beside_it() {
        let all = ROWS.map(beside);
        assert_eq!(all[0], Beside::Nobody);
        assert!((1..all.len()).all(|at| !all[..at].contains(&all[at])), "{all:?}");
    }
}
