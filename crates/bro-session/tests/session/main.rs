//! A session against a scripted gateway, with virtual time.
//!
//! `pair` is the gateway and the driver, `wire2` its frames of version 2. `connecting`, `calls` and `requests` are scenarios of version 1,
//! `calls2`, `requests2` and `links2` of version 2, `oversize` of frames above the limit, `lanes` of two sessions with a lane between them, `waits` of services that are not there;
//! `simulation` is random.

mod calls;
mod calls2;
mod connecting;
mod lanes;
mod links2;
mod oversize;
mod pair;
mod requests;
mod requests2;
mod simulation;
mod waits;
mod wire2;
