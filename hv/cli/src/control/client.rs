//! `hv set`, `hv show`, `hv pause`, `hv resume` and `hv stop`: what they say to the hv that runs the guest.

use super::protocol::{Changes, Reply, Request, Status, line};
use crate::args::{ControlArgs, Format, SetArgs, Setting, ShowArgs};
use hv_host::escape::escape;
use rustix::fs::{FileType, stat};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::error::Error;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest that hv takes for an answer. It counts the pages of a large guest piece by piece.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most bytes of an answer.
const MAX_REPLY: u64 = 64 << 10;

/// Why a guest was not reached, or does not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum ClientError {
    #[error("{}: no such socket; a guest that is started with `hv run --control {}` has one while it runs", escape(.0), escape(.0))]
    Absent(PathBuf),
    #[error("{}: not a control socket of hv; name what `hv run --control` was given", escape(.0))]
    Foreign(PathBuf),
    #[error("{}: the hv that made this socket has ended, and its guest with it", escape(.0))]
    Gone(PathBuf),
    #[error("{}: no permission; only the user who has started the guest may control it, and root", escape(.0))]
    Forbidden(PathBuf),
    #[error("{}: no answer within {PATIENCE:?}: hv is stopped, or this is not a control socket of hv", escape(.0))]
    Silent(PathBuf),
    #[error("{}: the path of a socket has at most 107 bytes; use a shorter one, such as one that is relative to the current folder", escape(.0))]
    TooLong(PathBuf),
    #[error("{}: {error}", escape(path))]
    Failed { path: PathBuf, error: io::Error },
    /// hv's own words.
    #[error("{}: {words}", escape(path))]
    Refused { path: PathBuf, words: String },
    #[error("{0} is given twice; give it once")]
    Twice(&'static str),
}

/// `hv set`.
pub(crate) fn set(args: &SetArgs) -> Result<u8, Box<dyn Error>> {
    let request = Request::Set(changes(&args.settings)?);
    ask(&args.control, &request)?;
    Ok(0)
}

/// `hv show`.
pub(crate) fn show(args: &ShowArgs) -> Result<u8, Box<dyn Error>> {
    let status = ask(&args.control, &Request::Get {})?;
    let text = match args.format {
        Format::Text => table(&status),
        Format::Json => format!("{}\n", serde_json::to_string(&status)?),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}

/// `hv pause`, `hv resume`, `hv stop`.
pub(crate) fn order(args: &ControlArgs, request: Request) -> Result<u8, Box<dyn Error>> {
    ask(&args.control, &request)?;
    Ok(0)
}

fn changes(settings: &[Setting]) -> Result<Changes, ClientError> {
    fn once<T>(place: &mut Option<T>, value: T, key: &'static str) -> Result<(), ClientError> {
        match place.replace(value) {
            None => Ok(()),
            Some(_) => Err(ClientError::Twice(key)),
        }
    }
    let mut changes = Changes::default();
    for setting in settings {
        match *setting {
            Setting::Vcpus(value) => once(&mut changes.vcpus, value, "vcpus")?,
            Setting::Memory(value) => once(&mut changes.memory, value, "memory")?,
            Setting::Weight(value) => once(&mut changes.weight, value, "weight")?,
            Setting::Cap(value) => once(&mut changes.cap, value, "cap")?,
        }
    }
    Ok(changes)
}

/// Makes a request, and returns how the guest is then.
fn ask(path: &Path, request: &Request) -> Result<Status, ClientError> {
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => ClientError::Silent(path.into()),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => ClientError::Gone(path.into()),
        _ => ClientError::Failed { path: path.into(), error },
    };
    let mut stream = reach(path).map_err(|error| of_connecting(path, error))?;
    match stream.write_all(&line(request)) {
        // hv has closed the connection, and may have said why.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        sent => sent.map_err(failed)?,
    }
    let mut reply = Vec::new();
    BufReader::new(stream).take(MAX_REPLY).read_until(b'\n', &mut reply).map_err(failed)?;
    if reply.is_empty() {
        return Err(ClientError::Gone(path.into()));
    }
    match serde_json::from_slice(&reply) {
        Ok(Reply::Ok(status)) => Ok(status),
        Ok(Reply::Error(error)) => Err(ClientError::Refused { path: path.into(), words: error }),
        Err(_) => Err(ClientError::Foreign(path.into())),
    }
}

fn reach(path: &Path) -> Result<UnixStream, Errno> {
    if FileType::from_raw_mode(stat(path)?.st_mode) != FileType::Socket {
        return Err(Errno::NOTSOCK);
    }
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Also of the connection: hv may be stopped, with a full queue.
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    connect(&socket, &address)?;
    Ok(socket.into())
}

fn of_connecting(path: &Path, error: Errno) -> ClientError {
    let path = path.to_path_buf();
    match error {
        Errno::NOENT | Errno::NOTDIR => ClientError::Absent(path),
        Errno::NOTSOCK | Errno::PROTOTYPE => ClientError::Foreign(path),
        Errno::CONNREFUSED => ClientError::Gone(path),
        Errno::ACCESS | Errno::PERM => ClientError::Forbidden(path),
        Errno::AGAIN => ClientError::Silent(path),
        Errno::NAMETOOLONG => ClientError::TooLong(path),
        error => ClientError::Failed { path, error: error.into() },
    }
}

/// How a guest is, for people.
fn table(status: &Status) -> String {
    let Status { name, state, vcpus, memory, cpu_time_ns, weight, cap } = status;
    let mut text = String::new();
    let mut row = |what: &str, value: String| text += &format!("{what:<10}{value}\n");
    row("guest", escape(name).to_string());
    row("state", escape(state).to_string());
    row("vcpus", format!("{} running, target {}, most {}", vcpus.running, vcpus.target, vcpus.most));
    let target = match memory.target {
        0 => "none".into(),
        bytes => size(bytes),
    };
    let resident = memory.resident.map_or("unknown".into(), size);
    row("memory", format!("{resident} resident, target {target}, most {}", size(memory.size)));
    row("cpu time", format!("{:.3} s", Duration::from_nanos(*cpu_time_ns).as_secs_f64()));
    row("weight", weight.to_string());
    let cap = match cap {
        0 => "none".into(),
        cap => format!("{cap} %"),
    };
    row("cap", cap);
    text
}

/// Bytes as people write them, exact if they can be: 64M, 1500K, 3G; otherwise with one digit.
fn size(bytes: u64) -> String {
    for (unit, name) in [(1u64 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")] {
        if bytes >= unit {
            return match bytes % unit {
                0 => format!("{}{name}", bytes / unit),
                _ => format!("{:.1}{name}", bytes as f64 / unit as f64),
            };
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        let sizes = [
            (0, "0"),
            (4096, "4K"),
            (64 << 20, "64M"),
            (3 << 30, "3G"),
            ((1 << 20) + 4096, "1.0M"),
            (1536 << 10, "1.5M"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_setting_is_given_once() {
        assert!(changes(&[Setting::Vcpus(1), Setting::Vcpus(1)]).is_err());
        let some = changes(&[Setting::Cap(0), Setting::Memory(7)]).unwrap();
        assert_eq!(some, Changes { cap: Some(0), memory: Some(7), ..Changes::default() });
    }
}
