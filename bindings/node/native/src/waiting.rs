//! What is done right before the event loop waits, for all lanes of an environment: perhaps spinning, and asking the peers to ring.
//!
//! Until then nobody is asked to ring, so that peers make no system call for a side that is awake.
//!
//! Invariant: when the loop waits, every lane is armed and has nothing to be read, or something keeps the loop from waiting.

use crate::client::Client;
use crate::environment::Environment;
use crate::node::guarded;
use crate::uv::{Handle, RawHandle, owner_of, would_wait};
use bro_lane::{SpinConfig, Spinner};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// Turns that clients take one after the other before the loop serves others, if only to find that there are none.
const ROUNDS_MAX: usize = 16;

#[derive(Default)]
pub(crate) struct Waiting {
    /// Made for the first lane, started while there are lanes.
    prepare: RefCell<Option<Handle<Rc<Environment>>>>,
    /// Those with lanes.
    clients: RefCell<Vec<Weak<Client>>>,
    spinner: RefCell<Option<Spinner>>,
    spin_us: Cell<u64>,
    /// Where the peer ran that wrote last.
    peer_cpu: Cell<Option<u32>>,
}

impl Waiting {
    /// A client has a lane. `spin_us` is how long it lets the loop spin, in microseconds: the most that any client said counts.
    pub(crate) fn admit(environment: &Rc<Environment>, client: &Rc<Client>, spin_us: u64) {
        let waiting = &environment.waiting;
        if spin_us > waiting.spin_us.get() {
            waiting.spin_us.set(spin_us);
            *waiting.spinner.borrow_mut() = Some(Spinner::new(SpinConfig { spin_us }));
        }
        let mut clients = waiting.clients.borrow_mut();
        if !clients.iter().any(|known| std::ptr::eq(known.as_ptr(), Rc::as_ptr(client))) {
            clients.push(Rc::downgrade(client));
        }
        let mut prepare = waiting.prepare.borrow_mut();
        if prepare.is_none() {
            *prepare = Handle::prepare(environment, environment.clone());
            if let Some(prepare) = &*prepare {
                prepare.unref();
            }
        }
        if let Some(prepare) = &*prepare {
            prepare.start_prepare(on_prepare);
        }
    }

    /// Something was read that a peer wrote on this CPU.
    pub(crate) fn note_peer_cpu(&self, cpu: Option<u32>) {
        self.peer_cpu.set(cpu);
    }

    /// The environment ends.
    pub(crate) fn end(&self) {
        drop(self.prepare.take());
    }

    fn before_wait(&self, environment: &Environment) {
        for _ in 0..ROUNDS_MAX {
            let clients = self.clients_with_lanes();
            if clients.is_empty() {
                if let Some(prepare) = &*self.prepare.borrow() {
                    prepare.stop_prepare();
                }
                return;
            }
            self.spin(environment, &clients);
            let mut may_wait = true;
            for client in &clients {
                if !client.arm_lanes() {
                    may_wait = false;
                    client.turn();
                }
            }
            if may_wait {
                return;
            }
        }
        for client in self.clients_with_lanes() {
            client.arm(false);
        }
    }

    fn clients_with_lanes(&self) -> Vec<Rc<Client>> {
        let mut with_lanes = Vec::new();
        self.clients.borrow_mut().retain(|client| {
            let client = client.upgrade().filter(|client| client.has_lanes());
            let is_kept = client.is_some();
            with_lanes.extend(client);
            is_kept
        });
        with_lanes
    }

    /// Looks at the lanes for a while, if that is worth it and the loop has nothing else to do.
    fn spin(&self, environment: &Environment, clients: &[Rc<Client>]) {
        let mut spinner = self.spinner.borrow_mut();
        if let Some(spinner) = &mut *spinner
            && would_wait(environment)
        {
            let states: Vec<_> = clients.iter().map(|client| client.state.borrow()).collect();
            spinner.spin(self.peer_cpu.get(), || states.iter().any(|state| state.is_lane_ready()));
        }
    }
}

unsafe extern "C" fn on_prepare(raw: *mut RawHandle) {
    guarded((), || {
        // SAFETY: the callback of a prepare handle that is owned by its environment.
        let environment = unsafe { owner_of::<Rc<Environment>>(raw) };
        environment.waiting.before_wait(&environment);
    });
}
