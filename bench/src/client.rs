//! Caller and callee with the crate `ipc-bro`, as programs use it: typed calls on a runtime of one thread.

use crate::load::say;
use crate::v1::CALLEE;
use crate::window::{Order, Report, Window, clock_ns};
use anyhow::{Context as _, Result, ensure};
use ipc_bro::{Client, HandlerError};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, stdin};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// Bytes of the text that is sent and comes back; the peers that ipc-bro is compared with carry the same.
pub(crate) const TEXT_BYTES: usize = 410;

/// Answers calls until standard input ends.
pub(crate) fn answer(socket: &Path) -> Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let client = Client::builder(CALLEE)
            .gateway_path(socket)
            .method("echo", async |text: String, _| Ok::<_, HandlerError>(text))
            .connect()
            .await?;
        say("ready")?;
        stdin().read_to_end(&mut Vec::new()).await?;
        client.disconnect().await;
        Ok(())
    })
}

/// Calls as it is told to on standard input, one [`Order`] a line, until that ends.
pub(crate) fn call(socket: &Path) -> Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let client = Client::builder("caller").gateway_path(socket).connect().await?;
        say("ready")?;
        let mut lines = BufReader::new(stdin()).lines();
        while let Some(line) = lines.next_line().await? {
            let report = run_order(&client, serde_json::from_str(&line)?).await?;
            say(&serde_json::to_string(&report)?)?;
        }
        client.disconnect().await;
        Ok(())
    })
}

async fn run_order(client: &Client, order: Order) -> Result<Report> {
    let in_flight = order.in_flight;
    let window = Rc::new(RefCell::new(Window::new(order)));
    let tasks = LocalSet::new();
    let callers: Vec<_> = (0..in_flight)
        .map(|caller| tasks.spawn_local(call_in_turn(client.clone(), caller, in_flight == 1, window.clone())))
        .collect();
    tasks.await;
    for caller in callers {
        caller.await??;
    }
    Ok(Rc::into_inner(window).context("all tasks have ended")?.into_inner().report())
}

async fn call_in_turn(client: Client, caller: usize, is_alone: bool, window: Rc<RefCell<Window>>) -> Result<()> {
    let mut before_ns = clock_ns();
    let mut number = 0_u64;
    while !window.borrow_mut().is_over(before_ns) {
        let text = format!("{caller:>9} {number:>9} {:.<width$}", "", width = TEXT_BYTES - 20);
        let echo: String = client.call(CALLEE, "echo", &text).await?;
        ensure!(echo == text, "wrong echo: sent {text:?}, came back {echo:?}");
        number += 1;
        let now_ns = clock_ns();
        let mut window = window.borrow_mut();
        window.count(1);
        if is_alone {
            window.record(now_ns - before_ns);
        }
        before_ns = now_ns;
    }
    Ok(())
}
