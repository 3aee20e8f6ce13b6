//! ⚠ System calls, by their numbers (x86-64, `arch/x86/entry/syscalls/syscall_64.tbl` of Linux).
#![allow(unsafe_code, reason = "its system calls")]

use core::arch::asm;

/// Makes a system call. A negative result is an error number.
///
/// # Safety
///
/// As the call's manual page says.
pub(crate) unsafe fn call(number: u64, arguments: [u64; 6]) -> i64 {
    let result: i64;
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the caller's promise; the kernel changes RCX and R11 only.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $number:literal ($($arg:ident),*);)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// As the call's manual page says.
        pub(crate) unsafe fn $name($($arg: u64),*) -> i64 {
            let all = [$($arg),*];
            let mut arguments = [0; 6];
            let mut n = 0;
            while n < all.len() {
                arguments[n] = all[n];
                n += 1;
            }
            // SAFETY: the caller's promise.
            unsafe { call($number, arguments) }
        }
    )*};
}

calls! {
    /// close(2)
    close = 3 (fd);
    /// mmap(2)
    mmap = 9 (address, len, protection, flags, fd, offset);
    /// mprotect(2)
    mprotect = 10 (address, len, protection);
    /// munmap(2)
    munmap = 11 (address, len);
    /// rt_sigaction(2)
    sigaction = 13 (signal, action, old, size);
    /// ioctl(2)
    ioctl = 16 (fd, request, argument);
    /// getpid(2)
    getpid = 39 ();
    /// sendmsg(2)
    sendmsg = 46 (fd, message, flags);
    /// recvmsg(2)
    recvmsg = 47 (fd, message, flags);
    /// socketpair(2)
    socketpair = 53 (domain, kind, protocol, pair);
    /// setsockopt(2)
    setsockopt = 54 (fd, level, name, value, len);
    /// clone(2)
    clone = 56 (flags, stack, parent, child, tls);
    /// sigaltstack(2)
    sigaltstack = 131 (new, old);
    /// prctl(2)
    prctl = 157 (option, a, b, c, d);
    /// setrlimit(2)
    setrlimit = 160 (resource, limit);
    /// futex(2)
    futex = 202 (word, operation, value, timeout);
    /// dup3(2)
    dup3 = 292 (old, new, flags);
    /// userfaultfd(2)
    userfaultfd = 323 (flags);
    /// pidfd_send_signal(2)
    pidfd_send_signal = 424 (process, signal, info, flags);
    /// pidfd_open(2)
    pidfd_open = 434 (process, flags);
    /// close_range(2)
    close_range = 436 (first, last, flags);
}

/// Ends the process.
pub(crate) fn exit(code: u64) -> ! {
    loop {
        // SAFETY: it does not return. Where a filter forbids it, the fault does not either.
        unsafe { call(231, [code, 0, 0, 0, 0, 0]) };
    }
}
