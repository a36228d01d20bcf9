//! The functions that JavaScript calls for a client.
//!
//! What can go wrong is returned as the JSON text of an error: the caller makes its exceptions itself.

use crate::client::{Client, ClientHandle};
use crate::commands::Submitted;
use crate::environment::Environment;
use crate::node::{Env, Reference, Value, arguments, guarded};
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::v1::Encoding;
use bro_session::{Session, SessionConfig};
use napi_sys::{napi_callback_info, napi_env, napi_value};
use serde::Deserialize;
use serde_json::json;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::ptr::null_mut;
use std::rc::Rc;

/// Capacity that the copies of what JavaScript queued keep, in bytes.
const RETAINED_BYTES_MAX: usize = 512 * 1024;
/// Pairs of service and method that are known by number; further ones are named in each call.
const ROUTES_MAX: usize = 4096;

/// Options as the JavaScript side writes them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Options {
    service_name: String,
    gateway_path: PathBuf,
    serializer: String,
    pool_size: u32,
    auto_reconnect: bool,
    reconnect_delay: u64,
    timeout: u64,
    heartbeat_interval: u64,
    wait_for_gateway: u64,
    wait_for_service: u64,
    version: String,
    metadata: serde_json::Map<String, serde_json::Value>,
    speaks_v2: bool,
    lanes: bool,
    /// Microseconds that the event loop may spin before it waits, while there are lanes.
    lane_spin_us: u64,
}

pub(crate) fn export(env: Env, exports: Value) {
    let functions: [(&str, unsafe extern "C" fn(napi_env, napi_callback_info) -> napi_value); 14] = [
        ("createClient", create_client),
        ("arm", arm),
        ("submit", submit),
        ("connect", connect),
        ("disconnect", disconnect),
        ("finishRequests", finish_requests),
        ("registerMethod", register_method),
        ("unregisterMethod", unregister_method),
        ("addRoute", add_route),
        ("addShape", add_shape),
        ("useTape", use_tape),
        ("setWantsIds", set_wants_ids),
        ("clientStats", client_stats),
        ("canCall", can_call),
    ];
    for (name, function) in functions {
        env.export(exports, name, Some(function));
    }
}

/// The text of an error, for JavaScript to throw.
pub(crate) fn error_text(env: Env, error: &ErrorBody) -> Value {
    let code = error.code.as_ref().map(|code| code.as_str());
    let text = json!({ "message": error.message, "code": code }).to_string();
    env.string(text.as_bytes()).unwrap_or_else(|| env.undefined())
}

/// Runs the body of an exported function; `undefined` when it gives nothing.
pub(crate) fn entry(env: napi_env, body: impl FnOnce(Env) -> Option<Value>) -> napi_value {
    guarded(null_mut(), || body(Env(env)).unwrap_or_else(|| Env(env).undefined()))
}

/// The client that a value stands for.
fn client_of(env: Env, value: Value) -> Option<Rc<Client>> {
    // SAFETY: the values that `createClient` gives reach this function only, in `../src/native.ts`.
    let handle = unsafe { env.content::<Rc<ClientHandle>>(value) }?;
    Some(handle.0.clone())
}

/// (options: string, dispatch: function, drain: function) => client | error text
unsafe extern "C" fn create_client(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [options, dispatch, drain] = arguments(env, info);
        let environment = Environment::of(env)?;
        let session = match new_session(&environment, &env.text(options)?) {
            Ok(session) => session,
            Err(error) => return Some(error_text(env, &error)),
        };
        let (session, path, lane_spin_us) = session;
        let (dispatch, drain) = (Reference::new(env, dispatch, false)?, Reference::new(env, drain, false)?);
        let client = Client::new(environment, session, path, lane_spin_us, dispatch, drain)?;
        env.external(Rc::new(ClientHandle(client)))
    })
}

fn new_session(environment: &Environment, options: &str) -> Result<(Session, PathBuf, u64), ErrorBody> {
    let options: Options = serde_json::from_str(options)
        .map_err(|error| ErrorBody::new(ErrorCode::InvalidArgument, format!("options: {error}")))?;
    let mut config = SessionConfig::new(options.service_name);
    config.encoding = if options.serializer == "msgpack" { Encoding::Msgpack } else { Encoding::Json };
    config.pool_size = options.pool_size;
    config.auto_reconnect = options.auto_reconnect;
    config.reconnect_delay_ms = options.reconnect_delay;
    config.timeout_ms = options.timeout;
    config.heartbeat_interval_ms = options.heartbeat_interval;
    config.wait_for_gateway_ms = options.wait_for_gateway;
    config.wait_for_service_ms = options.wait_for_service;
    config.version = options.version;
    config.metadata = options.metadata;
    config.speaks_v2 = options.speaks_v2;
    config.takes_lanes = options.lanes;
    // `batch` does: what JavaScript does not parse need not be read twice.
    config.checks_payloads = false;
    // std's hasher has a random key for each process and each map.
    let seed = RandomState::new().hash_one(std::process::id());
    Ok((Session::new(config, seed, environment.now())?, options.gateway_path, options.lane_spin_us))
}

/// (client): something was queued.
unsafe extern "C" fn arm(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [client] = arguments(env, info);
        client_of(env, client)?.arm(true);
        None
    })
}

