//! The two ends of a run: who calls, and who answers.

use crate::client::{self, Lanes};
use crate::v1::{self, CALLEE, Shape, V1};
use crate::v2::{Same, V2};
use crate::wire::Wire;
use crate::{load, window};
use anyhow::Result;
use bro_proto::v1::Encoding;
use clap::{Args, ValueEnum};
use std::io::{Read as _, stdin};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

/// What both are told.
#[derive(Args)]
struct End {
    socket: PathBuf,
    #[arg(long, value_enum)]
    ends: Kind,
    #[arg(long, value_enum)]
    shape: Shape,
    /// Of version 1
    #[arg(long)]
    frame_bytes: usize,
}

/// The process that makes calls.
#[derive(Args)]
pub(crate) struct Caller {
    #[command(flatten)]
    end: End,
    #[arg(long)]
    number: u8,
    /// There is no gateway to register with
    #[arg(long)]
    unregistered: bool,
}

/// The process that answers calls.
#[derive(Args)]
pub(crate) struct Callee {
    #[command(flatten)]
    end: End,
    /// Instead of registering with a gateway: accept so many connections
    #[arg(long)]
    listen: Option<u8>,
}

/// What speaks there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The load generator, version 1 in JSON.
    Json,
    /// The same in msgpack.
    Msgpack,
    /// The load generator, version 2 with frames as long as those of version 1.
    V2,
    /// The same with payloads as long as those of version 1.
    V2Short,
    /// The crate `ipc-bro`, which takes no lanes.
    Client,
    /// The same over a lane.
    ClientLane,
    /// The same, spinning for a while before it sleeps.
    ClientLaneSpin,
}

impl Caller {
    /// Until standard input ends.
    pub(crate) fn run(&self) -> Result<()> {
        let (bytes, shape) = (self.end.frame_bytes, self.end.shape);
        match self.end.ends {
            Kind::Json => self.call(V1::new(Encoding::Json, self.number, bytes, shape)?),
            Kind::Msgpack => self.call(V1::new(Encoding::Msgpack, self.number, bytes, shape)?),
            Kind::V2 => self.call(V2::new(self.number, bytes, shape, Same::Frame)?),
            Kind::V2Short => self.call(V2::new(self.number, bytes, shape, Same::Payload)?),
            Kind::Client | Kind::ClientLane | Kind::ClientLaneSpin => client::call(&self.end.socket, self.end.lanes()),
        }
    }

    fn call(&self, mut wire: impl Wire) -> Result<()> {
        let mut stream = UnixStream::connect(&self.end.socket)?;
        if !self.unregistered {
            wire.register(&mut stream, &v1::name_of(self.number))?;
        }
        load::call(stream, wire)
    }
}

impl Callee {
    /// Until standard input ends.
    pub(crate) fn run(&self) -> Result<()> {
        let (bytes, shape) = (self.end.frame_bytes, self.end.shape);
        match self.end.ends {
            Kind::Json => self.answer(|caller| V1::new(Encoding::Json, caller, bytes, shape)),
            Kind::Msgpack => self.answer(|caller| V1::new(Encoding::Msgpack, caller, bytes, shape)),
            Kind::V2 => self.answer(|caller| V2::new(caller, bytes, shape, Same::Frame)),
            Kind::V2Short => self.answer(|caller| V2::new(caller, bytes, shape, Same::Payload)),
            Kind::Client | Kind::ClientLane | Kind::ClientLaneSpin => {
                client::answer(&self.end.socket, self.end.lanes())
            }
        }
    }

    fn answer<W: Wire>(&self, wire: impl Fn(u8) -> Result<W>) -> Result<()> {
        // Whoever started this holds the other end.
        std::thread::spawn(|| {
            let _ = stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
        let Some(count) = self.listen else {
            let mut wire = wire(0)?;
            let mut stream = UnixStream::connect(&self.end.socket)?;
            wire.register(&mut stream, CALLEE)?;
            window::say("ready")?;
            return load::answer(vec![(stream, wire)]);
        };
        let listener = UnixListener::bind(&self.end.socket)?;
        window::say("ready")?;
        let mut connections = Vec::new();
        for caller in 0..count {
            connections.push((listener.accept()?.0, wire(caller)?));
        }
        load::answer(connections)
    }
}

impl End {
    fn lanes(&self) -> Lanes {
        match self.ends {
            Kind::ClientLane => Lanes::Asleep,
            Kind::ClientLaneSpin => Lanes::Spinning,
            _ => Lanes::None,
        }
    }
}
