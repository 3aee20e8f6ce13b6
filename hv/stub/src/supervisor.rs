//! ⚠ The first process: it makes zygotes, and sees nothing of any guest.
//!
//! All others are its children, and end with it: a zygote that hv ends takes no guest with it.
#![allow(unsafe_code, reason = "its first process")]

use crate::entry;
use crate::message::{receive, reply as tell};
use crate::sys;
use crate::zygote;
use hv_stub::{SOCKET, reply};

/// Signals by which a guest's exceptions arrive (SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS), and hv's own.
const SIGNALS: [i32; 7] = [4, 5, 7, 8, 11, 31, hv_stub::KICK];

/// The descriptor of the last zygote's process, once there is one.
const LAST_ZYGOTE: i32 = SOCKET + 1;

const SIGKILL: u64 = 9;

/// The last address of a process (47 bits), rounded up.
const TOP: u64 = 1 << 47;

unsafe extern "C" {
    // Set by the linker: the program's first byte, and the end of its data.
    static __executable_start: u8;
    static _end: u8;
}

/// Makes a zygote whenever hv asks for one, until hv is gone.
pub(crate) extern "C" fn run(stack: u64) -> ! {
    unmap_everything_else(stack);
    prepare();
    while let Some(request) = receive() {
        let nonce = request.words[0];
        // hv is done with the one before, which may have been stopped before hv knew it.
        // SAFETY: no memory is passed; the descriptor is the last zygote's, or none.
        unsafe { sys::pidfd_send_signal(LAST_ZYGOTE as u64, SIGKILL, 0, 0) };
        match make_zygote(nonce) {
            Ok((channel, handle)) => {
                tell(reply::CHANNEL, nonce, 0, Some(channel));
                // SAFETY: no memory is passed; what had the number before is not needed any more.
                unsafe { sys::dup3(handle as u64, LAST_ZYGOTE as u64, 0) };
            }
            Err(error) => _ = tell(reply::CHANNEL, nonce, error, None),
        }
        // SAFETY: what is open besides these two was made for the zygote.
        unsafe { sys::close_range(LAST_ZYGOTE as u64 + 1, u64::from(u32::MAX), 0) };
    }
    sys::exit(0)
}

/// Makes a zygote, and the socket between hv and it. Returns hv's end, and the zygote's pidfd.
fn make_zygote(nonce: u64) -> Result<(i32, i32), i64> {
    const AF_UNIX: u64 = 1;
    const SOCK_SEQPACKET: u64 = 5;
    const SOL_SOCKET: u64 = 1;
    const SO_PASSCRED: u64 = 16;
    let check = |result: i64| if result < 0 { Err(result) } else { Ok(result) };
    let mut pair = [0i32; 2];
    let on = 1i32;
    // SAFETY: the array and the number live until the calls return.
    unsafe {
        check(sys::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair.as_mut_ptr() as u64))?;
        // The kernel tells hv by which process a message was sent.
        check(sys::setsockopt(pair[0] as u64, SOL_SOCKET, SO_PASSCRED, &raw const on as u64, 4))?;
    }
    const CLONE_PIDFD: u64 = 0x1000;
    let mut handle = -1i32;
    // SAFETY: a fork: the child has a copy of this thread and its stack. The number lives until the call returns.
    let child = unsafe { sys::clone(CLONE_PIDFD | zygote::SIGCHLD, 0, &raw mut handle as u64, 0, 0) };
    if check(child)? != 0 {
        return Ok((pair[0], handle));
    }
    // SAFETY: the descriptors are this process' own; that of the supervisor's socket is the zygote's now.
    unsafe {
        sys::dup3(pair[1] as u64, SOCKET as u64, 0);
        sys::close_range(SOCKET as u64 + 1, u64::from(u32::MAX), 0);
    }
    zygote::run(nonce)
}

/// Leaves nothing in the address space but the program itself.
fn unmap_everything_else(stack: u64) {
    let start = (&raw const __executable_start) as u64 & !0xfff;
    let end = ((&raw const _end) as u64 + 0xfff) & !0xfff;
    // SAFETY: nothing of it is used from now on: `entry` has changed to a stack
    // of the program's own.
    unsafe {
        sys::munmap(0, start);
        if sys::munmap(end, TOP - 4096 - end) != 0 {
            // The kernel keeps pages of its own (the vDSO) mapped at all costs: the stack is left.
            let page = stack & !0xfff;
            sys::munmap(page - 31 * 4096, 32 * 4096);
        }
    }
}

fn prepare() {
    const SA_SIGINFO: u64 = 4;
    const SA_RESTORER: u64 = 0x0400_0000;
    const SA_ONSTACK: u64 = 0x0800_0000;
    const SA_NODEFER: u64 = 0x4000_0000;
    const SIG_IGN: u64 = 1;
    let flags = SA_SIGINFO | SA_RESTORER | SA_ONSTACK | SA_NODEFER;
    // `struct kernel_sigaction`: handler, flags, restorer, mask. Nothing is masked,
    // ever, so that a guest cannot keep hv's signal out.
    let action = |[handler, restorer]: [u64; 2]| [handler, flags, restorer, 0];
    let (action, reset) = (action(entry::signal_address()), action(entry::reset_address()));
    let ignore = [SIG_IGN, 0, 0, 0];
    // `stack_t`: address, flags, size.
    let stack = [entry::signal_stack(), 0, entry::SIGNAL_STACK as u64];
    const PR_SET_DUMPABLE: u64 = 4;
    const PR_SET_NAME: u64 = 15;
    const PR_SET_NO_NEW_PRIVS: u64 = 38;
    const RLIMIT_CORE: u64 = 4;
    // SAFETY: the structures live until the calls return; the stack is used for nothing else.
    unsafe {
        sys::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        sys::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
        sys::prctl(PR_SET_NAME, c"hv-supervisor".as_ptr() as u64, 0, 0, 0);
        sys::setrlimit(RLIMIT_CORE, [0u64, 0].as_ptr() as u64);
        sys::sigaltstack(stack.as_ptr() as u64, 0);
        for signal in SIGNALS {
            sys::sigaction(signal as u64, action.as_ptr() as u64, 0, 8);
        }
        sys::sigaction(hv_stub::RESET as u64, reset.as_ptr() as u64, 0, 8);
        // Children are not waited for: hv has its own way to see them end.
        sys::sigaction(zygote::SIGCHLD, ignore.as_ptr() as u64, 0, 8);
    }
}
