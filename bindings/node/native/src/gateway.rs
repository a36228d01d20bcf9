//! An embedded gateway: it runs on its own thread, and its events come to JavaScript in batches.

use crate::environment::{Ends, Environment};
use crate::exports::{entry, error_text};
use crate::node::{Env, Reference, Value, arguments, guarded};
use crate::uv::{Handle, RawHandle, Waker, owner_of};
use bro_gateway::{
    EventMask, Gateway, GatewayConfig, GatewayEvent, LanePolicy, PolicySource, ReloadError, ServiceView, StartError,
    Status as GatewayStatus, UserView,
};
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::v1::Status;
use napi_sys::{napi_callback_info, napi_env, napi_value};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Events that wait for JavaScript at most; the oldest are dropped and counted.
const WAITING_MAX: usize = 65_536;
/// Events in one call of JavaScript.
const DELIVERED_MAX: usize = 1024;

/// Options as the JavaScript side writes them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Options {
    socket_path: PathBuf,
    heartbeat_interval: u64,
    timeout: u64,
    events: u8,
    lanes: Lanes,
    speaks_v2: bool,
    mode: u32,
    policy: Option<Policy>,
}

/// Who may do what.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Policy {
    File(PathBuf),
    Toml(String),
}

/// Which pairs of services get a lane.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Lanes {
    Off,
    Auto,
    Always,
}

/// A gateway that JavaScript has started.
struct Server {
    environment: Rc<Environment>,
    gateway: RefCell<Option<Gateway>>,
    wakeup: RefCell<Option<Handle<Rc<Server>>>>,
    queue: Arc<Queue>,
    callback: RefCell<Option<Rc<Reference>>>,
    is_stopped: Cell<bool>,
}

/// Between the gateway's thread and JavaScript's.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<GatewayEvent>,
    dropped: u64,
    /// Gone once the loop must not be woken any more.
    waker: Option<Waker>,
}

/// What the JavaScript object holds.
struct ServerHandle(Rc<Server>);

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On the gateway's thread.
    fn push(&self, events: Vec<GatewayEvent>) {
        let mut waiting = self.lock();
        waiting.events.extend(events);
        let surplus = waiting.events.len().saturating_sub(WAITING_MAX);
        // What ends must be heard of: it is the last event, so it is never among the oldest.
        waiting.events.drain(..surplus);
        waiting.dropped += surplus as u64;
        if let Some(waker) = &waiting.waker {
            waker.wake();
        }
    }
}

impl Server {
    fn start(environment: &Rc<Environment>, options: &str, callback: Reference) -> Result<Rc<Server>, ErrorBody> {
        let options: Options = serde_json::from_str(options)
            .map_err(|error| ErrorBody::new(ErrorCode::InvalidArgument, format!("options: {error}")))?;
        let mut config = GatewayConfig::new(options.socket_path);
        config.router.heartbeat_interval_ms = options.heartbeat_interval;
        config.router.call_timeout_ms = options.timeout;
        config.router.speaks_v2 = options.speaks_v2;
        config.mode = options.mode;
        config.policy = match options.policy {
            Some(Policy::File(path)) => PolicySource::File(path),
            Some(Policy::Toml(text)) => PolicySource::Text(text),
            None => PolicySource::OwnUser,
        };
        config.router.lanes = match options.lanes {
            Lanes::Off => LanePolicy::Off,
            Lanes::Auto => LanePolicy::Auto,
            Lanes::Always => LanePolicy::Always,
        };
        let queue = Arc::new(Queue::default());
        let server = Rc::new(Server {
            environment: environment.clone(),
            gateway: RefCell::new(None),
            wakeup: RefCell::new(None),
            queue: queue.clone(),
            callback: RefCell::new(Some(Rc::new(callback))),
            is_stopped: Cell::new(false),
        });
        let wakeup = Handle::wakeup(environment, server.clone(), on_wakeup)
            .ok_or_else(|| ErrorBody::new(ErrorCode::InternalError, "libuv refuses a handle"))?;
        queue.lock().waker = Some(wakeup.waker());
        server.wakeup.replace(Some(wakeup));
        let sink = Box::new(move |events| queue.push(events));
        match Gateway::start_with_events(config, EventMask::from_bits(options.events), sink) {
            Ok(gateway) => {
                server.gateway.replace(Some(gateway));
                let weak: Weak<Server> = Rc::downgrade(&server);
                environment.admit(weak);
                Ok(server)
            }
            Err(error) => {
                server.end();
                Err(start_error(&error))
            }
        }
    }

