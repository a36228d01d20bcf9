//! Where a gateway's policy comes from: read here, decided on in the router.
//!
//! Reading may take long, names may have to be asked of another machine: so it is never done on the gateway's thread.

use crate::gateway::{Command, Shared};
use bro_policy::{Accounts, Policy, PolicyError};
use bro_proto::limits::POLICY_BYTES_MAX;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::geteuid;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Where the policy of a gateway comes from. The language is described in `docs/policy.md`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PolicySource {
    /// None: the user of the gateway, and root, may do everything, and others nothing.
    #[default]
    OwnUser,
    /// A file. It is read again by [`crate::Gateway::reload_policy`] and by `bro policy reload`.
    File(PathBuf),
    /// This text.
    Text(String),
}

/// Why a policy does not load.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyLoadError {
    /// The file cannot be read.
    #[error("cannot read the policy {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason given.
        source: io::Error,
    },
    /// It is no file, or everybody may write to it, and so decide who may do what.
    #[error("the policy {} {why}", path.display())]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The text is no policy.
    #[error("{}{error}", place.as_ref().map_or_else(|| "policy: ".to_owned(), |path| format!("{}: ", path.display())))]
    Wrong {
        /// The file, if it was one.
        place: Option<PathBuf>,
        /// What is wrong, and where.
        error: PolicyError,
    },
}

impl PolicySource {
    /// Reads the policy, and looks up the users and groups that it names. May wait for files and name services.
    pub fn load(&self) -> Result<Policy, PolicyLoadError> {
        let uid = geteuid().as_raw();
        let (place, text) = match self {
            PolicySource::OwnUser => return Ok(Policy::only_user(uid)),
            PolicySource::File(path) => (Some(path.clone()), read(path)?),
            PolicySource::Text(text) => (None, text.clone()),
        };
        Policy::parse(&text, uid, &SystemAccounts).map_err(|error| PolicyLoadError::Wrong { place, error })
    }

    pub(crate) fn file(&self) -> Option<&Path> {
        if let PolicySource::File(path) = self { Some(path) } else { None }
    }
}

/// The source of a gateway's policy. One load at a time, so that what was read later is in force later.
#[derive(Debug)]
pub(crate) struct PolicyLoader {
    source: PolicySource,
    turn: Mutex<()>,
}

impl PolicyLoader {
    pub(crate) fn new(source: PolicySource) -> Self {
        PolicyLoader { source, turn: Mutex::new(()) }
    }

    pub(crate) fn source(&self) -> &PolicySource {
        &self.source
    }

    /// Loads the policy, and hands it to `take` before anybody else loads it. What comes of the loading goes to the log.
    pub(crate) fn load<T>(&self, take: impl FnOnce(Result<Policy, PolicyLoadError>) -> T) -> T {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = self.source.load();
        match &loaded {
            Ok(policy) => {
                let file = self.source.file().map(|path| path.display().to_string());
                tracing::info!(rules = policy.rules_len(), file, "policy loaded");
            }
            Err(error) => tracing::error!("the policy stays as it is: {error}"),
        }
        take(loaded)
    }
}

/// Loads the policy on a thread of its own, since a peer wished for it. What comes of it is a command for the gateway's thread.
pub(crate) fn load_for_wish(wish: u64, shared: Arc<Shared>, commands: SyncSender<Command>) -> io::Result<()> {
    thread::Builder::new().name("bro-policy".to_owned()).spawn(move || {
        let load = || {
            shared.policy.load(|loaded| {
                let loaded = loaded.map_err(|error| error.to_string());
                // A gateway that has ended needs no policy.
                let _ = commands.send(Command::WishedPolicy(wish, loaded));
            });
        };
        if catch_unwind(std::panic::AssertUnwindSafe(load)).is_err() {
            let why = Err("reading it failed; the gateway's log says where".to_owned());
            let _ = commands.send(Command::WishedPolicy(wish, why));
        }
        shared.wake_up();
    })?;
    Ok(())
}

fn read(path: &Path) -> Result<String, PolicyLoadError> {
    const OTHERS_MAY_WRITE: u32 = 0o002;
    let unreadable = |source| PolicyLoadError::Unreadable { path: path.to_owned(), source };
    let no_policy = |why| PolicyLoadError::Unsafe { path: path.to_owned(), why };
    // A pipe that nobody writes to would be waited for; what is no file is refused below.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty()).map_err(|errno| unreadable(errno.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(no_policy("is not a file"));
    }
    if metadata.mode() & OTHERS_MAY_WRITE != 0 {
        return Err(no_policy("can be written by everybody: chmod o-w"));
    }
    let mut text = String::new();
    // One byte more than is allowed, so that too large a file is seen to be so.
    file.take(POLICY_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// The users and groups of this machine.
struct SystemAccounts;

impl Accounts for SystemAccounts {
    fn uid(&self, user: &str) -> Option<u32> {
        uzers::get_user_by_name(user).map(|user| user.uid())
    }

    fn gid(&self, group: &str) -> Option<u32> {
        uzers::get_group_by_name(group).map(|group| group.gid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_this_machine() {
        assert_eq!(SystemAccounts.uid("root"), Some(0));
        assert_eq!(SystemAccounts.gid("root"), Some(0));
        for name in ["no-such-user-here", "", "ro\0ot"] {
            assert_eq!((SystemAccounts.uid(name), SystemAccounts.gid(name)), (None, None), "{name:?}");
        }
    }

    #[test]
    fn what_is_no_file_is_no_policy() {
        let load = |path: &str| PolicySource::File(path.into()).load().unwrap_err();
        assert!(matches!(load("/"), PolicyLoadError::Unsafe { .. }));
        assert!(matches!(load("/dev/null"), PolicyLoadError::Unsafe { .. }));
        assert!(matches!(load("/no/such/file"), PolicyLoadError::Unreadable { .. }));
    }
}
