//! `bro gateway --policy`, `bro policy`, and programs of other users, as processes of their own.
//!
//! Run by root, the other user is another one. Run by anybody else it is this one, whom the policies then do not trust.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Ends a test that hangs.
const WATCHDOG: Duration = Duration::from_secs(60);
/// No account of this machine, which needs none.
const OTHER: u32 = 54_321;

/// A gateway with a policy, in a directory that every user may enter, and the command where every user may run it.
struct World {
    dir: tempfile::TempDir,
    gateway: Option<Child>,
    rules: PathBuf,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // By another process: a file that this one has open for writing could not be run.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_bro")).arg(dir.path().join("bro")).status().unwrap();
        assert!(copied.success());
        let rules = dir.path().join("policy.toml");
        World { dir, gateway: None, rules }
    }

    fn ruled_by(rules: &str) -> World {
        let mut world = World::new();
        world.write(rules);
        let mut command = world.command(&["gateway", "--stop-with-stdin", "--mode", "0666", "--policy"]);
        let log = fs::File::create(world.log_path()).unwrap();
        let gateway = command.arg(&world.rules).stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        world.gateway = Some(gateway.spawn().unwrap());
        // A gateway answers, be it that one is denied.
        let waited = world.as_other(&["wait-for", "nobody", "--timeout", "30s"]);
        assert_ne!(waited.status.code(), Some(3), "{}", text(&waited.stderr));
        world
    }

    fn write(&self, rules: &str) {
        let trusted = if is_root() { "" } else { "trust_gateway_user = false\n" };
        let draft = self.dir.path().join("policy.draft");
        fs::write(&draft, format!("{trusted}{rules}")).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(&draft, &self.rules).unwrap();
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("gateway.log")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.dir.path().join("bro"));
        command.args(arguments).env("BRO_SOCKET", self.dir.path().join("gateway.sock")).stdin(Stdio::null());
        command
    }

    fn other_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        if is_root() {
            command.uid(OTHER).gid(OTHER);
        }
        command
    }

    fn as_other(&self, arguments: &[&str]) -> Output {
        self.other_command(arguments).output().unwrap()
    }

    /// Asks again until the answer is as wanted: a signal is not answered.
    fn until(&self, arguments: &[&str], says: &str) {
        let start = Instant::now();
        loop {
            let output = self.as_other(arguments);
            if text(&output.stderr).contains(says) {
                return;
            }
            assert!(start.elapsed() < WATCHDOG, "{arguments:?} should come to say {says:?}: {}", text(&output.stderr));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut gateway) = self.gateway.take() {
            // It may have ended already.
            let _ = gateway.kill();
            let _ = gateway.wait();
        }
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn other_uid() -> u32 {
    if is_root() { OTHER } else { std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn assert_fails(output: &Output, code: i32, says: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says), "stderr should mention {says:?}: {stderr}");
}

#[track_caller]
fn said(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn rule(rights: &str) -> String {
    format!("[[rules]]\nusers = [{}]\n{rights}", other_uid())
}

#[test]
fn another_user_may_do_what_the_policy_says() {
    let world = World::ruled_by(&rule(
        "own = [\"bro-cli-*\", \"role-service\"]\ncall = [{ service = \"role-service\", methods = [\"getRole\"] }]",
    ));
    let mut role = world.other_command(&["demo-service", "role-service"]);
    let mut role = role.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    said(&world.as_other(&["wait-for", "role-service"]));
    let call = ["call", "role-service", "getRole", r#"{"userId": "123"}"#];
    assert!(said(&world.as_other(&call)).contains("admin"));
    assert_fails(&world.as_other(&["call", "role-service", "other"]), 1, "PERMISSION_DENIED");
    assert_fails(&world.as_other(&["call", "nobody", "m"]), 1, "PERMISSION_DENIED");
    assert_fails(&world.as_other(&["notify", "nobody", "m"]), 1, "PERMISSION_DENIED");
    assert_fails(&world.as_other(&["watch", "--count", "1"]), 1, "PERMISSION_DENIED");
    assert_fails(&world.as_other(&["policy", "reload"]), 1, "PERMISSION_DENIED");
    assert_fails(&world.as_other(&["wait-for", "nobody"]), 1, "PERMISSION_DENIED");
    let listed = said(&world.as_other(&["ls"]));
    let row: Vec<&str> = listed.lines().nth(1).expect("a row").split_whitespace().collect();
    let uid = other_uid().to_string();
    assert_eq!((row[0], row[2], row[4]), ("role-service", &*uid, &*role.id().to_string()), "{listed}");
    assert!(said(&world.as_other(&["status"])).contains("counters.permissionDenied"));
    // The demo's service squats a name, as somebody who may not.
    let squatter = world.other_command(&["demo-service", "user-service"]).stdin(Stdio::piped()).output().unwrap();
    assert_fails(&squatter, 1, "PERMISSION_DENIED");
    role.kill().unwrap();
    role.wait().unwrap();
}

#[test]
fn a_policy_is_read_again_when_told_to() {
    let administer = "own = [\"bro-cli-*\"]\nadminister = true\n";
    let world = World::ruled_by(&rule(administer));
    assert_fails(&world.as_other(&["watch", "--count", "1"]), 1, "PERMISSION_DENIED");
    world.write(&format!("{}[[rules]]\nusers = [\"*\"]\nwatch = true", rule(administer)));
    assert_eq!(said(&world.as_other(&["policy", "reload"])), "policy loaded: 2 rules\n");
    world.write("[[rules]]\nusers = [1]\nwhatever = true");
    assert_fails(&world.as_other(&["policy", "reload"]), 1, "policy.toml: line");
    assert_fails(&world.as_other(&["policy", "reload"]), 1, "whatever");
    assert!(
        fs::read_to_string(world.log_path()).unwrap().contains("unknown field `whatever`"),
        "the log tells it, too"
    );
    // By a signal: nobody is told but the log.
    world.write(&rule("own = [\"bro-cli-*\"]\ncall = [\"only-after-sighup\"]"));
    let pid = world.gateway.as_ref().unwrap().id().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    world.until(&["policy", "reload"], "PERMISSION_DENIED");
    assert_fails(&world.as_other(&["call", "only-after-sighup", "m"]), 1, "SERVICE_NOT_FOUND");
    world.write("");
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    world.until(&["ls"], "PERMISSION_DENIED");
}

#[test]
fn check_says_whether_a_file_would_load() {
    let world = World::new();
    let check = |path: &Path| world.command(&["policy", "check"]).arg(path).output().unwrap();
    fs::write(&world.rules, "[[rules]]\nusers = [\"root\"]\nwatch = true\n").unwrap();
    assert!(said(&check(&world.rules)).ends_with("policy.toml: 1 rule\n"));
    fs::write(&world.rules, "[[rules]]\nusers = [\"root\"]\nown = [\"a*b\"]\n").unwrap();
    assert_fails(&check(&world.rules), 1, "policy.toml: line 3, column 8: \"a*b\"");
    let refused = world.command(&["gateway", "--policy"]).arg(&world.rules).output().unwrap();
    assert_fails(&refused, 2, "line 3, column 8");
    assert_fails(&check(Path::new("/no/such/policy")), 1, "cannot read");
    assert_fails(&world.command(&["policy", "check"]).output().unwrap(), 2, "<FILE>");
    assert_fails(&world.command(&["policy", "reload"]).output().unwrap(), 3, "no gateway");
}

/// What is shown to people as an example has to be right, wherever its users exist.
#[test]
fn the_example_is_a_policy() {
    let world = World::new();
    let example = include_str!("../../../examples/policy/policy.toml");
    let names = ["\"www-data\"", "\"nobody\"", "\"adm\"", "\"sudo\""];
    assert!(names.iter().all(|name| example.contains(name)));
    let numbered = names
        .iter()
        .zip(["33", "65534", "4", "27"])
        .fold(example.to_owned(), |text, (name, id)| text.replace(name, id));
    fs::write(&world.rules, numbered).unwrap();
    assert!(said(&world.command(&["policy", "check"]).arg(&world.rules).output().unwrap()).ends_with("4 rules\n"));
    let guide = include_str!("../../../docs/policy.md");
    assert!(guide.contains("examples/policy/policy.toml"));
    let blocks: Vec<&str> = guide.split("```toml\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        fs::write(&world.rules, block).unwrap();
        said(&world.command(&["policy", "check"]).arg(&world.rules).output().unwrap());
    }
}
