//! The gateway as a service of systemd: real processes, a socket that is passed to them, and somebody who listens as systemd would.

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Ends a test that hangs.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Gives standard input to the gateway as descriptor 3, and says so, as systemd does.
const PASS_ONE: &str = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\"";

/// A directory for the sockets, and systemd's end of NOTIFY_SOCKET.
struct Scene {
    dir: tempfile::TempDir,
    notified: UnixDatagram,
    children: Vec<Child>,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let notified = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notified.set_read_timeout(Some(WATCHDOG)).unwrap();
        Scene { dir, notified, children: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `bro gateway`, started by `script`, with `passed` as its standard input.
    fn gateway(&self, script: &str, passed: impl Into<OwnedFd>, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_bro"), "gateway"]).args(arguments);
        command.env("NOTIFY_SOCKET", self.path("notify")).env_remove("BRO_SOCKET").stdin(Stdio::from(passed.into()));
        command
    }

    fn spawn(&mut self, mut command: Command) {
        self.children.push(command.spawn().unwrap());
    }

    /// The next thing that systemd hears.
    fn hear(&self) -> String {
        let mut text = [0; 4096];
        let length = self.notified.recv(&mut text).expect("the gateway says something");
        String::from_utf8(text[..length].to_vec()).unwrap()
    }

    /// What systemd hears next that contains `wanted`.
    fn hear_of(&self, wanted: &str) -> String {
        loop {
            let heard = self.hear();
            if heard.lines().any(|line| line.contains(wanted)) {
                return heard;
            }
        }
    }

    fn terminate(&self) {
        let pid = self.children[0].id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill(); // it may have ended already
            let _ = child.wait();
        }
    }
}

/// One frame there and one back.
fn register(stream: &mut UnixStream, name: &str) -> String {
    let body = format!("{{\"type\":\"REGISTER\",\"serviceName\":\"{name}\",\"methods\":[],\"metadata\":{{}}}}");
    stream.write_all(&u32::try_from(body.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(prefix) as usize];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    stream
}

#[test]
fn a_passed_socket_is_served_and_its_file_is_left_alone() {
    let mut scene = Scene::new();
    let socket = scene.path("gateway.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    // Who connects before the gateway runs is what starts it.
    let mut early = connect(&socket);
    let gateway = scene.gateway(PASS_ONE, listener.try_clone().unwrap(), &[]);
    scene.spawn(gateway);
    let ready = scene.hear_of("READY=1");
    assert!(ready.contains(&format!("STATUS=listening on {}", socket.display())), "{ready}");
    assert!(register(&mut early, "early").contains("REGISTER_ACK"));
    let mut status = Command::new(env!("CARGO_BIN_EXE_bro"));
    let status = status.args(["status", "--json", "--socket"]).arg(&socket).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["socketPath"], socket.to_str().unwrap());
    assert!(status["loop"]["wakeups"].as_u64() > Some(0), "{status}");
    scene.terminate();
    scene.hear_of("STOPPING=1");
    assert!(scene.children[0].wait().unwrap().success());
    // The next gateway will serve those who connect meanwhile.
    let mut late = connect(&socket);
    let next = scene.gateway(PASS_ONE, listener, &["--socket", socket.to_str().unwrap()]);
    scene.children.clear();
    scene.spawn(next);
    assert!(register(&mut late, "late").contains("REGISTER_ACK"));
}

fn refused(script: &str, passed: impl Into<OwnedFd>, arguments: &[&str]) -> String {
    let scene = Scene::new();
    let Output { status, stderr, .. } = scene.gateway(script, passed, arguments).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(!status.success(), "{stderr}");
    scene.notified.set_nonblocking(true).unwrap();
    assert!(scene.notified.recv(&mut [0; 64]).is_err(), "systemd was told something by a gateway that did not start");
    stderr
}

#[track_caller]
fn assert_refused(script: &str, passed: impl Into<OwnedFd>, arguments: &[&str], says: &str) {
    let stderr = refused(script, passed, arguments);
    assert!(stderr.contains(says), "it should mention {says:?}: {stderr}");
}

#[test]
fn sockets_that_a_gateway_cannot_listen_on_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let listener = || {
        UnixListener::bind(tempfile::Builder::new().make_in(dir.path(), |path| Ok(path.to_owned())).unwrap().path())
            .unwrap()
    };
    let null = || std::fs::File::open("/dev/null").unwrap();
    assert_refused(PASS_ONE, null(), &[], "it is no socket");
    assert_refused(PASS_ONE, UnixStream::pair().unwrap().0, &[], "does not listen");
    assert_refused(PASS_ONE, UnixDatagram::unbound().unwrap(), &[], "no stream socket");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert_refused(PASS_ONE, tcp, &[], "no Unix domain socket");
    let two = "exec 3<&0 4<&0; export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$0\" \"$@\"";
    assert_refused(two, listener(), &[], "2 sockets were passed");
    let closed = "exec 3<&-; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\"";
    assert_refused(closed, null(), &[], "cannot be used");
    let nonsense = "export LISTEN_PID=$$ LISTEN_FDS=one; exec \"$0\" \"$@\"";
    assert_refused(nonsense, null(), &[], "invalid LISTEN_FDS");
    let elsewhere = dir.path().join("elsewhere.sock");
    assert_refused(PASS_ONE, listener(), &["--socket", elsewhere.to_str().unwrap()], "make them the same");
    assert!(!elsewhere.exists());
}

