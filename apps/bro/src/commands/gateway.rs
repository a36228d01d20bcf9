//! `bro gateway`

use super::successor::{self, OtherProcess, Successor};
use crate::cli::{GatewayArgs, Lanes, parse_mode};
use crate::exit::Failure;
use crate::output::in_ms;
use crate::systemd::{self, Notifier};
use bro_gateway::{Embedding, Gateway, GatewayConfig, PolicySource, StartError, StopReason};
use bro_proto::limits;
use serde::Deserialize;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

/// The options of `--config`, as docs/gateway.md shows them. Names are those of the flags, with underscores; times are in milliseconds.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    socket: Option<PathBuf>,
    /// Octal digits in a string, as for `--mode`.
    mode: Option<String>,
    policy: Option<PathBuf>,
    heartbeat_interval_ms: Option<u64>,
    timeout_ms: Option<u64>,
    register_timeout_ms: Option<u64>,
    drain_timeout_ms: Option<u64>,
    debug: Option<bool>,
    log_json: Option<bool>,
    lanes: Option<Lanes>,
    #[serde(default)]
    limits: LimitsFile,
}

/// Bounds that may be changed; the defaults are in `docs/protocol.md`.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
struct LimitsFile {
    frame_bytes_max: Option<usize>,
    depth_max: Option<u32>,
    peers_max: Option<usize>,
    in_flight_max: Option<usize>,
    in_flight_per_peer_max: Option<usize>,
    queue_pause_bytes: Option<usize>,
    queue_calls_bytes_max: Option<usize>,
    queue_bytes_max: Option<usize>,
    lane_calls_min: Option<u32>,
    lanes_bytes_max: Option<usize>,
    memory_max: Option<usize>,
    uid_share_percent: Option<u8>,
    peers_per_uid_max: Option<usize>,
    connect_burst: Option<u32>,
    connect_rate_per_s: Option<u32>,
}

pub fn run(args: GatewayArgs) -> Result<(), Failure> {
    let listener = systemd::listener()?; // before anything is opened
    let file = args.config.as_deref().map(read_config).transpose()?.unwrap_or_default();
    let debug = args.debug || file.debug.unwrap_or(false);
    start_logging(debug, args.log_json || file.log_json.unwrap_or(false));
    let stop_with_stdin = args.stop_with_stdin;
    let mut successor = Successor::new();
    let named_socket = args.socket.clone().or_else(|| file.socket.clone());
    let config = merge(args, file, debug)?;
    let drain_timeout = Duration::from_millis(config.drain_timeout_ms);
    // The signals are watched before the first peer can connect: a SIGTERM right after the start must stop in good order too.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let has_policy = config.policy != PolicySource::OwnUser;
    let (mut term, mut interrupt, mut replace, mut hangup) = {
        let _entered = runtime.enter();
        // Without a policy file there is nothing to read again, and a terminal that goes takes its gateway along.
        let hangup = has_policy.then(|| signal(SignalKind::hangup())).transpose()?;
        let replace = signal(SignalKind::user_defined2())?;
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, replace, hangup)
    };
    if let (Some(passed), Some(named)) = (&listener, &named_socket) {
        systemd::check_path(passed, named)?;
    }
    let notifier = Arc::new(Notifier::start()?);
    let is_service = systemd::is_service() || listener.is_some();
    let embedding = Embedding { listener, pulse: notifier.pulse(), is_service, ..Embedding::default() };
    let gateway = Gateway::start_embedded(config, embedding).map_err(|error| match error {
        StartError::Policy(error) => Failure::Usage(error.to_string()),
        other => Failure::local(reasons(&other)),
    })?;
    let gateway = Arc::new(gateway);
    notifier.ready(gateway.socket_path(), gateway.taken_from());
    let waiting = Arc::clone(&gateway);
    // How often this process was told to stop.
    let mut stops = 0;
    let reason = runtime.block_on(async {
        let mut ended = tokio::task::spawn_blocking(move || waiting.wait());
        let stdin = stdin_closed();
        tokio::pin!(stdin);
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = interrupt.recv() => break,
                () = hung_up(&mut hangup) => reload_policy(&gateway),
                () = &mut stdin, if stop_with_stdin => break,
                _ = replace.recv() => successor.start(gateway.socket_path()),
                () = successor.ended() => {}
                reason = &mut ended => return reason,
            }
        }
        stops = 1;
        notifier.stopping(drain_timeout);
        let _ = gateway.drain(); // it may have ended in this very moment
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
            reason = &mut ended => return reason,
        }
        // Who asks twice is in a hurry.
        stops = 2;
        tracing::warn!("told to stop a second time: calls in flight are given up");
        let _ = gateway.stop_now();
        ended.await
    });
    if let Ok(StopReason::TakenOver { pid: Some(pid) }) = &reason {
        runtime.block_on(leave_to(*pid, stops, &notifier, drain_timeout, &mut term, &mut interrupt));
    }
    runtime.shutdown_background();
    match reason {
        Ok(StopReason::Requested | StopReason::TakenOver { .. }) => Ok(()),
        Ok(StopReason::Failed(_) | StopReason::Panicked(_)) | Err(_) => {
            Err(Failure::local("the gateway stopped after an internal error; its log says which"))
        }
    }
}

