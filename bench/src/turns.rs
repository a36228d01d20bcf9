//! A caller on a runtime of one thread: as many tasks as calls are to be in flight, each making one call after the other. Also
//! compiled by `bench/peers`.

use crate::window::{Order, Report, Window, clock_ns, say};
use anyhow::{Context as _, Result, ensure};
use std::cell::RefCell;
use std::rc::Rc;
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};
use tokio::task::LocalSet;

/// Bytes of the text that is sent and comes back.
pub(crate) const TEXT_BYTES: usize = 410;

/// Calls as it is told to on standard input, one [`Order`] a line, until that ends. `echo` makes one call.
pub(crate) async fn call<E, F>(echo: E) -> Result<()>
where
    E: Fn(String) -> F + Clone + 'static,
    F: Future<Output = Result<String>> + 'static,
{
    say("ready")?;
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let report = run_order(&echo, serde_json::from_str(&line)?).await?;
        say(&serde_json::to_string(&report)?)?;
    }
    Ok(())
}

/// The text of one call, different from every other.
pub(crate) fn text(caller: usize, number: u64) -> String {
    format!("{caller:>9} {number:>9} {:.<width$}", "", width = TEXT_BYTES - 20)
}

async fn run_order<E, F>(echo: &E, order: Order) -> Result<Report>
where
    E: Fn(String) -> F + Clone + 'static,
    F: Future<Output = Result<String>> + 'static,
{
    let in_flight = order.in_flight;
    let window = Rc::new(RefCell::new(Window::new(order)));
    let tasks = LocalSet::new();
    let callers: Vec<_> = (0..in_flight)
        .map(|caller| tasks.spawn_local(call_in_turn(echo.clone(), caller, in_flight == 1, window.clone())))
        .collect();
    tasks.await;
    for caller in callers {
        caller.await??;
    }
    Ok(Rc::into_inner(window).context("all tasks have ended")?.into_inner().report())
}

async fn call_in_turn<E, F>(echo: E, caller: usize, is_alone: bool, window: Rc<RefCell<Window>>) -> Result<()>
where
    E: Fn(String) -> F,
    F: Future<Output = Result<String>> + 'static,
{
    let mut before_ns = clock_ns();
    let mut number = 0;
    while !window.borrow_mut().is_over(before_ns) {
        let text = text(caller, number);
        let back = echo(text.clone()).await?;
        ensure!(back == text, "wrong echo: sent {text:?}, came back {back:?}");
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
