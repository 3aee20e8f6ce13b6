//! The control socket: made before hv is jailed, removed when hv has ended.
//!
//! In its jail hv removes no file. So a process beside it does: it waits for hv's end, however that comes, and removes the socket if it is
//! still the one that hv made. It takes nothing from hv but hv's end.

use crate::args::ControlOption;
use hv_host::escape::escape;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fchmod, fstat, lstat, open, statat, unlink, unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use rustix::process::geteuid;
use std::ffi::OsStr;
use std::io::{self, PipeWriter, Read, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the process that removes a socket is called. hv with this name does nothing else.
pub(crate) const REMOVER: &str = "hv-control";

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 16;

/// For this user only.
const MODE: Mode = Mode::from_raw_mode(0o600);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ControlError {
    #[error("--control {}: the path of a socket has at most 107 bytes, and this one {}; use a shorter one, such as one that is relative to the current folder", escape(.0), .0.as_os_str().len())]
    TooLong(PathBuf),
    #[error("--control {}: there is a file of this name that is no socket of an hv that has ended; choose another path, or remove it", escape(.0))]
    Exists(PathBuf),
    #[error("--control {}: another process listens there; choose another path", escape(.0))]
    InUse(PathBuf),
    #[error("--control {}: no such folder; make it first", escape(.0))]
    NoFolder(PathBuf),
    #[error("--control {}: cannot make the socket: {error}", escape(path))]
    Refused { path: PathBuf, error: io::Error },
}

/// A socket that nobody listens to yet.
pub(crate) struct ControlSocket {
    pub(super) listener: UnixListener,
    /// The socket is removed when this is closed.
    pub(super) end: PipeWriter,
}

impl ControlSocket {
    /// The socket of `--control`.
    pub(crate) fn asked_for(option: &ControlOption) -> Result<Option<Self>, ControlError> {
        option.control.as_deref().map(ControlSocket::new).transpose()
    }

    fn new(path: &Path) -> Result<Self, ControlError> {
        let named = |error: Errno| match error {
            Errno::NAMETOOLONG => ControlError::TooLong(path.into()),
            Errno::ADDRINUSE => ControlError::Exists(path.into()),
            Errno::NOENT | Errno::NOTDIR => ControlError::NoFolder(path.into()),
            error => ControlError::Refused { path: path.into(), error: error.into() },
        };
        let address = SocketAddrUnix::new(path).map_err(named)?;
        make_room(path, &address)?;
        let socket = stream().map_err(named)?;
        // The file gets the mode that the socket has: at no time may another user connect.
        fchmod(&socket, MODE).map_err(named)?;
        bind(&socket, &address).map_err(named)?;
        let end = removed_at_the_end(path).map_err(|error| {
            let _ = unlink(path);
            ControlError::Refused { path: path.into(), error }
        })?;
        listen(&socket, BACKLOG).map_err(named)?;
        Ok(ControlSocket { listener: socket.into(), end })
    }
}

fn stream() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Removes a socket that an hv has left that was killed together with the process beside it. Anything else stays, and is an error.
fn make_room(path: &Path, address: &SocketAddrUnix) -> Result<(), ControlError> {
    let Ok(found) = lstat(path) else { return Ok(()) };
    let is_of_hv = FileType::from_raw_mode(found.st_mode) == FileType::Socket
        && found.st_uid == geteuid().as_raw()
        && Mode::from_raw_mode(found.st_mode) == MODE;
    if !is_of_hv {
        return Err(ControlError::Exists(path.into()));
    }
    match stream().and_then(|socket| connect(&socket, address)) {
        Err(Errno::CONNREFUSED) => match unlink(path) {
            // The process beside it has been faster.
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(ControlError::Refused { path: path.into(), error: error.into() }),
        },
        Err(Errno::NOENT) => Ok(()),
        // Also if its queue is full.
        _ => Err(ControlError::InUse(path.into())),
    }
}

/// Starts the process that removes the socket when the result is closed.
fn removed_at_the_end(path: &Path) -> io::Result<PipeWriter> {
    let handle = |path: &Path, flags| open(path, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty());
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = handle(folder, OFlags::DIRECTORY)?;
    // As long as this is open, no other file gets its number.
    let socket = handle(path, OFlags::NOFOLLOW)?;
    let (ended, end) = pipe()?;
    Command::new("/proc/self/exe")
        .arg0(REMOVER)
        .arg(name)
        // Ctrl-C is for hv, which may go on for a while.
        .process_group(0)
        .env_clear()
        .current_dir("/")
        .stdin(ended)
        .stdout(Stdio::from(folder))
        .stderr(Stdio::from(socket))
        .spawn()?;
    Ok(end)
}

/// What that process does: waits until standard input ends, then removes the name in the folder (standard output) if it still is
/// that of the socket (standard error).
pub(crate) fn remove_at_the_end() -> io::Result<()> {
    rustix::thread::set_name(c"hv-control")?;
    let name = std::env::args_os().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    let mut byte = [0];
    while !matches!(io::stdin().read(&mut byte), Ok(0)) {}
    remove(&name)
}

fn remove(name: &OsStr) -> io::Result<()> {
    let (folder, socket) = (io::stdout(), io::stderr());
    let made = fstat(&socket)?;
    let found = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let number = |stat: &Stat| (stat.st_dev, stat.st_ino);
    if number(&made) == number(&found) {
        unlinkat(&folder, name, AtFlags::empty())?;
    }
    Ok(())
}
