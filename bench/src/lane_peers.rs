//! The two processes of one lane measurement: one that asks and takes the time, one that echoes.

use crate::children::Watchdog;
use crate::floor_futex::{ANSWERS, ASKS, Turn};
use crate::window::cpu_ns;
use crate::wire;
use anyhow::{Context as _, Result, bail, ensure};
use bro_lane::{Lane, LaneConfig, LaneOptions, Side, SideFds, SpinConfig, Waited, create};
use clap::Args;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

/// How two processes talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A lane that may spin for so many microseconds.
    Lane { spin_us: u64 },
    /// A pair of connected Unix stream sockets, used blocking.
    Socket,
    /// A word and a futex, without a payload.
    Futex,
}

/// Where the two processes run; `None` where the scheduler decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cpus {
    pub(crate) asks: Option<usize>,
    pub(crate) answers: Option<usize>,
}

/// Bytes that one wakeup takes from a lane before it answers.
const BATCH_BYTES: usize = 64 * 1024;

/// The end that asks, with the process that answers.
pub(crate) struct Asker {
    link: Link,
    record: Vec<u8>,
    answer: Vec<u8>,
    ends: Vec<usize>,
    child: Echo,
}

enum Link {
    Lane(Box<Lane>),
    Socket(UnixStream),
    Futex(Turn),
}

impl Asker {
    /// Starts the other process, which echoes records of `record_bytes`, and ties this thread to its CPU.
    pub(crate) fn start(way: Way, cpus: Cpus, record_bytes: usize) -> Result<Asker> {
        let (socket, theirs) = UnixStream::pair()?;
        let child = Echo::start(way, cpus.answers, record_bytes, theirs)?;
        let link = match way {
            Way::Lane { spin_us } => {
                let parts = create(LaneConfig::default())?;
                pass(&socket, &parts.second.as_fds())?;
                drop(parts.second);
                Link::Lane(Box::new(Lane::open(Side::First, parts.first, options(spin_us))?))
            }
            Way::Socket => Link::Socket(socket),
            Way::Futex => {
                let memory = Turn::memory()?;
                pass(&socket, &[memory.as_fd()])?;
                Link::Futex(Turn::map(memory)?)
            }
        };
        if let Some(cpu) = cpus.asks {
            pin(cpu)?;
        }
        let record = (0..record_bytes).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect();
        Ok(Asker { link, record, answer: Vec::new(), ends: Vec::new(), child })
    }

    /// One round trip.
    pub(crate) fn ask(&mut self) -> Result<()> {
        match &mut self.link {
            Link::Lane(lane) => {
                lane.push(&[&self.record])?;
                lane.flush()?;
                self.answer.clear();
                while lane.pop(&mut self.answer)?.is_none() {
                    wait(lane)?;
                }
            }
            Link::Socket(socket) => {
                socket.write_all(&self.record)?;
                self.answer.resize(self.record.len(), 0);
                socket.read_exact(&mut self.answer)?;
            }
            Link::Futex(turn) => {
                turn.pass_to(ANSWERS)?;
                turn.wait_for(ASKS)?;
                return Ok(());
            }
        }
        ensure!(wire::is_same(&self.record, &self.answer), "an answer that is not what was sent");
        Ok(())
    }

    /// Keeps `depth` records in flight until `is_over`, and says how many were answered.
    pub(crate) fn pipeline(&mut self, depth: usize, mut is_over: impl FnMut() -> bool) -> Result<u64> {
        let (mut answered, mut in_flight) = (0_u64, 0_usize);
        let mut rest = 0;
        let mut buffer = vec![0; BATCH_BYTES];
        loop {
            let is_last = is_over();
            let missing = if is_last { 0 } else { depth - in_flight };
            let got = match &mut self.link {
                Link::Lane(lane) => {
                    for _ in 0..missing {
                        lane.push(&[&self.record])?;
                    }
                    lane.flush()?;
                    self.answer.clear();
                    self.ends.clear();
                    let got = lane.pop_batch(&mut self.answer, &mut self.ends, BATCH_BYTES)?;
                    if got == 0 && in_flight + missing > 0 {
                        wait(lane)?;
                    }
                    got
                }
                Link::Socket(socket) => {
                    if missing > 0 {
                        socket.write_all(&self.record.repeat(missing))?;
                    }
                    if in_flight + missing > 0 {
                        rest += socket.read(&mut buffer)?;
                    }
                    let got = rest / self.record.len();
                    rest %= self.record.len();
                    got
                }
                Link::Futex(_) => bail!("a word has no queue"),
            };
            in_flight = in_flight + missing - got;
            answered += got as u64;
            if is_last && in_flight == 0 {
                return Ok(answered);
            }
        }
    }

