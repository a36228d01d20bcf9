//! Copies bytes between one client and the socket behind it: `relay LISTEN UPSTREAM`. What a process in the middle costs at the
//! least. Ends when its standard input does.
#![expect(clippy::print_stderr, reason = "a command that says how it is used")]

use std::env;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process;
use std::thread;

const BUFFER_BYTES: usize = 256 * 1024;

fn main() -> io::Result<()> {
    let mut paths = env::args().skip(1);
    let (Some(listen), Some(upstream)) = (paths.next(), paths.next()) else {
        eprintln!("usage: relay LISTEN UPSTREAM");
        process::exit(2);
    };
    let listener = UnixListener::bind(listen)?;
    thread::spawn(|| {
        // Whoever started this holds the other end.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        process::exit(0);
    });
    let (client, _) = listener.accept()?;
    let service = UnixStream::connect(upstream)?;
    let (client_reader, service_writer) = (client.try_clone()?, service.try_clone()?);
    let calls = thread::spawn(move || copy(client_reader, service_writer));
    copy(service, client)?;
    calls.join().expect("copying does not panic")
}

fn copy(mut from: UnixStream, mut to: UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return to.shutdown(Shutdown::Write);
        }
        to.write_all(&buffer[..count])?;
    }
}