/// LISTEN_PID names another process: the variables were inherited, and mean nothing here.
#[test]
fn sockets_that_were_passed_to_another_process_are_not_taken() {
    let mut scene = Scene::new();
    let (own, others) = (scene.path("own.sock"), scene.path("others.sock"));
    let listener = UnixListener::bind(others).unwrap();
    let script = "exec 3<&0 0</dev/null; export LISTEN_PID=1 LISTEN_FDS=1; exec \"$0\" \"$@\"";
    let gateway = scene.gateway(script, listener, &["--socket", own.to_str().unwrap()]);
    scene.spawn(gateway);
    scene.hear_of("READY=1");
    assert!(register(&mut connect(&own), "peer").contains("REGISTER_ACK"));
}

#[test]
fn the_watchdog_is_fed_and_told_what_the_gateway_does() {
    let mut scene = Scene::new();
    let socket = scene.path("gateway.sock");
    let mut gateway = scene.gateway(PASS_ONE, UnixListener::bind(&socket).unwrap(), &[]);
    gateway.env("WATCHDOG_USEC", "150000");
    scene.spawn(gateway);
    scene.hear_of("READY=1");
    let mut peer = connect(&socket);
    assert!(register(&mut peer, "peer").contains("REGISTER_ACK"));
    let beats = (0..).map(|_| scene.hear_of("WATCHDOG=1")).take(1000);
    let told = beats.enumerate().find(|(_, beat)| beat.contains("STATUS=1 services, 1 connections, 0 calls in flight"));
    assert!(told.is_some(), "the status is never that of the gateway");
    for _ in 0..5 {
        scene.hear_of("WATCHDOG=1");
    }
    // A watchdog of another process is not fed.
    let mut other = Scene::new();
    let listener = UnixListener::bind(other.path("gateway.sock")).unwrap();
    let mut gateway = other.gateway(PASS_ONE, listener, &[]);
    gateway.env("WATCHDOG_USEC", "150000").env("WATCHDOG_PID", "1");
    other.spawn(gateway);
    let heard = [other.hear(), other.hear()];
    assert!(heard.iter().any(|heard| heard.contains("READY=1")), "{heard:?}");
    assert!(heard.iter().all(|heard| !heard.contains("WATCHDOG")), "{heard:?}");
}

/// Who said it, what, and what came with it.
struct Heard {
    pid: u32,
    text: String,
    descriptors: Vec<OwnedFd>,
}

impl Scene {
    /// From now on it is known who says something.
    fn ask_who_speaks(&self) {
        sockopt::set_socket_passcred(&self.notified, true).unwrap();
    }

    fn hear_whom(&self) -> Heard {
        let mut text = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4), ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut text)];
        let received = recvmsg(&self.notified, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
        let (mut pid, mut descriptors) = (0, Vec::new());
        for message in ancillary.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(rights) => descriptors.extend(rights),
                RecvAncillaryMessage::ScmCredentials(from) => {
                    pid = u32::try_from(from.pid.as_raw_nonzero().get()).unwrap();
                }
                _ => {}
            }
        }
        Heard { pid, text: String::from_utf8(text[..received.bytes].to_vec()).unwrap(), descriptors }
    }
}

