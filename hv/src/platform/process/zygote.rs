//! ⚠ The process that guests are forked from.
//!
//! # Invariants that the `unsafe` blocks rely on
//!
//! 1. Between its making and its exec, the zygote shares this process' memory and runs on a
//!    stack of its own, while the thread that makes it waits. What it runs meanwhile is
//!    [`become_zygote`], which makes system calls and nothing else.

use super::error::no_namespaces;
use super::shared::{MAX_DOORBELLS, MESSAGE_WORDS};
use super::{ProcessError, STUB, failed, filter};
use crate::cpu_clock::CpuClock;
use crate::memory::{Access, GuestMemory};
use crate::platform::PlatformError;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, OFlags};
use rustix::net::sockopt::{Timeout, set_socket_passcred, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal};
use std::ffi::{CStr, c_int, c_void};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;
use zerocopy::IntoBytes;

/// Namespaces that the processes of guests have for themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespaces {
    /// User, mount, network, PID, IPC and UTS namespaces.
    Own,
    /// The host refused them, for this reason. Processes are as confined by their filter.
    Refused(String),
}

/// The process that guests are forked from.
pub(super) struct Zygote {
    /// One request at a time.
    socket: Mutex<OwnedFd>,
    pid: c_int,
    /// `None` on a kernel without pidfds, which has no guests either.
    handle: Option<OwnedFd>,
    namespaces: Namespaces,
}

/// What the new process needs on its way to be the zygote.
struct Way {
    socket: c_int,
    program: c_int,
    namespaces: bool,
    /// The error of its exec, written by the new process.
    error: AtomicI32,
}

const STACK: usize = 64 << 10;

/// How long a process may take to come.
const PATIENCE: Duration = Duration::from_secs(20);

impl Zygote {
    pub(super) fn start() -> Result<Zygote, PlatformError> {
        // Before there is a process: one that cannot be confined must not run a guest.
        filter::is_possible().map_err(ProcessError::NoFilter)?;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|error| failed("making a socket pair")(error.into()))?;
        // The kernel tells from which process an answer comes.
        set_socket_passcred(&ours, true).map_err(|error| failed("SO_PASSCRED")(error.into()))?;
        // A stub that was killed does not answer.
        set_socket_timeout(&ours, Timeout::Recv, Some(PATIENCE))
            .map_err(|error| failed("SO_RCVTIMEO")(error.into()))?;
        let program = program()?;
        let (pid, namespaces) = match make(&theirs, &program, true) {
            Ok(pid) => (pid, Namespaces::Own),
            Err(NotMade::Process(error)) => {
                tracing::debug!("namespaces: {error}");
                let pid = make(&theirs, &program, false)?;
                (pid, Namespaces::Refused(no_namespaces(&error)))
            }
            Err(error) => return Err(error.into()),
        };
        let mut zygote = Zygote { socket: Mutex::new(ours), pid, handle: None, namespaces };
        zygote.handle = Some(zygote.try_handle()?);
        Ok(zygote)
    }

    /// Tries the calls by which guests are ended. One that cannot be ended must not run.
    fn try_handle(&self) -> Result<OwnedFd, PlatformError> {
        let pid = Pid::from_raw(self.pid).expect("a process was made");
        let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|error| failed("pidfd_open")(error.into()))?;
        // Which it ignores.
        rustix::process::pidfd_send_signal(&handle, Signal::CONT)
            .map_err(|error| failed("pidfd_send_signal")(error.into()))?;
        Ok(handle)
    }

    pub(super) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// Makes a process with this memory, which waits for its first turn.
    pub(super) fn fork<'a>(
        &self,
        memory: &GuestMemory,
        page: u64,
        doorbells: impl Iterator<Item = &'a vmm_sys_util::eventfd::EventFd>,
    ) -> Result<Process, PlatformError> {
        let file = memory.shared_file().expect("this platform's memory is shared");
        let words = message(memory, page)?;
        // SAFETY: the descriptors live as long as the iterator's items, which outlive this call.
        let bells = doorbells.map(|bell| unsafe { BorrowedFd::borrow_raw(bell.as_raw_fd()) });
        let descriptors: Vec<_> = std::iter::once(file).chain(bells).collect();
        let socket = self.socket.lock().expect("no panic while held");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DOORBELLS + 1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let pushed = control.push(SendAncillaryMessage::ScmRights(&descriptors));
        assert!(pushed, "there is room for so many");
        let bytes = [IoSlice::new(words.as_bytes())];
        let sent = rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&*socket, &bytes, &mut control, SendFlags::NOSIGNAL)
        });
        sent.map_err(|error| failed("asking for a process")(error.into()))?;
        receive(&socket)
    }
}

