//! ⚠ The C functions that crates for Linux link even where they are `no_std`.
//!
//! A guest is built for a Linux target, so crates that need random numbers or the error number declare the functions of
//! libc. They are defined here. Functions for what a guest has (random bytes, clocks, yielding) work. The others fail
//! with the error number of Linux. `docs/guests.md` lists them.
//!
//! Functions that are not here are taken by the linker from the host's libc, so that the program links. hv then refuses
//! the image, with the names of the function and of the crate that calls it. The linker's own message would name neither
//! the crate nor a remedy.
#![allow(unsafe_code, reason = "functions with the names and signatures of C")]

use crate::per_cpu::{self, PerCpu, per_cpu};
use crate::{clock, hypercall, random};
use core::ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use core::sync::atomic::{AtomicI32, Ordering};

#[link(name = "c")]
unsafe extern "C" {}

// A library on the linker's command line makes the linker export functions of the same names, and keep them in guests
// that do not call them. Hidden functions are not exported.
core::arch::global_asm!(
    ".hidden __errno_location, __xpg_strerror_r, abort, clock_gettime, close, dlsym, getentropy, getrandom",
    ".hidden open, open64, poll, pthread_mutex_lock, pthread_mutex_unlock, read, sched_yield, syscall",
    options(att_syntax)
);

const EBADF: c_int = 9;
const EFAULT: c_int = 14;
const EINVAL: c_int = 22;
const EIO: c_int = 5;
const EDEADLK: c_int = 35;
const ENOSYS: c_int = 38;

/// Numbers of Linux system calls, for `syscall`.
const SYS_SCHED_YIELD: c_long = 24;
const SYS_CLOCK_GETTIME: c_long = 228;
const SYS_GETRANDOM: c_long = 318;

/// Most bytes of one `getentropy`, by its definition.
const GETENTROPY_MAX: usize = 256;

/// The error number of each virtual CPU. A handler of upcalls that calls C functions has to
/// put back what it changes, as a signal handler would.
static ERRNO: PerCpu<AtomicI32> = per_cpu!(AtomicI32::new(0));

fn fail(errno: c_int) -> c_int {
    ERRNO.own().store(errno, Ordering::Relaxed);
    -1
}

#[unsafe(no_mangle)]
extern "C" fn __errno_location() -> *mut c_int {
    ERRNO.own().as_ptr()
}

/// The text of an error number, for crates that display one. It is only the number.
///
/// # Safety
///
/// `text` must point to `size` bytes that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn __xpg_strerror_r(errno: c_int, text: *mut c_char, size: usize) -> c_int {
    const ERANGE: c_int = 34;
    let message = alloc::format!("error {errno}\0");
    if text.is_null() || message.len() > size {
        return ERANGE;
    }
    // SAFETY: the caller guarantees `size` bytes; the message is not longer.
    unsafe { text.copy_from_nonoverlapping(message.as_ptr().cast(), message.len()) };
    0
}

/// Random bytes from [`random::fill`], which no clone repeats. They never block, so the flags are ignored.
///
/// # Safety
///
/// `bytes` must point to `count` bytes that may be written, or `count` be 0.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(bytes: *mut c_void, count: usize, flags: c_uint) -> isize {
    const KNOWN_FLAGS: c_uint = 7;
    if flags & !KNOWN_FLAGS != 0 {
        return fail(EINVAL) as isize;
    }
    if count == 0 {
        return 0;
    }
    if bytes.is_null() || isize::try_from(count).is_err() {
        return fail(EFAULT) as isize;
    }
    // SAFETY: the caller guarantees the bytes. They may be uninitialised, so they are set before a reference to them is made.
    let bytes = unsafe {
        bytes.write_bytes(0, count);
        core::slice::from_raw_parts_mut(bytes.cast::<u8>(), count)
    };
    random::fill(bytes);
    count as isize
}

/// # Safety
///
/// As for [`getrandom`].
#[unsafe(no_mangle)]
unsafe extern "C" fn getentropy(bytes: *mut c_void, count: usize) -> c_int {
    if count > GETENTROPY_MAX {
        return fail(EIO);
    }
    // SAFETY: the caller guarantees this.
    match unsafe { getrandom(bytes, count, 0) } {
        ..0 => -1,
        _ => 0,
    }
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanos: c_long,
}

