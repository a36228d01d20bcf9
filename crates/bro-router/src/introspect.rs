//! Calls to the gateway itself, under the reserved name `bro.gateway`.

use crate::accounts::UserView;
use crate::calls::{CallerId, Side};
use crate::event_log::write_json_strings;
use crate::outbox::Outbox;
use crate::peers::{NIL, UNPOOLED};
use crate::reply::Answer;
use crate::router::Router;
use crate::takeover::TakeoverParams;
use crate::view::{InstanceView, LoopView, ServiceView, WakeupView};
use bro_proto::limits::{
    EVENTS_PER_POLL_MAX, GATEWAY_SERVICE, INTROSPECTION_LIST_BYTES_MAX, INTROSPECTION_PARAMS_BYTES_MAX, PING_METHOD,
    STATUS_NAMES_BYTES_MAX, WAITED_FOR_SHOWN_MAX,
};
use bro_proto::v1::decode::to_json;
use bro_proto::v1::encode::{Outcome, write_json_string};
use bro_proto::v1::{Encoding, Payload};
use bro_proto::{ErrorBody, ErrorCode, Now};
use serde_json::Value;
use std::num::NonZeroU64;

/// A call to the gateway itself.
pub(crate) struct Inquiry<'a> {
    pub(crate) caller: u32,
    pub(crate) id: CallerId<'a>,
    /// Echoed in the answer.
    pub(crate) context: Payload<'a>,
    /// Until its deadline.
    pub(crate) timeout_ms: u64,
}

/// What to do with an inquiry.
enum Reply {
    /// Answer with this JSON text.
    Now(Vec<u8>),
    /// It is parked, and will be answered later.
    Later,
}

/// How long `waitFor` waits unless told otherwise, in milliseconds.
const WAIT_FOR_TIMEOUT_MS: u64 = 30_000;
/// How long `events` waits unless told otherwise, in milliseconds.
const EVENTS_TIMEOUT_MS: u64 = 25_000;
/// Users in the answer to `status`.
const USERS_SHOWN_MAX: usize = 256;
/// Room kept in a frame for what stands around the result.
const ENVELOPE_BYTES: usize = 128 * 1024;

impl Router {
    /// The names of the registered services.
    pub fn service_names(&self) -> Vec<String> {
        self.registry.iter().map(|(_, service)| service.name.to_string()).collect()
    }

    /// Everything about one service.
    pub fn service(&self, name: &str) -> Option<ServiceView> {
        self.registry.find(&self.hasher, name).map(|index| self.service_view(index))
    }

    /// Answers a call to the gateway, or parks it.
    pub(crate) fn introspect(
        &mut self,
        inquiry: &Inquiry<'_>,
        method: &str,
        params: Payload<'_>,
        now: Now,
        out: &mut impl Outbox,
    ) {
        self.counters.calls_introspection += 1;
        let result = self.find_out(inquiry, method, params, now);
        if let Err(error) = &result {
            self.note_denied(Some(inquiry.caller), error, now, out);
        }
        let outcome = match &result {
            Ok(Reply::Later) => return,
            Ok(Reply::Now(json)) => Outcome::Success(Payload { encoding: Encoding::Json, bytes: json }),
            Err(error) => Outcome::Error(error),
        };
        let answer = Answer { id: inquiry.id, outcome, context: inquiry.context };
        self.answer(inquiry.caller, "", &answer, now, out);
    }

