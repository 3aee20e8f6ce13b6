//! ⚠ The processes from which guests' processes are made.
//!
//! ```text
//! hv ── socket ──► supervisor ── fork ──► zygote ── fork ──► a process that waits for its guest
//!  └─── socket ─────────────────────────────┴──────────────────┘
//! ```
//!
//! The *supervisor* starts before hv is jailed and makes zygotes. It sees nothing of any guest. A *zygote* keeps one
//! waiting process. That process greets hv with its own pidfd, takes hv's request with the guest's memory, and answers.
//!
//! Any violation of this protocol *poisons* the zygote. Then hv ends it and the waiting process, and closes the socket,
//! so that it receives nothing more from either. The supervisor makes another zygote, and the start is tried once more
//! with that one. Running guests are not affected: they are children of the supervisor.
#![allow(unsafe_code, reason = "doorbells as borrowed descriptors")]

mod channel;
#[cfg(feature = "fuzzing")]
pub mod door;
mod failure;
mod launch;
mod nonces;
pub(crate) mod reply;
mod request;
#[cfg(test)]
mod tests;

use super::error::ProcessError;
use super::handle::Process;
use super::{failed, filter};
use crate::memory::GuestMemory;
use crate::platform::PlatformError;
use channel::{Patience, Socket};
use failure::{StartFailure, Warnings, refused};
use hv_stub::reply as kind;
use launch::Child;
use nonces::Nonces;
use reply::Expected;
pub use reply::Violation;
use rustix::process::Signal;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Namespaces of the guests' processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespaces {
    /// User, mount, network, PID, IPC and UTS namespaces.
    Own,
    /// The host refused them, for this reason. The filter confines the processes in the same way.
    Refused(String),
}

/// How often a start is tried with another zygote after a violation.
const RETRIES: usize = 1;

/// Most tries after zygotes that had ended: no time was spent waiting for those. What ends zygotes (a host without
/// memory, for example) ends several.
const RETRIES_AFTER_ENDS: usize = 4;

/// How long a supervisor that did not answer is not asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes the processes of guests.
pub(super) struct Zygote {
    namespaces: Namespaces,
    /// Whether processes can say which pages of a clone they lack, as far as is known.
    on_demand: AtomicBool,
    /// Locked for the duration of a start: one start at a time.
    state: Mutex<ZygoteState>,
}

struct ZygoteState {
    /// The zygote; `None` before the first start, and after it was poisoned.
    serving: Option<Serving>,
    supervisor: Supervisor,
    nonces: Nonces,
    warnings: Warnings,
}

impl Zygote {
    pub(super) fn start() -> Result<Zygote, PlatformError> {
        // Before there is a process: one that cannot be confined must not run a guest.
        filter::is_possible().map_err(ProcessError::NoFilter)?;
        let launched = launch::launch()?;
        let pid = launched.process.pid();
        let supervisor = Supervisor::new(Socket::new(launched.socket), pid, launched.process);
        Zygote::of(supervisor, launched.namespaces)
    }

    fn of(mut supervisor: Supervisor, namespaces: Namespaces) -> Result<Zygote, PlatformError> {
        let mut nonces = Nonces::new().map_err(failed("getrandom"))?;
        // The first zygote is made meanwhile. The first start receives the reply.
        supervisor.ask(&mut nonces).map_err(StartFailure::into_error)?;
        let state = ZygoteState { serving: None, supervisor, nonces, warnings: Warnings::default() };
        Ok(Zygote { namespaces, on_demand: AtomicBool::new(true), state: Mutex::new(state) })
    }

    pub(super) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// As on a host that forbids userfaultfd.
    #[cfg(test)]
    pub(super) fn assume_no_demand(&self) {
        self.on_demand.store(false, Ordering::Relaxed);
    }

    /// Makes a process with this memory. It waits for its first run.
    pub(super) fn fork<'a>(
        &self,
        memory: &GuestMemory,
        page: u64,
        doorbells: impl Iterator<Item = &'a vmm_sys_util::eventfd::EventFd>,
    ) -> Result<Process, PlatformError> {
        // SAFETY: the descriptors live as long as the iterator's items, which outlive this call.
        let bells = doorbells.map(|bell| unsafe { BorrowedFd::borrow_raw(bell.as_raw_fd()) });
        let bells: Vec<_> = bells.collect();
        let fork = || {
            let mut request = request::request(memory, page, bells.iter().copied())?;
            let mut state = self.state.lock().expect("no panic while held");
            state.fork(&mut request.words, &request.descriptors)
        };
        let complete = || memory.complete().map_err(failed("copying a template"));
        if !self.on_demand.load(Ordering::Relaxed) {
            complete()?;
        }
        match fork() {
            // Some hosts forbid userfaultfd. There, clones have copies of what they can write.
            Err(StartFailure::Unmapped(error)) if memory.is_on_demand() => {
                complete()?;
                let process = fork().map_err(StartFailure::into_error)?;
                if self.on_demand.swap(false, Ordering::Relaxed) {
                    tracing::info!("clones on this host are copies of their templates: {error}");
                }
                Ok(process)
            }
            result => result.map_err(StartFailure::into_error),
        }
    }
}

