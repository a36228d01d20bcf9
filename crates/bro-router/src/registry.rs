//! Services by name, each with the ring of its instances.

#[path = "state/registry.rs"]
mod state;

use crate::accounts::Resource;
use crate::hash::KeyedHash;
use crate::peers::{NIL, Peers, UNPOOLED};
use bro_proto::timer::TimerId;
use hashbrown::HashTable;
use slab::Slab;

/// What a service says of itself in REGISTER.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) methods: Box<[Box<str>]>,
    pub(crate) version: Option<Box<str>>,
    /// Text of a JSON object; empty stands for `{}`.
    pub(crate) metadata_json: Box<str>,
}

impl Description {
    pub(crate) fn metadata_json(&self) -> &str {
        if self.metadata_json.is_empty() { "{}" } else { &self.metadata_json }
    }

    /// Bytes that it keeps in memory, roughly.
    pub(crate) fn bytes(&self) -> usize {
        let methods: usize = self.methods.iter().map(|method| size_of::<Box<str>>() + method.len()).sum();
        methods + self.version.as_ref().map_or(0, |version| version.len()) + self.metadata_json.len()
    }
}

/// A registered service. Invariant: it has at least one instance.
#[derive(Debug)]
pub(crate) struct Service {
    /// Of this registration: no other has the same, so that who remembers it notices when the service has gone.
    pub(crate) serial: u64,
    pub(crate) name: Box<str>,
    pub(crate) description: Description,
    /// Who pays for the description: the account of its first instance.
    pub(crate) account: u32,
    hash: u64,
    /// The instance that the next call goes to; the ring of all instances passes through it.
    cursor: u32,
    pub(crate) instances_len: u32,
    /// 1 for a service without a pool.
    pub(crate) pool_size: u8,
    /// One bit per pool index in use.
    pub(crate) pool_taken: u64,
    pub(crate) connected_at_ms: u64,
    /// Monotonic milliseconds of the last sign of life on any instance that has left.
    last_frame_ms: u64,
    pub(crate) liveness_timer: TimerId,
}

/// All services.
#[derive(Debug)]
pub(crate) struct Registry {
    services: Slab<Service>,
    by_name: HashTable<u32>,
    /// Sum of what the descriptions keep in memory.
    description_bytes: usize,
    /// Registrations of services so far.
    serials: u64,
}

/// Name space of service names in the keyed hash; call ids use peer slots, which never reach it.
const NAME_SCOPE: u32 = NIL;

impl Registry {
    pub(crate) fn new() -> Self {
        Self { services: Slab::new(), by_name: HashTable::new(), description_bytes: 0, serials: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.services.len()
    }

    pub(crate) fn description_bytes(&self) -> usize {
        self.description_bytes
    }

    /// The live services with their indices, in the order of their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Service)> {
        self.services.iter().map(|(index, service)| (index_of(index), service))
    }

    /// A few services, found without looking far; not the one with this serial.
    pub(crate) fn some(&self, but: u64, count: usize) -> impl Iterator<Item = &Service> {
        const LOOKED_AT_MAX: usize = 256;
        let others = (0..LOOKED_AT_MAX).filter_map(|index| self.services.get(index));
        others.filter(move |service| service.serial != but).take(count)
    }

    pub(crate) fn find(&self, hasher: &KeyedHash, name: &str) -> Option<u32> {
        let hash = hasher.hash(NAME_SCOPE, name);
        self.by_name.find(hash, |&index| &*self.services[index as usize].name == name).copied()
    }

    /// Whether the service at this index is still the one with that serial.
    #[inline]
    pub(crate) fn is_same(&self, index: u32, serial: u64) -> bool {
        self.services.get(index as usize).is_some_and(|service| service.serial == serial)
    }

    /// Adds a service with its first instance. The name must be free.
    pub(crate) fn insert(&mut self, peers: &mut Peers, hasher: &KeyedHash, new: NewService) -> u32 {
        let hash = hasher.hash(NAME_SCOPE, &new.name);
        let bytes = new.description.bytes();
        self.description_bytes += bytes;
        let account = peers[new.instance].account;
        peers.accounts.charge(account, Resource::Registry, bytes);
        peers.accounts.charge(account, Resource::Memory, bytes);
        self.serials += 1;
        let serial = self.serials;
        let entry = self.services.vacant_entry();
        let index = index_of(entry.key());
        entry.insert(Service {
            serial,
            name: new.name,
            description: new.description,
            account,
            hash,
            cursor: NIL,
            instances_len: 0,
            pool_size: new.pool_size,
            pool_taken: 0,
            connected_at_ms: new.connected_at_ms,
            last_frame_ms: 0,
            liveness_timer: new.liveness_timer,
        });
        let services = &self.services;
        self.by_name.insert_unique(hash, index, |&other| services[other as usize].hash);
        self.join(peers, index, new.instance, new.pool_index);
        index
    }

