//! A session against a scripted gateway, with virtual time.
//!
//! `pair` is the gateway and the driver; `connecting`, `calls` and `requests` are scenarios; `simulation` is random.

mod calls;
mod connecting;
mod pair;
mod requests;
mod simulation;
