//! Leaving when the system asks for it.

use crate::client::Client;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use tokio::signal::unix::{Signal, SignalKind, signal};

impl Client {
    /// Serves until SIGTERM or SIGINT (Ctrl-C) comes, and leaves without dropping a call: [`Client::drain`], then [`Client::disconnect`]. A second
    /// signal ends the drain at once; callers whose calls are still being worked on are told `SHUTTING_DOWN` or `CONNECTION_LOST`.
    ///
    /// From the first poll on, and not before, these signals do not end the process any more, for its whole life. Dropping the future leaves the client as it is.
    ///
    /// ```no_run
    /// # use ipc_bro::{Client, Context, HandlerError};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let clock = Client::builder("clock").method("now", async |(): (), _: Context| Ok::<_, HandlerError>("late"));
    /// clock.connect().await?.serve_until_signal().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of the system, when the signals cannot be watched.
    pub async fn serve_until_signal(&self) -> io::Result<()> {
        let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
        poll_fn(|cx| poll_any(&mut signals, cx)).await;
        let mut drain = pin!(self.drain());
        poll_fn(|cx| match drain.as_mut().poll(cx) {
            // Whoever is not done in time is cut off below.
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => poll_any(&mut signals, cx),
        })
        .await;
        self.disconnect().await;
        Ok(())
    }
}

/// Ready as soon as one of them has come.
fn poll_any(signals: &mut [Signal], cx: &mut Context<'_>) -> Poll<()> {
    let polled = signals.iter_mut().map(|signal| signal.poll_recv(cx).is_ready());
    // All of them are polled, so that each wakes this task.
    if polled.fold(false, |has_come, is_ready| has_come | is_ready) { Poll::Ready(()) } else { Poll::Pending }
}