/// `R`, `S`, or `Z` for one that has ended and was not waited for.
fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// systemd listens to the main process of the service only, and looks up who says something while it reads it. Without `--socket` the next
/// gateway began to serve somewhere else, since systemd passes the socket to the first one.
#[test]
fn a_takeover_is_told_by_the_main_process_of_the_moment() {
    let mut scene = Scene::new();
    scene.ask_who_speaks();
    let socket = scene.path("gateway.sock");
    let mut gateway = scene.gateway(PASS_ONE, UnixListener::bind(&socket).unwrap(), &[]);
    gateway.env("WATCHDOG_USEC", "150000");
    scene.spawn(gateway);
    let mut main = scene.children[0].id();
    let mut peer = connect(&socket);
    assert!(register(&mut peer, "peer").contains("REGISTER_ACK"));
    for generation in 0..3 {
        let kill = Command::new("kill").args(["-USR2", &main.to_string()]).status().unwrap();
        assert!(kill.success());
        let next = loop {
            let heard = scene.hear_whom();
            assert_eq!(heard.pid, main, "nobody else is listened to: {}", heard.text);
            if let Some(pid) = heard.text.lines().find_map(|line| line.strip_prefix("MAINPID=")) {
                break pid.parse::<u32>().unwrap();
            }
        };
        assert_ne!(next, main);
        let barrier = loop {
            // Who has ended cannot be looked up any more: it is there until it was heard.
            assert!(
                state_of(main).is_some_and(|state| state != 'Z'),
                "the gateway before has gone: generation {generation}"
            );
            let heard = scene.hear_whom();
            assert_eq!(heard.pid, main, "{}", heard.text);
            if heard.text.trim_end() == "BARRIER=1" {
                break heard.descriptors;
            }
        };
        assert_eq!(barrier.len(), 1);
        drop(barrier);
        let ready = scene.hear_whom();
        assert_eq!(ready.pid, next, "{}", ready.text);
        assert!(ready.text.contains("READY=1"), "{}", ready.text);
        let beat = scene.hear_whom();
        assert!(
            beat.pid == next && beat.text.contains("WATCHDOG=1") && beat.text.contains("1 connections"),
            "{}",
            beat.text
        );
        assert!(generation > 0 || scene.children[0].wait().unwrap().success());
        main = next;
    }
    assert!(register(&mut connect(&socket), "later").contains("REGISTER_ACK"), "it serves where it did");
    let kill = Command::new("kill").args(["-TERM", &main.to_string()]).status().unwrap();
    assert!(kill.success());
    loop {
        let heard = scene.hear_whom();
        assert_eq!(heard.pid, main);
        if heard.text.contains("STOPPING=1") {
            break;
        }
    }
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0, "it has stopped");
    // It closes its socket after its connections.
    while UnixStream::connect(&socket).is_ok() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(socket.exists(), "the file is systemd's");
}

/// The options of the units are the command's, and everything that a unit needs is there. Whether systemd agrees is another test's question.
#[test]
fn the_units_say_what_the_gateway_understands() {
    for scope in ["system", "user"] {
        let [service, socket] = ["service", "socket"].map(|kind| unit(&format!("{scope}/ipc-bro.{kind}")));
        let value = |unit: &[(String, String, String)], section: &str, key: &str| {
            let values: Vec<_> =
                unit.iter().filter(|(s, k, _)| s == section && k == key).map(|(.., v)| v.clone()).collect();
            assert_eq!(values.len(), 1, "{scope}: {section}.{key}");
            values[0].clone()
        };
        assert_eq!(value(&service, "Service", "Type"), "notify");
        assert_eq!(value(&service, "Service", "NotifyAccess"), "main");
        // Both gateways of a takeover would be told to stop, and the new one once more by the old one.
        assert_eq!(value(&service, "Service", "KillMode"), "mixed");
        assert_eq!(value(&service, "Unit", "Requires"), "ipc-bro.socket");
        assert!(value(&service, "Service", "WatchdogSec").parse::<u64>().unwrap() >= 10);
        let stop_s: u64 = value(&service, "Service", "TimeoutStopSec").parse().unwrap();
        assert!(stop_s * 1000 > bro_proto::limits::DRAIN_TIMEOUT_MS + bro_proto::limits::STOP_LINGER_MS);
        assert_eq!(value(&socket, "Socket", "Accept"), "no");
        assert_eq!(value(&socket, "Socket", "Backlog"), bro_proto::limits::LISTEN_BACKLOG.to_string());
        assert_eq!(value(&socket, "Install", "WantedBy"), "sockets.target");
        assert!(value(&socket, "Socket", "ListenStream").ends_with("/ipc-bro/gateway.sock"));
        let exec = value(&service, "Service", "ExecStart");
        let (program, arguments) = exec.split_once(' ').unwrap();
        assert!(program.ends_with("/bin/bro"), "{program}");
        let help = Command::new(env!("CARGO_BIN_EXE_bro")).args(arguments.split(' ')).arg("--help").output().unwrap();
        assert!(help.status.success(), "{}", String::from_utf8_lossy(&help.stderr));
        let policy = arguments.split_once("--policy ").map(|(_, path)| Path::new(path));
        assert_eq!(policy.is_some(), scope == "system", "others than its own user are let in by a policy only");
        if scope == "system" {
            let shipped = unit_path("system/policy.toml");
            let text = std::fs::read_to_string(&shipped).unwrap().replace("groups = [\"ipc-bro\"]", "users = [1234]");
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("policy.toml"), text).unwrap();
            let mut check = Command::new(env!("CARGO_BIN_EXE_bro"));
            let check = check.args(["policy", "check"]).arg(dir.path().join("policy.toml")).output().unwrap();
            assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
            let reload = value(&service, "Service", "ExecReload");
            assert!(reload.ends_with(&format!("policy reload --socket {}", value(&socket, "Socket", "ListenStream"))));
        }
    }
}

