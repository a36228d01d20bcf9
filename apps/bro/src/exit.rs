//! How the command ends when it does not end well.

use bro_proto::limits::SOCKET_PATH_BYTES_MAX;
use bro_proto::name::printable;
use ipc_bro::{Error, ErrorCode};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

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
                Failure::NoGateway(no_gateway(error.message(), socket))
            }
            // Nothing else can take so long, or be said that a client of ours does not understand.
            ErrorCode::Timeout | ErrorCode::PayloadTooLarge | ErrorCode::DeserializationFailed => {
                Failure::NoGateway(format!(
                    "no gateway at {}: what listens there hangs, or is something else: {}",
                    socket.display(),
                    error.message()
                ))
            }
            _ => Failure::Call(error),
        }
    }

    /// What listens at the socket has said nothing within the time that the user has given.
    pub fn silent(socket: &Path, waited: Duration) -> Self {
        let path = socket.display();
        Failure::NoGateway(format!(
            "no gateway at {path}: what listens there hangs, or is something else: no answer in {waited:?}"
        ))
    }

    /// Prints the failure to stderr and gives the exit code.
    pub fn report(self) -> ExitCode {
        let (code, text) = match self {
            // The words are those of whoever was called, and may be anything.
            Failure::Call(error) => (1, printable(&format!("{}: {}", error.code(), error.message())).into_owned()),
            Failure::Local(message) => (1, message),
            Failure::Usage(message) => (2, message),
            Failure::NoGateway(message) => (3, message),
        };
        anstream::eprintln!("bro: {text}");
        ExitCode::from(code)
    }
}

/// Why there is no gateway, and what to do about it: to start one helps only where none is.
fn no_gateway(why: &str, socket: &Path) -> String {
    const ANOTHER: &str = "name another socket with --socket or BRO_SOCKET";
    let path = socket.display();
    let bytes = socket.as_os_str().as_bytes().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        return format!(
            "no gateway at {path}: the path has {bytes} bytes, and that of a socket at most {SOCKET_PATH_BYTES_MAX}: {ANOTHER}"
        );
    }
    let file = std::fs::metadata(socket);
    match (&file, std::os::unix::net::UnixStream::connect(socket)) {
        (Ok(file), _) if !file.file_type().is_socket() => {
            let kind = if file.is_dir() { "a directory" } else { "a file" };
            format!("no gateway at {path}: it is {kind}, not a socket: {ANOTHER}")
        }
        (_, Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => format!(
            "no gateway at {path}: {why}\nThis user may not connect there: a gateway lets others in by --mode and --policy (or {ANOTHER})."
        ),
        _ => format!("no gateway at {path}: {why}\nStart one with `bro gateway --socket {path}`, or {ANOTHER}."),
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
