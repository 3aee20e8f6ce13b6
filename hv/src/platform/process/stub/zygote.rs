//! ⚠ From an empty process to a guest.

use crate::shared::{FIRST_DOORBELL, KICK, MAX_DOORBELLS, MEMORY, MESSAGE_WORDS, PAGE, SOCKET};
use crate::{entry, sys, turns};
use core::sync::atomic::{AtomicU32, Ordering};

const PROT_READ: u64 = 1;
const PROT_WRITE: u64 = 2;
const MAP_SHARED: u64 = 0x1;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;

/// Signals by which a guest's exceptions arrive (SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS), and hv's own.
const SIGNALS: [i32; 7] = [4, 5, 7, 8, 11, 31, KICK];

/// The last address of a process (47 bits), rounded up.
const TOP: u64 = 1 << 47;

unsafe extern "C" {
    // Set by the linker: the program's first byte, and the end of its data.
    static __executable_start: u8;
    static _end: u8;
}

/// `struct iovec`
#[repr(C)]
struct Vector {
    base: u64,
    len: u64,
}

/// `struct msghdr`
#[repr(C)]
struct Message {
    name: u64,
    name_len: u64,
    vectors: u64,
    vector_count: u64,
    control: u64,
    control_len: u64,
    flags: u64,
}

/// `struct sock_fprog`
#[repr(C)]
struct Program {
    len: u64,
    instructions: u64,
}

/// What came in a message.
struct Request {
    words: [u64; MESSAGE_WORDS],
}

/// Keeps one process that waits for a message, until hv is gone: to fork takes longer than all the rest, and
/// happens so while nobody waits for it.
pub extern "C" fn run(stack: u64) -> ! {
    unmap_everything_else(stack);
    prepare();
    // SAFETY: a page of its own, for the word that the processes have in common.
    let page = unsafe { sys::mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, u64::MAX, 0) };
    if page < 0 {
        sys::exit(1);
    }
    // SAFETY: it was just mapped, and stays so in this process.
    let state = unsafe { &*(page as *const AtomicU32) };
    loop {
        state.store(WAITING, Ordering::SeqCst);
        const SIGCHLD: u64 = 17;
        // SAFETY: a fork: the child has a copy of this thread and its stack.
        let child = unsafe { sys::clone(SIGCHLD, 0, 0, 0, 0) };
        match child {
            0 => wait_for_a_message(state),
            1.. => wait_for_the_child(state),
            // No process can be had: whoever asks is told.
            error => match receive() {
                Some(_) => _ = answer(error),
                None => sys::exit(0),
            },
        }
        // SAFETY: the descriptors that came with a message are nobody else's.
        unsafe { sys::close_range(MEMORY as u64, u64::from(u32::MAX), 0) };
    }
}

/// The child waits for a message.
const WAITING: u32 = 0;
/// It has one.
const TAKEN: u32 = 1;
/// hv is gone.
const OVER: u32 = 2;

fn wait_for_the_child(state: &AtomicU32) {
    const FUTEX_WAIT: u64 = 0;
    while state.load(Ordering::SeqCst) == WAITING {
        // SAFETY: the word is mapped; without a timeout nothing else is read.
        unsafe { sys::futex(state.as_ptr() as u64, FUTEX_WAIT, WAITING.into(), 0) };
    }
    if state.load(Ordering::SeqCst) == OVER {
        sys::exit(0);
    }
}

fn wait_for_a_message(state: &AtomicU32) -> ! {
    die_with_parent();
    let request = receive();
    const FUTEX_WAKE: u64 = 1;
    state.store(if request.is_some() { TAKEN } else { OVER }, Ordering::SeqCst);
    // SAFETY: the word is mapped; the page is not used any more after that.
    unsafe {
        sys::futex(state.as_ptr() as u64, FUTEX_WAKE, 1, 0);
        sys::munmap(state.as_ptr() as u64, 4096);
    }
    match request {
        Some(request) => become_guest(&request.words),
        None => sys::exit(0),
    }
}