impl ZygoteState {
    fn fork(&mut self, words: &mut [u64], descriptors: &[BorrowedFd<'_>]) -> Result<Process, StartFailure> {
        let (mut tries, mut others) = (0, 0);
        loop {
            tries += 1;
            let error = match self.try_fork(words, descriptors) {
                Err(StartFailure::Poisoned(violation)) => {
                    self.warnings.warn(&violation);
                    others += usize::from(violation != Violation::Ended);
                    ProcessError::zygote(violation).into()
                }
                Err(StartFailure::Exhausted(error)) => {
                    others += 1;
                    error
                }
                result => return result,
            };
            if others > RETRIES || tries > RETRIES_AFTER_ENDS {
                return Err(StartFailure::Refused(error));
            }
        }
    }

    /// One try. A zygote that breaks the protocol is ended.
    fn try_fork(
        &mut self,
        words: &mut [u64],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Process, StartFailure> {
        let mut patience = Patience::new();
        let mut serving = match self.serving.take() {
            Some(serving) => serving,
            None => self.supervisor.make_zygote(&mut patience, &mut self.nonces)?,
        };
        words[0] = self.nonces.next();
        let result = serving.fork(words, descriptors, &mut patience);
        match result {
            Ok(_) | Err(StartFailure::Refused(_) | StartFailure::Unmapped(_)) => self.serving = Some(serving),
            Err(_) => serving.end(),
        }
        result
    }
}

/// The process that makes zygotes.
struct Supervisor {
    channel: Socket,
    pid: i32,
    process: Child,
    /// The nonce of the pending request.
    asked: Option<u64>,
    /// Until when hv does not wait for it.
    pause: Option<Instant>,
}

impl Supervisor {
    fn new(channel: Socket, pid: i32, process: Child) -> Supervisor {
        Supervisor { channel, pid, process, asked: None, pause: None }
    }

    /// Requests a zygote.
    fn make_zygote(&mut self, patience: &mut Patience, nonces: &mut Nonces) -> Result<Serving, StartFailure> {
        let refuse = |violation| StartFailure::Refused(ProcessError::supervisor(violation).into());
        if self.pause.is_some_and(|until| Instant::now() < until) {
            return Err(refuse(Violation::Late));
        }
        let (nonce, socket) = self.channel(patience, nonces).map_err(|failure| match failure {
            // There is no replacement for the supervisor.
            StartFailure::Poisoned(violation) => {
                self.pause = Some(Instant::now() + PAUSE);
                refuse(violation)
            }
            failure => failure,
        })?;
        let channel = Socket::new(socket);
        let greeting = Expected { kind: kind::ZYGOTE, nonce, sender: None, descriptors: 1 };
        let reply = channel.receive(patience, &[self.process.handle().as_fd()], &[greeting]);
        let reply = reply.map_err(StartFailure::Poisoned)?;
        match (reply.error, reply.descriptor) {
            (None, Some(handle)) => Ok(Serving { channel, nonce, handle, next: NextProcess::Unknown }),
            (error, _) => Err(StartFailure::Refused(refused("pidfd_open", error))),
        }
    }

    /// Sends a request for a zygote. Returns the nonce of the request.
    fn ask(&mut self, nonces: &mut Nonces) -> Result<u64, StartFailure> {
        // The reply to an earlier request is still to come. It serves this request too.
        if let Some(nonce) = self.asked {
            return Ok(nonce);
        }
        let nonce = nonces.next();
        self.channel.send(&[nonce], &[]).map_err(StartFailure::not_sent)?;
        Ok(*self.asked.insert(nonce))
    }

    /// The socket to a new zygote, and the nonce of the request for it.
    fn channel(
        &mut self,
        patience: &mut Patience,
        nonces: &mut Nonces,
    ) -> Result<(u64, OwnedFd), StartFailure> {
        let nonce = self.ask(nonces)?;
        let expected = Expected { kind: kind::CHANNEL, nonce, sender: Some(self.pid), descriptors: 1 };
        let reply = self.channel.receive(patience, &[self.process.handle().as_fd()], &[expected]);
        if !matches!(reply, Err(Violation::Late)) {
            self.asked = None;
        }
        let reply = reply.map_err(StartFailure::Poisoned)?;
        match (reply.error, reply.descriptor) {
            (None, Some(socket)) => Ok((nonce, socket)),
            (error, _) => Err(StartFailure::Refused(refused("making a process", error))),
        }
    }
}

/// A zygote. Dropping this ends it and the waiting process.
struct Serving {
    channel: Socket,
    /// The nonce of the request for this zygote. The greetings on its channel have it too.
    nonce: u64,
    handle: OwnedFd,
    next: NextProcess,
}

/// The waiting process.
enum NextProcess {
    /// It has not sent its greeting yet.
    Unknown,
    /// It has sent its greeting.
    Waiting(Process),
    /// The zygote could not make a process, and has ended.
    Failed(PlatformError),
}

impl Serving {
    /// Makes the waiting process that of a guest. The nonce of the request is the first word.
    fn fork(
        &mut self,
        words: &[u64],
        descriptors: &[BorrowedFd<'_>],
        patience: &mut Patience,
    ) -> Result<Process, StartFailure> {
        let process = self.next(patience)?;
        if let Err(error) = self.channel.send(words, descriptors) {
            self.next = NextProcess::Waiting(process);
            return Err(StartFailure::not_sent(error));
        }
        self.ready(&process, words[0], patience).inspect_err(|_| process.kill())?;
        Ok(process)
    }

    fn greeting(&self) -> Expected {
        Expected { kind: kind::WAITING, nonce: self.nonce, sender: None, descriptors: 1 }
    }

    /// Takes the waiting process.
    fn next(&mut self, patience: &mut Patience) -> Result<Process, StartFailure> {
        if matches!(self.next, NextProcess::Unknown) {
            let reply = self.channel.receive(patience, &[self.handle.as_fd()], &[self.greeting()]);
            self.greeted(reply.map_err(StartFailure::Poisoned)?);
        }
        match std::mem::replace(&mut self.next, NextProcess::Unknown) {
            NextProcess::Waiting(process) => Ok(process),
            NextProcess::Failed(error) => Err(StartFailure::Exhausted(error)),
            NextProcess::Unknown => Err(StartFailure::Poisoned(Violation::Late)),
        }
    }

    fn greeted(&mut self, reply: reply::Reply<OwnedFd>) {
        self.next = match (reply.error, reply.descriptor) {
            (None, Some(handle)) => NextProcess::Waiting(Process::new(handle, reply.sender)),
            (error, _) => NextProcess::Failed(refused("making a process", error)),
        };
    }

    /// Waits until the process has mapped the guest's memory.
    fn ready(&mut self, process: &Process, nonce: u64, patience: &mut Patience) -> Result<(), StartFailure> {
        let answer = Expected { kind: kind::READY, nonce, sender: Some(process.number()), descriptors: 0 };
        loop {
            // The greeting of the next process may arrive first.
            let both = [answer, self.greeting()];
            let due = if matches!(self.next, NextProcess::Unknown) { &both[..] } else { &both[..1] };
            let reply =
                self.channel.receive(patience, &[process.handle()], due).map_err(StartFailure::Poisoned)?;
            if reply.kind == kind::READY {
                return match reply.error {
                    None => Ok(()),
                    // The process ends by itself, and its zygote continues.
                    error => Err(StartFailure::Unmapped(refused("mapping a guest's memory", error))),
                };
            }
            self.greeted(reply);
        }
    }
}

impl Serving {
    /// Ends the zygote and the waiting process. Nothing more is received from either.
    fn end(self) {
        // The greeting of a process may not have been received yet. Such a process ends by itself once the socket is
        // closed, unless it was stopped by a signal.
        while let Ok(message) = self.channel.message() {
            for handle in &message.descriptors {
                let _ = rustix::process::pidfd_send_signal(handle, Signal::KILL);
            }
            if message.len == 0 {
                break;
            }
        }
    }
}

impl Drop for Serving {
    /// Runs on the thread that drops the engine last, so it may only send signals.
    fn drop(&mut self) {
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
        if let NextProcess::Waiting(process) = &self.next {
            process.kill();
        }
    }
}
