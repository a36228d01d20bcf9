//! The two processes of one lane measurement: one that asks and takes the time, one that echoes.

use crate::floor_futex::{ANSWERS, ASKS, Turn};
use bro_lane::{Lane, LaneConfig, LaneOptions, Side, SideFds, SpinConfig, Waited, create};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::error::Error;
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

/// Where the two processes run; the second one is `None` when nobody is pinned.
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
    /// Starts the other process, which echoes records of `record_bytes`.
    pub(crate) fn start(way: Way, cpus: Cpus, record_bytes: usize) -> Result<Asker, Box<dyn Error>> {
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
        pin(cpus.asks)?;
        let record = (0..record_bytes).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect();
        Ok(Asker { link, record, answer: Vec::new(), ends: Vec::new(), child })
    }

    /// One round trip.
    pub(crate) fn ask(&mut self) -> Result<(), Box<dyn Error>> {
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
        if self.answer.len() == self.record.len() { Ok(()) } else { Err("an answer of another size".into()) }
    }

    /// Keeps `depth` records in flight until `is_over`, and says how many were answered.
    pub(crate) fn pipeline(&mut self, depth: usize, mut is_over: impl FnMut() -> bool) -> Result<u64, Box<dyn Error>> {
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
                Link::Futex(_) => return Err("a word has no queue".into()),
            };
            in_flight = in_flight + missing - got;
            answered += got as u64;
            if is_last && in_flight == 0 {
                return Ok(answered);
            }
        }
    }

    /// Ends the other process.
    pub(crate) fn stop(self) -> Result<(), Box<dyn Error>> {
        if let Link::Futex(turn) = &self.link {
            turn.end()?;
        }
        drop(self.link);
        pin(None)?;
        self.child.wait()
    }
}

/// A process that echoes.
struct Echo {
    process: Child,
}

impl Echo {
    fn start(way: Way, cpu: Option<usize>, record_bytes: usize, socket: UnixStream) -> Result<Echo, Box<dyn Error>> {
        let way = match way {
            Way::Lane { spin_us } => format!("lane:{spin_us}"),
            Way::Socket => "socket".to_owned(),
            Way::Futex => "futex".to_owned(),
        };
        let cpu = cpu.map_or("-".to_owned(), |cpu| cpu.to_string());
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["lane", super::ECHO_ARGUMENT, &way, &cpu, &record_bytes.to_string()]);
        Ok(Echo { process: command.stdin(Stdio::from(OwnedFd::from(socket))).spawn()? })
    }

    fn wait(mut self) -> Result<(), Box<dyn Error>> {
        let status = self.process.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the echo ended with {status}").into()) }
    }
}

/// Is the process that echoes, until the other one ends.
pub(crate) fn echo(way: &str, cpu: &str, record_bytes: &str) -> Result<(), Box<dyn Error>> {
    pin(if cpu == "-" { None } else { Some(cpu.parse()?) })?;
    let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    match way.split_once(':') {
        Some(("lane", spin_us)) => {
            let fds: [OwnedFd; SideFds::COUNT] = receive(&socket)?.try_into().map_err(|_| "not 4 descriptors")?;
            echo_lane(Lane::open(Side::Second, fds.into(), options(spin_us.parse()?))?)
        }
        None if way == "socket" => {
            let mut buffer = vec![0; record_bytes.parse::<usize>()?.max(BATCH_BYTES)];
            if buffer.len() > BATCH_BYTES {
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
        None if way == "futex" => {
            let memory = receive(&socket)?.pop().ok_or("no descriptor")?;
            let turn = Turn::map(memory)?;
            while turn.wait_for(ANSWERS)? {
                turn.pass_to(ASKS)?;
            }
            Ok(())
        }
        _ => Err("an unknown way".into()),
    }
}

fn echo_lane(mut lane: Lane) -> Result<(), Box<dyn Error>> {
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

fn wait(lane: &mut Lane) -> Result<(), Box<dyn Error>> {
    match lane.wait(None)? {
        Waited::Ready if !lane.is_peer_closed() => Ok(()),
        ended => Err(format!("the echo is gone: {ended:?}").into()),
    }
}

fn options(spin_us: u64) -> LaneOptions {
    LaneOptions { spin: SpinConfig { spin_us }, ..LaneOptions::default() }
}

/// Ties this process to one CPU, or to none.
pub(crate) fn pin(cpu: Option<usize>) -> Result<(), Box<dyn Error>> {
    let mut cpus = CpuSet::new();
    match cpu {
        Some(cpu) => cpus.set(cpu),
        None => {
            (0..std::fs::read_to_string("/proc/cpuinfo")?.matches("processor\t").count()).for_each(|at| cpus.set(at))
        }
    }
    Ok(sched_setaffinity(None, &cpus)?)
}

fn pass(socket: &UnixStream, fds: &[BorrowedFd<'_>]) -> Result<(), Box<dyn Error>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SideFds::COUNT))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(fds));
    sendmsg(socket, &[IoSlice::new(b"f")], &mut control, SendFlags::empty())?;
    Ok(())
}

fn receive(socket: &UnixStream) -> Result<Vec<OwnedFd>, Box<dyn Error>> {
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
