//! The canaries of the soak: a gateway in which one defect is really there. The soak must fail with each of them, and say why; with
//! [`GatewayFault::None`] it must hold, so that nothing else in here is what it finds.
//!
//! It is a real gateway, embedded, and in the same process in front of it a relay that spoils what it passes on, or keeps what it should give back.
//! The relay takes no lanes along: a descriptor stays where it is read. No program that users get has any of this in it.

use bro_proto::limits::FRAME_PREFIX_BYTES;
use bro_proto::v2::encode::readdress;
use bro_proto::v2::{Frame, is_v2, parse};
use bro_testing::codec;
use clap::{Args, ValueEnum};
use ipc_bro::{Client, Error, Gateway, GatewayConfig, LanePolicy};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

/// What stays of each connection that has ended, with [`GatewayFault::LeakMemory`]: what a gateway kept that forgets its read buffers.
const LEAKED_BYTES: usize = 32 * 1024;
/// Which answer of a connection is spoiled: everybody is at work by then.
const SPOILED_ANSWER: u32 = 100;
/// How many answers are spoiled in all, of each version: a call that hangs holds up the end of the soak.
const SPOILED_MAX: u32 = 3;
/// How many connections are let go before the gateway dies, with [`GatewayFault::Die`].
const DIES_AFTER: u32 = 20;

/// What is wrong with the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum GatewayFault {
    /// Nothing, the relay apart
    #[default]
    None,
    /// Each connection that ends leaves memory behind
    LeakMemory,
    /// Each connection that ends leaves a descriptor behind
    LeakDescriptor,
    /// More and more stays charged to an account
    LeakCharge,
    /// Some answers never arrive
    LoseAnswer,
    /// Some answers come twice
    RepeatAnswer,
    /// Some answers are those to other calls
    SwapAnswer,
    /// It aborts while it is used
    Die,
}

impl GatewayFault {
    /// As on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().expect("no value is left out").get_name().to_owned()
    }

    /// How a gateway with this defect is started. What the relay reads into goes back to the system with the connection, so that its memory is
    /// that of the gateway, but for what is leaked.
    pub(crate) fn program(self) -> (PathBuf, Vec<String>) {
        let program = std::env::current_exe().expect("a program knows its path");
        let program = program.into_os_string().into_string().expect("a path of text");
        let arguments =
            ["MALLOC_ARENA_MAX=1", "MALLOC_MMAP_THRESHOLD_=32768", &program, "faulty-gateway", "--fault", &self.name()];
        ("env".into(), arguments.map(str::to_owned).to_vec())
    }
}

/// Those of `bro gateway` that the soak uses.
#[derive(Args, Debug)]
pub(crate) struct FaultyGatewayArgs {
    #[arg(long)]
    fault: GatewayFault,
    #[arg(long)]
    socket: PathBuf,
    #[arg(long, value_parser = in_ms)]
    heartbeat_interval: u64,
    #[arg(long, value_parser = in_ms)]
    register_timeout: u64,
    /// None can be made through the relay
    #[arg(long, value_parser = ["off"])]
    lanes: String,
    #[arg(long)]
    stop_with_stdin: bool,
}

fn in_ms(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix("ms").ok_or("milliseconds are expected")?;
    number.parse().map_err(|_| "a number is expected".to_owned())
}

pub(crate) fn run(args: &FaultyGatewayArgs) {
    let inner = args.socket.with_extension("inner");
    let mut config = GatewayConfig { returns_memory: true, ..GatewayConfig::new(&inner) };
    config.router.heartbeat_interval_ms = args.heartbeat_interval;
    config.router.register_timeout_ms = args.register_timeout;
    config.router.lanes = LanePolicy::Off;
    let gateway = Gateway::start(config).expect("a gateway can be started");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut stop = signal(SignalKind::terminate()).expect("signals can be watched");
        let stdin_ended = tokio::task::spawn_blocking(crate::wait_for_end_of_input);
        let keeper = (args.fault == GatewayFault::LeakCharge).then(|| {
            let keeper = Client::builder("keeper").gateway_path(&inner);
            keeper.heartbeat_interval(crate::report::HEARTBEAT_INTERVAL).build().expect("good options")
        });
        if let Some(keeper) = &keeper {
            keeper.connect().await.expect("the gateway is there");
        }
        let relay = Rc::new(Relay { fault: args.fault, inner, keeper, ..Relay::default() });
        let _ = std::fs::remove_file(&args.socket); // one that was killed has left it
        let listener = UnixListener::bind(&args.socket).expect("the directory is the soak's");
        tokio::select! {
            _ = stop.recv() => {}
            _ = stdin_ended, if args.stop_with_stdin => {}
            () = relay.accept(listener) => {}
        }
    });
    runtime.shutdown_background();
    let _ = std::fs::remove_file(&args.socket);
    let _ = gateway.stop_now();
}

/// What stands in front of the gateway.
#[derive(Default)]
struct Relay {
    fault: GatewayFault,
    inner: PathBuf,
    keeper: Option<Client>,
    ended: Cell<u32>,
    leaked: RefCell<Vec<Vec<u8>>>,
    /// Ended on both sides, and never closed.
    leaked_descriptors: RefCell<Vec<std::os::unix::net::UnixStream>>,
    /// Of version 1, and of version 2.
    spoiled: [Cell<u32>; 2],
}