/// What is left to be done by a gateway that was taken over by another process: to tell the service manager, or, where it was told to stop in these
/// moments, to pass that on, and to be there until the other one has stopped.
async fn leave_to(
    pid: u32,
    mut stops: u32,
    notifier: &Arc<Notifier>,
    drain_timeout: Duration,
    term: &mut Signal,
    interrupt: &mut Signal,
) {
    let Some(other) = OtherProcess::find(pid).map(Arc::new) else { return };
    if stops == 0 {
        let notifier = Arc::clone(notifier);
        let mut told = tokio::task::spawn_blocking(move || notifier.replaced(pid));
        tokio::select! {
            _ = term.recv() => stops = 1,
            _ = interrupt.recv() => stops = 1,
            _ = &mut told => {}
        }
    }
    // Signals that have come meanwhile are heard when the runtime comes round.
    tokio::task::yield_now().await;
    if stops == 0 {
        tokio::select! {
            biased;
            _ = term.recv() => stops = 1,
            _ = interrupt.recv() => stops = 1,
            () = std::future::ready(()) => return,
        }
    }
    tracing::warn!(pid, "told to stop while another gateway took over: it is told, too, and waited for");
    for _ in 0..stops {
        other.terminate();
    }
    let longest = drain_timeout + Duration::from_millis(limits::STOP_LINGER_MS + limits::SERVICE_HANDOVER_TIMEOUT_MS);
    let waiting = Arc::clone(&other);
    let mut ended = tokio::task::spawn_blocking(move || waiting.wait(longest));
    loop {
        tokio::select! {
            _ = term.recv() => other.terminate(),
            _ = interrupt.recv() => other.terminate(),
            _ = &mut ended => return,
        }
    }
}

/// An error with what caused it.
fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        text.push_str(&format!(": {reason}"));
        source = reason.source();
    }
    text
}

/// What comes of it is logged; a policy that does not load changes nothing. On another thread: reading may wait for name services.
fn reload_policy(gateway: &Arc<Gateway>) {
    let gateway = Arc::clone(gateway);
    drop(tokio::task::spawn_blocking(move || gateway.reload_policy()));
}

/// Each SIGHUP, if it is listened to.
async fn hung_up(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => {
            if hangup.recv().await.is_none() {
                std::future::pending().await
            }
        }
        None => std::future::pending().await,
    }
}

async fn stdin_closed() {
    let mut input = tokio::io::stdin();
    let mut discarded = [0; 256];
    while matches!(input.read(&mut discarded).await, Ok(bytes) if bytes > 0) {}
}

fn read_config(path: &Path) -> Result<ConfigFile, Failure> {
    let mut text = String::new();
    // One byte more than is allowed, so that too large a file is seen to be so.
    File::open(path)
        .and_then(|file| file.take(limits::CONFIG_BYTES_MAX as u64 + 1).read_to_string(&mut text))
        .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))?;
    if text.len() > limits::CONFIG_BYTES_MAX {
        let most = limits::CONFIG_BYTES_MAX;
        return Err(Failure::Usage(format!("{} has more than {most} bytes: it is no file of options", path.display())));
    }
    // The error shows the line and marks the column.
    toml::from_str(&text).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

fn merge(args: GatewayArgs, file: ConfigFile, debug: bool) -> Result<GatewayConfig, Failure> {
    let mut config = GatewayConfig {
        debug,
        takeover: successor::takeover(args.takeover),
        returns_memory: true,
        ..GatewayConfig::default()
    };
    config.router.hands_over = true;
    if let Some(socket) = args.socket.or(file.socket) {
        config.socket_path = socket;
    }
    let file_mode = file
        .mode
        .as_deref()
        .map(|text| parse_mode(text).map_err(|error| Failure::Usage(format!("mode: {error}"))))
        .transpose()?;
    if let Some(mode) = args.mode.or(file_mode) {
        config.mode = mode;
    }
    if let Some(policy) = args.policy.or(file.policy) {
        config.policy = PolicySource::File(policy);
    }
    let ms = |flag: Option<Duration>, file: Option<u64>| flag.map(in_ms).or(file);
    let router = &mut config.router;
    let set = |target: &mut u64, value: Option<u64>, name: &str| match value {
        Some(0) => Err(Failure::Usage(format!("{name} must be more than 0"))),
        Some(value) => {
            *target = value;
            Ok(())
        }
        None => Ok(()),
    };
    let heartbeat_interval_ms = ms(args.heartbeat_interval, file.heartbeat_interval_ms);
    set(&mut router.heartbeat_interval_ms, heartbeat_interval_ms, "heartbeat_interval")?;
    set(&mut router.call_timeout_ms, ms(args.timeout, file.timeout_ms), "timeout")?;
    set(&mut router.register_timeout_ms, ms(args.register_timeout, file.register_timeout_ms), "register_timeout")?;
    if let Some(drain_ms) = ms(args.drain_timeout, file.drain_timeout_ms) {
        config.drain_timeout_ms = drain_ms;
    }
    if let Some(lanes) = args.lanes.or(file.lanes) {
        router.lanes = lanes.policy();
    }
    let limits = file.limits;
    let keep = |target: &mut usize, value: Option<usize>| *target = value.unwrap_or(*target);
    keep(&mut router.frame_bytes_max, limits.frame_bytes_max);
    keep(&mut router.peers_max, limits.peers_max);
    keep(&mut router.in_flight_max, limits.in_flight_max);
    keep(&mut router.in_flight_per_peer_max, limits.in_flight_per_peer_max);
    keep(&mut router.queue_pause_bytes, limits.queue_pause_bytes);
    keep(&mut router.queue_calls_bytes_max, limits.queue_calls_bytes_max);
    keep(&mut router.queue_bytes_max, limits.queue_bytes_max);
    keep(&mut router.memory_max, args.memory_max.or(limits.memory_max));
    keep(&mut router.peers_per_uid_max, args.connections_per_uid_max.or(limits.peers_per_uid_max));
    router.uid_share_percent = limits.uid_share_percent.unwrap_or(router.uid_share_percent);
    router.connect_burst = limits.connect_burst.unwrap_or(router.connect_burst);
    router.connect_rate_per_s = limits.connect_rate_per_s.unwrap_or(router.connect_rate_per_s);
    router.depth_max = limits.depth_max.unwrap_or(router.depth_max);
    keep(&mut router.lanes_bytes_max, limits.lanes_bytes_max);
    router.lane_calls_min = limits.lane_calls_min.unwrap_or(router.lane_calls_min);
    router.check().map_err(|error| Failure::Usage(format!("limits: {error}")))?;
    Ok(config)
}

