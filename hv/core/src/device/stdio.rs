//! ⚠ This process's own standard streams, and buffers, as ends of a console.
#![allow(unsafe_code, reason = "`poll`, `read`, `write` on standard streams")]

use super::console::{Input, Output};
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Waits until `fd` is ready for `events` or `at_most` has passed; whether it is.
pub(crate) fn poll(fd: RawFd, events: libc::c_short, at_most: Duration) -> bool {
    let mut poll = libc::pollfd { fd, events, revents: 0 };
    let ms = i32::try_from(at_most.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, ms) == 1 }
}

/// The process's standard output. Never waits in [`Output::write`], without
/// making the descriptor non-blocking: others may share it.
#[derive(Debug, Default)]
pub struct Stdout;

/// The process's standard error, likewise.
#[derive(Debug, Default)]
pub struct Stderr;

/// Writes what a stream takes without waiting.
fn write_at_once(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    if !poll(fd, libc::POLLOUT, Duration::ZERO) {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    // A writable pipe takes PIPE_BUF bytes without waiting.
    let len = bytes.len().min(4096);
    // SAFETY: the bytes are valid for reads of `len`.
    let count = unsafe { libc::write(fd, bytes.as_ptr().cast(), len) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

impl Output for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_at_once(libc::STDOUT_FILENO, bytes)
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(libc::STDOUT_FILENO)
    }
}

impl Output for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_at_once(libc::STDERR_FILENO, bytes)
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(libc::STDERR_FILENO)
    }
}

/// The process's standard input. Never waits in [`Input::read`].
#[derive(Debug, Default)]
pub struct Stdin;

impl Input for Stdin {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if !poll(libc::STDIN_FILENO, libc::POLLIN, Duration::ZERO) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // SAFETY: the bytes are valid for writes of their length.
        let count = unsafe { libc::read(libc::STDIN_FILENO, bytes.as_mut_ptr().cast(), bytes.len()) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(libc::STDIN_FILENO)
    }
}

/// Collects a guest's output in memory, up to a limit beyond which it is dropped.
#[derive(Clone, Debug)]
pub struct Buffer {
    bytes: Arc<Mutex<Vec<u8>>>,
    limit: usize,
}

impl Default for Buffer {
    /// A buffer of at most 1 MiB.
    fn default() -> Self {
        Buffer::new(1 << 20)
    }
}

impl Buffer {
    /// A buffer of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Buffer { bytes: Arc::default(), limit }
    }

    /// What has been written so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().expect("no panic while held").clone()
    }

    /// What has been written so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

impl Output for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.bytes.lock().expect("no panic while held");
        let room = self.limit.saturating_sub(all.len()).min(bytes.len());
        all.extend_from_slice(&bytes[..room]);
        Ok(bytes.len())
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

/// Input from memory.
#[derive(Clone, Debug, Default)]
pub struct Bytes(std::collections::VecDeque<u8>);

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Bytes(bytes.iter().copied().collect())
    }
}

impl Input for Bytes {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut self.0, bytes)
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}
