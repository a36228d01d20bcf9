//! The socket's place in the file system.

use super::Attack;
use crate::scene::Scene;
use bro_testing::gateway::bro_path;
use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new(
        "symlink at the socket's path",
        "puts a link to a file of the victim's where a gateway will listen",
        link,
    ),
    Attack::new("file at the socket's path", "puts a file where a gateway will listen", file),
    Attack::new("second gateway", "starts a gateway on the path of the running one", rival),
    Attack::new("squatted path", "listens on the path itself, before the gateway does", squatted),
];

/// Starts a gateway on `path`; it must refuse. What it says.
fn refused(path: &Path) -> String {
    let mut command = Command::new(bro_path());
    command.arg("gateway").arg("--socket").arg(path).stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.stderr(Stdio::piped()).output().expect("bro can be started");
    assert!(!output.status.success(), "the gateway started");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let first = words.lines().next().unwrap_or_default();
    first.replace(&*path.to_string_lossy(), "PATH")
}

fn link(scene: &Scene) -> String {
    let precious = scene.gateway().dir().join("precious");
    let path = scene.gateway().dir().join("link.sock");
    fs::write(&precious, "precious").expect("a file can be written");
    symlink(&precious, &path).expect("a link can be made");
    let said = refused(&path);
    assert_eq!(fs::read_to_string(&precious).ok().as_deref(), Some("precious"));
    assert!(path.is_symlink(), "the link was touched");
    format!("the gateway refuses to start, and touches neither: {said}")
}

fn file(scene: &Scene) -> String {
    let path = scene.gateway().dir().join("file.sock");
    fs::write(&path, "precious").expect("a file can be written");
    let said = refused(&path);
    assert_eq!(fs::read_to_string(&path).ok().as_deref(), Some("precious"));
    format!("the gateway refuses to start, and leaves the file: {said}")
}

fn rival(scene: &Scene) -> String {
    let mut count = 0;
    let mut said = String::new();
    while scene.goes_on() {
        said = refused(&scene.path());
        count += 1;
    }
    let is_socket = fs::symlink_metadata(scene.path()).is_ok_and(|file| file.file_type().is_socket());
    assert!(is_socket, "the socket's file is gone");
    format!("refused {count} times, and the running one keeps its file: {said}")
}

fn squatted(scene: &Scene) -> String {
    let path = scene.gateway().dir().join("squatted.sock");
    let _listener = UnixListener::bind(&path).expect("a socket can be bound");
    let said = refused(&path);
    format!("the gateway refuses to start beside a living listener: {said}")
}
