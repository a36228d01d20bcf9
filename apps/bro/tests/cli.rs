//! The command as a user types it: outputs, messages and exit codes.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// A gateway and one of the demo's services, in processes of their own, on a socket of their own.
struct World {
    dir: tempfile::TempDir,
    children: Vec<Child>,
}

impl World {
    fn new() -> World {
        World { dir: tempfile::tempdir().unwrap(), children: Vec::new() }
    }

    fn with_gateway() -> World {
        let mut world = World::new();
        world.spawn(&["gateway", "--stop-with-stdin"]);
        world
    }

    fn with_role_service() -> World {
        let mut world = World::with_gateway();
        world.spawn(&["demo-service", "role-service"]);
        let waited = world.bro(&["wait-for", "role-service"]);
        assert_eq!(waited.status.code(), Some(0), "{}", text(&waited.stderr));
        world
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("gateway.sock")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bro"));
        command.args(arguments).env("BRO_SOCKET", self.socket());
        command
    }

    fn spawn(&mut self, arguments: &[&str]) -> &mut Child {
        let child = self.command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        self.children.push(child);
        self.children.last_mut().unwrap()
    }

    fn bro(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    fn bro_with_input(&self, arguments: &[&str], input: &str) -> Output {
        use std::io::Write;
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}

/// A service of version 1 that says what a test wants it to say.
struct RawService(std::os::unix::net::UnixStream);

impl RawService {
    fn register(world: &World, name: &str, methods: &[&str]) -> RawService {
        let mut service = RawService(std::os::unix::net::UnixStream::connect(world.socket()).unwrap());
        service.send(&serde_json::json!({"type": "REGISTER", "serviceName": name, "methods": methods}));
        assert_eq!(service.receive()["type"], "REGISTER_ACK");
        service
    }

    fn send(&mut self, message: &serde_json::Value) {
        use std::io::Write;
        let body = message.to_string();
        let prefix = u32::try_from(body.len()).unwrap().to_be_bytes();
        self.0.write_all(&[&prefix[..], body.as_bytes()].concat()).unwrap();
    }

    fn receive(&mut self) -> serde_json::Value {
        use std::io::Read;
        let mut prefix = [0; 4];
        self.0.read_exact(&mut prefix).unwrap();
        let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
        self.0.read_exact(&mut body).unwrap();
        serde_json::from_slice(&body).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> serde_json::Value {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn assert_fails(output: &Output, code: i32, says: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says), "stderr should mention {says:?}: {stderr}");
    assert!(output.stdout.is_empty(), "nothing belongs on stdout: {}", text(&output.stdout));
}

#[test]
fn without_a_gateway_every_command_ends_with_3_and_says_what_to_do() {
    let world = World::new();
    for arguments in [&["ls"][..], &["status"], &["watch"], &["call", "a", "b"], &["notify", "a", "b"], &["ping", "a"]]
    {
        assert_fails(&world.bro(arguments), 3, "Start one with `bro gateway");
    }
    assert_fails(&world.bro(&["wait-for", "a", "--timeout", "200ms"]), 3, "no gateway at");
}

/// To start a gateway there would be no help.
#[test]
fn what_is_no_socket_is_called_what_it_is() {
    let world = World::new();
    let file = world.dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let long = format!("/tmp/{}", "x".repeat(150));
    let places = [
        (file.to_str().unwrap(), "it is a file, not a socket"),
        (world.dir.path().to_str().unwrap(), "it is a directory, not a socket"),
        (&long, "at most 107"),
    ];
    for (place, why) in places {
        let output = world.bro(&["ls", "--socket", place]);
        assert_fails(&output, 3, why);
        assert!(!text(&output.stderr).contains("Start one"), "{}", text(&output.stderr));
    }
}

/// What a callee says is shown to a person at a terminal: it must be able neither to steer that nor to look like words of ours.
#[test]
fn words_of_others_are_shown_as_what_they_are() {
    let world = World::with_role_service();
    let mut evil = RawService::register(&world, "evil", &["m"]);
    let asks = std::thread::spawn({
        let command = world.command(&["call", "evil", "m"]);
        move || { command }.stdin(Stdio::null()).output().unwrap()
    });
    let call = evil.receive();
    evil.send(
        &serde_json::json!({"type": "RESPONSE", "id": call["id"], "from": "evil", "to": call["from"], "status": "error",
        "error": {"code": "EVIL", "message": "\u{1b}[2Jgone\r\nbro: all is well"}}),
    );
    let output = asks.join().unwrap();
    assert_eq!(text(&output.stderr), "bro: EVIL: \\u{1b}[2Jgone\\r\\nbro: all is well\n");
}

#[test]
fn wrong_usage_ends_with_2() {
    let world = World::with_gateway();
    assert_fails(&world.bro(&["cal"]), 2, "unrecognized subcommand");
    assert_fails(&world.bro(&["call", "a"]), 2, "<METHOD>");
    assert_fails(&world.bro(&["call", "a", "b", "{not json"]), 2, "the parameters are not JSON");
    assert_fails(&world.bro(&["call", "a", "b", "--timeout", "soon"]), 2, "examples: 500ms");
    assert_fails(&world.bro(&["gateway", "--mode", "rw"]), 2, "octal");
    let huge = format!("\"{}\"", "x".repeat(bro_proto::limits::FRAME_BYTES_MAX));
    assert_fails(&world.bro_with_input(&["call", "a", "b", "-"], &huge), 2, "more than 33554432 bytes");
}

#[test]
fn call_prints_the_result_as_json() {
    let world = World::with_role_service();
    let answer = world.bro(&["call", "role-service", "getRole", r#"{"userId": "123"}"#]);
    assert_eq!(json(&answer), serde_json::json!({ "role": "admin" }));
    assert_eq!(text(&answer.stdout).lines().count(), 1, "one line when piped");
    let answer = world.bro_with_input(&["call", "role-service", "getRole", "-"], r#"{"userId": "9"}"#);
    assert_eq!(json(&answer), serde_json::json!({ "role": "guest" }));
}

#[test]
fn notify_reaches_the_service_and_waits_for_nothing() {
    let world = World::with_gateway();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (heard, hears) = std::sync::mpsc::channel();
    let listener = ipc_bro::Client::builder("listener")
        .gateway_path(world.socket())
        .wait_for_gateway(std::time::Duration::from_secs(60))
        .method("hear", move |params: serde_json::Value, context: ipc_bro::Context| {
            heard.send((params, context.wants_answer())).unwrap();
            async { std::future::pending::<Result<(), ipc_bro::HandlerError>>().await }
        });
    let listener = runtime.block_on(listener.connect()).unwrap();
    for (output, params) in [
        (world.bro(&["notify", "listener", "hear", r#"{"n":1}"#]), serde_json::json!({"n": 1})),
        (world.bro(&["notify", "listener", "hear"]), serde_json::json!({})),
        (world.bro_with_input(&["notify", "listener", "hear", "-"], "[2]"), serde_json::json!([2])),
    ] {
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), ""), "{}", text(&output.stderr));
        assert_eq!(hears.recv().unwrap(), (params, false));
    }
    assert_fails(&world.bro(&["notify", "nobody", "hear"]), 1, "SERVICE_NOT_FOUND");
    assert_fails(&world.bro(&["notify", "listener", "see"]), 1, "METHOD_NOT_FOUND");
    assert_fails(&world.bro(&["notify", "listener", "hear", "{"]), 2, "not JSON");
    runtime.block_on(listener.disconnect());
}

#[test]
fn a_failed_call_ends_with_1_and_its_code_on_stderr() {
    let world = World::with_role_service();
    assert_fails(&world.bro(&["call", "nobody", "m"]), 1, "SERVICE_NOT_FOUND");
    assert_fails(&world.bro(&["call", "role-service", "nothing"]), 1, "METHOD_NOT_FOUND");
    assert_fails(&world.bro(&["call", "role-service", "getRole", "{}"]), 1, "userId");
    assert_fails(&world.bro(&["ping", "nobody"]), 1, "SERVICE_NOT_FOUND");
    assert_times_out(|timeout| world.bro(&["wait-for", "nobody", "--timeout", timeout]));
}

/// Waits in vain for a service at a gateway that is there. On a slow machine the time may be over before that has answered anything, or has
/// started: then it takes more of it.
#[track_caller]
fn assert_times_out(wait_for: impl Fn(&str) -> Output) {
    let outputs = ["200ms", "1s", "10s", "60s"].into_iter().map(wait_for);
    let mut outputs = outputs.filter(|output| output.status.code() != Some(3));
    assert_fails(&outputs.next().expect("a gateway that answers within 60 s"), 1, "TIMEOUT");
}

/// Services that say so much of themselves that one answer does not hold the list.
#[test]
fn a_list_that_is_too_long_for_one_answer_is_put_together() {
    let world = World::with_role_service();
    let methods: Vec<String> = (0..4000).map(|number| format!("{number:0220}")).collect();
    let methods: Vec<&str> = methods.iter().map(String::as_str).collect();
    let _peers: Vec<RawService> =
        (0..6).map(|number| RawService::register(&world, &format!("wordy-{number}"), &methods)).collect();
    let listed = world.bro(&["ls"]);
    assert_eq!(listed.status.code(), Some(0), "{}", text(&listed.stderr));
    let listed = text(&listed.stdout);
    assert!(listed.contains("role-service") && listed.contains("wordy-0") && listed.contains("wordy-5"));
    let notified = world.bro(&["notify", "nobody", "get"]);
    assert_eq!(notified.status.code(), Some(1));
    assert!(text(&notified.stderr).contains("SERVICE_NOT_FOUND"), "{}", text(&notified.stderr));
    let notified = world.bro(&["notify", "wordy-3", "get"]);
    assert!(text(&notified.stderr).contains("METHOD_NOT_FOUND"), "{}", text(&notified.stderr));
}

#[test]
fn ls_and_status_tell_who_is_there() {
    let world = World::with_role_service();
    let listed = text(&world.bro(&["ls"]).stdout);
    let row = listed.lines().find(|line| line.starts_with("role-service")).expect("a row for the service");
    assert!(row.contains("getRole"), "{row}");
    assert!(!listed.contains("bro-cli"), "the command does not list itself: {listed}");
    let services = json(&world.bro(&["ls", "--json"]));
    assert_eq!(services["services"][0]["name"], "role-service");
    assert!(services["services"][0]["instances"][0]["pid"].as_u64() > Some(0));
    let status = json(&world.bro(&["status", "--json"]));
    assert_eq!(status["running"], true);
    assert_eq!(status["socketPath"], world.socket().to_str().unwrap());
    assert!(text(&world.bro(&["status"]).stdout).contains("connectedServices"));
}

#[test]
fn ping_measures_and_counts() {
    let world = World::with_role_service();
    let pinged = world.bro(&["ping", "role-service", "--count", "2"]);
    assert_eq!(text(&pinged.stdout).lines().count(), 2, "{}", text(&pinged.stderr));
}

#[test]
fn watch_prints_one_line_a_call() {
    let mut world = World::with_role_service();
    let watching = world.command(&["watch", "--count", "2"]).stdout(Stdio::piped()).spawn().unwrap();
    until(&world, |status| status["connectedServices"].as_u64() >= Some(3));
    // The watcher is registered; calls go on until it has seen its two lines.
    world.children.push(watching);
    let watching = world.children.len() - 1;
    while world.children[watching].try_wait().unwrap().is_none() {
        world.bro(&["call", "role-service", "getRole", r#"{"userId": "123"}"#]);
        world.bro(&["call", "nobody", "m"]);
    }
    let mut lines = String::new();
    std::io::Read::read_to_string(world.children[watching].stdout.as_mut().unwrap(), &mut lines).unwrap();
    let is_call = |line: &str| {
        line.contains("-> role-service.getRole  ok  ") || line.contains("-> nobody.m  failed SERVICE_NOT_FOUND")
    };
    assert!(lines.lines().count() == 2 && lines.lines().all(is_call), "{lines}");
}

/// Asks for the status until it is as wanted.
fn until(world: &World, wanted: impl Fn(&serde_json::Value) -> bool) {
    loop {
        let status = world.bro(&["status", "--json"]);
        if status.status.success() && wanted(&json(&status)) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_gateway_takes_its_options_from_a_file() {
    let mut world = World::new();
    let config = world.dir.path().join("gateway.toml");
    let socket = world.dir.path().join("deep/down/here.sock");
    std::fs::write(&config, format!("socket = {:?}\nmode = \"0660\"\n", socket.display().to_string())).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bro"));
    let gateway = command.args(["gateway", "--stop-with-stdin", "--config"]).arg(&config).env_remove("BRO_SOCKET");
    world.children.push(gateway.stdin(Stdio::piped()).spawn().unwrap());
    let ask = |timeout: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bro"));
        command.args(["wait-for", "nobody", "--timeout", timeout, "--socket"]).arg(&socket).output().unwrap()
    };
    assert_times_out(ask);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
}

#[test]
fn mistakes_in_the_file_are_shown_where_they_are() {
    let world = World::new();
    let config = world.dir.path().join("gateway.toml");
    std::fs::write(&config, "timeout_ms = 5\nsokcet = \"x\"\n").unwrap();
    let refused = world.bro(&["gateway", "--config", config.to_str().unwrap()]);
    assert_fails(&refused, 2, "line 2");
    assert_fails(&refused, 2, "sokcet");
}

#[test]
fn a_second_gateway_refuses_to_start() {
    let world = World::with_gateway();
    until(&world, |status| status["running"] == true);
    assert_fails(&world.bro(&["gateway"]), 1, "already running");
    assert_eq!(json(&world.bro(&["status", "--json"]))["running"], true, "the first one is unharmed");
}

#[test]
fn completions_and_man_pages_come_from_the_same_definitions() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&world.bro(&["completions", shell]).stdout);
        assert!(script.contains("wait-for"), "{shell}");
    }
    assert!(text(&world.bro(&["man"]).stdout).contains("wait\\-for"));
    let dir = world.dir.path().join("man");
    assert!(world.bro(&["man", "--dir", dir.to_str().unwrap()]).status.success());
    assert!(dir.join("bro-call.1").exists());
}
