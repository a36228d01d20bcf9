//! How the command ends when it does not end well.

use ipc_bro::{Error, ErrorCode};
use std::path::Path;
use std::process::ExitCode;

/// Why a subcommand failed; decides the exit code.
#[derive(Debug)]
pub enum Failure {
    /// A call ended with an error: exit code 1.
    Call(Error),
    /// The command could not do its work for another reason: exit code 1.
    Local(String),
    /// The arguments make no sense together: exit code 2.
    Usage(String),
    /// No gateway: exit code 3.
    NoGateway(String),
}

impl Failure {
    /// A failure that no call is involved in.
    pub fn local(message: impl Into<String>) -> Self {
        Failure::Local(message.into())
    }

    /// What a failed `connect` means: no gateway, unless one answered with a refusal.
    pub fn connect(error: Error, socket: &Path) -> Self {
        match error.code() {
            ErrorCode::ConnectionFailed | ErrorCode::ConnectionLost | ErrorCode::NotConnected => {
                Failure::NoGateway(format!(
                    "no gateway at {}: {}\nStart one with `bro gateway --socket {}`, or name another with --socket or BRO_SOCKET.",
                    socket.display(),
                    error.message(),
                    socket.display(),
                ))
            }
            _ => Failure::Call(error),
        }
    }

    /// Prints the failure to stderr and gives the exit code.
    pub fn report(self) -> ExitCode {
        let (code, text) = match self {
            Failure::Call(error) => (1, format!("{}: {}", error.code(), error.message())),
            Failure::Local(message) => (1, message),
            Failure::Usage(message) => (2, message),
            Failure::NoGateway(message) => (3, message),
        };
        anstream::eprintln!("bro: {text}");
        ExitCode::from(code)
    }
}

impl From<Error> for Failure {
    /// A call's error; one that means that the gateway went away keeps its own exit code.
    fn from(error: Error) -> Self {
        match error.code() {
            ErrorCode::NotConnected => Failure::NoGateway(format!("the gateway went away: {}", error.message())),
            _ => Failure::Call(error),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::local(error.to_string())
    }
}
