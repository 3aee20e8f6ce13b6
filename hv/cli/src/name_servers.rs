//! The host's name servers, also when another file has become `/etc/resolv.conf`.
//!
//! In its jail hv opens no file, and the folder of that one is no place to let it read: everything of `/etc` is in it. So
//! another process looks for it, and copies what it says to a file in memory, which hv has open. It takes nothing from hv but hv's end.
#![forbid(unsafe_code)]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, PipeWriter, Read, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What it is called among processes. hv with this name does nothing else.
pub(super) const NAME: &str = "hv-name-servers";

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Bytes of it that are copied; all of it, unless it is something else.
const MOST: u64 = 16 << 10;

/// How often it is looked at.
const PAUSE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A file that says what `/etc/resolv.conf` says, as long as it lives.
pub(super) struct Followed {
    copy: File,
    /// The process ends when this is closed.
    _end: PipeWriter,
}

impl Followed {
    /// Starts the process.
    pub(super) fn new() -> io::Result<Followed> {
        let memory = |flags| memfd_create("resolv.conf", flags | MemfdFlags::CLOEXEC);
        let copy = match memory(MemfdFlags::NOEXEC_SEAL) {
            // Before Linux 6.3.
            Err(Errno::INVAL) => memory(MemfdFlags::empty())?,
            made => made?,
        };
        let copy = File::from(copy);
        let mut last = Vec::new();
        copy_if_changed(&copy, &mut last)?;
        let (ended, end) = pipe()?;
        Command::new("/proc/self/exe")
            .arg0(NAME)
            // Ctrl-C is for hv, which may go on for a while.
            .process_group(0)
            .env_clear()
            .current_dir("/")
            .stdin(ended)
            .stdout(copy.try_clone()?)
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Followed { copy, _end: end })
    }

    /// By which path this process opens it.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.copy.as_raw_fd()).into()
    }
}

/// What the process does: copies to standard output until standard input ends.
pub(super) fn work() -> io::Result<()> {
    let copy = File::from(rustix::io::fcntl_dupfd_cloexec(io::stdout(), 0)?);
    let mut last = Vec::new();
    let input = io::stdin();
    while poll(&mut [PollFd::new(&input, PollFlags::empty())], Some(&PAUSE))? == 0 {
        copy_if_changed(&copy, &mut last)?;
    }
    Ok(())
}

/// Copies the text if it is another than the last. What is not there, or is being written, is left as it was.
fn copy_if_changed(copy: &File, last: &mut Vec<u8>) -> io::Result<()> {
    let mut text = Vec::new();
    let read = File::open(RESOLV_CONF).and_then(|file| file.take(MOST).read_to_end(&mut text));
    if read.is_err() || text.is_empty() || text == *last {
        return Ok(());
    }
    // Who reads meanwhile takes an empty file for one that is being written.
    copy.set_len(0)?;
    copy.write_all_at(&text, 0)?;
    *last = text;
    Ok(())
}
