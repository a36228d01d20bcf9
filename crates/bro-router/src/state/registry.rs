//! Services and their instances.

use super::{Description, NewService, Registry, Service};
use crate::peers::{NIL, Peers, UNPOOLED};
use crate::router::Router;
use crate::state::checks::{check_json_object, ensure, ensure_at_most};
use crate::state::router::{Shift, deadline_of};
use crate::state::{ImportError, RegistryState, ServiceState};
use crate::timers::{Timer, Timers};
use bro_proto::limits::{METHOD_NAME_BYTES_MAX, METHODS_MAX, POOL_SIZE_MAX, REGISTRY_BYTES_MAX, RESERVED_PREFIX};
use bro_proto::name::check_service_name;
use std::collections::HashSet;

impl Registry {
    pub(crate) fn export(&self, peers: &Peers, timers: &Timers) -> RegistryState {
        let Registry { services: _, by_name: _, description_bytes: _, serials } = self;
        let services = self.iter().map(|(index, service)| {
            let Service {
                serial,
                name,
                description: Description { methods, version, metadata_json },
                hash: _,
                cursor: _, // the ring begins with it
                instances_len: _,
                pool_size,
                pool_taken: _,
                connected_at_ms,
                last_frame_ms: _, // with those of the instances
                liveness_timer,
            } = service;
            ServiceState {
                serial: *serial,
                name: name.to_string(),
                methods: methods.iter().map(ToString::to_string).collect(),
                version: version.as_ref().map(ToString::to_string),
                metadata_json: metadata_json.to_string(),
                instances: self.ring(peers, index).collect(),
                pool_size: *pool_size,
                connected_at_ms: *connected_at_ms,
                last_frame_ms: self.last_frame_ms(peers, index),
                liveness_deadline_ms: deadline_of(timers, *liveness_timer),
            }
        });
        RegistryState { serials: *serials, services: services.collect() }
    }
}

impl Router {
    /// Puts every peer into the service that it belongs to.
    pub(crate) fn import_services(&mut self, state: RegistryState, shift: Shift) -> Result<(), ImportError> {
        let RegistryState { serials, services } = state;
        ensure(serials <= u64::MAX / 2, "the serials of services are about to overflow")?;
        let mut seen = HashSet::new();
        for service in services {
            let is_fresh = service.serial != 0 && service.serial <= serials && seen.insert(service.serial);
            ensure(is_fresh, "two services have one serial")?;
            self.import_service(service, shift)?;
        }
        self.registry.serials = serials;
        ensure_at_most(self.registry.description_bytes(), REGISTRY_BYTES_MAX, "REGISTRY_BYTES_MAX")?;
        for slot in self.peers.live() {
            let peer = &self.peers[slot];
            let is_registered = peer.service != NIL;
            ensure(is_registered != peer.register_timer.is_some(), "a peer is registered, and is waited for")?;
            ensure(
                is_registered || (peer.v2.is_none() && peer.pool_index == UNPOOLED),
                "a peer has agreed on something before it registered",
            )?;
        }
        Ok(())
    }

    fn import_service(&mut self, state: ServiceState, shift: Shift) -> Result<(), ImportError> {
        let ServiceState {
            serial,
            name,
            methods,
            version,
            metadata_json,
            instances,
            pool_size,
            connected_at_ms,
            last_frame_ms,
            liveness_deadline_ms,
        } = state;
        ensure(check_service_name(&name).is_ok() && !name.starts_with(RESERVED_PREFIX), "a service's name is none")?;
        ensure(self.registry.find(&self.hasher, &name).is_none(), "two services have one name")?;
        let is_short = |method: &String| method.len() <= METHOD_NAME_BYTES_MAX;
        ensure(
            methods.len() <= METHODS_MAX && methods.iter().all(is_short),
            "a service has methods that it may not have",
        )?;
        if !metadata_json.is_empty() {
            check_json_object(&metadata_json)?;
        }
        ensure((1..=POOL_SIZE_MAX).contains(&u32::from(pool_size)), "a pool has no such size")?;
        ensure(!instances.is_empty() && (pool_size > 1 || instances.len() == 1), "a service has no such instances")?;
        let mut new = Some(NewService {
            name: name.into(),
            description: Description {
                methods: methods.into_iter().map(Into::into).collect(),
                version: version.map(Into::into),
                metadata_json: metadata_json.into(),
            },
            pool_size,
            instance: NIL,
            pool_index: UNPOOLED,
            connected_at_ms,
            liveness_timer: self
                .timers
                .insert(shift.ms(liveness_deadline_ms), Timer::Liveness(self.registry.next_index())),
        });
        let mut index = NIL;
        for instance in instances {
            ensure(self.peers.is_live(instance) && self.peers[instance].service == NIL, "an instance is none")?;
            let pool_index = self.peers[instance].pool_index;
            let has_place = if pool_size > 1 { pool_index < pool_size } else { pool_index == UNPOOLED };
            ensure(has_place, "an instance has no place in its pool")?;
            if let Some(new) = new.take() {
                let new = NewService { instance, pool_index, ..new };
                index = self.registry.insert(&mut self.peers, &self.hasher, new);
                let service = &mut self.registry[index];
                (service.serial, service.last_frame_ms) = (serial, shift.ms(last_frame_ms));
                self.peers[instance].serial = serial;
            } else {
                let is_free = self.registry[index].pool_taken & 1 << pool_index == 0;
                ensure(is_free, "two instances have one place in their pool")?;
                self.registry.join(&mut self.peers, index, instance, pool_index);
            }
        }
        Ok(())
    }
}
