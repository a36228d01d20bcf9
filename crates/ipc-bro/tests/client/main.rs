//! The client against the embedded gateway, over real sockets.

mod calls;
mod cancelling;
mod chains;
mod failures;
mod lanes;
mod lifecycle;
mod load;
mod place;
mod waiting;
