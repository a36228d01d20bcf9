//! iceoryx2: request and response in shared memory from process to process. Both sides ask again and again whether something has
//! arrived, giving way to others in between: it has no wakeup of its own in this pattern.

use crate::turns::{TEXT_BYTES, text};
use crate::window::{Order, Report, Window, clock_ns, say};
use anyhow::{Context as _, Result, anyhow, ensure};
use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::client::Client;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::request_response::PortFactory;
use std::collections::VecDeque;
use std::io::{BufRead as _, Read as _, stdin};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

type Text = [u8; TEXT_BYTES];
type Factory = PortFactory<ipc::Service, Text, (), Text, ()>;

const IN_FLIGHT_MAX: usize = 512;

/// Answers until standard input ends.
pub(crate) fn answer(directory: &Path) -> Result<()> {
    let has_ended = Arc::new(AtomicBool::new(false));
    let flag = has_ended.clone();
    thread::spawn(move || {
        let _ = stdin().read_to_end(&mut Vec::new()); // an error is an end, too
        flag.store(true, Ordering::Relaxed);
    });
    let (_node, service) = open(directory)?;
    let server = service.server_builder().create().map_err(|error| anyhow!("no server: {error:?}"))?;
    say("ready")?;
    while !has_ended.load(Ordering::Relaxed) {
        match server.receive().map_err(|error| anyhow!("receiving: {error:?}"))? {
            Some(request) => {
                let answer = request.loan_uninit().map_err(|error| anyhow!("no room for an answer: {error:?}"))?;
                answer.write_payload(*request.payload()).send().map_err(|error| anyhow!("answering: {error:?}"))?;
            }
            None => thread::yield_now(),
        }
    }
    Ok(())
}

/// Calls until standard input ends.
pub(crate) fn call(directory: &Path) -> Result<()> {
    let (_node, service) = open(directory)?;
    let client = service.client_builder().create().map_err(|error| anyhow!("no client: {error:?}"))?;
    say("ready")?;
    let mut number = 0;
    for order in stdin().lock().lines() {
        let report = run_order(&client, &mut number, serde_json::from_str(&order?)?)?;
        say(&serde_json::to_string(&report)?)?;
    }
    Ok(())
}

type Pending = PendingResponse<ipc::Service, Text, (), Text, ()>;

fn run_order(client: &Client<ipc::Service, Text, (), Text, ()>, number: &mut u64, order: Order) -> Result<Report> {
    let in_flight = order.in_flight;
    let mut window = Window::new(order);
    let mut under_way: VecDeque<(Text, Pending)> = VecDeque::new();
    let mut before_ns = clock_ns();
    loop {
        let is_over = window.is_over(before_ns);
        while !is_over && under_way.len() < in_flight {
            let sent: Text =
                text(0, *number).into_bytes().try_into().map_err(|_| anyhow!("a text of another length"))?;
            *number += 1;
            let request = client.loan_uninit().map_err(|error| anyhow!("no room for a call: {error:?}"))?;
            let pending = request.write_payload(sent).send().map_err(|error| anyhow!("calling: {error:?}"))?;
            under_way.push_back((sent, pending));
        }
        let Some((sent, pending)) = under_way.front() else { break };
        let Some(answer) = pending.receive().map_err(|error| anyhow!("receiving: {error:?}"))? else {
            thread::yield_now();
            continue;
        };
        ensure!(answer.payload() == sent, "wrong echo");
        drop(answer);
        under_way.pop_front();
        let now_ns = clock_ns();
        window.count(1);
        if in_flight == 1 {
            window.record(now_ns - before_ns);
        }
        before_ns = now_ns;
    }
    Ok(window.report())
}

/// With its files in our directory, and its shared memory under the name of it, so that whoever started this can tidy up.
fn open(directory: &Path) -> Result<(Node<ipc::Service>, Factory)> {
    set_log_level(LogLevel::Error);
    let mut config = Config::default();
    let root = directory.join("iceoryx2");
    let root = iceoryx2::prelude::Path::new(root.to_str().context("a path that is no text")?.as_bytes());
    config.global.set_root_path(&root.map_err(|error| anyhow!("not a path for iceoryx2: {error:?}"))?);
    let prefix = directory.file_name().and_then(|name| name.to_str()).context("a directory without a name")?;
    config.global.prefix =
        FileName::new(prefix.as_bytes()).map_err(|error| anyhow!("not a prefix for iceoryx2: {error:?}"))?;
    let node = NodeBuilder::new().config(&config).create::<ipc::Service>();
    let node = node.map_err(|error| anyhow!("no node: {error:?}"))?;
    let service = node
        .service_builder(&"echo".try_into().map_err(|error| anyhow!("no name: {error:?}"))?)
        .request_response::<Text, Text>()
        .max_active_requests_per_client(IN_FLIGHT_MAX)
        .max_response_buffer_size(1)
        .open_or_create()
        .map_err(|error| anyhow!("no service: {error:?}"))?;
    Ok((node, service))
}