/// The answer of a new process.
fn receive(socket: &OwnedFd) -> Result<Process, PlatformError> {
    let mut word = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut bytes = [IoSliceMut::new(&mut word)];
        match rustix::net::recvmsg(socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            // The limit of time of the socket, not one of the host's.
            Err(rustix::io::Errno::AGAIN) => {
                return Err(failed("waiting for a process")(io::ErrorKind::TimedOut.into()));
            }
            result => break result.map_err(|error| failed("waiting for a process")(error.into()))?,
        }
    };
    if received.bytes != word.len() {
        let gone = io::Error::new(io::ErrorKind::BrokenPipe, "the process that makes them is gone");
        return Err(failed("waiting for a process")(gone));
    }
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid),
        _ => None,
    });
    let result = i64::from_le_bytes(word);
    if result < 0 {
        return Err(failed("making a process")(io::Error::from_raw_os_error(-result as i32)));
    }
    let sender =
        sender.ok_or(io::ErrorKind::NotFound).map_err(|kind| failed("SCM_CREDENTIALS")(kind.into()))?;
    // It waits for its first turn, so its number is still its own.
    let handle = rustix::process::pidfd_open(sender, PidfdFlags::empty());
    Ok(Process {
        handle: handle.map_err(|error| failed("pidfd_open")(error.into()))?,
        pid: sender,
        clock: CpuClock::of_process(sender.as_raw_nonzero().get()),
    })
}

/// The words of a request: see [`MESSAGE_WORDS`].
fn message(memory: &GuestMemory, page: u64) -> Result<Vec<u64>, PlatformError> {
    let filter = filter::program();
    let mut words = vec![page, xsave_size(), memory.map().len() as u64, filter.len() as u64];
    for (range, access) in memory.map() {
        let mut protection = libc::PROT_READ;
        if access.contains(Access::WRITE) {
            protection |= libc::PROT_WRITE;
        }
        if access.contains(Access::EXECUTE) {
            protection |= libc::PROT_EXEC;
        }
        let address = memory.base().0 + range.start;
        words.extend([address, range.end - range.start, range.start, protection as u64]);
    }
    // `struct sock_filter`: code, jump if true, jump if false, operand.
    words.extend(filter.iter().map(|instruction| {
        u64::from(instruction.code)
            | u64::from(instruction.jt) << 16
            | u64::from(instruction.jf) << 24
            | u64::from(instruction.k) << 32
    }));
    if words.len() > MESSAGE_WORDS {
        return Err(PlatformError::TooManyRanges(memory.map().len()));
    }
    Ok(words)
}

/// Bytes of the XSAVE area with everything that the kernel has enabled (Intel SDM volume 1,
/// section 13.2), or 0 if there is none.
fn xsave_size() -> u64 {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return 0;
    }
    let size = u64::from(__cpuid_count(0xd, 0).ebx);
    if size <= super::shared::MAX_XSAVE as u64 { size } else { 0 }
}

/// The stub in a file that can be executed and not be changed.
fn program() -> Result<OwnedFd, PlatformError> {
    let file = program_file().map_err(|error| match error.raw_os_error() {
        // What vm.memfd_noexec=2 says, while policies say EPERM.
        Some(libc::EACCES) => ProcessError::NoPrograms.into(),
        _ => failed("memfd_create")(error),
    })?;
    fill(file).map_err(failed("filling the stub's memory file"))
}

/// An empty file in memory that may become a program.
fn program_file() -> io::Result<std::fs::File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag, nor a reason for it.
    let file = match rustix::fs::memfd_create("hv-stub", flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("hv-stub", flags)?,
        result => result?,
    };
    Ok(file.into())
}

fn fill(mut file: std::fs::File) -> io::Result<OwnedFd> {
    file.write_all(STUB)?;
    use rustix::fs::SealFlags;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    // Opened for writing it could not be executed.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => named_program(),
        result => Ok(result?),
    }
}

/// The stub without `/proc`, which leads to files without names: one that has a name until it is open.
fn named_program() -> io::Result<OwnedFd> {
    let only_me = std::os::unix::fs::PermissionsExt::from_mode(0o500);
    let mut file = tempfile::Builder::new().prefix("hv-stub").permissions(only_me).tempfile()?;
    file.write_all(STUB)?;
    let path = file.into_temp_path();
    Ok(rustix::fs::open(&*path, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())?)
}

/// Makes the zygote, with or without namespaces of its own.
fn make(socket: &OwnedFd, program: &OwnedFd, namespaces: bool) -> Result<c_int, NotMade> {
    let (socket, program) = (out_of_the_way(socket)?, out_of_the_way(program)?);
    let (socket_fd, program_fd) = (socket.as_raw_fd(), program.as_raw_fd());
    let way = Way { socket: socket_fd, program: program_fd, namespaces, error: AtomicI32::new(0) };
    let mut flags = libc::CLONE_VM | libc::CLONE_VFORK;
    if namespaces {
        flags |= libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWNET;
        flags |= libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    }
    let mut stack = vec![0u8; STACK];
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the sets are written before they are read; the new process runs `become_zygote` on `stack`, which lives
    // until that has turned into another program (invariant 1), with signals blocked, so that no handler runs there.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        let top = stack.as_mut_ptr().add(STACK).map_addr(|top| top & !15);
        let pid = libc::clone(become_zygote, top.cast(), flags, (&raw const way).cast_mut().cast());
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
        if pid < 0 {
            return Err(NotMade::Process(error));
        }
        let error = way.error.load(Ordering::Relaxed);
        if error != 0 {
            libc::waitpid(pid, ptr::null_mut(), libc::__WALL);
            return Err(NotMade::Program(io::Error::from_raw_os_error(error)));
        }
        Ok(pid)
    }
}

