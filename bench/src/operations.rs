//! Hot operations that are run so many times and nothing else, for counting their instructions: `cargo xtask instructions`.

use crate::route_frames::Dialect;
use crate::routes::Table;
use crate::v1::{Shape, V1};
use crate::v2::{Same, V2};
use crate::wire::Wire;
use anyhow::{Result, bail, ensure};
use bro_lane::{Lane, LaneConfig, LaneOptions, Side, create};
use bro_proto::frame::Deframer;
use bro_proto::limits::FRAME_PREFIX_BYTES;
use bro_proto::v1::{Encoding, Header, scan_into};
use bro_proto::v2;
use std::hint::black_box;

const FRAME_BYTES: usize = 454;
const FRAMES_PER_CHUNK: usize = 64;
const RECORD_BYTES: usize = 300;

/// Every operation by its name.
pub(crate) const NAMES: [&str; 13] = [
    "scan-json-call",
    "scan-json-response",
    "scan-json-flat-call",
    "scan-msgpack-call",
    "deframe-64-frames",
    "route-json-2-services",
    "route-json-1000-services",
    "route-msgpack-2-services",
    "parse-v2-call",
    "parse-v2-response",
    "route-v2-2-services",
    "route-v2-1000-services",
    "lane-push-pop",
];

/// Runs one of them. The same number of times takes the same instructions, so the difference of two runs is what it costs.
pub(crate) fn run(name: &str, times: usize) -> Result<()> {
    match name {
        "scan-json-call" => scan_call(Encoding::Json, Shape::Order, times),
        "scan-json-response" => scan_body(&answer(V1::new(Encoding::Json, 0, FRAME_BYTES, Shape::Order)?), times),
        "scan-json-flat-call" => scan_call(Encoding::Json, Shape::Flat, times),
        "scan-msgpack-call" => scan_call(Encoding::Msgpack, Shape::Order, times),
        "deframe-64-frames" => deframe(times),
        "route-json-2-services" => Table::new(2, Dialect::V1(Encoding::Json))?.route(times),
        "route-json-1000-services" => Table::new(1000, Dialect::V1(Encoding::Json))?.route(times),
        "route-msgpack-2-services" => Table::new(2, Dialect::V1(Encoding::Msgpack))?.route(times),
        "parse-v2-call" => parse(V2::new(0, FRAME_BYTES, Shape::Order, Same::Frame)?.call(1), times),
        "parse-v2-response" => parse(&answer(V2::new(0, FRAME_BYTES, Shape::Order, Same::Frame)?), times),
        "route-v2-2-services" => Table::new(2, Dialect::V2)?.route(times),
        "route-v2-1000-services" => Table::new(1000, Dialect::V2)?.route(times),
        "lane-push-pop" => push_and_pop(times),
        _ => bail!("no operation {name:?}; there are {}", NAMES.join(", ")),
    }
}

/// The answer to a call.
fn answer(mut wire: impl Wire) -> Vec<u8> {
    let call = wire.call(1).to_vec();
    wire.answer(&call).map(<[u8]>::to_vec).unwrap_or_default()
}

fn scan_call(encoding: Encoding, shape: Shape, times: usize) -> Result<()> {
    scan_body(V1::new(encoding, 0, FRAME_BYTES, shape)?.call(1), times)
}

fn scan_body(frame: &[u8], times: usize) -> Result<()> {
    for _ in 0..times {
        // As the router does it: the header stays where it is read.
        let mut header = Header::empty(Encoding::Json);
        scan_into(black_box(&frame[FRAME_PREFIX_BYTES..]), &mut header)?;
        ensure!(black_box(&header).id.is_some(), "the id was not found");
    }
    Ok(())
}

fn parse(frame: &[u8], times: usize) -> Result<()> {
    for _ in 0..times {
        let is_read = matches!(v2::parse(black_box(frame)), Ok(v2::Frame::Call(_) | v2::Frame::Response { .. }));
        ensure!(black_box(is_read), "the frame was not read");
    }
    Ok(())
}

/// One record to a peer that is awake, and out of the ring again.
fn push_and_pop(times: usize) -> Result<()> {
    let parts = create(LaneConfig::default())?;
    let mut sender = Lane::open(Side::First, parts.first, LaneOptions::default())?;
    let mut receiver = Lane::open(Side::Second, parts.second, LaneOptions::default())?;
    let (record, mut received) = ([7; RECORD_BYTES], Vec::new());
    for _ in 0..times {
        sender.push(&[black_box(&record)])?;
        sender.flush()?;
        received.clear();
        ensure!(receiver.pop(black_box(&mut received))? == Some(RECORD_BYTES), "the record did not arrive");
    }
    ensure!(times == 0 || received == record, "another record arrived");
    Ok(())
}

fn deframe(times: usize) -> Result<()> {
    let mut wire = V1::new(Encoding::Json, 0, FRAME_BYTES, Shape::Order)?;
    let mut chunk = Vec::new();
    for number in 0..FRAMES_PER_CHUNK as u64 {
        chunk.extend_from_slice(wire.call(number));
    }
    let mut deframer = Deframer::new();
    for _ in 0..times {
        let mut cuts = deframer.start(black_box(&chunk), FRAME_BYTES);
        let mut count = 0;
        while cuts.next_cut()?.is_some() {
            count += 1;
        }
        ensure!(black_box(count) == FRAMES_PER_CHUNK, "{count} frames were cut");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_does_what_it_says() {
        for name in NAMES {
            run(name, 3).unwrap();
        }
        assert!(run("nothing", 1).is_err());
    }
}
