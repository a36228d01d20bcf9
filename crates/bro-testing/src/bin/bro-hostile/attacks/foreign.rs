//! Another user of the machine. Only root can become one: for others there is nothing to try.

use super::Attack;
use crate::scene::Scene;
use bro_testing::GatewayOptions;
use bro_testing::gateway::bro_path;
use rustix::process::geteuid;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("foreign user", "connects as another user", outside),
    Attack::new(
        "foreign user at an open socket",
        "connects as another user where the socket's mode lets everybody in",
        inside,
    )
    .with_gateway(|| GatewayOptions { mode: Some(0o666), ..GatewayOptions::default() }),
];

/// `nobody` on most machines.
const OTHER: u32 = 65_534;

fn outside(scene: &Scene) -> String {
    attempts(scene, "ermission denied")
}

fn inside(scene: &Scene) -> String {
    attempts(scene, "PERMISSION_DENIED")
}

/// Calls an honest service as another user; each must fail, saying `why`.
fn attempts(scene: &Scene, why: &str) -> String {
    if !geteuid().is_root() {
        return "not tried: only root can become another user".to_owned();
    }
    let (dir, socket) = (scene.gateway().dir().to_owned(), scene.path());
    let program = dir.join("bro");
    fs::copy(bro_path(), &program).expect("bro can be copied");
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).expect("the directory is ours");
    let mut count = 0;
    let mut said = String::new();
    while scene.goes_on_until(count > 0) {
        let mut command = Command::new(&program);
        command.args(["call", crate::victim::USER, "echo", "{}", "--socket"]).arg(&socket);
        command.uid(OTHER).gid(OTHER).current_dir("/").stdin(Stdio::null());
        let output = command.output().expect("bro can be started");
        assert!(!output.status.success(), "another user was served");
        said = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
        assert!(said.contains(why), "{said}");
        count += 1;
    }
    format!("refused {count} times: {}", said.replace(&*socket.to_string_lossy(), "PATH"))
}
