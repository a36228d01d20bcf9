//! The socket's file: whose it is, and how it comes and goes.
//!
//! A file of an ended gateway stays in the way of the next one, and removing a live gateway's file cuts it off from
//! everybody. So before it binds, a gateway asks whether somebody answers; only a socket that refuses connections is
//! removed. Between the question and the removal another gateway could come up, so both are done under a lock: a file beside
//! the socket, locked with `flock`, that exists only for those moments. Programs that do not know the lock are still
//! protected by the question, but for the instant between their `bind` and their `listen`.
//!
//! The socket has its permissions from the moment it exists: they are set on the descriptor before `bind`, which makes the
//! file with them (less the umask). What the umask took away is added before `listen`; until then nobody can connect.

use crate::error::StartError;
use bro_proto::limits;
use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// How often a lock that somebody holds is tried again, and after which time.
const LOCK_ATTEMPTS: u32 = 250;
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// A listening socket's file. It is removed by [`SocketFile::remove`], or at the latest when this is dropped, if it is still the
/// one that was made. Both have to happen while the socket is open.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    is_removed: bool,
    /// Device and inode. Unique as long as the socket is open: an open socket keeps its inode.
    identity: (u64, u64),
}

impl SocketFile {
    /// Makes the file at `path` and listens on it, without blocking.
    pub(crate) fn claim(path: &Path, mode: u32) -> Result<(SocketFile, OwnedFd), StartError> {
        check_name(path)?;
        make_directories(path)?;
        let lock = Lock::take(path)?;
        match lstat(path)? {
            None => {}
            Some(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Socket => remove_if_stale(path)?,
                other => return Err(StartError::NotASocket { path: path.to_owned(), kind: kind_of(other) }),
            },
        }
        let claimed = bind(path, mode)?;
        drop(lock);
        Ok(claimed)
    }

    /// The file of a gateway that is being taken over, made by it on a socket that is open here too. It stays that one's until
    /// [`SocketFile::own`].
    pub(crate) fn adopt(path: &Path, identity: (u64, u64)) -> Result<SocketFile, StartError> {
        match lstat(path)? {
            Some(stat) if identity_of(&stat) == identity => {
                Ok(SocketFile { path: path.to_owned(), is_removed: true, identity })
            }
            _ => {
                let why = "the socket is not at that path any more".to_owned();
                Err(StartError::Takeover { path: path.to_owned(), why })
            }
        }
    }

    /// From now on it is removed with this.
    pub(crate) fn own(&mut self) {
        self.is_removed = false;
    }

    /// It is another gateway's from now on: never removed by this.
    pub(crate) fn disown(&mut self) {
        self.is_removed = true;
    }

    /// Device and inode.
    pub(crate) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Removes the file if it is still the one that [`SocketFile::claim`] made.
    pub(crate) fn remove(mut self) -> io::Result<()> {
        self.remove_once()
    }

    fn remove_once(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.is_removed, true) {
            return Ok(());
        }
        match fs::lstat(&self.path) {
            Ok(stat) if identity_of(&stat) == self.identity => {}
            _ => return Ok(()), // no lock is needed to leave it alone
        }
        let _lock = Lock::take(&self.path).map_err(io::Error::other)?;
        self.remove_locked()
    }

    fn remove_locked(&self) -> io::Result<()> {
        match fs::lstat(&self.path) {
            Ok(stat) if identity_of(&stat) == self.identity => Ok(fs::unlink(&self.path)?),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()), // somebody else's, or nobody's
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = self.remove_once(); // who wants to know calls `remove`
    }
}

fn check_name(path: &Path) -> Result<(), StartError> {
    let bytes = path.as_os_str().as_bytes();
    if path.file_name().is_none() || bytes.ends_with(b"/") || bytes.ends_with(b"/.") || bytes.contains(&0) {
        return Err(StartError::NotAFileName { path: path.to_owned() });
    }
    if bytes.len() > limits::SOCKET_PATH_BYTES_MAX {
        let limit = limits::SOCKET_PATH_BYTES_MAX;
        return Err(StartError::PathTooLong { path: path.to_owned(), bytes: bytes.len(), limit });
    }
    Ok(())
}

/// Makes what is missing above `path`, for this user only: whoever may write to a socket's directory can put another in its
/// place. Directories that exist are the administrator's business.
fn make_directories(path: &Path) -> Result<(), StartError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    let is_missing = |part: &&Path| std::fs::metadata(part).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    let missing: Vec<&Path> =
        parent.ancestors().take_while(|part| !part.as_os_str().is_empty()).take_while(is_missing).collect();
    let made = missing.into_iter().rev().try_for_each(|part| {
        match std::fs::DirBuilder::new().mode(0o700).create(part) {
            // The umask may have kept this user itself out.
            Ok(()) => std::fs::set_permissions(part, Permissions::from_mode(0o700)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()), // another gateway was quicker
            Err(error) => Err(error),
        }
    });
    let found = made.and_then(|()| std::fs::metadata(parent));
    let source = match found {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => ErrorKind::NotADirectory.into(),
        Err(source) => source,
    };
    for part in parent.ancestors() {
        if let Ok(found) = std::fs::metadata(part)
            && !found.is_dir()
        {
            return Err(StartError::NotADirectory { path: part.to_owned() });
        }
    }
    Err(StartError::Io { action: "make the directory", path: parent.to_owned(), source })
}