/// What failed of making the zygote.
enum NotMade {
    /// Room for its descriptors.
    Room(io::Error),
    /// The process.
    Process(io::Error),
    /// Turning it into the stub.
    Program(io::Error),
}

impl From<NotMade> for PlatformError {
    fn from(error: NotMade) -> Self {
        match error {
            NotMade::Room(error) => failed("starting the stub")(error),
            NotMade::Process(error) => failed("clone")(error),
            NotMade::Program(error) => failed("execveat")(error),
        }
    }
}

/// A copy of a descriptor with a number that the stub does not use.
fn out_of_the_way(descriptor: &OwnedFd) -> Result<OwnedFd, NotMade> {
    const MOST: c_int = 10;
    rustix::io::fcntl_dupfd_cloexec(descriptor, MOST).map_err(|error| match error {
        // The number itself is beyond the limit.
        rustix::io::Errno::INVAL => NotMade::Room(io::Error::from_raw_os_error(libc::EMFILE)),
        error => NotMade::Room(error.into()),
    })
}

/// Takes the new process from hv's program to the stub, or leaves the error in its [`Way`].
extern "C" fn become_zygote(way: *mut c_void) -> c_int {
    const PROGRAM: c_int = 1;
    const NAME: &CStr = c"hv-zygote";
    const NOWHERE: &CStr = c"/proc";
    let null = ptr::null();
    // SAFETY: `way` lives (invariant 1); every pointer is to a constant or to this stack. What fails
    // of the mounts leaves the host's files where they are, which the process cannot open anyway.
    unsafe {
        let way = &*way.cast::<Way>();
        libc::setsid();
        libc::dup2(way.socket, super::shared::SOCKET);
        libc::dup3(way.program, PROGRAM, libc::O_CLOEXEC);
        libc::syscall(libc::SYS_close_range, 2, u32::MAX, 0);
        if way.namespaces {
            let root = c"/".as_ptr();
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let nothing = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            if libc::mount(null, root, null, private, ptr::null()) == 0
                && libc::mount(NAME.as_ptr(), NOWHERE.as_ptr(), c"tmpfs".as_ptr(), nothing, ptr::null()) == 0
            {
                libc::chroot(NOWHERE.as_ptr());
                libc::chdir(root);
            }
        }
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        // Ignored signals stay ignored over an exec.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
        let (arguments, environment) = ([NAME.as_ptr(), ptr::null()], [ptr::null::<i8>()]);
        libc::syscall(
            libc::SYS_execveat,
            PROGRAM,
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        way.error.store(*libc::__errno_location(), Ordering::Relaxed);
        libc::_exit(127)
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        let Some(handle) = &self.handle else { return };
        let _ = rustix::process::pidfd_send_signal(handle, Signal::KILL);
        // SAFETY: no memory is passed; the process is this one's child, and nobody else waits for it.
        unsafe { libc::waitpid(self.pid, ptr::null_mut(), libc::__WALL) };
    }
}

/// The process of a guest.
pub(super) struct Process {
    handle: OwnedFd,
    pid: Pid,
    clock: Option<CpuClock>,
}

impl Process {
    pub(super) fn clock(&self) -> Option<CpuClock> {
        self.clock
    }

    /// Sends it a signal, if it lives.
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

    pub(super) fn is_alive(&mut self) -> bool {
        !self.has_ended_within(Some(&Timespec::default()))
    }

    /// Ends it, and waits until none of its instructions can run any more.
    pub(super) fn end(&self) {
        self.kill();
        self.has_ended_within(None);
    }

    /// Processor time that it has used.
    pub(super) fn used(&self) -> Duration {
        self.clock.map_or(Duration::ZERO, CpuClock::read)
    }

    /// Lets it use two more seconds of processor time, or somewhat less.
    pub(super) fn renew_limit(&mut self) {
        // The limit goes by number, and that of a process that is gone may be another's by now.
        if !self.is_alive() {
            return;
        }
        // Inherited, and not to be raised without privileges.
        let maximum = rustix::process::getrlimit(Resource::Cpu).maximum;
        let counted = self.clock.map_or(Duration::ZERO, |clock| clock.of_limits().read());
        let seconds = counted.max(self.used()).as_secs() + 2;
        let current = Some(maximum.map_or(seconds, |maximum| seconds.min(maximum)));
        let _ = rustix::process::prlimit(Some(self.pid), Resource::Cpu, Rlimit { current, maximum });
    }
}
