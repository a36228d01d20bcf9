//! The call context: where a call comes from, how deep it is nested, and until when it makes sense.

use crate::error::{ErrorBody, ErrorCode};
use crate::id::generate_root_id;
use crate::limits::{CHAIN_LEN_MAX, ROOT_ID_BYTES_MAX};
use crate::rng::Rng;
use crate::time::Now;

/// What every call carries, from the first of a chain to the last.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CallContext {
    /// One id for the whole chain.
    pub root: String,
    /// The services that the call went through: the first caller first, the present callee last.
    pub chain: Vec<String>,
    /// How many services the chain has. The first caller alone is 1, its callee sees 2.
    pub depth: u32,
    /// When the caller stops waiting, in milliseconds since 1970.
    #[serde(rename = "deadline")]
    pub deadline_ms: u64,
}

impl CallContext {
    /// Starts a chain: `service` alone, at depth 1.
    pub fn create(service: &str, timeout_ms: u64, now: Now, rng: &mut Rng) -> Self {
        Self {
            root: generate_root_id(now.wall_ms, rng),
            chain: vec![service.to_owned()],
            depth: 1,
            deadline_ms: deadline_ms(timeout_ms, now),
        }
    }

    /// The context of a call from here to `service`: one step deeper, same root, same deadline.
    pub fn extend(&self, service: &str) -> Self {
        let mut chain = Vec::with_capacity(self.chain.len() + 1);
        chain.extend_from_slice(&self.chain);
        chain.push(service.to_owned());
        Self { root: self.root.clone(), chain, depth: self.depth.saturating_add(1), deadline_ms: self.deadline_ms }
    }

    /// Who made this call; `None` for a chain that has only begun.
    pub fn caller(&self) -> Option<&str> {
        self.chain.len().checked_sub(2).map(|at| self.chain[at].as_str())
    }

    /// Checks what a peer sent or a user made up.
    pub fn validate(&self) -> Result<(), ErrorBody> {
        let invalid = |why: &str| Err(ErrorBody::new(ErrorCode::InvalidContext, why));
        if self.root.is_empty() || self.root.len() > ROOT_ID_BYTES_MAX {
            return invalid("context.root must have 1 to 255 bytes");
        }
        if self.chain.is_empty() || self.chain.len() > CHAIN_LEN_MAX {
            return invalid("context.chain must name 1 to 256 services");
        }
        if self.depth == 0 {
            return invalid("context.depth starts at 1");
        }
        if self.deadline_ms == 0 {
            return invalid("context.deadline must be milliseconds since 1970");
        }
        Ok(())
    }

    /// Whether the deadline has passed.
    pub fn is_deadline_exceeded(&self, now: Now) -> bool {
        now.wall_ms > self.deadline_ms
    }

    /// Milliseconds until the deadline; 0 when it has passed.
    pub fn remaining_ms(&self, now: Now) -> u64 {
        self.deadline_ms.saturating_sub(now.wall_ms)
    }

    /// Whether the chain is deeper than `depth_max` (the default is [`crate::limits::DEPTH_MAX`]).
    pub fn is_max_depth_exceeded(&self, depth_max: u32) -> bool {
        self.depth > depth_max
    }
}

/// The moment `timeout_ms` from now, in milliseconds since 1970, as the readme's `calculateDeadline`.
pub fn deadline_ms(timeout_ms: u64, now: Now) -> u64 {
    now.wall_ms.saturating_add(timeout_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_grows_as_the_readme_says() {
        let now = Now { mono_us: 0, wall_ms: 1000 };
        let order = CallContext::create("order", 500, now, &mut Rng::new(1));
        assert_eq!((order.chain.as_slice(), order.depth), (["order".to_owned()].as_slice(), 1));
        let user = order.extend("user");
        let role = user.extend("role");
        assert_eq!(role.chain, ["order", "user", "role"]);
        assert_eq!(role.depth, 3);
        assert_eq!(role.root, order.root);
        assert_eq!(role.caller(), Some("user"));
        assert_eq!(order.caller(), None);
        assert_eq!(role.remaining_ms(Now { mono_us: 0, wall_ms: 1400 }), 100);
        assert!(!role.is_deadline_exceeded(Now { mono_us: 0, wall_ms: 1500 }));
        assert!(role.is_deadline_exceeded(Now { mono_us: 0, wall_ms: 1501 }));
        assert!(role.is_max_depth_exceeded(2) && !role.is_max_depth_exceeded(3));
    }

    #[test]
    fn bad_contexts_are_told_why() {
        let good = CallContext { root: "root-1".into(), chain: vec!["a".into()], depth: 1, deadline_ms: 1 };
        good.validate().unwrap();
        for bad in [
            CallContext { root: String::new(), ..good.clone() },
            CallContext { chain: vec![], ..good.clone() },
            CallContext { chain: vec![String::new(); CHAIN_LEN_MAX + 1], ..good.clone() },
            CallContext { depth: 0, ..good.clone() },
            CallContext { deadline_ms: 0, ..good.clone() },
        ] {
            assert_eq!(bad.validate().unwrap_err().code, Some(ErrorCode::InvalidContext));
        }
    }
}
