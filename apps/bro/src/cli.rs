//! Every subcommand and flag, defined once.

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;
use std::time::Duration;

/// Programs on this machine, calling each other by name.
#[derive(Parser, Debug)]
#[command(name = "bro", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 the call failed (its code is on stderr), 2 wrong usage, 3 no gateway, or it went away.";

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a gateway until SIGTERM or Ctrl-C; SIGUSR2 replaces it by the program that stands at its path by then
    Gateway(GatewayArgs),
    /// List the services that are connected
    Ls(LsArgs),
    /// Call a method and print its result as JSON
    Call(CallArgs),
    /// Call a method without waiting for it
    Notify(NotifyArgs),
    /// Show what the gateway is doing
    Status(StatusArgs),
    /// Show calls and services as they come and go
    Watch(WatchArgs),
    /// Wait until a service is there; `bro.gateway` is there as soon as the gateway is
    WaitFor(WaitForArgs),
    /// Measure the round trip to a service
    Ping(PingArgs),
    /// Look at who may do what at a gateway
    Policy(PolicyArgs),
    /// See everything at work: real processes, calls, failures and recovery
    Demo(DemoArgs),
    /// One of the services of `bro demo`
    #[command(hide = true)]
    DemoService(DemoServiceArgs),
    /// Print shell completions
    Completions(CompletionsArgs),
    /// Print the man page
    Man(ManArgs),
}

/// Where the gateway is.
#[derive(Args, Debug, Clone)]
pub struct SocketArgs {
    /// Path of the gateway's socket
    #[arg(long, short, env = "BRO_SOCKET", default_value = ipc_bro::DEFAULT_GATEWAY_PATH, value_hint = ValueHint::FilePath)]
    pub socket: PathBuf,
}

#[derive(Args, Debug)]
pub struct GatewayArgs {
    /// Path of the socket to listen on [default: /tmp/bro-gateway.sock]
    #[arg(long, short, env = "BRO_SOCKET", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
    /// A TOML file with these options and more, as docs/gateway.md shows them; flags win over it
    #[arg(long, short, value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Permissions of the socket file, in octal: 0666 lets everybody try whom the policy lets in [default: 0600]
    #[arg(long, value_parser = parse_mode)]
    pub mode: Option<u32>,
    /// A TOML file that says who may do what; SIGHUP and `bro policy reload` read it again [default: this user, everything]
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// How often services must give a sign of life; silent for three of these, they are dropped [default: 30s]
    #[arg(long, value_parser = parse_duration)]
    pub heartbeat_interval: Option<Duration>,
    /// Time for calls that bring no deadline [default: 30s]
    #[arg(long, value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// How long a new connection may stay without registering [default: 10s]
    #[arg(long, value_parser = parse_duration)]
    pub register_timeout: Option<Duration>,
    /// How long calls in flight may go on when the gateway is told to stop [default: 5s]
    #[arg(long, value_parser = parse_duration)]
    pub drain_timeout: Option<Duration>,
    /// Which pairs of services may call each other directly, past the gateway [default: auto]
    #[arg(long, value_enum)]
    pub lanes: Option<Lanes>,
    /// Memory that all peers together may make the gateway keep: bytes, or 64M, 2G [default: 1G]
    #[arg(long, value_parser = parse_bytes, value_name = "BYTES")]
    pub memory_max: Option<usize>,
    /// Connections that one user may have open [default: 49152]
    #[arg(long, value_name = "COUNT")]
    pub connections_per_uid_max: Option<usize>,
    /// Tell every routed call on stderr
    #[arg(long)]
    pub debug: bool,
    /// Logs as JSON, one object a line
    #[arg(long)]
    pub log_json: bool,
    /// Stop when standard input is closed, so that the gateway does not outlive who started it
    #[arg(long)]
    pub stop_with_stdin: bool,
    /// Take over from the gateway that is running on that socket: no connection is closed and no call is lost. Where none is running, start as usual
    #[arg(long)]
    pub takeover: bool,
}

/// Which pairs of services get a lane.
#[derive(ValueEnum, serde::Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Lanes {
    /// None: every call goes through the gateway
    Off,
    /// Those that call each other much
    Auto,
    /// Every pair that calls each other at all
    Always,
}

impl Lanes {
    /// As the gateway has it.
    pub fn policy(self) -> bro_gateway::LanePolicy {
        match self {
            Lanes::Off => bro_gateway::LanePolicy::Off,
            Lanes::Auto => bro_gateway::LanePolicy::Auto,
            Lanes::Always => bro_gateway::LanePolicy::Always,
        }
    }
}

#[derive(Args, Debug)]
pub struct LsArgs {
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Everything that is known, as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct CallArgs {
    /// Name of the service
    pub service: String,
    /// Name of its method
    pub method: String,
    /// Parameters as JSON, or `-` to read them from standard input
    #[arg(value_name = "JSON")]
    pub params: Option<String>,
    /// How long to wait for the result: 500ms, 5s, 2m
    #[arg(long, short, default_value = "30s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Wait for the gateway and the service to appear, together at most so long (10s if not said) and as long as the timeout
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "10s", value_parser = parse_duration)]
    pub wait: Option<Duration>,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Args, Debug)]
pub struct NotifyArgs {
    /// Name of the service
    pub service: String,
    /// Name of its method
    pub method: String,
    /// Parameters as JSON, or `-` to read them from standard input
    #[arg(value_name = "JSON")]
    pub params: Option<String>,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    pub socket: SocketArgs,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct WatchArgs {
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Every event as a JSON object, one a line
    #[arg(long)]
    pub json: bool,
    /// Stop after this many lines
    #[arg(long)]
    pub count: Option<u64>,
}

#[derive(Args, Debug)]
pub struct WaitForArgs {
    /// Name of the service
    pub service: String,
    /// How long to wait, for the gateway and the service together
    #[arg(long, short, default_value = "30s", value_parser = parse_duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Args, Debug)]
pub struct PingArgs {
    /// Name of the service
    pub service: String,
    /// How many times
    #[arg(long, short, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub count: u32,
    /// How long to wait for each answer
    #[arg(long, short, default_value = "5s", value_parser = parse_duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Args, Debug)]
pub struct PolicyArgs {
    #[command(subcommand)]
    pub action: PolicyAction,
}

#[derive(Subcommand, Debug)]
pub enum PolicyAction {
    /// Say whether a policy file would load, as this user on this machine: 0 if so, 1 if not
    Check {
        /// The file
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Make the gateway read its policy file again; if it does not load, the old policy stays in force
    Reload {
        #[command(flatten)]
        socket: SocketArgs,
    },
}

#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Calls of the measured part
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    pub calls: u32,
}

#[derive(Args, Debug)]
pub struct DemoServiceArgs {
    /// Which of them
    pub name: String,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// For which shell
    pub shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
pub struct ManArgs {
    /// Write one page a subcommand into this directory, instead of the main page to standard output
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error} (examples: 500ms, 5s, 2m)"))
}

/// Bytes, in units of 1024: `65536`, `64K`, `16M`, `2G`.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let (number, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: usize = number.parse().map_err(|_| "expected a number of bytes, or one with K, M or G".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "that is more than there can be".to_owned())
}

/// Permissions in octal, with or without a leading zero.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("permissions are three octal digits, such as 0600 or 660".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("0600"), Ok(0o600));
        assert_eq!(parse_mode("660"), Ok(0o660));
        assert!(parse_mode("999").is_err());
        assert!(parse_mode("1777").is_err());
    }
}