    /// Hands over what has happened.
    fn deliver(&self) {
        if self.environment.is_ending() {
            return;
        }
        let (events, dropped, more) = {
            let mut waiting = self.queue.lock();
            let count = waiting.events.len().min(DELIVERED_MAX);
            let events: Vec<GatewayEvent> = waiting.events.drain(..count).collect();
            (events, std::mem::take(&mut waiting.dropped), !waiting.events.is_empty())
        };
        let has_stopped = events.contains(&GatewayEvent::Stopped);
        let mut records: Vec<Json> = events.into_iter().map(describe).collect();
        if dropped > 0 {
            let message = format!("{dropped} events were dropped: the listeners are too slow");
            records.insert(0, json!(["warning", { "message": message }]));
        }
        if has_stopped {
            // The thread has nothing left to do but to end.
            let reason = self.gateway.borrow().as_ref().map(Gateway::wait);
            let failure = match reason {
                Some(bro_gateway::StopReason::Failed(why) | bro_gateway::StopReason::Panicked(why)) => Some(why),
                _ => None,
            };
            self.is_stopped.set(true);
            records.push(json!(["ended", { "failure": failure }]));
        }
        let callback = self.callback.borrow().clone();
        if let (Some(callback), false) = (callback, records.is_empty()) {
            let env = self.environment.env;
            env.with_scope(|| {
                if let Some(text) = env.string(Json::Array(records).to_string().as_bytes()) {
                    env.call_back(&callback, &[text]);
                }
            });
        }
        if has_stopped {
            self.end();
        } else if more && let Some(waker) = &self.queue.lock().waker {
            waker.wake();
        }
    }
}

impl Ends for Server {
    fn end(&self) {
        // In this order: the thread ends and wakes nobody any more, then the handle is closed.
        drop(self.gateway.take());
        self.queue.lock().waker = None;
        drop(self.wakeup.take());
        drop(self.callback.take());
    }
}

unsafe extern "C" fn on_wakeup(raw: *mut RawHandle) {
    guarded((), || {
        // SAFETY: the callback of wakeups, which are owned by their server.
        let server = unsafe { owner_of::<Rc<Server>>(raw) };
        server.deliver();
    });
}

pub(crate) fn export(env: Env, exports: Value) {
    let functions: [(&str, unsafe extern "C" fn(napi_env, napi_callback_info) -> napi_value); 7] = [
        ("startGateway", start_gateway),
        ("stopGateway", stop_gateway),
        ("setGatewayEvents", set_gateway_events),
        ("gatewayServices", gateway_services),
        ("gatewayService", gateway_service),
        ("gatewayStats", gateway_stats),
        ("reloadPolicy", reload_policy),
    ];
    for (name, function) in functions {
        env.export(exports, name, Some(function));
    }
}

fn server_of(env: Env, value: Value) -> Option<Rc<Server>> {
    // SAFETY: the values that `startGateway` gives reach this function only, in `../src/native.ts`.
    let handle = unsafe { env.content::<Rc<ServerHandle>>(value) }?;
    Some(handle.0.clone())
}

/// (options: string, callback: function) => gateway | error text
unsafe extern "C" fn start_gateway(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [options, callback] = arguments(env, info);
        let environment = Environment::of(env)?;
        let callback = Reference::new(env, callback, true)?;
        match Server::start(&environment, &env.text(options)?, callback) {
            Ok(server) => env.external(Rc::new(ServerHandle(server))),
            Err(error) => Some(error_text(env, &error)),
        }
    })
}

/// (gateway): lets calls in flight finish; the end comes as an event.
unsafe extern "C" fn stop_gateway(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [server] = arguments(env, info);
        let server = server_of(env, server)?;
        // One that has stopped by itself says so in an event that is on its way.
        let _ = server.gateway.borrow().as_ref().map(Gateway::drain);
        None
    })
}

/// (gateway, mask)
unsafe extern "C" fn set_gateway_events(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [server, mask] = arguments(env, info);
        let mask = EventMask::from_bits(u8::try_from(env.as_int(mask)?).ok()?);
        if let Some(gateway) = &*server_of(env, server)?.gateway.borrow() {
            gateway.set_events(mask);
        }
        None
    })
}

/// (gateway) => JSON text: the names of the services
unsafe extern "C" fn gateway_services(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [server] = arguments(env, info);
        let server = server_of(env, server)?;
        let status = server.gateway.borrow().as_ref().and_then(|gateway| gateway.status().ok())?;
        env.string(json!(status.services).to_string().as_bytes())
    })
}

/// (gateway, name) => JSON text | undefined
unsafe extern "C" fn gateway_service(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [server, name] = arguments(env, info);
        let (server, name) = (server_of(env, server)?, env.text(name)?);
        let view = server.gateway.borrow().as_ref().and_then(|gateway| gateway.service(&name).ok())??;
        env.string(service(&view).to_string().as_bytes())
    })
}

/// (gateway) => JSON text
unsafe extern "C" fn gateway_stats(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [server] = arguments(env, info);
        let server = server_of(env, server)?;
        let status = server.gateway.borrow().as_ref().and_then(|gateway| gateway.status().ok())?;
        env.string(stats(&status).to_string().as_bytes())
    })
}

