//! The floor under every gateway: one thread that copies bytes between pairs of connections and parses nothing.
//!
//! Each connection that it accepts is paired with one that it opens. Like the gateway it waits with level-triggered epoll, reads once
//! from every connection that is ready, and writes what it has read at once; what a socket does not take waits, and meanwhile nothing
//! more is read from the partner.

use crate::window::say;
use anyhow::{Context as _, Result};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, read};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io::stdin;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// The gateway's largest read.
const READ_BYTES: usize = 256 * 1024;
const EVENTS_PER_WAKEUP: usize = 128;
const LISTENER: u64 = u64::MAX;
const STDIN: u64 = u64::MAX - 1;

/// One end. Its partner is its neighbour: 0 and 1, 2 and 3.
struct End {
    stream: UnixStream,
    /// What the socket has not taken yet.
    backlog: Vec<u8>,
    written: usize,
    is_open: bool,
}

/// Relays until standard input ends.
pub(crate) fn run(listen: &Path, upstream: &Path) -> Result<()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let listener = UnixListener::bind(listen).context("listening")?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    epoll::add(&epoll, stdin(), EventData::new_u64(STDIN), EventFlags::IN)?;
    let mut ends: Vec<End> = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut events = Vec::with_capacity(EVENTS_PER_WAKEUP);
    say("ready")?;
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let (flags, token) = (event.flags, event.data.u64());
            match token {
                LISTENER => {
                    for stream in [listener.accept()?.0, UnixStream::connect(upstream).context("connecting")?] {
                        stream.set_nonblocking(true)?;
                        epoll::add(&epoll, &stream, EventData::new_u64(ends.len() as u64), EventFlags::IN)?;
                        ends.push(End { stream, backlog: Vec::new(), written: 0, is_open: true });
                    }
                }
                STDIN => {
                    if read(stdin(), &mut [0_u8; 64])? == 0 {
                        return Ok(());
                    }
                }
                at => {
                    let at = usize::try_from(at).expect("an index");
                    if flags.contains(EventFlags::OUT) {
                        ends[at].flush()?;
                        if ends[at].backlog.is_empty() {
                            watch(&epoll, &ends, at)?;
                        }
                    }
                    if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                        copy(&epoll, &mut ends, at, &mut buffer)?;
                    }
                }
            }
        }
    }
}

fn copy(epoll: &OwnedFd, ends: &mut [End], from: usize, buffer: &mut [u8]) -> Result<()> {
    let to = from ^ 1;
    if !ends[from].is_open || !ends[to].backlog.is_empty() {
        return Ok(());
    }
    let count = match recv(&ends[from].stream, &mut buffer[..], RecvFlags::empty()) {
        Ok((count, _)) => count,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
        Err(_) => 0,
    };
    if count == 0 {
        for at in [from, to] {
            epoll::delete(epoll, &ends[at].stream)?;
            ends[at].is_open = false;
            let _ = ends[at].stream.shutdown(std::net::Shutdown::Both); // the partner may have closed it
        }
        return Ok(());
    }
    let taken = match send(&ends[to].stream, &buffer[..count], SendFlags::NOSIGNAL) {
        Ok(taken) => taken,
        Err(Errno::AGAIN) => 0,
        Err(error) => return Err(error).context("writing"),
    };
    if taken < count {
        ends[to].backlog.extend_from_slice(&buffer[taken..count]);
        watch(epoll, ends, to)?;
    }
    Ok(())
}

/// Waits for what `at` and its partner can go on with.
fn watch(epoll: &OwnedFd, ends: &[End], at: usize) -> Result<()> {
    for at in [at, at ^ 1] {
        let end = &ends[at];
        if end.is_open {
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::OUT, !end.backlog.is_empty());
            flags.set(EventFlags::IN, ends[at ^ 1].backlog.is_empty());
            epoll::modify(epoll, &end.stream, EventData::new_u64(at as u64), flags)?;
        }
    }
    Ok(())
}

impl End {
    fn flush(&mut self) -> Result<()> {
        while self.written < self.backlog.len() {
            match send(&self.stream, &self.backlog[self.written..], SendFlags::NOSIGNAL) {
                Ok(taken) => self.written += taken,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error).context("writing"),
            }
        }
        self.backlog.clear();
        self.written = 0;
        Ok(())
    }
}
