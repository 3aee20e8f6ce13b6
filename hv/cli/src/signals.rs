//! ⚠ Ctrl-C, SIGTERM, SIGHUP, SIGQUIT and `--timeout`, on the I/O thread.
#![allow(unsafe_code, reason = "asking whether SIGHUP is ignored")]

use super::args::Format;
use hv_core::domain::{Controller, GuestState, Stop};
use hv_core::reactor::{Registrar, Source};
use mio::Interest;
use mio::event::Event;
use mio::net::UnixStream;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// How long a guest that was asked to end may take.
const GRACE: Duration = Duration::from_secs(10);

/// How long a reader of the console may take to read the rest after `--timeout`.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// Ends a guest at a signal or after its time, and prints its state at SIGQUIT.
pub(super) struct Signals {
    guest: Controller,
    /// One stream per signal; its bytes mean nothing but that the signal came.
    streams: Vec<(i32, UnixStream)>,
    /// The signal that asked first, or 0; for the exit code.
    signal: Arc<AtomicI32>,
    timeout: Option<Instant>,
    format: Format,
    /// When the guest is ended, or its output abandoned, if it has not ended by then.
    deadline: Option<Instant>,
}

impl Signals {
    /// Catches signals from now on. `signal` will tell which one ended the guest.
    pub(super) fn new(
        guest: Controller,
        timeout: Option<Duration>,
        signal: Arc<AtomicI32>,
        format: Format,
    ) -> io::Result<Self> {
        let catch = |signal| {
            let (read, write) = std::os::unix::net::UnixStream::pair()?;
            read.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(signal, write)?;
            Ok::<_, io::Error>((signal, UnixStream::from_std(read)))
        };
        let mut streams = vec![catch(SIGINT)?, catch(SIGTERM)?, catch(SIGQUIT)?];
        if !hang_up_is_ignored() {
            streams.push(catch(SIGHUP)?);
        }
        let timeout = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Ok(Signals { guest, streams, signal, timeout, format, deadline: None })
    }

    fn signalled(&mut self, signal: i32) {
        if self.signal.swap(signal, Ordering::SeqCst) != 0 {
            // The second signal: ends the guest at once, without waiting for the console's reader.
            self.guest.stop(Stop::Interrupted);
            self.guest.abandon();
        } else if self.guest.request_shutdown() {
            tracing::warn!("the guest was asked to end; once more ends it at once");
            self.deadline = Instant::now().checked_add(GRACE);
        } else {
            self.guest.stop(Stop::Interrupted);
        }
    }

    /// Prints the state of the guest.
    fn show_state(&self) {
        let format = self.format;
        self.guest.inspect(Box::new(move |state| print_state(format, state)));
    }
}

fn print_state(format: Format, state: &GuestState) {
    let text = match format {
        Format::Text => state.to_string(),
        Format::Json => format!("{}\n", serde_json::json!({ "state": state })),
    };
    // Standard error may be closed: an error of the write is ignored.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Whether SIGHUP is ignored, as after nohup(1).
fn hang_up_is_ignored() -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is changed; the struct is valid, all zero, and the kernel fills it in.
    let now = unsafe {
        libc::sigaction(SIGHUP, std::ptr::null(), now.as_mut_ptr());
        now.assume_init()
    };
    now.sa_sigaction == libc::SIG_IGN
}

/// Has a file that reaches the limit of sizes (`ulimit -f`) be an error of the write, and not the end of this process:
/// disks pass it on to their guests.
pub(super) fn survive_file_limits() -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(|_| ())
}

impl Source for Signals {
    fn start(&mut self, io: Registrar) -> io::Result<()> {
        for (key, (_, stream)) in self.streams.iter_mut().enumerate() {
            io.register(stream, key as u32, Interest::READABLE)?;
        }
        Ok(())
    }

    fn ready(&mut self, key: u32, _: &Event) {
        let Some((signal, stream)) = self.streams.get_mut(key as usize) else { return };
        let signal = *signal;
        let mut bytes = [0; 16];
        let mut came = 0;
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            came += count;
        }
        if signal == SIGQUIT {
            return self.show_state();
        }
        for _ in 0..came {
            self.signalled(signal);
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        if self.timeout.is_some_and(|timeout| timeout <= now) {
            self.timeout = None;
            self.show_state();
            self.guest.stop(Stop::Timeout);
            self.deadline = now.checked_add(LAST_OUTPUT);
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.guest.stop(Stop::Interrupted);
            self.guest.abandon();
        }
        self.timeout.into_iter().chain(self.deadline).min()
    }
}
