//! Who may do what at a gateway: the policy file, read and decided on.
//!
//! | module | subject |
//! |---|---|
//! | `policy` | [`Policy`]: what a peer may do, by its user and groups |
//! | `file` | the text of a policy, and everything that can be wrong with it |
//! | `pattern` | names of services and methods |
//! | `accounts`, `error` | [`Accounts`], by which names of users become numbers; [`PolicyError`] |
//!
//! The language is described in `docs/policy.md`. Nothing here reads a file or asks the system: a policy is made of a text and of
//! [`Accounts`], and decides by the numbers it is given.
//!
//! ```
//! use bro_policy::{Access, Calls, NoAccounts, Policy, Subject};
//!
//! let text = r#"
//!     [[rules]]
//!     users = [1001]
//!     own = ["web"]
//!     call = ["user.*", { service = "order", methods = ["get"] }]
//! "#;
//! let policy = Policy::parse(text, 1000, &NoAccounts)?;
//! let Access::Some(rights) = policy.access(&Subject { uid: Some(1001), gid: None, groups: &[] }) else { panic!() };
//! assert!(policy.may_own(&rights, "web") && !policy.may_own(&rights, "order"));
//! assert_eq!(policy.calls(&rights, "user.names"), Calls::Every);
//! assert_eq!(policy.calls(&rights, "order"), Calls::ByMethod);
//! assert!(policy.may_call(&rights, "order", "get") && !policy.may_call(&rights, "order", "cancel"));
//! # Ok::<(), bro_policy::PolicyError>(())
//! ```

mod accounts;
mod error;
mod file;
mod pattern;
mod policy;

pub use accounts::{Accounts, NoAccounts};
pub use error::PolicyError;
pub use policy::{Access, Calls, Policy, Rights, Subject};
