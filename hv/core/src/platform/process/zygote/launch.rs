//! ⚠ Starts the stub as a process of its own: the supervisor.
//!
//! # Invariants that the `unsafe` blocks rely on
//!
//! 1. Between its making and its exec, the new process shares this process' memory and runs on a
//!    stack of its own, while the thread that makes it waits. What it runs meanwhile is
//!    [`become_supervisor`], which makes system calls and nothing else.
#![allow(unsafe_code, reason = "making the process that the others are forked from")]

use super::Namespaces;
use crate::platform::PlatformError;
use crate::platform::process::error::no_namespaces;
use crate::platform::process::{ProcessError, STUB, failed};
use rustix::fs::{MemfdFlags, OFlags};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::ffi::{CStr, c_int, c_void};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

/// A process that was just started.
pub(super) struct Launched {
    pub(super) process: Child,
    /// hv's end of the socket to the process.
    pub(super) socket: OwnedFd,
    pub(super) namespaces: Namespaces,
}

/// A child of this process. Dropping this ends it.
pub(super) struct Child {
    pid: c_int,
    handle: OwnedFd,
}

impl Child {
    pub(super) fn pid(&self) -> c_int {
        self.pid
    }

    pub(super) fn handle(&self) -> &OwnedFd {
        &self.handle
    }
}

/// What the new process needs until it executes the stub.
struct LaunchArgs {
    socket: c_int,
    program: c_int,
    namespaces: bool,
    /// The error of its exec, written by the new process.
    error: AtomicI32,
}

const STACK: usize = 64 << 10;

/// Starts the stub, with namespaces of its own if the host allows that.
pub(super) fn launch() -> Result<Launched, PlatformError> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| failed("making a socket pair")(error.into()))?;
    // The kernel reports which process sent a message.
    set_socket_passcred(&ours, true).map_err(|error| failed("SO_PASSCRED")(error.into()))?;
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
    Ok(Launched { process: handle(pid)?, socket: ours, namespaces })
}

/// Takes over a child, and tries the calls that end guests. A process that cannot be ended must not run.
pub(super) fn handle(pid: c_int) -> Result<Child, PlatformError> {
    let number = Pid::from_raw(pid).expect("a process was made");
    // Only the owner waits for the child, so the number still belongs to it.
    let handle = rustix::process::pidfd_open(number, PidfdFlags::empty()).map_err(|error| {
        let _ = rustix::process::kill_process(number, Signal::KILL);
        wait(pid);
        failed("pidfd_open")(error.into())
    })?;
    let child = Child { pid, handle };
    // The process ignores this signal.
    rustix::process::pidfd_send_signal(&child.handle, Signal::CONT)
        .map_err(|error| failed("pidfd_send_signal")(error.into()))?;
    Ok(child)
}

/// Waits for the end of a child.
fn wait(pid: c_int) {
    // SAFETY: no memory is passed; the process is this one's child, and no other code waits for it.
    unsafe { libc::waitpid(pid, ptr::null_mut(), libc::__WALL) };
}

impl Drop for Child {
    fn drop(&mut self) {
        use rustix::io::Errno;
        let killed = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
        // A host that forbids this call is detected by the first call, before there is a jail.
        if let (Err(Errno::PERM | Errno::NOSYS), Some(number)) = (killed, Pid::from_raw(self.pid)) {
            let _ = rustix::process::kill_process(number, Signal::KILL);
        }
        wait(self.pid);
    }
}

/// The stub in a file that can be executed but not changed.
fn program() -> Result<OwnedFd, PlatformError> {
    let file = program_file().map_err(|error| match error.raw_os_error() {
        // The error of vm.memfd_noexec=2; policies return EPERM.
        Some(libc::EACCES) => ProcessError::NoPrograms.into(),
        _ => failed("memfd_create")(error),
    })?;
    fill(file).map_err(failed("filling the stub's memory file"))
}

/// An empty executable file in memory.
fn program_file() -> io::Result<std::fs::File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag, and do not need it.
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
    // A file that is open for writing could not be executed.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => named_program(),
        result => Ok(result?),
    }
}

/// The stub without `/proc`, through which files without names are opened. This file has a name until it is open.
fn named_program() -> io::Result<OwnedFd> {
    let only_me = std::os::unix::fs::PermissionsExt::from_mode(0o500);
    let mut file = tempfile::Builder::new().prefix("hv-stub").permissions(only_me).tempfile()?;
    file.write_all(STUB)?;
    let path = file.into_temp_path();
    Ok(rustix::fs::open(&*path, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())?)
}

/// Makes the process, with or without namespaces of its own.
fn make(socket: &OwnedFd, program: &OwnedFd, namespaces: bool) -> Result<c_int, NotMade> {
    let (socket, program) = (out_of_the_way(socket)?, out_of_the_way(program)?);
    let (socket_fd, program_fd) = (socket.as_raw_fd(), program.as_raw_fd());
    let args = LaunchArgs { socket: socket_fd, program: program_fd, namespaces, error: AtomicI32::new(0) };
    let mut flags = libc::CLONE_VM | libc::CLONE_VFORK;
    if namespaces {
        flags |= libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWNET;
        flags |= libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    }
    let mut stack = vec![0u8; STACK];
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the sets are written before they are read; the new process runs `become_supervisor` on `stack`, which lives
    // until that has turned into another program (invariant 1), with signals blocked, so that no handler runs there.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        let top = stack.as_mut_ptr().add(STACK).map_addr(|top| top & !15);
        let pid = libc::clone(become_supervisor, top.cast(), flags, (&raw const args).cast_mut().cast());
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
        if pid < 0 {
            return Err(NotMade::Process(error));
        }
        let error = args.error.load(Ordering::Relaxed);
        if error != 0 {
            wait(pid);
            return Err(NotMade::Program(io::Error::from_raw_os_error(error)));
        }
        Ok(pid)
    }
}

/// The step of making the process that failed.
enum NotMade {
    /// Allocating its descriptors.
    Room(io::Error),
    /// Making the process.
    Process(io::Error),
    /// Executing the stub.
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
        // The number itself is beyond the limit of descriptors.
        rustix::io::Errno::INVAL => NotMade::Room(io::Error::from_raw_os_error(libc::EMFILE)),
        error => NotMade::Room(error.into()),
    })
}

/// Brings the new process from hv's program to the stub, or leaves the error in its [`LaunchArgs`].
extern "C" fn become_supervisor(args: *mut c_void) -> c_int {
    const PROGRAM: c_int = 1;
    const NAME: &CStr = c"hv-supervisor";
    const NOWHERE: &CStr = c"/proc";
    let null = ptr::null();
    // SAFETY: `args` lives (invariant 1); every pointer is to a constant or to this stack. What fails
    // of the mounts leaves the host's files where they are, which the process cannot open anyway.
    unsafe {
        let args = &*args.cast::<LaunchArgs>();
        libc::setsid();
        libc::dup2(args.socket, hv_stub::SOCKET);
        libc::dup3(args.program, PROGRAM, libc::O_CLOEXEC);
        libc::syscall(libc::SYS_close_range, 2, u32::MAX, 0);
        if args.namespaces {
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
        args.error.store(*libc::__errno_location(), Ordering::Relaxed);
        libc::_exit(127)
    }
}