    /// Appends a service as a JSON object.
    pub(crate) fn write_service(&self, out: &mut Vec<u8>, index: u32) {
        let service = &self.registry[index];
        let last_frame_at_ms = self.last_frame_at_ms(index);
        out.extend_from_slice(b"{\"name\":");
        write_json_string(out, &service.name);
        if let Some(version) = &service.description.version {
            out.extend_from_slice(b",\"version\":");
            write_json_string(out, version);
        }
        out.extend_from_slice(b",\"methods\":");
        write_json_strings(out, &service.description.methods);
        out.extend_from_slice(b",\"metadata\":");
        out.extend_from_slice(service.description.metadata_json().as_bytes());
        let times = format!(",\"connectedAt\":{},\"lastHeartbeat\":{last_frame_at_ms}", service.connected_at_ms);
        out.extend_from_slice(times.as_bytes());
        out.extend_from_slice(b",\"instances\":[");
        for (at, slot) in self.registry.ring(&self.peers, index).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            self.write_instance(out, slot);
        }
        out.extend_from_slice(b"]}");
    }

    /// Appends the answer to `waitFor`.
    pub(crate) fn write_found(&self, out: &mut Vec<u8>, index: u32, is_brief: bool) {
        if !is_brief {
            return self.write_service(out, index);
        }
        out.extend_from_slice(b"{\"name\":");
        write_json_string(out, &self.registry[index].name);
        out.push(b'}');
    }

    /// Appends the answer to `events`.
    pub(crate) fn write_events(&self, out: &mut Vec<u8>, cursor: u64, max: usize) {
        let limit = self.list_bytes_max();
        // msgpack needs about as much as JSON.
        let (mut fitting, mut bytes) = (0, 0);
        for entry in self.reporter.log.since(cursor, max).entries {
            bytes += entry.len() + 1;
            if bytes > limit && fitting > 0 {
                break;
            }
            fitting += 1;
        }
        let batch = self.reporter.log.since(cursor, fitting);
        out.extend_from_slice(
            format!("{{\"cursor\":{},\"dropped\":{},\"events\":[", batch.cursor, batch.dropped).as_bytes(),
        );
        for (at, entry) in batch.entries.enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(entry.as_bytes());
        }
        out.extend_from_slice(b"]}");
    }

    fn find_out(
        &mut self,
        inquiry: &Inquiry<'_>,
        method: &str,
        params: Payload<'_>,
        now: Now,
    ) -> Result<Reply, ErrorBody> {
        self.check_inquiry(inquiry.caller, method)?;
        let params = read_params(params)?;
        match method {
            "ping" | PING_METHOD => Ok(Reply::Now(format!("{{\"pong\":true,\"time\":{}}}", now.wall_ms).into_bytes())),
            "status" => Ok(Reply::Now(self.status(inquiry.caller, now))),
            "services" => self.services(inquiry.caller).map(Reply::Now),
            "service" => {
                let name = text_param(&params, "name")?;
                self.check_see(inquiry.caller, name)?;
                let index = self.registry.find(&self.hasher, name).ok_or_else(|| {
                    let message = format!("service {name:?} is not registered: `services` lists those that are");
                    ErrorBody::new(ErrorCode::ServiceNotFound, message)
                })?;
                let mut json = Vec::new();
                self.write_service(&mut json, index);
                Ok(Reply::Now(json))
            }
            "waitFor" => {
                let name = text_param(&params, "service")?;
                let is_brief = params["brief"] == Value::Bool(true);
                self.check_see(inquiry.caller, name)?;
                if let Some(index) = self.registry.find(&self.hasher, name) {
                    let mut json = Vec::new();
                    self.write_found(&mut json, index, is_brief);
                    return Ok(Reply::Now(json));
                }
                bro_proto::name::check_service_name(name)
                    .map_err(|error| ErrorBody::new(ErrorCode::InvalidArgument, format!("`service`: {error}")))?;
                let timeout_ms = number_param(&params, "timeoutMs")?.unwrap_or(WAIT_FOR_TIMEOUT_MS);
                self.park_for_service(inquiry, name, is_brief, timeout_ms, now)?;
                Ok(Reply::Later)
            }
            "events" => self.events(inquiry, &params, now),
            "takeover" => {
                let number = |name| {
                    let missing = || ErrorBody::new(ErrorCode::InvalidArgument, format!("`params.{name}` is missing"));
                    number_param(&params, name)?.ok_or_else(missing)
                };
                let asked = TakeoverParams {
                    reads_from: number("readsFrom")?,
                    reads_to: number("format")?,
                    descriptors_max: number("descriptorsMax")?,
                };
                self.ask_for_takeover(inquiry, &asked, now)?;
                Ok(Reply::Later)
            }
            "reloadPolicy" => self.wish_for_policy(inquiry, now).map(|()| Reply::Later),
            _ => {
                let message = format!(
                    "{GATEWAY_SERVICE} has no method {method:?}; it has status, services, service, waitFor, events, reloadPolicy and ping"
                );
                Err(ErrorBody::new(ErrorCode::MethodNotFound, message))
            }
        }
    }

    fn events(&mut self, inquiry: &Inquiry<'_>, params: &Value, now: Now) -> Result<Reply, ErrorBody> {
        let cursor = number_param(params, "cursor")?;
        let max = number_param(params, "max")?.map_or(EVENTS_PER_POLL_MAX, |max| {
            usize::try_from(max).unwrap_or(EVENTS_PER_POLL_MAX).clamp(1, EVENTS_PER_POLL_MAX)
        });
        let timeout_ms = number_param(params, "timeoutMs")?.unwrap_or(EVENTS_TIMEOUT_MS);
        self.renew_watch_lease(now);
        let present = self.reporter.log.cursor();
        // Without a cursor, or with that of an earlier gateway, the watcher learns where it stands.
        if let Some(cursor) = cursor.filter(|&cursor| cursor <= present) {
            let is_nothing_new = cursor == present;
            if is_nothing_new && timeout_ms > 0 {
                self.park_for_events(inquiry, cursor, max, timeout_ms, now)?;
                return Ok(Reply::Later);
            }
            let mut json = Vec::new();
            self.write_events(&mut json, cursor, max);
            return Ok(Reply::Now(json));
        }
        let mut json = Vec::new();
        self.write_events(&mut json, present, max);
        Ok(Reply::Now(json))
    }

    fn status(&self, asker: u32, now: Now) -> Vec<u8> {
        let mut out = Vec::with_capacity(4096);
        out.extend_from_slice(
            format!("{{\"running\":true,\"draining\":{},\"version\":", self.is_draining()).as_bytes(),
        );
        write_json_string(&mut out, env!("CARGO_PKG_VERSION"));
        if let Some(pid) = self.pid {
            out.extend_from_slice(format!(",\"pid\":{pid},\"socketPath\":").as_bytes());
            write_json_string(&mut out, &self.socket_path);
        }
        if let Some((uid, gid)) = self.user {
            out.extend_from_slice(format!(",\"uid\":{uid},\"gid\":{gid}").as_bytes());
        }
        let mut names = Vec::new();
        let (mut seen_len, mut shown_len) = (0_usize, 0);
        for (_, service) in self.registry.iter().filter(|(_, service)| self.may_see(asker, &service.name)) {
            // Those at the beginning, and not what happens to fit behind them.
            if shown_len == seen_len && names.len() + service.name.len() <= STATUS_NAMES_BYTES_MAX {
                if shown_len > 0 {
                    names.push(b',');
                }
                write_json_string(&mut names, &service.name);
                shown_len += 1;
            }
            seen_len += 1;
        }
        let numbers = [
            ("uptimeMs", now.mono_ms().saturating_sub(self.started.mono_ms())),
            ("peers", self.peers.len() as u64),
            ("inFlight", self.calls.len() as u64),
            ("parked", self.parked.len() as u64),
            ("queuedBytes", self.peers.queued_bytes() as u64),
            ("memoryBytes", self.memory_bytes() as u64),
            ("memoryMax", self.config.memory_max as u64),
            ("lanes", self.lanes.len() as u64),
            ("laneBytes", self.lane_bytes() as u64),
            ("connectedServices", seen_len as u64),
            ("servicesOmitted", (seen_len - shown_len) as u64),
            ("policyRules", self.permissions.rules_len() as u64),
        ];
        for (name, number) in numbers {
            out.extend_from_slice(format!(",\"{name}\":{number}").as_bytes());
        }
        if let Some(file) = &self.permissions.file {
            out.extend_from_slice(b",\"policyFile\":");
            write_json_string(&mut out, file);
        }
        out.extend_from_slice(b",\"services\":[");
        out.extend_from_slice(&names);
        out.extend_from_slice(b"],\"users\":[");
        self.write_users(asker, &mut out);
        out.extend_from_slice(b"],\"waitedFor\":{");
        let seen = self.parked.waited_for().filter(|(name, _)| self.may_see(asker, name));
        for (at, (name, waiters)) in seen.take(WAITED_FOR_SHOWN_MAX).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write_json_string(&mut out, name);
            out.extend_from_slice(format!(":{waiters}").as_bytes());
        }
        out.extend_from_slice(b"},\"loop\":");
        write_loop(&mut out, &self.loop_view);
        out.extend_from_slice(b",\"counters\":{");
        for (at, (name, count)) in self.counters.named().into_iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            out.extend_from_slice(format!("{comma}\"{name}\":{count}").as_bytes());
        }
        out.extend_from_slice(b"}}");
        out
    }

    /// Those with most memory, as many as a status can show, of those that the asker may know of.
    fn write_users(&self, asker: u32, out: &mut Vec<u8>) {
        let users = self.users();
        let seen = users.iter().filter(|user| self.may_see_user(asker, user.uid));
        for (at, user) in seen.take(USERS_SHOWN_MAX).enumerate() {
            out.extend_from_slice(if at == 0 { b"{" } else { b",{" });
            if let Some(uid) = user.uid {
                out.extend_from_slice(format!("\"uid\":{uid},").as_bytes());
            }
            let UserView { memory_bytes, connections, in_flight, registry_bytes, lanes, lane_bytes, .. } = user;
            out.extend_from_slice(
                format!(
                    "\"memoryBytes\":{memory_bytes},\"connections\":{connections},\"inFlight\":{in_flight},\"registryBytes\":{registry_bytes},\"lanes\":{lanes},\"laneBytes\":{lane_bytes}}}"
                )
                .as_bytes(),
            );
        }
    }

    fn services(&self, asker: u32) -> Result<Vec<u8>, ErrorBody> {
        let limit = self.list_bytes_max();
        let mut out = b"{\"services\":[".to_vec();
        let seen = self.registry.iter().filter(|(_, service)| self.may_see(asker, &service.name));
        for (at, (index, _)) in seen.enumerate() {
            if at > 0 {
                out.push(b',');
            }
            self.write_service(&mut out, index);
            if out.len() > limit {
                let message = format!(
                    "the list has more than {limit} bytes: ask for each service by `service`; `status` has names"
                );
                return Err(ErrorBody::new(ErrorCode::PayloadTooLarge, message));
            }
        }
        out.extend_from_slice(b"]}");
        Ok(out)
    }

    /// What a list may have, so that it fits a frame and is soon made.
    fn list_bytes_max(&self) -> usize {
        self.config.frame_bytes_max.saturating_sub(ENVELOPE_BYTES).min(INTROSPECTION_LIST_BYTES_MAX)
    }

    fn write_instance(&self, out: &mut Vec<u8>, slot: u32) {
        let view = self.instance_view(slot);
        out.extend_from_slice(b"{\"encoding\":");
        write_json_string(out, view.encoding.as_str());
        let optional = [
            ("pid", view.pid.map(u64::from)),
            ("pidfdId", view.pidfd_id.map(NonZeroU64::get)),
            ("uid", view.uid.map(u64::from)),
            ("gid", view.gid.map(u64::from)),
            ("poolIndex", view.pool_index.map(u64::from)),
        ];
        for (name, number) in optional.into_iter().filter_map(|(name, number)| Some((name, number?))) {
            out.extend_from_slice(format!(",\"{name}\":{number}").as_bytes());
        }
        let rest = format!(
            ",\"protocol\":{},\"lanes\":{},\"laneBytes\":{},\"connectedAt\":{},\"lastHeartbeat\":{},\"queuedBytes\":{},\"inFlight\":{}}}",
            view.protocol,
            view.lanes,
            view.lane_bytes,
            view.connected_at_ms,
            view.last_heartbeat_ms,
            view.queued_bytes,
            view.in_flight
        );
        out.extend_from_slice(rest.as_bytes());
    }

    fn service_view(&self, index: u32) -> ServiceView {
        let service = &self.registry[index];
        ServiceView {
            name: service.name.to_string(),
            methods: service.description.methods.to_vec(),
            version: service.description.version.as_ref().map(ToString::to_string),
            metadata_json: service.description.metadata_json().to_owned(),
            connected_at_ms: service.connected_at_ms,
            last_heartbeat_ms: self.last_frame_at_ms(index),
            instances: self.registry.ring(&self.peers, index).map(|slot| self.instance_view(slot)).collect(),
        }
    }

    fn instance_view(&self, slot: u32) -> InstanceView {
        let peer = &self.peers[slot];
        debug_assert_ne!(peer.service, NIL);
        let v2 = peer.v2.as_ref();
        InstanceView {
            protocol: if v2.is_some() { 2 } else { 1 },
            lanes: v2.map_or(0, |state| state.lanes.len()),
            lane_bytes: v2.map_or(0, |state| self.lanes.bytes_of(&state.lanes)),
            peer: self.peers.id(slot),
            pid: peer.identity.pid,
            pidfd_id: peer.identity.pidfd_id,
            uid: peer.identity.uid,
            gid: peer.identity.gid,
            encoding: peer.encoding,
            pool_index: (peer.pool_index != UNPOOLED).then_some(u32::from(peer.pool_index)),
            connected_at_ms: peer.connected_at_ms,
            last_heartbeat_ms: peer.last_frame_at_ms,
            queued_bytes: peer.queued_bytes,
            in_flight: peer.calls[Side::Callee as usize].len as usize,
        }
    }

    fn last_frame_at_ms(&self, index: u32) -> u64 {
        let ring = self.registry.ring(&self.peers, index);
        ring.map(|slot| self.peers[slot].last_frame_at_ms).max().unwrap_or_default()
    }
}