    /// The index that the next [`Registry::insert`] will give.
    pub(crate) fn next_index(&self) -> u32 {
        index_of(self.services.vacant_key())
    }

    /// Replaces what the service says of itself. True when its methods changed.
    pub(crate) fn describe(&mut self, peers: &mut Peers, index: u32, description: Description) -> bool {
        let service = &mut self.services[index as usize];
        let (before, after) = (service.description.bytes(), description.bytes());
        self.description_bytes = self.description_bytes - before + after;
        peers.accounts.recharge(service.account, Resource::Registry, before, after);
        peers.accounts.recharge(service.account, Resource::Memory, before, after);
        let is_changed = service.description.methods != description.methods;
        service.description = description;
        is_changed
    }

    /// Adds an instance, just before the cursor: it is asked last in the present round.
    pub(crate) fn join(&mut self, peers: &mut Peers, index: u32, slot: u32, pool_index: u8) {
        let service = &mut self.services[index as usize];
        if service.cursor == NIL {
            service.cursor = slot;
            peers[slot].ring_next = slot;
            peers[slot].ring_prev = slot;
        } else {
            let next = service.cursor;
            let prev = peers[next].ring_prev;
            peers[slot].ring_next = next;
            peers[slot].ring_prev = prev;
            peers[prev].ring_next = slot;
            peers[next].ring_prev = slot;
        }
        service.instances_len += 1;
        if pool_index != UNPOOLED {
            service.pool_taken |= 1 << pool_index;
        }
        peers[slot].service = index;
        peers[slot].serial = service.serial;
        peers[slot].pool_index = pool_index;
    }

    /// Takes an instance out. When it was the last, the service goes too and is handed back.
    pub(crate) fn leave(&mut self, peers: &mut Peers, slot: u32) -> Option<Service> {
        let index = peers[slot].service;
        let service = &mut self.services[index as usize];
        let (prev, next) = (peers[slot].ring_prev, peers[slot].ring_next);
        peers[prev].ring_next = next;
        peers[next].ring_prev = prev;
        let peer = &mut peers[slot];
        if peer.pool_index != UNPOOLED {
            service.pool_taken &= !(1 << peer.pool_index);
        }
        service.last_frame_ms = service.last_frame_ms.max(peer.last_frame_ms);
        peer.service = NIL;
        peer.serial = 0;
        peer.ring_next = NIL;
        peer.ring_prev = NIL;
        service.instances_len -= 1;
        if service.cursor == slot {
            service.cursor = next;
        }
        if service.instances_len > 0 {
            return None;
        }
        let service = self.services.remove(index as usize);
        let bytes = service.description.bytes();
        self.description_bytes -= bytes;
        peers.accounts.release(service.account, Resource::Registry, bytes);
        peers.accounts.release(service.account, Resource::Memory, bytes);
        let entry = self.by_name.find_entry(service.hash, |&other| other == index);
        entry.expect("every service is in the table").remove();
        Some(service)
    }

    /// The instances, the one that is next to be asked first.
    pub(crate) fn ring<'a>(&'a self, peers: &'a Peers, index: u32) -> impl Iterator<Item = u32> + 'a {
        let service = &self.services[index as usize];
        let mut slot = service.cursor;
        (0..service.instances_len).map(move |_| {
            let present = slot;
            slot = peers[present].ring_next;
            present
        })
    }

    /// Monotonic milliseconds of the last sign of life. It is looked for when somebody asks, which is seldom; frames only mark their peer.
    pub(crate) fn last_frame_ms(&self, peers: &Peers, index: u32) -> u64 {
        let of_instances = self.ring(peers, index).map(|slot| peers[slot].last_frame_ms);
        of_instances.fold(self.services[index as usize].last_frame_ms, u64::max)
    }

    /// The instance, if there is no other one.
    pub(crate) fn only_instance(&self, index: u32) -> Option<u32> {
        let service = &self.services[index as usize];
        (service.instances_len == 1).then_some(service.cursor)
    }

    /// Makes `slot` the instance that was asked last.
    pub(crate) fn advance(&mut self, peers: &Peers, index: u32, slot: u32) {
        self.services[index as usize].cursor = peers[slot].ring_next;
    }
}

impl std::ops::Index<u32> for Registry {
    type Output = Service;

    fn index(&self, index: u32) -> &Service {
        &self.services[index as usize]
    }
}

impl std::ops::IndexMut<u32> for Registry {
    fn index_mut(&mut self, index: u32) -> &mut Service {
        &mut self.services[index as usize]
    }
}

/// A service to be added, with its first instance.
pub(crate) struct NewService {
    pub(crate) name: Box<str>,
    pub(crate) description: Description,
    pub(crate) pool_size: u8,
    pub(crate) instance: u32,
    pub(crate) pool_index: u8,
    pub(crate) connected_at_ms: u64,
    pub(crate) liveness_timer: TimerId,
}

fn index_of(key: usize) -> u32 {
    u32::try_from(key).expect("there are no more services than peers")
}
