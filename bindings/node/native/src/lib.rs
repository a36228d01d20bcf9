//! The native part of npm `ipc-bro`: marshalling, and nothing that decides anything.
//!
//! | module | subject |
//! |---|---|
//! | `client` | one client: a session, its sockets, its turns on Node's event loop |
//! | `lanes`, `lane` | its lanes to other clients: shared memory beside the sockets |
//! | `waiting` | what is done for lanes right before the loop waits |
//! | `events`, `batch` | what the session tells, as one string and one array of numbers |
//! | `callers` | the names of those who call, by number |
//! | `commands`, `calls`, `quote` | what JavaScript queues, handed over in one crossing |
//! | `tape`, `shapes`, `unfold`, `fold` | values taken apart, which JavaScript makes faster than it parses JSON |
//! | `exports` | the functions that JavaScript calls for a client |
//! | `gateway` | an embedded gateway on its thread, its events in batches |
//! | `environment` | what one JavaScript environment shares, and its end |
//! | `socket`, `uv`, `node` | the kernel, libuv and Node-API behind small interfaces |
//!
//! The counterpart in TypeScript is `../src/native.ts`. Every entry from C code catches panics; `unsafe` stands in `uv`, `node`,
//! `environment` and where callbacks begin, nowhere else.
//!
//! Invariant: JavaScript is called only from the top of a turn, with nothing borrowed. So whatever it calls back finds
//! everything free.

mod batch;
mod callers;
mod calls;
mod client;
mod commands;
mod environment;
mod events;
mod exports;
mod fold;
mod gateway;
mod lane;
mod lanes;
mod node;
mod quote;
mod shapes;
mod socket;
mod tape;
mod unfold;
mod uv;
mod waiting;

use environment::Environment;
use napi_sys::{napi_env, napi_value};
use node::{Env, guarded};

/// What `require` of the addon calls, once for each environment.
///
/// # Safety
/// To be called by Node only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn napi_register_module_v1(env: napi_env, exports: napi_value) -> napi_value {
    guarded(exports, || {
        let env = Env(env);
        if let Some((_, [records, tape, doubles])) = Environment::install(env) {
            env.set(exports, "records", records);
            env.set(exports, "tape", tape);
            env.set(exports, "doubles", doubles);
            exports::export(env, exports);
            gateway::export(env, exports);
        }
        exports
    })
}
