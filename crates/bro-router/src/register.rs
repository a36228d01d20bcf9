//! REGISTER: a connection becomes an instance of a service.

use crate::event::{CloseReason, Event, EventMask};
use crate::outbox::{Outbox, Part};
use crate::peers::{NIL, UNPOOLED};
use crate::registry::{Description, NewService};
use crate::reply::payload;
use crate::router::Router;
use crate::timers::Timer;
use bro_proto::limits::{
    GATEWAY_SERVICE, HEARTBEATS_MISSED_MAX, METADATA_BYTES_MAX, POOL_SIZE_MAX, REGISTER_BYTES_MAX, REGISTRY_BYTES_MAX,
    RESERVED_PREFIX, SERVICE_NAME_BYTES_MAX,
};
use bro_proto::name::check_service_name;
use bro_proto::v1::Header;
use bro_proto::v1::decode;
use bro_proto::v1::encode::encode_register_ack;
use bro_proto::v2;
use bro_proto::{ErrorBody, ErrorCode, Now};
use serde_json::Value;

/// What a connection wants to be.
struct Registration {
    description: Description,
    /// The version that it offers to speak.
    offers_v2: bool,
    takes_lanes: bool,
    /// 1 without a pool.
    pool_size: u8,
    pool_index: u8,
}

impl Router {
    /// A REGISTER arrived. A refusal costs the connection: a v1 program has no other use for it.
    pub(crate) fn register(&mut self, slot: u32, body: &[u8], header: &Header<'_>, now: Now, out: &mut impl Outbox) {
        self.peers[slot].encoding = header.encoding;
        if let Err((error, reason)) = self.try_register(slot, body, header, now, out) {
            self.counters.registrations_refused += 1;
            self.counters.permission_denied += u64::from(error.code == Some(ErrorCode::PermissionDenied));
            self.warn(slot, &format!("registration refused: {}", error.message), now, out);
            self.close_peer(slot, reason, Some(&error), now, out);
        }
    }

    fn try_register(
        &mut self,
        slot: u32,
        body: &[u8],
        header: &Header<'_>,
        now: Now,
        out: &mut impl Outbox,
    ) -> Result<(), (ErrorBody, CloseReason)> {
        let refused = |code, message: String| Err((ErrorBody::new(code, message), CloseReason::Refused));
        let name = header.service_name.as_ref().map_or("", |name| &name.value);
        let registered_as = self.peers[slot].service;
        if registered_as != NIL {
            let present = &self.registry[registered_as].name;
            if **present != *name {
                let message = format!("this connection is {present:?}: open another one to register another name");
                return refused(ErrorCode::InvalidMessage, message);
            }
        } else if self.is_draining() {
            let error = ErrorBody::new(ErrorCode::ShuttingDown, "the gateway is shutting down: connect again later");
            return Err((error, CloseReason::Stopping));
        } else if let Err(error) = check_service_name(name) {
            let message = format!("`serviceName`: {error}; it must have 1 to {SERVICE_NAME_BYTES_MAX} bytes");
            return refused(ErrorCode::InvalidMessage, message);
        } else if name.starts_with(RESERVED_PREFIX) {
            let message = format!("names that begin with {RESERVED_PREFIX:?} belong to the gateway: choose another");
            return refused(ErrorCode::PermissionDenied, message);
        } else if let Err(error) = self.check_own(slot, name) {
            return Err((error, CloseReason::Refused));
        }
        let registration = read_registration(body, header).map_err(|error| (error, CloseReason::Refused))?;
        if self.registry.description_bytes() + registration.description.bytes() > REGISTRY_BYTES_MAX {
            let message = format!("the registrations take {REGISTRY_BYTES_MAX} bytes already: register less");
            return refused(ErrorCode::ResourceExhausted, message);
        }
        if registered_as != NIL {
            let is_changed = self.registry.describe(registered_as, registration.description);
            self.acknowledge(slot, now, out);
            if is_changed {
                self.report_registered(registered_as, now, out);
            }
            return Ok(());
        }
        let offers_v2 = registration.offers_v2 && self.config.speaks_v2;
        let takes_lanes = registration.takes_lanes;
        match self.registry.find(&self.hasher, name) {
            Some(service) => {
                self.check_pool(slot, service, &registration)
                    .map_err(|why| ErrorBody::new(ErrorCode::DuplicateService, format!("service {name:?} {why}")))
                    .map_err(|error| (error, CloseReason::Refused))?;
                self.registry.join(&mut self.peers, service, slot, registration.pool_index);
                let is_changed = self.registry.describe(service, registration.description);
                self.agree(slot, offers_v2, takes_lanes);
                self.acknowledge(slot, now, out);
                if is_changed {
                    self.report_registered(service, now, out);
                }
            }
            None => {
                let patience_ms = self.config.heartbeat_interval_ms.saturating_mul(HEARTBEATS_MISSED_MAX);
                let deadline = now.mono_ms().saturating_add(patience_ms);
                let new = NewService {
                    name: name.into(),
                    description: registration.description,
                    pool_size: registration.pool_size,
                    instance: slot,
                    pool_index: registration.pool_index,
                    connected_at_ms: now.wall_ms,
                    liveness_timer: self.timers.insert(deadline, Timer::Liveness(self.registry.next_index())),
                };
                let service = self.registry.insert(&mut self.peers, &self.hasher, new);
                self.agree(slot, offers_v2, takes_lanes);
                self.acknowledge(slot, now, out);
                self.report_registered(service, now, out);
                self.answer_waiters(service, now, out);
            }
        }
        Ok(())
    }