fn start_logging(debug: bool, json: bool) {
    let level = if debug { LevelFilter::DEBUG } else { LevelFilter::WARN };
    let logs = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    if json { logs.json().init() } else { logs.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> GatewayArgs {
        GatewayArgs {
            socket: None,
            config: None,
            lanes: None,
            mode: None,
            policy: None,
            heartbeat_interval: None,
            timeout: None,
            register_timeout: None,
            drain_timeout: None,
            memory_max: None,
            connections_per_uid_max: None,
            debug: false,
            log_json: false,
            stop_with_stdin: false,
            takeover: false,
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file: ConfigFile = toml::from_str(
            "socket = '/tmp/a.sock'\nmode = '0660'\npolicy = '/tmp/policy.toml'\ntimeout_ms = 7\nheartbeat_interval_ms = 8\n[limits]\ndepth_max = 9\n\
             memory_max = 7000000\npeers_per_uid_max = 5",
        )
        .unwrap();
        let flags = GatewayArgs { timeout: Some(Duration::from_millis(70)), memory_max: Some(1 << 24), ..args() };
        let config = merge(flags, file, false).unwrap();
        assert_eq!(config.socket_path, Path::new("/tmp/a.sock"));
        assert_eq!(config.mode, 0o660);
        assert_eq!(config.policy, PolicySource::File("/tmp/policy.toml".into()));
        assert_eq!(config.router.call_timeout_ms, 70);
        assert_eq!(config.router.heartbeat_interval_ms, 8);
        assert_eq!(config.router.depth_max, 9);
        assert_eq!((config.router.memory_max, config.router.peers_per_uid_max), (1 << 24, 5));
    }

    /// The example has every option there is, with its default, but for those that name files: a new option has to be written there, too.
    #[test]
    fn the_documented_file_has_every_option_and_its_default() {
        let page = include_str!("../../../../docs/gateway.md");
        let (_, rest) = page.split_once("```toml\n").expect("an example");
        let (example, _) = rest.split_once("```").expect("its end");
        let file: ConfigFile = toml::from_str(example).expect("it loads");
        let all = format!("{file:?}");
        assert!(!all.contains("None"), "an option is missing: {all}");
        let written = merge(args(), file, false).unwrap();
        let files = GatewayArgs { socket: Some(written.socket_path.clone()), ..args() };
        let files = GatewayArgs { policy: Some("/etc/bro/policy.toml".into()), ..files };
        let default = merge(files, ConfigFile::default(), false).unwrap();
        assert_eq!(format!("{:?}", written.router), format!("{:?}", default.router));
        assert_eq!((written.mode, written.drain_timeout_ms), (default.mode, default.drain_timeout_ms));
        assert_eq!((written.policy, written.debug), (default.policy, default.debug));
        assert_eq!(written.socket_path, Path::new(ipc_bro::DEFAULT_GATEWAY_PATH));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(toml::from_str::<ConfigFile>("sokcet = '/tmp/a'").is_err());
        let zero = ConfigFile { timeout_ms: Some(0), ..ConfigFile::default() };
        assert!(matches!(merge(args(), zero, false), Err(Failure::Usage(_))));
        let small = GatewayArgs { memory_max: Some(1000), ..args() };
        assert!(matches!(merge(small, ConfigFile::default(), false), Err(Failure::Usage(_))));
        let mode = ConfigFile { mode: Some("rw".to_owned()), ..ConfigFile::default() };
        assert!(matches!(merge(args(), mode, false), Err(Failure::Usage(_))));
    }
}
