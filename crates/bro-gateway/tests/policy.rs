//! Policies with real credentials: what the kernel says of a peer decides, and a file can be read again.
//!
//! Run by root, the peers are of another user. Run by anybody else they cannot be: then they are of this user, whom the policies do not
//! trust, so that the same is asserted of the same code but for the numbers.

mod common;

use bro_gateway::{Gateway, GatewayConfig, PolicyLoadError, PolicySource, ReloadError, StartError};
use common::{RawPeer, TempDir};
use serde_json::{Value, json};
use std::num::NonZeroU64;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Who the peers are.
struct Somebody {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Somebody {
    fn new() -> Somebody {
        if is_root() {
            return Somebody { uid: 54_321, gid: 54_322, groups: vec![54_323, 54_324] };
        }
        say("not run by root: the peers are of this user, whom the policies do not trust");
        let groups = rustix::process::getgroups().unwrap().into_iter().map(|gid| gid.as_raw()).collect();
        Somebody { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw(), groups }
    }

    /// A connection whose credentials are these.
    fn connect(&self, socket: &Path) -> RawPeer {
        if !is_root() {
            return RawPeer::connect(socket);
        }
        let (uid, gid, groups, socket) = (self.uid, self.gid, self.groups.clone(), socket.to_owned());
        // Credentials belong to threads; it is the C library that changes them for all of a process.
        std::thread::spawn(move || {
            let syscall = |number, a: libc::c_long, b: libc::c_long, c: libc::c_long| {
                // SAFETY: these calls change the credentials of this thread, which ends soon, and read `groups`, which is alive and
                // as long as is said.
                let result = unsafe { libc::syscall(number, a, b, c) };
                assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            };
            let [uid, gid] = [uid, gid].map(libc::c_long::from);
            let len = libc::c_long::try_from(groups.len()).unwrap();
            syscall(libc::SYS_setgroups, len, groups.as_ptr() as libc::c_long, 0);
            syscall(libc::SYS_setresgid, gid, gid, gid);
            syscall(libc::SYS_setresuid, uid, uid, uid);
            RawPeer::connect(&socket)
        })
        .join()
        .unwrap()
    }

