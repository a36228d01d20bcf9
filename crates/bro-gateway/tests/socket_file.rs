//! The socket's file: live, stale, somebody else's, its directory and its permissions.

mod common;

use bro_gateway::{Gateway, GatewayConfig, StartError, Stopped};
use common::{RawPeer, TempDir, start};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Barrier;

fn try_start(path: &Path) -> Result<Gateway, StartError> {
    Gateway::start(GatewayConfig::new(path))
}

/// A socket file without anybody behind it, as a killed gateway leaves it.
fn leave_stale_socket(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    assert!(fs::symlink_metadata(path).unwrap().file_type().is_socket());
}

#[test]
fn a_stopped_gateway_leaves_nothing_behind() {
    let (directory, gateway) = start();
    assert_eq!(directory.entries(), ["gateway.sock"]);
    gateway.stop().unwrap();
    assert_eq!(directory.entries(), [""; 0]);
    assert_eq!(gateway.stop(), Err(Stopped));
    assert_eq!(gateway.status().unwrap_err(), Stopped);
    let again = try_start(&directory.socket()).unwrap();
    drop(again);
    assert_eq!(directory.entries(), [""; 0]);
}

#[test]
fn a_live_gateway_is_left_alone() {
    let (directory, gateway) = start();
    let error = try_start(&directory.socket()).unwrap_err();
    assert!(matches!(&error, StartError::AlreadyRunning { path } if *path == directory.socket()), "{error:?}");
    assert!(error.to_string().contains("already running"), "{error}");
    RawPeer::registered(&directory.socket(), "still-there");
    gateway.stop().unwrap();
}

#[test]
fn a_program_that_listens_without_our_lock_is_left_alone() {
    let directory = TempDir::new();
    let foreign = UnixListener::bind(directory.socket()).unwrap();
    assert!(matches!(try_start(&directory.socket()), Err(StartError::AlreadyRunning { .. })));
    drop(UnixStream::connect(directory.socket()).unwrap());
    drop(foreign);
}

#[test]
fn a_stale_socket_is_replaced() {
    let directory = TempDir::new();
    leave_stale_socket(&directory.socket());
    let gateway = try_start(&directory.socket()).unwrap();
    RawPeer::registered(&directory.socket(), "a");
    gateway.stop().unwrap();
    assert_eq!(directory.entries(), [""; 0]);
}

#[test]
fn of_many_that_start_on_a_stale_socket_exactly_one_does() {
    let directory = TempDir::new();
    for round in 0..20 {
        leave_stale_socket(&directory.socket());
        let barrier = Barrier::new(6);
        let gateways: Vec<Gateway> = std::thread::scope(|scope| {
            let starters: Vec<_> = (0..6)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        match try_start(&directory.socket()) {
                            Ok(gateway) => Some(gateway),
                            Err(StartError::AlreadyRunning { .. }) => None,
                            Err(error) => panic!("round {round}: {error:?}"),
                        }
                    })
                })
                .collect();
            starters.into_iter().filter_map(|starter| starter.join().unwrap()).collect()
        });
        assert_eq!(gateways.len(), 1, "round {round}");
        RawPeer::registered(&directory.socket(), "reachable");
        gateways[0].stop().unwrap();
        assert_eq!(directory.entries(), [""; 0], "round {round}");
    }
}

#[test]
fn what_is_not_a_socket_is_never_removed() {
    let directory = TempDir::new();
    let path = directory.path();
    fs::write(path.join("file"), "precious").unwrap();
    fs::create_dir(path.join("directory")).unwrap();
    leave_stale_socket(&path.join("target"));
    symlink(path.join("target"), path.join("link")).unwrap();
    symlink(path.join("nowhere"), path.join("dangling")).unwrap();
    for (name, kind) in
        [("file", "a file"), ("directory", "a directory"), ("link", "a symbolic link"), ("dangling", "a symbolic link")]
    {
        let error = try_start(&path.join(name)).unwrap_err();
        assert!(matches!(error, StartError::NotASocket { kind: found, .. } if found == kind), "{name}: {error:?}");
    }
    assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "precious");
    assert_eq!(directory.entries(), ["dangling", "directory", "file", "link", "target"]);
}

#[test]
fn stop_leaves_a_file_that_is_not_its_own() {
    let (directory, gateway) = start();
    fs::remove_file(directory.socket()).unwrap();
    let other = UnixListener::bind(directory.socket()).unwrap();
    gateway.stop().unwrap();
    drop(UnixStream::connect(directory.socket()).unwrap());
    drop(other);
    assert_eq!(directory.entries(), ["gateway.sock"]);
}

#[test]
fn a_file_that_was_removed_by_hand_is_no_error() {
    let (directory, gateway) = start();
    fs::remove_file(directory.socket()).unwrap();
    gateway.stop().unwrap();
    assert_eq!(directory.entries(), [""; 0]);
}

#[test]
fn only_its_user_may_connect_unless_told_otherwise() {
    let directory = TempDir::new();
    let mode = || fs::metadata(directory.socket()).unwrap().mode() & 0o777;
    let gateway = try_start(&directory.socket()).unwrap();
    assert_eq!(mode(), 0o600);
    gateway.stop().unwrap();
    for wanted in [0o660, 0o666, 0o777, 0o400] {
        let config = GatewayConfig { mode: wanted, ..GatewayConfig::new(directory.socket()) };
        let gateway = Gateway::start(config).unwrap();
        assert_eq!(mode(), wanted, "{wanted:o}");
        gateway.stop().unwrap();
    }
}

#[test]
fn missing_directories_are_made_for_this_user_only() {
    let directory = TempDir::new();
    let path = directory.path().join("a/b/gateway.sock");
    let gateway = try_start(&path).unwrap();
    for made in ["a", "a/b"] {
        assert_eq!(fs::metadata(directory.path().join(made)).unwrap().permissions().mode() & 0o777, 0o700, "{made}");
    }
    RawPeer::registered(&path, "a");
    gateway.stop().unwrap();
}

#[test]
fn a_path_that_cannot_be_is_refused_with_the_reason() {
    let directory = TempDir::new();
    let path = directory.path();
    fs::write(path.join("file"), "").unwrap();
    let error = try_start(&path.join("file/gateway.sock")).unwrap_err();
    assert!(matches!(&error, StartError::NotADirectory { path: part } if *part == path.join("file")), "{error:?}");
    let error = try_start(&path.join("x".repeat(108))).unwrap_err();
    assert!(matches!(error, StartError::PathTooLong { limit: 107, .. }), "{error:?}");
    for name in ["", "/", "..", "some/", "some/."] {
        let error = try_start(Path::new(name)).unwrap_err();
        assert!(matches!(error, StartError::NotAFileName { .. }), "{name}: {error:?}");
    }
    assert_eq!(directory.entries(), ["file"]);
}

#[test]
fn the_longest_possible_path_works() {
    let directory = TempDir::new();
    let name = "x".repeat(107 - directory.path().as_os_str().len() - 1);
    let gateway = try_start(&directory.path().join(name)).unwrap();
    RawPeer::registered(gateway.socket_path(), "a");
    gateway.stop().unwrap();
    assert_eq!(directory.entries(), [""; 0]);
}
