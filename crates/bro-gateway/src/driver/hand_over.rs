//! The driver at both ends of a takeover: what it gives away, and how it goes on with what another one gave.

use super::{Driver, Ending, Listener, OWN_LINGER, own_token};
use crate::socket_file::SocketFile;
use crate::takeover::{Given, TakenConn, TakenLinger, give, may_take_over, shares_control_group};
use bro_proto::{ErrorBody, ErrorCode, Now, limits};
use bro_router::TakeoverRequest;
use rustix::fd::AsFd;
use rustix::io;
use rustix::process::geteuid;

impl Driver {
    /// Takes over what another gateway had, before it runs.
    pub(crate) fn resume(
        &mut self,
        conns: Vec<TakenConn>,
        lingering: Vec<TakenLinger>,
        pid: u32,
        exported_at: Now,
    ) -> io::Result<()> {
        for conn in conns {
            self.conns.resume(conn)?;
        }
        for linger in lingering {
            let token_of = |index| own_token(OWN_LINGER + u32::try_from(index).expect("bounded by LINGERING_MAX"));
            self.lingering.resume(self.conns.epoll(), linger, self.now.mono_us, token_of);
        }
        self.taken_over = Some((pid, exported_at));
        Ok(())
    }

    /// The first thing that it does with what it has taken over, which is its own by now.
    pub(super) fn begin_as_successor(&mut self) {
        let Some((pid, exported_at)) = self.taken_over.take() else { return };
        if let Some(Listener { file: Some(file), .. }) = &mut self.listener {
            file.own();
        }
        // Nobody was read from meanwhile: what has arrived counts before anybody is called silent.
        self.now = self.clock.now();
        self.catch_up_until_us = Some(self.now.mono_us + limits::CATCH_UP_MS * 1000);
        // Lanes go when single calls are watched here. At that moment nothing is due that was not due before.
        self.router.handle_time(exported_at, &mut self.conns);
        tracing::warn!(
            from_pid = pid,
            connections = self.router.peers_len(),
            in_flight = self.router.in_flight_len(),
            parked = self.router.parked_len(),
            lanes = self.router.lanes_len(),
            paused_us = self.now.mono_us.saturating_sub(exported_at.mono_us),
            "took over from the running gateway"
        );
    }

    /// Gives everything to another gateway, if one has asked for it and can have it. `None`: this one goes on.
    pub(super) fn hand_over_if_asked(&mut self) -> Option<Ending> {
        let request = self.router.take_takeover_request()?;
        let pid = request.identity.pid;
        let begun_us = self.clock.mono_us();
        match self.hand_over(&request) {
            Ok(()) => {
                if let Some(Listener { file: Some(file), .. }) = &mut self.listener {
                    file.disown();
                }
                let (connections, in_flight) = (self.router.peers_len(), self.router.in_flight_len());
                let took_us = self.clock.mono_us().saturating_sub(begun_us);
                tracing::warn!(to_pid = pid, connections, in_flight, took_us, "handed over to another gateway");
                Some(Ending::HandedOver(pid))
            }
            Err(why) => {
                tracing::warn!(to_pid = pid, "a takeover came to nothing, this gateway goes on: {why}");
                self.now = self.clock.now();
                self.catch_up_until_us = Some(self.now.mono_us + limits::CATCH_UP_MS * 1000);
                None
            }
        }
    }

    fn hand_over(&mut self, request: &TakeoverRequest) -> Result<(), String> {
        if let Err(refusal) = self.check_takeover(request) {
            self.router.refuse_takeover(request, &refusal, self.now, &mut self.conns);
            self.finish_work();
            return Err(refusal.message);
        }
        let begun_us = self.clock.mono_us();
        let given = self.hand_over_all(request);
        if given.is_err() {
            self.now = self.clock.now();
            self.router.handle_takeover_failed(self.now.mono_us.saturating_sub(begun_us), self.now);
        }
        given
    }

    /// Tells the other gateway that it can have everything, and gives it.
    fn hand_over_all(&mut self, request: &TakeoverRequest) -> Result<(), String> {
        self.router.accept_takeover(request, self.now, &mut self.conns);
        self.finish_work();
        let Some(socket) = self.conns.take_socket(request.peer) else {
            return Err("the new gateway does not read what it is told".to_owned());
        };
        // What is handed over does not contain the connection that it goes over.
        self.router.handle_disconnect(request.peer, self.now, &mut self.conns);
        self.finish_work();
        while self.router.is_ending() {
            self.router.finish_ends(self.now, &mut self.conns);
            self.finish_work();
        }
        let Some(Listener { file, socket: listener }) = &self.listener else {
            return Err("there is no listening socket to hand over".to_owned());
        };
        self.now = self.clock.now();
        let given = Given {
            listener: listener.as_fd(),
            socket_file: file.as_ref().map(SocketFile::identity),
            router: self.router.export(self.now).encode(),
            conns: self.conns.handed_on().collect(),
            lingering: self.lingering.handed_on(self.now.mono_us).collect(),
        };
        give(socket, given)
    }

    fn check_takeover(&self, request: &TakeoverRequest) -> Result<(), ErrorBody> {
        if !may_take_over(&request.identity, geteuid().as_raw()) {
            let message = "only the user that the gateway runs as, and root, may take over from it";
            return Err(ErrorBody::new(ErrorCode::PermissionDenied, message));
        }
        if self.is_service && !shares_control_group(request.identity.pid) {
            let message = "the gateway is a service of a service manager, and the process that asks is not part of it: \
                           send the gateway SIGUSR2 (systemctl kill --kill-whom=main --signal=USR2)";
            return Err(ErrorBody::new(ErrorCode::PermissionDenied, message));
        }
        if self.ends_at_us.is_some() || self.listener.is_none() {
            return Err(ErrorBody::new(
                ErrorCode::ShuttingDown,
                "the gateway is stopping: start the new one afterwards",
            ));
        }
        let needed = (self.router.peers_len() + self.lingering.len()) as u64 + limits::TAKEOVER_SPARE_DESCRIPTORS;
        if request.descriptors_max < needed {
            let message = format!(
                "the new gateway needs {needed} descriptors and can open {}: raise its limit of open files",
                request.descriptors_max
            );
            return Err(ErrorBody::new(ErrorCode::ResourceExhausted, message));
        }
        Ok(())
    }

    /// Does all that is to be done without waiting. It ends: nothing is read but from those who go.
    fn finish_work(&mut self) {
        self.flush();
        while self.conns.has_work() {
            self.read_broken();
            self.finish_closed();
            self.flush();
        }
        self.hand_out_lanes();
        if self.conns.has_work() {
            self.finish_work();
        }
        self.conns.journal.deliver();
    }
}