/// (gateway) => number of rules | error text
unsafe extern "C" fn reload_policy(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [server] = arguments(env, info);
        let server = server_of(env, server)?;
        let reloaded = server.gateway.borrow().as_ref().map(Gateway::reload_policy)?;
        match reloaded {
            Ok(rules) => env.int(i32::try_from(rules).unwrap_or(i32::MAX)),
            Err(error) => {
                let code = match &error {
                    ReloadError::Policy(_) => ErrorCode::InvalidArgument,
                    _ => ErrorCode::NotConnected,
                };
                Some(error_text(env, &ErrorBody::new(code, error.to_string())))
            }
        }
    })
}

fn stats(status: &GatewayStatus) -> Json {
    let counters: serde_json::Map<String, Json> =
        status.counters.named().into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
    json!({
        "uptimeMs": status.uptime_ms,
        "peers": status.peers,
        "inFlight": status.in_flight,
        "lanes": status.lanes,
        "laneBytes": status.lane_bytes,
        "queuedBytes": status.queued_bytes,
        "memoryBytes": status.memory_bytes,
        "memoryMax": status.memory_max,
        "users": status.users.iter().map(user).collect::<Vec<_>>(),
        "counters": counters,
    })
}

/// Where the system does not tell the user there is no `uid`.
fn user(view: &UserView) -> Json {
    let mut user = json!({
        "memoryBytes": view.memory_bytes,
        "connections": view.connections,
        "inFlight": view.in_flight,
        "registryBytes": view.registry_bytes,
        "lanes": view.lanes,
        "laneBytes": view.lane_bytes,
    });
    if let Some(uid) = view.uid {
        user["uid"] = uid.into();
    }
    user
}

fn service(view: &ServiceView) -> Json {
    let instances = view.instances.iter().map(|instance| {
        json!({
            "pid": instance.pid,
            "pidfdId": instance.pidfd_id,
            "uid": instance.uid,
            "gid": instance.gid,
            "encoding": instance.encoding.as_str(),
            "connectedAt": instance.connected_at_ms,
        })
    });
    json!({
        "name": view.name,
        "methods": view.methods,
        "version": view.version,
        "metadata": object(&view.metadata_json),
        "connectedAt": view.connected_at_ms,
        "lastHeartbeat": view.last_heartbeat_ms,
        "instances": instances.collect::<Vec<_>>(),
    })
}

/// JSON that a peer sent and the router has checked.
fn object(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|_| json!({}))
}

/// A context as its caller wrote it, without what of a context is only the gateway's to say.
fn context(text: &str) -> Json {
    let mut context = object(text);
    if let Json::Object(fields) = &mut context {
        fields.retain(|name, _| name != "caller" && name != "signal");
    }
    context
}

fn describe(event: GatewayEvent) -> Json {
    match event {
        GatewayEvent::Started { socket_path } => json!(["started", { "socketPath": socket_path.to_string_lossy() }]),
        GatewayEvent::Stopped => json!(["stopped", {}]),
        GatewayEvent::SocketError { message } => json!(["socket-error", { "message": message }]),
        GatewayEvent::Connection { peer, pid } => json!(["connection", { "id": peer_text(peer), "pid": pid }]),
        GatewayEvent::Closed { peer, service, reason } => {
            json!(["closed", { "id": peer_text(peer), "service": service, "reason": reason.as_str() }])
        }
        GatewayEvent::ServiceRegistered { service, methods, version, metadata_json } => json!(["service-registered", {
            "serviceName": service,
            "methods": methods,
            "version": version,
            "metadata": object(&metadata_json),
        }]),
        GatewayEvent::ServiceDisconnected { service, reason } => {
            json!(["service-disconnected", { "serviceName": service, "reason": reason.as_str() }])
        }
        GatewayEvent::CallRouted { from, to, method, request_id, context_json } => json!(["call-routed", {
            "from": from,
            "to": to,
            "method": method,
            "requestId": request_id,
            "context": context(&context_json),
        }]),
        GatewayEvent::ResponseRouted { from, to, status, request_id, .. } => json!(["response-routed", {
            "from": from,
            "to": to,
            "status": if status == Status::Success { "success" } else { "error" },
            "requestId": request_id,
        }]),
        GatewayEvent::Warning { service, message, .. } => {
            json!(["warning", { "service": service, "message": message }])
        }
        // The list of events may grow; those that are not known here have no name in the readme.
        _ => json!(["unknown", {}]),
    }
}

fn start_error(error: &StartError) -> ErrorBody {
    let code = match error {
        StartError::PathTooLong { .. } | StartError::NotAFileName { .. } | StartError::Policy(_) => {
            ErrorCode::InvalidArgument
        }
        _ => ErrorCode::ConnectionFailed,
    };
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    ErrorBody::new(code, message)
}

fn peer_text(peer: bro_gateway::PeerId) -> String {
    format!("{}-{}", peer.slot, peer.generation)
}