    fn registered(&self, socket: &Path, name: &str) -> RawPeer {
        let mut peer = self.connect(socket);
        peer.register(name);
        let answer = peer.receive();
        assert_eq!(answer["type"], "REGISTER_ACK", "{answer}");
        peer
    }
}

#[allow(clippy::print_stderr, reason = "who reads the results should know")]
fn say(what: &str) {
    eprintln!("{what}");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A gateway that everybody can connect to, with a policy file.
struct Ruled {
    directory: TempDir,
    gateway: Gateway,
}

impl Ruled {
    fn by(rules: &str) -> Ruled {
        let directory = TempDir::new();
        let policy = PolicySource::File(write_policy(&directory, rules));
        let gateway = Gateway::start(open_to_all(&directory, policy)).unwrap();
        Ruled { directory, gateway }
    }

    fn socket(&self) -> PathBuf {
        self.directory.socket()
    }

    fn write(&self, rules: &str) {
        write_policy(&self.directory, rules);
    }
}

fn open_to_all(directory: &TempDir, policy: PolicySource) -> GatewayConfig {
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    GatewayConfig { mode: 0o666, policy, ..GatewayConfig::new(directory.socket()) }
}

fn write_policy(directory: &TempDir, rules: &str) -> PathBuf {
    let path = directory.path().join("policy.toml");
    // Whole at any moment, as an editor does it.
    let draft = directory.path().join("policy.draft");
    std::fs::write(&draft, rules).unwrap();
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::rename(&draft, &path).unwrap();
    path
}

/// Rules for somebody, by number; nobody else is trusted.
fn rules_for(somebody: &Somebody, rights: &str) -> String {
    format!("trust_gateway_user = false\n[[rules]]\nusers = [{}]\n{rights}", somebody.uid)
}

#[track_caller]
fn assert_turned_away(mut peer: RawPeer) {
    let told = peer.receive();
    assert_eq!((&told["type"], &told["error"]["code"]), (&json!("ERROR"), &json!("PERMISSION_DENIED")), "{told}");
    assert_eq!(peer.try_receive(), None, "and closed");
}

fn ask(peer: &mut RawPeer, method: &str, params: Value) -> Value {
    let mut call = peer.call_value("ask", "bro.gateway", params);
    call["method"] = json!(method);
    peer.send(&call);
    peer.receive()
}

#[test]
fn without_a_policy_other_users_are_turned_away_and_this_one_is_not() {
    let directory = TempDir::new();
    let gateway = Gateway::start(open_to_all(&directory, PolicySource::OwnUser)).unwrap();
    let mut own = RawPeer::registered(&directory.socket(), "own");
    if is_root() {
        assert_turned_away(Somebody::new().connect(&directory.socket()));
        assert_eq!(gateway.status().unwrap().counters.permission_denied, 1);
    }
    assert_eq!(ask(&mut own, "ping", json!({}))["data"]["pong"], true);
    assert_eq!(ask(&mut own, "reloadPolicy", json!({}))["error"]["code"], "EXECUTION_FAILED");
    let status = ask(&mut own, "status", json!({}))["data"].clone();
    assert_eq!(status["uid"], json!(rustix::process::geteuid().as_raw()));
    assert_eq!((&status["policyRules"], &status["policyFile"]), (&json!(0), &Value::Null));
}

#[test]
fn the_kernel_says_who_a_peer_is() {
    let somebody = Somebody::new();
    let ruled = Ruled::by(&rules_for(&somebody, "own = [\"web\"]"));
    let mut web = somebody.connect(&ruled.socket());
    web.name = "web".to_owned();
    let claims = json!({"uid": 0, "gid": 0, "pid": 1, "user": "root"});
    web.send(&json!({"type": "REGISTER", "serviceName": "web", "methods": [], "metadata": claims}));
    assert_eq!(web.receive()["type"], "REGISTER_ACK");
    let instance = ruled.gateway.service("web").unwrap().unwrap().instances.remove(0);
    assert_eq!((instance.uid, instance.gid), (Some(somebody.uid), Some(somebody.gid)));
    assert_eq!(instance.pid, Some(std::process::id()));
    let listed = ask(&mut web, "services", json!({}))["data"]["services"][0]["instances"][0].clone();
    assert_eq!((&listed["uid"], &listed["gid"]), (&json!(somebody.uid), &json!(somebody.gid)));
    assert_eq!(listed["pidfdId"].as_u64(), instance.pidfd_id.map(NonZeroU64::get));
    let mut squatter = somebody.connect(&ruled.socket());
    squatter.register("order");
    assert_turned_away(squatter);
    assert_eq!(ask(&mut web, "events", json!({}))["error"]["code"], "PERMISSION_DENIED");
    assert_eq!(ask(&mut web, "reloadPolicy", json!({}))["error"]["code"], "PERMISSION_DENIED");
    web.call("c", "order", json!({}));
    assert_eq!(web.receive()["error"]["code"], "PERMISSION_DENIED");
}

#[test]
fn groups_count_at_connecting_and_after_a_new_policy() {
    let somebody = Somebody::new();
    let ruled = Ruled::by(&rules_for(&somebody, "own = [\"web\"]"));
    let mut web = somebody.registered(&ruled.socket(), "web");
    // Each group alone, the one that it runs in and those beside it.
    for gid in somebody.groups.iter().chain([&somebody.gid]) {
        ruled
            .write(&format!("trust_gateway_user = false\n[[rules]]\ngroups = [{gid}]\nown = [\"web*\"]\nwatch = true"));
        assert_eq!(ruled.gateway.reload_policy().unwrap(), 1);
        assert!(ask(&mut web, "events", json!({}))["data"]["cursor"].is_number(), "it is in group {gid}");
        somebody.registered(&ruled.socket(), "web-2");
    }
    ruled.write("trust_gateway_user = false\n[[rules]]\ngroups = [4000000000]\nown = [\"web*\"]");
    ruled.gateway.reload_policy().unwrap();
    assert_turned_away(web);
    assert_turned_away(somebody.connect(&ruled.socket()));
}

#[test]
fn a_peer_that_administers_makes_the_gateway_read_its_policy() {
    let somebody = Somebody::new();
    let rights = |own: &str| rules_for(&somebody, &format!("own = [\"admin\", \"{own}\"]\nadminister = true"));
    let ruled = Ruled::by(&rights("one"));
    let (mut admin, one) = (somebody.registered(&ruled.socket(), "admin"), somebody.registered(&ruled.socket(), "one"));
    ruled.write(&rights("two"));
    assert_eq!(ask(&mut admin, "reloadPolicy", json!({}))["data"], json!({"rules": 1}));
    assert_turned_away(one);
    let two = somebody.registered(&ruled.socket(), "two");
    // What is no policy changes nothing, and is told with its place.
    ruled.write("[[rules]]\nusers = [\"no-such-user-here\"]\nwatch = true");
    let refused = ask(&mut admin, "reloadPolicy", json!({}))["error"].clone();
    assert_eq!(refused["code"], "EXECUTION_FAILED");
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("policy.toml: line 2, column 10: there is no user"), "{message}");
    let failed = ruled.gateway.reload_policy().unwrap_err();
    assert!(
        matches!(&failed, ReloadError::Policy(PolicyLoadError::Wrong { error, .. }) if error.line == 2),
        "{failed}"
    );
    assert_eq!(ask(&mut admin, "ping", json!({}))["data"]["pong"], true);
    std::fs::remove_file(ruled.directory.path().join("policy.toml")).unwrap();
    assert!(ask(&mut admin, "reloadPolicy", json!({}))["error"]["message"].as_str().unwrap().contains("cannot read"));
    assert_eq!(ruled.gateway.service("two").unwrap().map(|service| service.name).as_deref(), Some("two"));
    drop(two);
    ruled.write(&rights("three"));
    ruled.gateway.stop().unwrap();
    assert!(matches!(ruled.gateway.reload_policy(), Err(ReloadError::Stopped(_))));
}

#[test]
fn many_wishes_at_once_are_all_answered() {
    let somebody = Somebody::new();
    let ruled = Ruled::by(&rules_for(&somebody, "own = [\"admin*\"]\nadminister = true"));
    let mut admins: Vec<RawPeer> =
        (0..8).map(|number| somebody.registered(&ruled.socket(), &format!("admin-{number}"))).collect();
    for round in 0..20 {
        for admin in &mut admins {
            let mut call = admin.call_value(&format!("r-{round}"), "bro.gateway", json!({}));
            call["method"] = json!("reloadPolicy");
            admin.send(&call);
        }
    }
    for admin in &mut admins {
        for _ in 0..20 {
            assert_eq!(admin.receive()["data"], json!({"rules": 1}));
        }
    }
}

#[test]
fn a_gateway_does_not_start_with_what_is_no_policy() {
    let directory = TempDir::new();
    let start = |policy| Gateway::start(GatewayConfig { policy, ..GatewayConfig::new(directory.socket()) });
    let wrong = start(PolicySource::Text("[[rules]]".to_owned())).unwrap_err();
    assert!(matches!(&wrong, StartError::Policy(PolicyLoadError::Wrong { place: None, .. })), "{wrong}");
    let missing = start(PolicySource::File(directory.path().join("none.toml"))).unwrap_err();
    assert!(matches!(&missing, StartError::Policy(PolicyLoadError::Unreadable { .. })), "{missing}");
    let open = write_policy(&directory, "");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o666)).unwrap();
    let refused = start(PolicySource::File(open)).unwrap_err();
    assert!(matches!(&refused, StartError::Policy(PolicyLoadError::Unsafe { .. })), "{refused}");
    assert_eq!(directory.entries(), ["policy.toml"], "there is no socket either");
    let text = start(PolicySource::Text("[[rules]]\nusers = [\"root\"]\nwatch = true".to_owned())).unwrap();
    assert_eq!(text.reload_policy().unwrap(), 1);
}
