//! What users and machines do wrong, and what the command says of it: never nothing, never for ever.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A command that hangs is ended by this many seconds, with 124.
const WATCHDOG_S: &str = "120";

fn bro(socket: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args([WATCHDOG_S, env!("CARGO_BIN_EXE_bro")]).env("BRO_SOCKET", socket).stdin(Stdio::null());
    command
}

#[track_caller]
fn assert_ends(output: &Output, code: i32, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says), "stderr should mention {says:?}: {stderr}");
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Opening it waited for somebody who would write to it: the check hung, and so did a reload in the gateway.
#[test]
fn a_pipe_is_no_policy_and_is_not_waited_for() {
    let dir = Dir::new();
    let (pipe, socket) = (dir.path("pipe"), dir.path("gateway.sock"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_ends(&bro(&socket).args(["policy", "check"]).arg(&pipe).output().unwrap(), 1, "is not a file");
    assert_ends(&bro(&socket).args(["gateway", "--policy"]).arg(&pipe).output().unwrap(), 2, "is not a file");
}

#[test]
fn an_endless_file_of_options_is_refused() {
    let dir = Dir::new();
    let output = bro(&dir.path("gateway.sock")).args(["gateway", "--config", "/dev/zero"]).output().unwrap();
    assert_ends(&output, 2, "/dev/zero has more than 65536 bytes");
}

#[test]
fn who_reads_no_further_ends_the_command_quietly() {
    let dir = Dir::new();
    for arguments in [&["completions", "bash"][..], &["man"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = bro(&dir.path("gateway.sock")).args(arguments).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{arguments:?}");
    }
}

#[test]
fn what_cannot_be_written_is_named() {
    let dir = Dir::new();
    let policy = dir.path("policy.toml");
    std::fs::write(&policy, "").unwrap();
    for arguments in [&["completions", "bash"][..], &["man"], &["policy", "check", policy.to_str().unwrap()]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = bro(&dir.path("gateway.sock")).args(arguments).stdout(full).output().unwrap();
        assert_ends(&output, 1, "cannot write to standard output");
    }
    let file = dir.path("file");
    std::fs::write(&file, "").unwrap();
    let output = bro(&dir.path("gateway.sock")).args(["man", "--dir"]).arg(&file).output().unwrap();
    assert_ends(&output, 1, &format!("cannot write man pages to {}", file.display()));
}

/// Quotes of the shell do not help there.
#[test]
fn what_is_wrong_on_standard_input_is_wrong_usage() {
    let dir = Dir::new();
    for wrong in [&b"\xff\xfe"[..], b"", b"{"] {
        let mut command = bro(&dir.path("gateway.sock"));
        let command = command.args(["call", "a", "b", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(wrong).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_ends(&output, 2, "the parameters on standard input are not JSON");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("Quote"), "{wrong:?}");
    }
}

#[test]
fn the_gateway_itself_can_be_waited_for_and_its_loss_is_told_by_the_exit_code() {
    let dir = Dir::new();
    let socket = dir.path("gateway.sock");
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_bro"));
    let gateway = gateway.args(["gateway", "--stop-with-stdin"]).env("BRO_SOCKET", &socket).stdin(Stdio::piped());
    let mut gateway = gateway.spawn().unwrap();
    assert_ends(&bro(&socket).args(["wait-for", "bro.gateway", "-t", "60s"]).output().unwrap(), 0, "");
    for arguments in [&["watch"][..], &["wait-for", "nobody", "-t", "15m"]] {
        let waiting = bro(&socket).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        loop {
            let status = bro(&socket).args(["status", "--json"]).output().unwrap();
            let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
            if status["peers"].as_u64() > Some(1) {
                break;
            }
        }
        gateway.kill().unwrap();
        gateway.wait().unwrap();
        assert_ends(&waiting.wait_with_output().unwrap(), 3, "the gateway went away");
        let mut next = Command::new(env!("CARGO_BIN_EXE_bro"));
        let next = next.args(["gateway", "--stop-with-stdin"]).env("BRO_SOCKET", &socket).stdin(Stdio::piped());
        gateway = next.spawn().unwrap();
        assert_ends(&bro(&socket).args(["wait-for", "bro.gateway", "-t", "60s"]).output().unwrap(), 0, "");
    }
    gateway.kill().unwrap();
    gateway.wait().unwrap();
}

/// Somebody listens, and it is no gateway, or one that is stopped.
#[test]
fn who_does_not_answer_or_not_in_our_words_is_called_no_gateway() {
    let dir = Dir::new();
    let socket = dir.path("other.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let output = bro(&socket).arg("ls").output().unwrap();
    assert_ends(
        &output,
        3,
        &format!("no gateway at {}: what listens there hangs, or is something else", socket.display()),
    );
    // The time that a call may take is not only that which the callee takes.
    let output = bro(&socket).args(["call", "user", "get", "--timeout", "100ms"]).output().unwrap();
    assert_ends(&output, 3, "hangs, or is something else: no answer in 100ms");
    let web = std::thread::spawn(move || {
        for _ in 0..2 {
            listener.accept().unwrap(); // those of the commands before, which have gone
        }
        let (mut asked, _) = listener.accept().unwrap();
        let _ = asked.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        asked
    });
    assert_ends(&bro(&socket).arg("ls").output().unwrap(), 3, "what listens there hangs, or is something else");
    drop(web.join().unwrap());
}