/// The wall clock, and the guest's clock for all monotonic kinds. There is no clock of processor time.
///
/// # Safety
///
/// `time` must be null or point to a `timespec` that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int {
    const SECOND: u64 = 1_000_000_000;
    let nanos = match clock {
        // CLOCK_REALTIME and its coarse kind; MONOTONIC, its raw and coarse kinds, and BOOTTIME.
        0 | 5 => clock::wall_nanos(),
        1 | 4 | 6 | 7 => clock::now_nanos(),
        _ => return fail(EINVAL),
    };
    if time.is_null() {
        return fail(EFAULT);
    }
    let value = Timespec { seconds: (nanos / SECOND) as i64, nanos: (nanos % SECOND) as c_long };
    // SAFETY: the caller guarantees the place.
    unsafe { time.write(value) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn sched_yield() -> c_int {
    hypercall::yield_now();
    0
}

/// The system calls among these functions; all others fail with `ENOSYS`. The C function takes any number
/// of arguments, which the System V convention passes in the same registers as these.
///
/// # Safety
///
/// The arguments must be what the call requires.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(number: c_long, first: usize, second: usize, third: usize) -> c_long {
    match number {
        // SAFETY: the caller guarantees this.
        SYS_GETRANDOM => unsafe { getrandom(first as *mut c_void, second, third as c_uint) as c_long },
        // SAFETY: the caller guarantees this.
        SYS_CLOCK_GETTIME => unsafe { clock_gettime(first as c_int, second as *mut Timespec).into() },
        SYS_SCHED_YIELD => sched_yield().into(),
        _ => fail(ENOSYS).into(),
    }
}

/// Finds functions of this module that crates look up by name because older systems lack them.
///
/// # Safety
///
/// `name` must be null or a string that ends in NUL.
#[unsafe(no_mangle)]
unsafe extern "C" fn dlsym(_handle: *mut c_void, name: *const c_char) -> *mut c_void {
    if name.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: the caller guarantees the string.
    match unsafe { CStr::from_ptr(name) }.to_bytes() {
        b"getrandom" => getrandom as *const () as *mut c_void,
        b"getentropy" => getentropy as *const () as *mut c_void,
        b"clock_gettime" => clock_gettime as *const () as *mut c_void,
        _ => core::ptr::null_mut(),
    }
}

// Guests have no files. Crates have these calls as fallbacks for old kernels, and never reach them here.

#[unsafe(no_mangle)]
extern "C" fn open(_path: *const c_char, _flags: c_int) -> c_int {
    fail(ENOSYS)
}

#[unsafe(no_mangle)]
extern "C" fn open64(_path: *const c_char, _flags: c_int) -> c_int {
    fail(ENOSYS)
}

#[unsafe(no_mangle)]
extern "C" fn read(_file: c_int, _bytes: *mut c_void, _count: usize) -> isize {
    fail(EBADF) as isize
}

#[unsafe(no_mangle)]
extern "C" fn close(_file: c_int) -> c_int {
    fail(EBADF)
}

#[unsafe(no_mangle)]
extern "C" fn poll(_files: *mut c_void, _count: c_ulong, _timeout: c_int) -> c_int {
    fail(ENOSYS)
}

// The first word of a mutex is the number of the virtual CPU that holds it, plus 1; 0 when it is free, as in an
// initialised `pthread_mutex_t`. One that this virtual CPU holds is never free again.

/// # Safety
///
/// `mutex` must point to an initialised `pthread_mutex_t`.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_mutex_lock(mutex: *mut AtomicI32) -> c_int {
    // SAFETY: the caller guarantees the mutex, whose first word is aligned for this.
    let mutex = unsafe { &*mutex };
    let me = per_cpu::current() as i32 + 1;
    loop {
        match mutex.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return 0,
            Err(holder) if holder == me => return EDEADLK,
            // Such a mutex is held for a moment: its holder's processor is offered to it, should the host have taken that away.
            Err(_) => hypercall::yield_now(),
        }
    }
}

/// # Safety
///
/// As for [`pthread_mutex_lock`].
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_mutex_unlock(mutex: *mut AtomicI32) -> c_int {
    // SAFETY: as above.
    unsafe { &*mutex }.store(0, Ordering::Release);
    0
}

#[unsafe(no_mangle)]
extern "C" fn abort() -> ! {
    hypercall::panic("abort() was called")
}
