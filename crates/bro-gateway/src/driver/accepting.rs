//! New connections: taken, told apart by their credentials, and given to the router or turned away.

use super::{ACCEPTS_PER_WAKEUP, Driver, OWN_LISTENER, own_token};
use crate::credentials::{peer_groups, peer_identity};
use crate::event::GatewayEvent;
use bro_proto::v1::Encoding;
use bro_proto::v1::encode::encode_error;
use bro_proto::{ErrorBody, Now, limits};
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

impl Driver {
    pub(super) fn accept(&mut self) {
        if let Some(again_us) = self.accept_again_us {
            if self.now.mono_us < again_us {
                return;
            }
            self.accept_again_us = None;
            self.watch_listener(EventFlags::IN);
            self.is_accepting = true;
        }
        if !std::mem::take(&mut self.is_accepting) {
            return;
        }
        let Some(listener) = &self.listener else { return };
        for _ in 0..ACCEPTS_PER_WAKEUP {
            match accept_with(&listener.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    let identity = peer_identity(&socket);
                    let groups = if self.router.knows_groups() { peer_groups(&socket) } else { Vec::new() };
                    match self.router.handle_connect_in_groups(identity, &groups, self.now, &mut self.conns) {
                        Ok(peer) => {
                            if let Err(error) = self.conns.insert(peer, socket) {
                                self.router.handle_disconnect(peer, self.now, &mut self.conns);
                                let message = format!("a connection was accepted and could not be served: {error}");
                                self.conns.journal.record_own(GatewayEvent::SocketError { message });
                            }
                        }
                        Err(refusal) => self.conns.reject(socket, &refusal_frame(&refusal, self.now)),
                    }
                }
                Err(Errno::AGAIN) => {
                    self.is_accept_refused = false;
                    return;
                }
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO) => {}
                Err(error) => {
                    // Out of descriptors or memory. The backlog stays readable, so waiting for it would be spinning.
                    self.accept_again_us = Some(self.now.mono_us + limits::ACCEPT_BACKOFF_MS * 1000);
                    self.watch_listener(EventFlags::empty());
                    if std::mem::replace(&mut self.is_accept_refused, true) {
                        return;
                    }
                    let message = format!(
                        "cannot accept connections: {error}; {} are open; trying again every {} ms",
                        self.router.peers_len(),
                        limits::ACCEPT_BACKOFF_MS
                    );
                    self.conns.journal.record_own(GatewayEvent::SocketError { message });
                    return;
                }
            }
        }
    }

    fn watch_listener(&self, flags: EventFlags) {
        if let Some(listener) = &self.listener {
            epoll::modify(self.conns.epoll(), &listener.socket, own_token(OWN_LISTENER), flags)
                .expect("the listener is registered as long as it is there");
        }
    }
}

/// An ERROR frame for a connection that the router did not take.
fn refusal_frame(refusal: &ErrorBody, now: Now) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_error(&mut frame, Encoding::Json, None, refusal, now.wall_ms);
    frame
}