/// Where systemd is installed, it has nothing to say against the units. That they are well-formed, and that the gateway understands them, is
/// found out without it.
#[test]
fn the_units_are_well_formed_and_systemd_agrees() {
    let known = [
        ("Unit", "Description Documentation Requires After"),
        ("Install", "WantedBy Also"),
        ("Socket", "ListenStream SocketUser SocketGroup SocketMode DirectoryMode Accept Backlog RemoveOnStop"),
        (
            "Service",
            "Type NotifyAccess ExecStart ExecReload User Group KillMode TimeoutStopSec WatchdogSec Restart RestartSec LimitNOFILE CapabilityBoundingSet \
             LockPersonality MemoryDenyWriteExecute NoNewPrivileges PrivateDevices PrivateNetwork PrivateTmp ProtectClock \
             ProtectControlGroups ProtectHome ProtectHostname ProtectKernelLogs ProtectKernelModules ProtectKernelTunables ProtectSystem \
             RestrictAddressFamilies RestrictNamespaces RestrictRealtime RestrictSUIDSGID SystemCallArchitectures SystemCallFilter UMask",
        ),
    ];
    let scene = Scene::new();
    for scope in ["system", "user"] {
        let mut files = Vec::new();
        for kind in ["service", "socket"] {
            let lines = unit(&format!("{scope}/ipc-bro.{kind}"));
            for (section, key, _) in &lines {
                let keys = known.iter().find(|(name, _)| name == section).unwrap().1;
                assert!(keys.split_whitespace().any(|known| known == key), "{scope} {kind}: {section}.{key}");
            }
            let text = std::fs::read_to_string(unit_path(&format!("{scope}/ipc-bro.{kind}"))).unwrap();
            let file = scene.path(&format!("{scope}/ipc-bro.{kind}"));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, text.replace("/usr/bin/bro", env!("CARGO_BIN_EXE_bro"))).unwrap();
            files.push(file);
        }
        let mut analyze = Command::new("systemd-analyze");
        analyze
            .arg(format!("--{scope}"))
            .args(["verify", "--man=no"])
            .args(&files)
            .env("XDG_RUNTIME_DIR", scene.dir.path());
        match analyze.output() {
            Ok(Output { status, stderr, .. }) => {
                let stderr = String::from_utf8_lossy(&stderr);
                assert!(status.success() && !stderr.contains("ipc-bro"), "{scope}: {stderr}");
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "systemd-analyze is there and cannot be run")
            }
        }
    }
}

/// Section, key and value of every line. Panics at a line that is none of a unit's.
fn unit(name: &str) -> Vec<(String, String, String)> {
    let path = unit_path(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut section = String::new();
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            assert!(["Unit", "Service", "Socket", "Install"].contains(&name), "{}: {line}", path.display());
            section = name.to_owned();
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{}: {line}", path.display()));
        assert!(!section.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric()), "{}: {line}", path.display());
        lines.push((section.clone(), key.to_owned(), value.to_owned()));
    }
    lines
}

fn unit_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd").join(name)
}
