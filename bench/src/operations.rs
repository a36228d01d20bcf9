//! Hot operations that are run so many times and nothing else, for counting their instructions: `cargo xtask instructions`.

use crate::routes::Table;
use crate::v1::{Shape, V1};
use crate::wire::Wire as _;
use anyhow::{Result, bail, ensure};
use bro_proto::frame::Deframer;
use bro_proto::limits::FRAME_PREFIX_BYTES;
use bro_proto::v1::{Encoding, scan};
use std::hint::black_box;

const FRAME_BYTES: usize = 454;
const FRAMES_PER_CHUNK: usize = 64;

/// Every operation by its name.
pub(crate) const NAMES: [&str; 8] = [
    "scan-json-call",
    "scan-json-response",
    "scan-json-flat-call",
    "scan-msgpack-call",
    "deframe-64-frames",
    "route-json-2-services",
    "route-json-1000-services",
    "route-msgpack-2-services",
];

/// Runs one of them. The same number of times takes the same instructions, so the difference of two runs is what it costs.
pub(crate) fn run(name: &str, times: usize) -> Result<()> {
    match name {
        "scan-json-call" => scan_call(Encoding::Json, Shape::Order, times),
        "scan-json-response" => {
            let mut wire = V1::new(Encoding::Json, 0, FRAME_BYTES, Shape::Order)?;
            let call = wire.call(1).to_vec();
            let answer = wire.answer(&call).map(<[u8]>::to_vec).unwrap_or_default();
            scan_body(&answer, times)
        }
        "scan-json-flat-call" => scan_call(Encoding::Json, Shape::Flat, times),
        "scan-msgpack-call" => scan_call(Encoding::Msgpack, Shape::Order, times),
        "deframe-64-frames" => deframe(times),
        "route-json-2-services" => Table::new(2, Encoding::Json)?.route(times),
        "route-json-1000-services" => Table::new(1000, Encoding::Json)?.route(times),
        "route-msgpack-2-services" => Table::new(2, Encoding::Msgpack)?.route(times),
        _ => bail!("no operation {name:?}; there are {}", NAMES.join(", ")),
    }
}

fn scan_call(encoding: Encoding, shape: Shape, times: usize) -> Result<()> {
    scan_body(V1::new(encoding, 0, FRAME_BYTES, shape)?.call(1), times)
}

fn scan_body(frame: &[u8], times: usize) -> Result<()> {
    for _ in 0..times {
        let header = scan(black_box(&frame[FRAME_PREFIX_BYTES..]))?;
        ensure!(black_box(&header).id.is_some(), "the id was not found");
    }
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