fn lstat(path: &Path) -> Result<Option<Stat>, StartError> {
    match fs::lstat(path) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(failed("look at", path, error)),
    }
}

/// Asks whether somebody answers. Connecting never waits: a full backlog is an answer too.
fn remove_if_stale(path: &Path) -> Result<(), StartError> {
    let probe = socket(path)?;
    match net::connect(&probe, &address(path)?) {
        Err(Errno::CONNREFUSED) => match fs::unlink(path) {
            Ok(()) | Err(Errno::NOENT) => {
                tracing::info!(path = %path.display(), "removed the socket file of a gateway that has ended");
                Ok(())
            }
            Err(error) => Err(failed("remove the unused socket", path, error)),
        },
        Err(Errno::NOENT) => Ok(()),
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => Err(StartError::AlreadyRunning { path: path.to_owned() }),
        Err(Errno::PROTOTYPE) => {
            Err(StartError::NotASocket { path: path.to_owned(), kind: "a socket of another type, in use" })
        }
        Err(error) => Err(failed("find out whether a gateway is running on", path, error)),
    }
}

/// Connects to the gateway that answers at `path`, without blocking; `None` when none does.
pub(crate) fn connect(path: &Path) -> Result<Option<OwnedFd>, StartError> {
    check_name(path)?;
    let socket = socket(path)?;
    match net::connect(&socket, &address(path)?) {
        Ok(()) => Ok(Some(socket)),
        Err(Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(failed("connect to the gateway on", path, error)),
    }
}

fn bind(path: &Path, mode: u32) -> Result<(SocketFile, OwnedFd), StartError> {
    let listener = socket(path)?;
    let mode = Mode::from_raw_mode(mode & 0o777);
    fs::fchmod(&listener, mode).map_err(|error| failed("set the permissions of", path, error))?;
    net::bind(&listener, &address(path)?).map_err(|error| failed("make the socket", path, error))?;
    let stat = fs::lstat(path).map_err(|error| failed("look at", path, error))?;
    let mut file = SocketFile { path: path.to_owned(), is_removed: false, identity: identity_of(&stat) };
    let opened = if Mode::from_raw_mode(stat.st_mode) & Mode::from_raw_mode(0o777) == mode {
        Ok(())
    } else {
        // Follows no link that could have been put there: the file was a socket a moment ago, and in a directory where
        // others may write, the sticky bit keeps them from replacing it.
        fs::chmodat(CWD, path, mode, AtFlags::empty()).map_err(|error| failed("set the permissions of", path, error))
    };
    let listening = opened.and_then(|()| {
        net::listen(&listener, limits::LISTEN_BACKLOG).map_err(|error| failed("listen on", path, error))
    });
    match listening {
        Ok(()) => Ok((file, listener)),
        Err(error) => {
            let _ = file.remove_locked(); // the lock is held already; the error that is reported is the first one
            file.is_removed = true;
            Err(error)
        }
    }
}

fn socket(path: &Path) -> Result<OwnedFd, StartError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|error| failed("open a socket for", path, error))
}

fn address(path: &Path) -> Result<SocketAddrUnix, StartError> {
    SocketAddrUnix::new(path).map_err(|error| failed("use the path", path, error))
}

fn identity_of(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn kind_of(file: FileType) -> &'static str {
    match file {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a fifo",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    }
}

fn failed(action: &'static str, path: &Path, error: Errno) -> StartError {
    StartError::Io { action, path: path.to_owned(), source: error.into() }
}

/// The right to decide about one socket path. The file is removed again while the lock is held.
struct Lock {
    path: PathBuf,
    /// Keeps the lock, and the inode.
    _file: OwnedFd,
}

impl Lock {
    fn take(socket: &Path) -> Result<Lock, StartError> {
        let mut name = socket.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        for _ in 0..LOCK_ATTEMPTS {
            let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|error| failed("make the lock file", &path, error))?;
            match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    thread::sleep(LOCK_RETRY);
                    continue;
                }
                Err(error) => return Err(failed("lock", &path, error)),
            }
            // Who held it before has removed the file: the lock on a removed file protects nothing.
            let held = fs::fstat(&file).map_err(|error| failed("look at", &path, error))?;
            match fs::lstat(&path) {
                Ok(named) if identity_of(&named) == identity_of(&held) => return Ok(Lock { path, _file: file }),
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(failed("look at", &path, error)),
            }
        }
        Err(StartError::Locked { path })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::unlink(&self.path); // whoever waits for it makes a new one
    }
}