impl Relay {
    async fn accept(self: Rc<Self>, listener: UnixListener) {
        loop {
            let Ok((mut client, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await; // it has no descriptors left for the moment
                continue;
            };
            let relay = Rc::clone(&self);
            tokio::task::spawn_local(async move {
                relay.pass_on(&mut client).await;
                relay.end(client);
            });
        }
    }

    /// Until either side has ended, and everything that the gateway said has been passed on.
    async fn pass_on(&self, client: &mut UnixStream) {
        let Ok(mut gateway) = UnixStream::connect(&self.inner).await else { return };
        let (from_gateway, mut to_gateway) = gateway.split();
        let (mut from_client, to_client) = client.split();
        let down = self.pass_down(from_gateway, to_client);
        tokio::pin!(down);
        tokio::select! {
            _ = &mut down => {}
            ended = tokio::io::copy(&mut from_client, &mut to_gateway) => if ended.is_err() {
                // The gateway reads no more. What it has said before comes first.
                let _ = down.await;
            },
        }
    }

    /// Frame by frame, towards the client.
    async fn pass_down(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
        let (mut inbound, mut answers) = (Vec::with_capacity(16 * 1024), Answers::default());
        loop {
            if from.read_buf(&mut inbound).await? == 0 {
                return Ok(());
            }
            let mut at = 0;
            while let Some(frame) = first_frame(&inbound[at..]) {
                at += frame.len();
                match self.spoil(frame, &mut answers) {
                    Some(instead) => to.write_all(&instead).await?,
                    None => to.write_all(frame).await?,
                }
            }
            inbound.drain(..at);
        }
    }

    /// What is passed on in place of a frame, if it is another one.
    fn spoil(&self, frame: &[u8], answers: &mut Answers) -> Option<Vec<u8>> {
        use GatewayFault::{LoseAnswer, RepeatAnswer, SwapAnswer};
        let spoiled = &self.spoiled[usize::from(is_v2(frame))];
        let is_wanted = matches!(self.fault, LoseAnswer | RepeatAnswer | SwapAnswer);
        if !is_wanted || answers.is_spoiled || spoiled.get() >= SPOILED_MAX || !is_answer(frame) {
            return None;
        }
        answers.count += 1;
        let previous = std::mem::replace(&mut answers.previous, frame.to_vec());
        if answers.count < SPOILED_ANSWER {
            return None;
        }
        let instead = match self.fault {
            LoseAnswer => Vec::new(),
            RepeatAnswer => frame.repeat(2),
            _ => with_the_answer_of(frame, &previous)?,
        };
        answers.is_spoiled = true;
        spoiled.set(spoiled.get() + 1);
        Some(instead)
    }

    /// A connection has ended.
    fn end(&self, client: UnixStream) {
        self.ended.set(self.ended.get() + 1);
        match self.fault {
            GatewayFault::LeakMemory => self.leaked.borrow_mut().push(vec![1; LEAKED_BYTES]),
            GatewayFault::LeakDescriptor => {
                let client = client.into_std().expect("a socket is a socket");
                let _ = client.shutdown(std::net::Shutdown::Both); // the client may have been first
                self.leaked_descriptors.borrow_mut().push(client);
            }
            GatewayFault::LeakCharge => {
                let keeper = self.keeper.as_ref().expect("it is there with this fault");
                let method = format!("kept-{}", self.ended.get());
                // It may have as many methods as there can be.
                let _ = keeper.register(&method, async |params: Value, _| Ok::<_, Error>(params));
            }
            GatewayFault::Die if self.ended.get() >= DIES_AFTER => std::process::abort(),
            _ => {}
        }
    }
}

/// The answers of one connection so far.
#[derive(Default)]
struct Answers {
    count: u32,
    previous: Vec<u8>,
    is_spoiled: bool,
}

/// With its prefix, once all of it is there.
fn first_frame(inbound: &[u8]) -> Option<&[u8]> {
    let prefix = inbound.first_chunk::<FRAME_PREFIX_BYTES>()?;
    inbound.get(..FRAME_PREFIX_BYTES + u32::from_be_bytes(*prefix) as usize)
}

/// Whether a call succeeded. Of version 1 both encodings have the type in front, since programs write it there.
fn is_answer(frame: &[u8]) -> bool {
    if is_v2(frame) {
        return matches!(parse(frame), Ok(Frame::Response { .. }));
    }
    let beginning = &frame[..frame.len().min(64)];
    beginning.windows(8).any(|word| word == b"RESPONSE")
        && codec::decode(&frame[FRAME_PREFIX_BYTES..]).is_ok_and(|(_, answer)| answer["status"] == "success")
}

/// The answer to one call with the result of another, in place of its own.
fn with_the_answer_of(frame: &[u8], other: &[u8]) -> Option<Vec<u8>> {
    if is_v2(frame) {
        let Ok(Frame::Response { id, .. }) = parse(frame) else { return None };
        let mut swapped = other.to_vec();
        readdress(&mut swapped, id);
        return Some(swapped);
    }
    let (encoding, mut answer) = codec::decode(&frame[FRAME_PREFIX_BYTES..]).ok()?;
    let (_, mut other) = codec::decode(&other[FRAME_PREFIX_BYTES..]).ok()?;
    answer["data"] = other["data"].take();
    Some(codec::frame(&codec::encode(encoding, &answer)))
}
