//! D-Bus: method calls through `dbus-daemon` on a bus of our own, with zbus.

use crate::window::say;
use crate::{server, turns};
use anyhow::Result;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use zbus::Connection;
use zbus::connection::Builder;

const NAME: &str = "org.example.Echo";
const PATH: &str = "/org/example/Echo";

/// The bus, without services that it would start, and without limits that 512 calls in flight meet.
pub(crate) fn serve(directory: &Path) -> Result<()> {
    let socket = socket(directory);
    let configuration = directory.join("bus.conf");
    let text = format!(
        r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
  <limit name="max_replies_per_connection">50000</limit>
</busconfig>
"#,
        socket.display()
    );
    fs::write(&configuration, text)?;
    let mut command = Command::new("dbus-daemon");
    command.arg("--nofork").arg("--config-file").arg(configuration);
    server::run(&mut command, || UnixStream::connect(&socket).is_ok())
}

struct Echo;

#[zbus::interface(name = "org.example.Echo")]
impl Echo {
    fn echo(&self, text: String) -> String {
        text
    }
}

/// Answers for ever.
pub(crate) async fn answer(directory: &Path) -> Result<()> {
    let _connection = Builder::address(address(directory).as_str()).serve_at(PATH, Echo).name(NAME).build().await?;
    say("ready")?;
    std::future::pending().await
}

/// Calls until standard input ends.
pub(crate) async fn call(directory: &Path) -> Result<()> {
    let connection: Connection = Builder::address(address(directory).as_str()).build().await?;
    turns::call(move |text| {
        let connection = connection.clone();
        async move {
            let answer = connection.call_method(Some(NAME), PATH, Some(NAME), "Echo", &text).await?;
            Ok(answer.body().deserialize()?)
        }
    })
    .await
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("bus.sock")
}

fn address(directory: &Path) -> String {
    format!("unix:path={}", socket(directory).display())
}