    /// Whether a connection may join a live service as a further member of its pool; if not, why not.
    fn check_pool(&self, slot: u32, index: u32, registration: &Registration) -> Result<(), String> {
        let service = &self.registry[index];
        let (size, place) = (registration.pool_size, registration.pool_index);
        if service.pool_size == 1 || size == 1 {
            return Err("is registered already: choose another name, or stop the program that holds it".to_owned());
        }
        if size != service.pool_size {
            return Err(format!("is registered as a pool of {}, not of {size}", service.pool_size));
        }
        if service.pool_taken & 1 << place != 0 {
            return Err(format!("is registered already, with pool index {place} in use"));
        }
        let Some(member) = self.registry.ring(&self.peers, index).next() else {
            return Err("is about to go: register again".to_owned());
        };
        if !self.peers[slot].identity.matches(&self.peers[member].identity) {
            return Err("is registered already, by another process".to_owned());
        }
        Ok(())
    }

    /// From its acknowledgement on the connection speaks version 2, if both sides do.
    fn agree(&mut self, slot: u32, offers_v2: bool, takes_lanes: bool) {
        self.peers[slot].v2 = offers_v2.then(Box::default);
        self.peers[slot].takes_lanes = offers_v2 && takes_lanes;
    }

    fn acknowledge(&mut self, slot: u32, now: Now, out: &mut impl Outbox) {
        self.counters.registrations += 1;
        if let Some(timer) = self.peers[slot].register_timer.take() {
            self.timers.remove(timer);
        }
        let version = self.peers[slot].v2.is_some().then_some(v2::VERSION);
        let mut frame = std::mem::take(&mut self.scratch);
        encode_register_ack(&mut frame, self.peers[slot].encoding, Some(GATEWAY_SERVICE), version);
        self.peers.send(slot, &[Part::Scratch(&frame)], now, &mut self.timers, &mut self.counters, out);
        self.keep_scratch(frame);
    }

    fn report_registered(&mut self, index: u32, now: Now, out: &mut impl Outbox) {
        if !self.reporter.wants(EventMask::SERVICES) {
            return;
        }
        let service = &self.registry[index];
        let event = Event::ServiceRegistered {
            service: &service.name,
            methods: &service.description.methods,
            version: service.description.version.as_deref(),
            metadata_json: &service.description.metadata_json,
        };
        self.reporter.report(event, now, out);
    }
}

fn read_registration(body: &[u8], header: &Header<'_>) -> Result<Registration, ErrorBody> {
    let invalid = |message: String| Err(ErrorBody::new(ErrorCode::InvalidMessage, message));
    if body.len() > REGISTER_BYTES_MAX {
        let message = format!("a REGISTER may have {REGISTER_BYTES_MAX} bytes, this one has {}", body.len());
        return Err(ErrorBody::new(ErrorCode::PayloadTooLarge, message));
    }
    let methods = match header.methods.as_ref() {
        Some(_) => decode::methods(payload(body, header.methods.as_ref(), header.encoding))?,
        None => Vec::new(),
    };
    let version = header.version.as_ref().map(|version| Box::<str>::from(&*version.value));
    let metadata = payload(body, header.metadata.as_ref(), header.encoding);
    if metadata.bytes.len() > METADATA_BYTES_MAX {
        let message = format!("`metadata` may have {METADATA_BYTES_MAX} bytes, this one has {}", metadata.bytes.len());
        return Err(ErrorBody::new(ErrorCode::PayloadTooLarge, message));
    }
    let mut object = match if metadata.bytes.is_empty() { Ok(Value::Null) } else { decode::to_json(metadata) } {
        Ok(Value::Object(object)) => object,
        Ok(Value::Null) => serde_json::Map::new(),
        Ok(_) => return invalid("`metadata` must be an object".to_owned()),
        Err(error) => return invalid(format!("`metadata`: {error}")),
    };
    let offer = object.remove("bro").unwrap_or_default();
    let offers_v2 = decode::version_of(&offer) == Some(v2::VERSION);
    let takes_lanes = offer.get("lanes") == Some(&Value::Bool(true));
    let size = object.get("poolSize").and_then(whole_number);
    let index = object.get("poolIndex").and_then(whole_number);
    let (pool_size, pool_index) = match (size, index) {
        (Some(size), Some(index)) if size > 1 => {
            if size > u64::from(POOL_SIZE_MAX) || index >= size {
                return invalid(format!(
                    "`metadata.poolSize` may be up to {POOL_SIZE_MAX}, and `metadata.poolIndex` must be below it"
                ));
            }
            // The place belongs to the connection; what is kept is about the whole service.
            object.remove("poolIndex");
            (u8::try_from(size).expect("checked"), u8::try_from(index).expect("checked"))
        }
        _ => (1, UNPOOLED),
    };
    let metadata_json = if object.is_empty() { String::new() } else { Value::Object(object).to_string() };
    let description = Description { methods: methods.into(), version, metadata_json: metadata_json.into() };
    Ok(Registration { description, offers_v2, takes_lanes, pool_size, pool_index })
}

/// A number as JavaScript writes whole ones, in either encoding.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked, and `as` saturates")]
fn whole_number(value: &Value) -> Option<u64> {
    let float = || value.as_f64().filter(|number| *number >= 0.0 && number.fract() == 0.0).map(|number| number as u64);
    value.as_u64().or_else(float)
}

const _: () = assert!(POOL_SIZE_MAX <= 64, "a pool's members are bits of a u64");
