//! Load generators: a caller and a callee with no more in them than it takes to write calls, and to see that every answer is right.

use crate::window::{Order, Report, Window, clock_ns, say};
use crate::wire::Wire;
use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io::{BufRead, stdin};
use std::os::unix::net::UnixStream;

/// What is read at once.
const READ_BYTES: usize = 256 * 1024;

/// Calls as it is told to on standard input, one [`Order`] a line, until that ends.
pub(crate) fn call(stream: UnixStream, mut wire: impl Wire) -> Result<()> {
    let mut line = Line::new(stream);
    let mut number = 0;
    say("ready")?;
    for order in stdin().lock().lines() {
        let report = run_order(&mut line, &mut wire, &mut number, serde_json::from_str(&order?)?)?;
        say(&serde_json::to_string(&report)?)?;
    }
    Ok(())
}

/// Answers every call on these connections, until one of them ends.
pub(crate) fn answer(connections: Vec<(UnixStream, impl Wire)>) -> Result<()> {
    let mut lines: Vec<_> = connections.into_iter().map(|(stream, wire)| (Line::new(stream), wire)).collect();
    loop {
        if lines.len() > 1 {
            let mut waiting: Vec<PollFd<'_>> = lines.iter().map(|(line, _)| line.poll_fd()).collect();
            poll(&mut waiting, None)?;
        }
        let is_alone = lines.len() == 1;
        for (line, wire) in &mut lines {
            let has_arrived = if is_alone { line.turn()? } else { line.turn_if_ready()? };
            match has_arrived {
                Turn::Ended => return Ok(()),
                Turn::Nothing => {}
                Turn::Arrived => {
                    while let Some(bytes) = line.frame(wire)? {
                        let answer = wire.answer(&line.inbound[bytes.clone()]);
                        line.outbound.extend_from_slice(answer.context("a call is not what callers send")?);
                        line.start = bytes.end;
                    }
                    line.write()?;
                }
            }
        }
    }
}

/// Makes calls until the span is over and all are answered. Answers come in the order of the calls.
fn run_order(line: &mut Line, wire: &mut impl Wire, number: &mut u64, order: Order) -> Result<Report> {
    let is_alone = order.in_flight == 1;
    let mut left_to_call = order.in_flight;
    let mut under_way = 0;
    let mut expected = *number;
    let mut window = Window::new(order);
    let mut before_ns = clock_ns();
    loop {
        if !window.is_over(before_ns) {
            for _ in 0..left_to_call {
                line.outbound.extend_from_slice(wire.call(*number));
                *number += 1;
            }
            under_way += left_to_call;
        } else if under_way == 0 {
            break;
        }
        line.write()?;
        let mut answers = 0;
        while answers == 0 {
            match line.turn()? {
                Turn::Ended => bail!("the connection ended with {under_way} calls under way"),
                Turn::Nothing => {}
                Turn::Arrived => {
                    while let Some(bytes) = line.frame(wire)? {
                        let number = wire.answered(&line.inbound[bytes.clone()]);
                        ensure!(number == Some(expected), "answer {number:?} instead of {expected}");
                        expected += 1;
                        answers += 1;
                        line.start = bytes.end;
                    }
                }
            }
        }
        let now_ns = clock_ns();
        if is_alone {
            window.record(now_ns - before_ns);
        }
        before_ns = now_ns;
        window.count(answers as u64);
        under_way -= answers;
        left_to_call = answers;
    }
    Ok(window.report())
}

/// A connection with what has arrived and what is still to be written. It never waits for room to write without reading meanwhile.
struct Line {
    stream: UnixStream,
    inbound: Vec<u8>,
    /// What of `inbound` has arrived and is not used up.
    start: usize,
    end: usize,
    outbound: Vec<u8>,
    written: usize,
}

enum Turn {
    Arrived,
    Nothing,
    Ended,
}

impl Line {
    fn new(stream: UnixStream) -> Line {
        Line { stream, inbound: vec![0; READ_BYTES], start: 0, end: 0, outbound: Vec::new(), written: 0 }
    }

    /// Writes what the socket takes.
    fn write(&mut self) -> Result<()> {
        while self.written < self.outbound.len() {
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

    /// Waits until something has arrived, or what is to be written can be.
    fn turn(&mut self) -> Result<Turn> {
        if self.outbound.is_empty() {
            return self.read(RecvFlags::empty());
        }
        poll(&mut [self.poll_fd()], None)?;
        self.turn_if_ready()
    }

    fn turn_if_ready(&mut self) -> Result<Turn> {
        self.write()?;
        self.read(RecvFlags::DONTWAIT)
    }

    fn poll_fd(&self) -> PollFd<'_> {
        let out = if self.outbound.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        PollFd::new(&self.stream, PollFlags::IN | out)
    }

    fn read(&mut self, flags: RecvFlags) -> Result<Turn> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.inbound.len() - self.end < READ_BYTES / 2 {
            self.inbound.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.inbound.len() - self.end < READ_BYTES {
                self.inbound.resize(2 * self.inbound.len(), 0); // once, for frames that are longer than any before
            }
        }
        match recv(&self.stream, &mut self.inbound[self.end..], flags) {
            Ok((0, _)) => Ok(Turn::Ended),
            Ok((count, _)) => {
                self.end += count;
                Ok(Turn::Arrived)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Turn::Nothing),
            Err(error) => Err(error).context("reading"),
        }
    }

    /// Where the next whole frame lies.
    fn frame(&self, wire: &impl Wire) -> Result<Option<std::ops::Range<usize>>> {
        let arrived = &self.inbound[self.start..self.end];
        Ok(wire
            .frame_bytes(arrived)
            .filter(|&bytes| bytes <= arrived.len())
            .map(|bytes| self.start..self.start + bytes))
    }
}
