//! ⚠ What happens at a system call that a thread may not make: one line that names both, and the end of hv; or,
//! on a thread that serves no guest ([`Kind::is_apart`]), the end of what it does, with EPERM.
//!
//! The handler runs between any two instructions of a thread that may be taken over. It allocates
//! nothing, takes no lock, and calls the kernel for `write` and `exit_group` only.
//!
//! Some calls of the C library are refused without a message instead, since it does not depend on them: it
//! opens
//! `/proc/sys/vm/overcommit_memory` once, on whichever thread gives memory back first; newer versions
//! guard stacks by advice, name memory, and ask for huge pages if they are told to.
//!
//! A thread that has blocked its signals, as the C library does for some instructions when it makes
//! a thread, is ended by SIGSYS itself, without the line.
#![allow(unsafe_code, reason = "the handler of SIGSYS; the allocator's number of arenas")]

use super::Kind;
use std::cell::Cell;
use std::io::{self, Cursor, Write};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};
use syscalls::Sysno;

thread_local! {
    /// What the calling thread is, from its filter on. Without a destructor, so that a handler may look.
    static KIND: Cell<Option<Kind>> = const { Cell::new(None) };
}

/// The kind of the calling thread, if it has its filter.
pub(super) fn kind() -> Option<Kind> {
    KIND.get()
}

/// The calling thread is about to get its filter.
pub(super) fn is(kind: Kind) {
    KIND.set(Some(kind));
}

/// `siginfo_t` of a SIGSYS by seccomp, as of asm-generic/siginfo.h.
#[repr(C)]
struct Info {
    signal: i32,
    error: i32,
    code: i32,
    _padding: i32,
    _address: u64,
    call: i32,
    _architecture: u32,
}

/// `si_code` of a SIGSYS by seccomp.
const SYS_SECCOMP: i32 = 1;

/// So many calls of threads that serve no guest are refused before hv ends after all.
const MAX_REFUSED: u32 = 16;

/// Calls that were refused.
static REFUSED: AtomicU32 = AtomicU32::new(0);

/// The one file that a thread without the right to open files may ask for.
const OVERCOMMIT: &[u8] = b"/proc/sys/vm/overcommit_memory\0";

extern "C" fn handler(_: libc::c_int, info: *const Info, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel calls handlers that were installed with SA_SIGINFO with both, on the
    // stack of this thread, until the handler returns.
    let (info, registers) = unsafe { (&*info, &mut (*context).uc_mcontext.gregs) };
    let arguments = [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX].map(|n| registers[n as usize] as u64);
    let kind = KIND.get();
    if info.code == SYS_SECCOMP
        && let Some(error) = refusal(info.call, arguments)
    {
        registers[libc::REG_RAX as usize] = -i64::from(error);
        return;
    }
    // Code that was taken over would go on trying; a defect of hv tries a few times.
    let apart = kind.is_some_and(Kind::is_apart) && info.code == SYS_SECCOMP;
    if apart && REFUSED.fetch_add(1, Ordering::Relaxed) < MAX_REFUSED {
        report(kind, info, arguments, "it is refused, and hv goes on");
        registers[libc::REG_RAX as usize] = -i64::from(libc::EPERM);
        return;
    }
    report(kind, info, arguments, "hv has ended");
    // SAFETY: it ends the process, without running anything of it.
    unsafe { libc::_exit(i32::from(super::EXIT)) }
}

/// The error for a call that the C library does not depend on.
fn refusal(call: i32, arguments: [u64; 3]) -> Option<i32> {
    /// `MADV_GUARD_INSTALL` and `MADV_GUARD_REMOVE`: without them, it takes mprotect(2).
    const GUARDS: [i32; 2] = [102, 103];
    /// `PR_SET_VMA`.
    const NAME_MEMORY: i32 = 0x5356_4d41;
    let advice = arguments[2] as i32;
    let is_huge = [libc::MADV_HUGEPAGE, libc::MADV_NOHUGEPAGE].contains(&advice);
    match i64::from(call) {
        libc::SYS_madvise if is_huge || GUARDS.contains(&advice) => return Some(libc::EINVAL),
        libc::SYS_prctl if arguments[0] as i32 == NAME_MEMORY => return Some(libc::EINVAL),
        _ => {}
    }
    let reads = (libc::O_RDONLY | libc::O_CLOEXEC) as u32;
    if i64::from(call) == libc::SYS_openat && arguments[2] as u32 == reads {
        let path = arguments[1] as *const u8;
        let same = OVERCOMMIT.iter().enumerate().all(|(n, byte)| {
            // SAFETY: the caller of openat(2) passes a string, which is read up to the first
            // byte that differs, at most to its end. A pointer to nowhere ends the
            // process by SIGSEGV instead of SIGSYS.
            (unsafe { path.add(n).read_volatile() }) == *byte
        });
        return same.then_some(libc::EACCES);
    }
    None
}

/// Prints on standard error which thread tried which call, and what follows.
fn report(kind: Option<Kind>, info: &Info, [a, b, c]: [u64; 3], outcome: &str) {
    let mut line = [0; 256];
    let mut text = Cursor::new(&mut line[..]);
    let who = kind.map_or(Kind::Maker.name(), Kind::name);
    let call = Sysno::new(info.call as usize).map_or("unknown", |call| call.name());
    // What does not fit is left out.
    let _ = writeln!(
        text,
        "hv: jail: a thread of kind `{who}` tried {call}({a:#x}, {b:#x}, {c:#x}), system call {}, \
         which it may not; {outcome}",
        info.call
    );
    let length = text.position() as usize;
    // SAFETY: the buffer lives during the call.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), length) };
}

/// Sets the allocator's limit of arenas. Otherwise it opens a file, to count the processors, when it makes
/// the ninth.
pub(super) fn settle_arenas() {
    const ARENAS: libc::c_int = 64;
    // SAFETY: it sets a number of the allocator's, under its own lock.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
}

/// Has the handler called from now on, in the whole process.
pub(super) fn install() -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: an all-zero sigaction is valid. The handler has the signature that SA_SIGINFO asks for,
    // and is async-signal-safe (see the module).
    let result = unsafe {
        let action = action.assume_init_mut();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSYS, action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
