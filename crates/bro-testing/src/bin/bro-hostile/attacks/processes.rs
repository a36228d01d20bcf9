//! Processes that stop, or die.

use super::Attack;
use crate::raw::{Heard, Raw, WAIT, call};
use crate::scene::Scene;
use bro_testing::{Encoding, GatewayOptions, V1Peer};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("stopped callee", "takes calls in a process that is stopped (SIGSTOP)", stopped),
    Attack::new("hung service", "keeps its name in a process that is stopped, and sends no sign of life", hung)
        .with_gateway(|| GatewayOptions { heartbeat_interval_ms: Some(500), ..GatewayOptions::default() }),
    Attack::new("killed callee", "takes calls and is killed (SIGKILL) before it answers", killed),
];

/// Registers as `idler` and serves nobody, until the parent is gone. Tells when it is registered.
pub(crate) fn idle(path: &Path) {
    let mut peer = V1Peer::connect(path, Encoding::Json);
    loop {
        peer.send_register("idler", &["echo"], json!({}));
        match peer.try_receive(WAIT) {
            Ok(answer) if answer["type"] == "REGISTER_ACK" => break,
            // The name of its forerunner, which the gateway has not missed yet.
            _ => peer = V1Peer::connect(path, Encoding::Json),
        }
    }
    println!("registered");
    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
}

struct Idler(Child);

impl Idler {
    fn start(scene: &Scene) -> Idler {
        let program = std::env::current_exe().expect("a program knows its path");
        let mut command = Command::new(program);
        command.arg("idler").arg("--socket").arg(scene.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("an idler can be started");
        let mut line = String::new();
        let mut told = BufReader::new(child.stdout.take().expect("stdout is piped"));
        told.read_line(&mut line).expect("the idler tells");
        assert_eq!(line.trim(), "registered");
        Idler(child)
    }

    fn stop(&self) {
        kill_process(Pid::from_child(&self.0), Signal::STOP).expect("a child can be stopped");
    }
}

impl Drop for Idler {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stopped(scene: &Scene) -> String {
    let idler = Idler::start(scene);
    idler.stop();
    let mut caller = Raw::registered(scene, "caller");
    let mut count = 0;
    while scene.goes_on() {
        let mut message = call("id", "caller", "idler", "echo", json!(1));
        let deadline = bro_testing::peer::now_ms() + 20;
        message["context"] =
            json!({ "root": "root-1-a", "chain": ["caller", "idler"], "depth": 2, "deadline": deadline });
        caller.send_json(&message);
        assert_eq!(caller.hear_json()["error"]["code"], "TIMEOUT");
        count += 1;
    }
    format!("{count} calls to it end with TIMEOUT at their deadline")
}

fn hung(scene: &Scene) -> String {
    let idler = Idler::start(scene);
    idler.stop();
    let mut caller = Raw::registered(scene, "caller");
    let mut answers: Vec<Value> = Vec::new();
    while answers.last().is_none_or(|answer| answer["error"]["code"] != "SERVICE_NOT_FOUND") {
        caller.send_json(&call("id", "caller", "idler", "echo", json!(1)));
        let answer = loop {
            match caller.hear(Duration::from_millis(100)) {
                Heard::Frame(frame) => break serde_json::from_slice(&frame[4..]).expect("JSON"),
                // Who waits lives, and has to say so.
                Heard::Silence => caller.send_json(&json!({ "type": "HEARTBEAT", "from": "caller", "timestamp": 0 })),
                Heard::Closed => panic!("the caller was taken for hung"),
            };
        };
        answers.push(answer);
    }
    let lost = answers.iter().filter(|answer| answer["error"]["code"] == "CONNECTION_LOST").count();
    while scene.goes_on() {
        std::thread::sleep(Duration::from_millis(1).min(scene.left()));
    }
    format!("loses its name after three heartbeat intervals; {lost} call in flight: CONNECTION_LOST")
}

fn killed(scene: &Scene) -> String {
    let mut caller = Raw::registered(scene, "caller");
    let mut count = 0;
    while scene.goes_on() {
        let idler = Idler::start(scene);
        for n in 0..16 {
            caller.send_json(&call(&format!("id-{n}"), "caller", "idler", "echo", json!(1)));
        }
        caller.settle();
        drop(idler);
        for _ in 0..16 {
            let answer = caller.hear_json();
            assert_eq!(answer["error"]["code"], "CONNECTION_LOST", "{answer}");
        }
        count += 16;
    }
    format!("all {count} calls to it end with CONNECTION_LOST at once")
}