    /// How long this process and the other one have run.
    pub(crate) fn cpu_ns(&self) -> Result<u64> {
        Ok(cpu_ns(std::process::id())? + cpu_ns(self.child.process.id())?)
    }

    /// Ends the other process.
    pub(crate) fn stop(self) -> Result<()> {
        if let Link::Futex(turn) = &self.link {
            turn.end()?;
        }
        drop(self.link);
        self.child.wait()
    }
}

/// A process that echoes. It ends when the other end does.
struct Echo {
    process: Child,
    watchdog: Watchdog,
}

impl Echo {
    fn start(way: Way, cpu: Option<usize>, record_bytes: usize, socket: UnixStream) -> Result<Echo> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["lane-echo", &record_bytes.to_string()]);
        match way {
            Way::Lane { spin_us } => command.args(["--lane", &spin_us.to_string()]),
            Way::Socket => &mut command,
            Way::Futex => command.arg("--futex"),
        };
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        let watchdog = Watchdog::start();
        let process = command.stdin(Stdio::from(OwnedFd::from(socket))).spawn()?;
        watchdog.add(process.id());
        Ok(Echo { process, watchdog })
    }

    fn wait(mut self) -> Result<()> {
        let status = self.process.wait()?;
        ensure!(status.success(), "the echo ended with {status}");
        Ok(())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.process.kill(); // fails when it was waited for
        let _ = self.process.wait();
        self.watchdog.remove(self.process.id());
    }
}

/// The process that echoes.
#[derive(Args)]
pub(crate) struct EchoRole {
    record_bytes: usize,
    #[arg(long)]
    cpu: Option<usize>,
    /// Over a lane, spinning for so many microseconds
    #[arg(long, value_name = "SPIN_US", conflicts_with = "futex")]
    lane: Option<u64>,
    #[arg(long)]
    futex: bool,
}

impl EchoRole {
    /// Until the other end, which is standard input, ends.
    pub(crate) fn run(&self) -> Result<()> {
        if let Some(cpu) = self.cpu {
            pin(cpu)?;
        }
        let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        if let Some(spin_us) = self.lane {
            let fds: [OwnedFd; SideFds::COUNT] = receive(&socket)?.try_into().ok().context("not 4 descriptors")?;
            return echo_lane(Lane::open(Side::Second, fds.into(), options(spin_us))?);
        }
        if self.futex {
            let turn = Turn::map(receive(&socket)?.pop().context("no descriptor")?)?;
            while turn.wait_for(ANSWERS)? {
                turn.pass_to(ASKS)?;
            }
            return Ok(());
        }
        echo_socket(socket, self.record_bytes)
    }
}

fn echo_socket(mut socket: UnixStream, record_bytes: usize) -> Result<()> {
    let mut buffer = vec![0; record_bytes.max(BATCH_BYTES)];
    if record_bytes > BATCH_BYTES {
        // One frame as a whole, as a callee has to have it.
        while socket.read_exact(&mut buffer).is_ok() {
            socket.write_all(&buffer)?;
        }
        return Ok(());
    }
    loop {
        match socket.read(&mut buffer)? {
            0 => return Ok(()),
            count => socket.write_all(&buffer[..count])?,
        }
    }
}

fn echo_lane(mut lane: Lane) -> Result<()> {
    let (mut records, mut ends) = (Vec::new(), Vec::new());
    loop {
        records.clear();
        ends.clear();
        if lane.pop_batch(&mut records, &mut ends, BATCH_BYTES)? == 0 {
            if lane.is_peer_closed() || lane.wait(None)? == Waited::PeerGone {
                return Ok(());
            }
            continue;
        }
        let mut start = 0;
        for end in &ends {
            if lane.push(&[&records[start..*end]]).is_err() && lane.is_peer_closed() {
                return Ok(());
            }
            start = *end;
        }
        lane.flush()?;
    }
}

fn wait(lane: &mut Lane) -> Result<()> {
    match lane.wait(None)? {
        Waited::Ready if !lane.is_peer_closed() => Ok(()),
        ended => bail!("the echo is gone: {ended:?}"),
    }
}

fn options(spin_us: u64) -> LaneOptions {
    LaneOptions { spin: SpinConfig { spin_us }, ..LaneOptions::default() }
}

/// Ties this thread to one CPU.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    Ok(sched_setaffinity(None, &cpus)?)
}

fn pass(socket: &UnixStream, fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SideFds::COUNT))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(fds));
    sendmsg(socket, &[IoSlice::new(b"f")], &mut control, SendFlags::empty())?;
    Ok(())
}

fn receive(socket: &UnixStream) -> Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SideFds::COUNT))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut received = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            received.extend(fds);
        }
    }
    Ok(received)
}