fn read_params(params: Payload<'_>) -> Result<Value, ErrorBody> {
    if params.bytes.len() > INTROSPECTION_PARAMS_BYTES_MAX {
        let message = format!("`params` has more than {INTROSPECTION_PARAMS_BYTES_MAX} bytes");
        return Err(ErrorBody::new(ErrorCode::PayloadTooLarge, message));
    }
    if params.bytes.is_empty() {
        return Ok(Value::Null);
    }
    let value = to_json(params).map_err(|error| ErrorBody::new(ErrorCode::InvalidArgument, error.to_string()))?;
    match value {
        Value::Null | Value::Object(_) => Ok(value),
        _ => Err(ErrorBody::new(ErrorCode::InvalidArgument, "`params` must be an object")),
    }
}

fn text_param<'a>(params: &'a Value, name: &str) -> Result<&'a str, ErrorBody> {
    params[name]
        .as_str()
        .ok_or_else(|| ErrorBody::new(ErrorCode::InvalidArgument, format!("`params.{name}` must be a string")))
}

/// A number that is not negative. msgpack programs write large ones as floats.
fn write_loop(out: &mut Vec<u8>, view: &LoopView) {
    let LoopView { wakeups, lag_p50_us, lag_p99_us, lag_max_us, longest } = view;
    let lag = format!(
        "{{\"wakeups\":{wakeups},\"lagP50Us\":{lag_p50_us},\"lagP99Us\":{lag_p99_us},\"lagMaxUs\":{lag_max_us}"
    );
    out.extend_from_slice(lag.as_bytes());
    if let Some(WakeupView { took_us, at_ms, connections_read, frames_in, bytes_in, frames_out, accepted }) = longest {
        let longest = format!(
            ",\"longestWakeup\":{{\"tookUs\":{took_us},\"at\":{at_ms},\"connectionsRead\":{connections_read},\"framesIn\":{frames_in},\
             \"bytesIn\":{bytes_in},\"framesOut\":{frames_out},\"accepted\":{accepted}}}"
        );
        out.extend_from_slice(longest.as_bytes());
    }
    out.push(b'}');
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked, and `as` saturates")]
fn number_param(params: &Value, name: &str) -> Result<Option<u64>, ErrorBody> {
    match &params[name] {
        Value::Null => Ok(None),
        Value::Number(number) if number.is_u64() => Ok(number.as_u64()),
        Value::Number(number) if number.as_f64().is_some_and(|number| number >= 0.0) => {
            Ok(number.as_f64().map(|number| number as u64))
        }
        _ => {
            let message = format!("`params.{name}` must be a number from 0");
            Err(ErrorBody::new(ErrorCode::InvalidArgument, message))
        }
    }
}