/// The next message; `None` if hv is gone.
fn receive() -> Option<Request> {
    let mut words = [0u64; MESSAGE_WORDS];
    // A header of 16 bytes, and 4 bytes for each descriptor.
    let mut control = [0u64; 2 + (MAX_DOORBELLS + 2) / 2];
    let vector = Vector { base: words.as_mut_ptr() as u64, len: size_of_val(&words) as u64 };
    let mut message = Message {
        name: 0,
        name_len: 0,
        vectors: &raw const vector as u64,
        vector_count: 1,
        control: control.as_mut_ptr() as u64,
        control_len: size_of_val(&control) as u64,
        flags: 0,
    };
    // SAFETY: everything that the message points to lives until the call returns.
    let len = unsafe { sys::recvmsg(SOCKET as u64, &raw mut message as u64, 0) };
    (len > 0).then_some(Request { words })
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
    const SIGCHLD: u64 = 17;
    const SIG_IGN: u64 = 1;
    let flags = SA_SIGINFO | SA_RESTORER | SA_ONSTACK | SA_NODEFER;
    // `struct kernel_sigaction`: handler, flags, restorer, mask. Nothing is masked,
    // ever, so that a guest cannot keep hv's signal out.
    let [handler, restorer] = entry::signal_address();
    let action = [handler, flags, restorer, 0];
    let ignore = [SIG_IGN, 0, 0, 0];
    // `stack_t`: address, flags, size.
    let stack = [turns::signal_stack(), 0, turns::SIGNAL_STACK as u64];
    const PR_SET_DUMPABLE: u64 = 4;
    const PR_SET_NAME: u64 = 15;
    const PR_SET_NO_NEW_PRIVS: u64 = 38;
    const RLIMIT_CORE: u64 = 4;
    // SAFETY: the structures live until the calls return; the stack is used for nothing else.
    unsafe {
        sys::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        sys::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
        sys::prctl(PR_SET_NAME, c"hv-guest".as_ptr() as u64, 0, 0, 0);
        sys::setrlimit(RLIMIT_CORE, [0u64, 0].as_ptr() as u64);
        sys::sigaltstack(stack.as_ptr() as u64, 0);
        for signal in SIGNALS {
            sys::sigaction(signal as u64, action.as_ptr() as u64, 0, 8);
        }
        // Children are not waited for: hv has its own way to see them end.
        sys::sigaction(SIGCHLD, ignore.as_ptr() as u64, 0, 8);
    }
}

/// Tells hv how it went. Returns whether hv is there.
fn answer(result: i64) -> bool {
    const MSG_NOSIGNAL: u64 = 0x4000;
    // SAFETY: the word lives until the call returns.
    unsafe { sys::sendto(SOCKET as u64, &raw const result as u64, 8, MSG_NOSIGNAL, 0, 0) == 8 }
}

/// The child's way: maps, confines, goes.
fn become_guest(words: &[u64; MESSAGE_WORDS]) -> ! {
    let [page, xsave, mappings, instructions, rest @ ..] = words;
    let (mappings, instructions) = (*mappings as usize, *instructions as usize);
    let both = PROT_READ | PROT_WRITE;
    let mut result = map(PAGE, 4096, *page, both);
    for mapping in rest[..mappings * 4].chunks_exact(4) {
        if result >= 0 {
            result = map(mapping[0], mapping[1], mapping[2], mapping[3]);
        }
    }
    limit();
    // If hv ended before the zygote's death could be this process' own, nobody else ends it.
    if !answer(result.min(0)) || result < 0 {
        sys::exit(1);
    }
    // SAFETY: neither is used any more; the doorbells stay.
    unsafe {
        sys::close(SOCKET as u64);
        sys::close(MEMORY as u64);
    }
    let filter = &rest[mappings * 4..mappings * 4 + instructions];
    let program = Program { len: instructions as u64, instructions: filter.as_ptr() as u64 };
    const SECCOMP_SET_MODE_FILTER: u64 = 1;
    // SAFETY: the program lives until the call returns.
    let confined = unsafe { sys::seccomp(SECCOMP_SET_MODE_FILTER, 0, &raw const program as u64) };
    turns::begin(*xsave as usize, confined == 0)
}

fn map(address: u64, len: u64, offset: u64, protection: u64) -> i64 {
    let flags = MAP_SHARED | MAP_FIXED_NOREPLACE;
    // SAFETY: NOREPLACE: nothing that is there is replaced.
    let at = unsafe { sys::mmap(address, len, protection, flags, MEMORY as u64, offset) };
    // A kernel before 4.17 takes the address as a wish.
    if at >= 0 && at as u64 != address { -17 } else { at.min(0) }
}

/// Where there is no namespace that ends with the zygote, it is this that ends with it.
fn die_with_parent() {
    const PR_SET_PDEATHSIG: u64 = 1;
    const SIGKILL: u64 = 9;
    // SAFETY: no memory is passed.
    unsafe { sys::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) };
}

/// What the filter forbids already, forbidden once more.
fn limit() {
    const DATA: u64 = 2;
    const STACK: u64 = 3;
    const NPROC: u64 = 6;
    const NOFILE: u64 = 7;
    const MEMLOCK: u64 = 8;
    let none = [0u64, 0];
    // SAFETY: the limit lives until the calls return.
    unsafe {
        for resource in [DATA, STACK, NPROC, NOFILE, MEMLOCK] {
            sys::setrlimit(resource, none.as_ptr() as u64);
        }
    }
}

const _: () = assert!(FIRST_DOORBELL == MEMORY + 1 && MEMORY == SOCKET + 1);