/// (client, count, commands: Int32Array, text: string, bytes: Uint8Array, bytesLength, large: array, tape: Int32Array, tapeLength,
/// doubles: Float64Array, doublesLength): what was queued.
unsafe extern "C" fn submit(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [client, count, commands, text, bytes, bytes_len, large, tape, tape_len, doubles, doubles_len] =
            arguments(env, info);
        let client = client_of(env, client)?;
        let length = |value| usize::try_from(env.as_int(value)?).ok();
        let (count, bytes_len) = (length(count)?, length(bytes_len)?);
        let (tape_len, doubles_len) = (length(tape_len)?, length(doubles_len)?);
        let submitted =
            Submitted { count, commands, text, bytes, bytes_len, large, tape, tape_len, doubles, doubles_len };
        let now = client.environment.now();
        let mut copies = client.environment.commands.take().unwrap_or_default();
        let done =
            client.state.borrow_mut().submit(env, submitted, &mut copies, &client.environment.shapes.borrow(), now);
        copies.trim(RETAINED_BYTES_MAX);
        client.environment.commands.set(Some(copies));
        client.arm(false);
        done.map_or_else(|| env.int(-1), |()| None)
    })
}

/// (client): the result comes as an event.
unsafe extern "C" fn connect(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [client] = arguments(env, info);
        let client = client_of(env, client)?;
        client.state.borrow_mut().session.connect(client.environment.now());
        client.arm(false);
        None
    })
}

/// (client)
unsafe extern "C" fn disconnect(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [client] = arguments(env, info);
        let client = client_of(env, client)?;
        client.state.borrow_mut().session.disconnect(client.environment.now());
        client.arm(false);
        None
    })
}

/// (client): takes no more requests; the end comes as an event.
unsafe extern "C" fn finish_requests(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [client] = arguments(env, info);
        let client = client_of(env, client)?;
        client.state.borrow_mut().session.drain(client.environment.now());
        client.arm(false);
        None
    })
}

/// (client, name, handler: number) => error text | undefined
unsafe extern "C" fn register_method(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [client, name, handler] = arguments(env, info);
        let client = client_of(env, client)?;
        let (name, handler) = (env.text(name)?, env.as_int(handler)?);
        let mut state = client.state.borrow_mut();
        if let Err(error) = state.session.register_method(&name, client.environment.now()) {
            return Some(error_text(env, &error));
        }
        state.handlers.insert(name.into_boxed_str(), handler);
        state.latest_handler = None;
        drop(state);
        client.arm_if_connected();
        None
    })
}

/// (client, name)
unsafe extern "C" fn unregister_method(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [client, name] = arguments(env, info);
        let client = client_of(env, client)?;
        let name = env.text(name)?;
        let mut state = client.state.borrow_mut();
        state.session.unregister_method(&name, client.environment.now());
        state.handlers.remove(name.as_str());
        state.latest_handler = None;
        drop(state);
        client.arm_if_connected();
        None
    })
}

/// (client, service, method) => number; -1 when there are too many.
unsafe extern "C" fn add_route(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [client, service, method] = arguments(env, info);
        let client = client_of(env, client)?;
        let routes = &mut client.state.borrow_mut().routes;
        if routes.len() >= ROUTES_MAX {
            return env.int(-1);
        }
        routes.push((env.text(service)?.into_boxed_str(), env.text(method)?.into_boxed_str()));
        env.int(i32::try_from(routes.len() - 1).ok()?)
    })
}

/// (keys: string, a JSON array) => number; -1 when there is no room.
unsafe extern "C" fn add_shape(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [keys] = arguments(env, info);
        let environment = Environment::of(env)?;
        let keys: Option<Vec<String>> = serde_json::from_str(&env.text(keys)?).ok();
        env.int(keys.and_then(|keys| environment.shapes.borrow_mut().number(&keys)).unwrap_or(-1))
    })
}

/// (): JavaScript can compile code for shapes.
unsafe extern "C" fn use_tape(env: napi_env, _info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        Environment::of(env)?.shapes.borrow_mut().are_used = true;
        None
    })
}

/// (client, 0 | 1): whether results and requests come with their ids.
unsafe extern "C" fn set_wants_ids(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [client, wanted] = arguments(env, info);
        let client = client_of(env, client)?;
        client.state.borrow_mut().wants_ids = env.as_int(wanted)? != 0;
        None
    })
}

/// (client, service) => 1 where calls can be made although the gateway is away: there is a lane. Otherwise 0.
unsafe extern "C" fn can_call(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [client, service] = arguments(env, info);
        let client = client_of(env, client)?;
        let service = env.text(service)?;
        let can_call = client.state.borrow().session.can_call(&service);
        env.int(i32::from(can_call))
    })
}

/// (client) => JSON text
unsafe extern "C" fn client_stats(env: napi_env, info: napi_callback_info) -> napi_value {
    entry(env, |env| {
        let [client] = arguments(env, info);
        let client = client_of(env, client)?;
        let state = client.state.borrow();
        let (status, counters) = (state.session.status(), state.session.counters());
        let text = json!({
            "connections": status.connections_registered,
            "connectionsV2": status.connections_v2,
            "lanes": status.lanes,
            "pendingCalls": status.pending_calls,
            "waitingCalls": status.waiting_calls,
            "requestsInWork": status.requests_in_work,
            "queuedBytes": status.outbound_bytes,
            "calls": counters.calls,
            "waits": counters.waits,
            "notifications": counters.notifications,
            "lateAnswers": counters.late_answers,
            "requests": counters.requests,
            "requestsRefused": counters.requests_refused,
            "lanesOpened": counters.lanes_opened,
            "lanesLost": counters.lanes_lost,
            "registrations": counters.registrations,
            "connectionsLost": counters.connections_lost,
        });
        env.string(text.to_string().as_bytes())
    })
}
