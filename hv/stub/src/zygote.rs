//! ⚠ From an empty process to a guest.
#![allow(unsafe_code, reason = "its way to a guest")]

use crate::demand;
use crate::entry;
use crate::message::{greet, receive, reply as tell};
use crate::sys;
use core::sync::atomic::{AtomicU32, Ordering};
use hv_stub::{FIRST_DOORBELL, MEMORY, MESSAGE_WORDS, PAGE, PART, SOCKET, field, mapping, reply};

const PROT_READ: u64 = 1;
const PROT_WRITE: u64 = 2;
const PROT_EXEC: u64 = 4;
const MAP_SHARED: u64 = 0x1;
const MAP_PRIVATE: u64 = 0x2;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;

/// What a process sends its parent at its end; ignored.
pub(crate) const SIGCHLD: u64 = 17;

/// `struct sock_fprog`
#[repr(C)]
struct Program {
    len: u64,
    instructions: u64,
}

/// Keeps one process that waits for a message, until hv is gone: to fork takes longer than all the rest, and
/// happens so while nobody waits for it.
pub(crate) fn run(nonce: u64) -> ! {
    die_with_parent();
    name(c"hv-zygote");
    // SAFETY: a page of its own, for the word that the processes have in common.
    let page = unsafe { sys::mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, u64::MAX, 0) };
    if page < 0 || !greet(reply::ZYGOTE, nonce) {
        sys::exit(1);
    }
    // SAFETY: it was just mapped, and stays so in this process.
    let state = unsafe { &*(page as *const AtomicU32) };
    loop {
        // The supervisor's child, which does not end with this process.
        const CLONE_PARENT: u64 = 0x8000;
        state.store(WAITING, Ordering::SeqCst);
        // SAFETY: a fork: the child has a copy of this thread and its stack.
        match unsafe { sys::clone(CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) } {
            0 => wait_for_a_message(state, nonce),
            1.. => wait_for_the_child(state),
            // No process can be had: whoever asks is told, and asks for another zygote.
            error => {
                tell(reply::WAITING, nonce, error, None);
                sys::exit(1);
            }
        }
    }
}

fn name(name: &core::ffi::CStr) {
    const PR_SET_NAME: u64 = 15;
    // SAFETY: the string lives until the call returns.
    unsafe { sys::prctl(PR_SET_NAME, name.as_ptr() as u64, 0, 0, 0) };
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

fn wait_for_a_message(state: &AtomicU32, nonce: u64) -> ! {
    die_with_parent();
    name(c"hv-guest");
    let request = if greet(reply::WAITING, nonce) { receive() } else { None };
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

/// The child's way: maps, confines, goes.
fn become_guest(words: &[u64; MESSAGE_WORDS]) -> ! {
    let [nonce, part, mappings, instructions, template, rest @ ..] = words;
    let (mappings, instructions) = (*mappings as usize, *instructions as usize);
    let both = PROT_READ | PROT_WRITE;
    let mut result = map([PAGE, 4096, *part, both], *template);
    for mapping in rest[..mappings * 4].as_chunks::<4>().0 {
        if result >= 0 {
            result = map(*mapping, *template);
        }
    }
    if *template != 0 {
        // SAFETY: it is not used any more.
        unsafe { sys::close(*template) };
    }
    if result >= 0 {
        result = demand::register(&rest[..mappings * 4]);
    }
    let [data, others @ ..] = entry::data();
    if data.end - data.start > PART - 4096 {
        result = -12;
    }
    for range in others.into_iter().filter(|range| !range.is_empty()) {
        if result >= 0 {
            // SAFETY: nothing writes there any more.
            result = unsafe { sys::mprotect(range.start, range.end - range.start, PROT_READ) };
        }
    }
    limit();
    // If hv ended before the supervisor's death could be this process' own, nobody else ends it.
    if !tell(reply::READY, *nonce, result.min(0), None) || result < 0 {
        sys::exit(1);
    }
    // SAFETY: it is not used any more; the doorbells stay.
    unsafe { sys::close(SOCKET as u64) };
    let filter = &rest[mappings * 4..mappings * 4 + instructions];
    let at = (PAGE + field::FILTER) as *mut Program;
    // SAFETY: the page was just mapped, and has room for the filter of `request::words`.
    unsafe {
        let instructions = at.add(1).cast::<u64>();
        at.write(Program { len: filter.len() as u64, instructions: instructions as u64 });
        instructions.copy_from_nonoverlapping(filter.as_ptr(), filter.len());
    }
    entry::confine(*part + 4096)
}

/// Maps what one of a request's mappings says.
fn map([address, len, offset, flags]: [u64; 4], template: u64) -> i64 {
    let (file, kind) =
        if flags & mapping::TEMPLATE != 0 { (template, MAP_PRIVATE) } else { (MEMORY as u64, MAP_SHARED) };
    let protection = flags & (PROT_READ | PROT_WRITE | PROT_EXEC);
    // SAFETY: NOREPLACE: nothing that is there is replaced.
    let at = unsafe { sys::mmap(address, len, protection, kind | MAP_FIXED_NOREPLACE, file, offset) };
    // A kernel before 4.17 takes the address as a hint.
    if at >= 0 && at as u64 != address { -17 } else { at.min(0) }
}

/// Where there is no namespace that ends with the supervisor, it is this process that ends with it.
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
