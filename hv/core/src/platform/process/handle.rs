//! ⚠ hv's handle of the process of a guest: a pidfd and the process' clock.
#![allow(unsafe_code, reason = "signals, by their numbers")]

use hv_host::cpu_clock::CpuClock;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use std::ffi::c_int;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The process of a guest.
pub(super) struct Process {
    handle: OwnedFd,
    pid: Pid,
    clock: Option<CpuClock>,
}

impl Process {
    /// The process of this pidfd. It has this number as long as it lives.
    pub(super) fn new(handle: OwnedFd, number: i32) -> Process {
        let pid = Pid::from_raw(number).expect("the kernel has said it");
        Process { handle, pid, clock: CpuClock::of_process(number) }
    }

    pub(super) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    pub(super) fn number(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends the process a signal, if it lives.
    pub(super) fn signal(&self, signal: c_int) {
        // SAFETY: the number is that of a signal that hv uses.
        let signal = unsafe { Signal::from_raw_unchecked(signal) };
        let _ = rustix::process::pidfd_send_signal(&self.handle, signal);
    }

    pub(super) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
    }

    fn has_ended_within(&self, limit: Option<&Timespec>) -> bool {
        let handle = self.handle.as_fd();
        let mut descriptors = [PollFd::from_borrowed_fd(handle, PollFlags::IN)];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut descriptors, limit))
            .is_ok_and(|ready| ready > 0)
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.has_ended_within(Some(&Timespec::default()))
    }

    /// Kills the process, and waits until none of its instructions can run any more.
    pub(super) fn end(&mut self) {
        self.kill();
        self.has_ended_within(None);
        // From now on its number may be that of another process.
        self.clock = None;
    }

    /// Processor time that the process has used. Zero after its end.
    pub(super) fn used(&self) -> Duration {
        self.clock.map_or(Duration::ZERO, CpuClock::read)
    }

    /// Allows the process two more seconds of processor time, or slightly less.
    pub(super) fn renew_limit(&mut self) {
        // The limit is set by number, and the number of a process that is gone may belong to another one by now.
        if !self.is_alive() {
            return;
        }
        // The maximum is inherited. Raising it needs privileges.
        let maximum = rustix::process::getrlimit(Resource::Cpu).maximum;
        let counted = self.clock.map_or(Duration::ZERO, |clock| clock.of_limits().read());
        let seconds = counted.max(self.used()).as_secs() + 2;
        let current = Some(maximum.map_or(seconds, |maximum| seconds.min(maximum)));
        let _ = rustix::process::prlimit(Some(self.pid), Resource::Cpu, Rlimit { current, maximum });
    }
}
