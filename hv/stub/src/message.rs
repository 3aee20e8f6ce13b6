//! ⚠ Messages to hv and from it.
#![allow(unsafe_code, reason = "its messages")]

use crate::sys;
use hv_stub::{MAX_DOORBELLS, MESSAGE_WORDS, REPLY_WORDS, SOCKET};

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

/// Ancillary data with one descriptor: `struct cmsghdr`, and what follows it up to its alignment.
#[repr(C)]
struct Control {
    len: u64,
    level: u32,
    kind: u32,
    descriptor: i32,
    _padding: u32,
}

/// What came in a message, and in how many bytes.
pub(crate) struct Request {
    pub words: [u64; MESSAGE_WORDS],
}

/// The next message; `None` if hv is gone, or does not want anything of this process any more.
pub(crate) fn receive() -> Option<Request> {
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

/// Tells hv something, with a descriptor if there is one. Returns whether hv is there.
pub(crate) fn reply(kind: u64, nonce: u64, result: i64, descriptor: Option<i32>) -> bool {
    const MSG_NOSIGNAL: u64 = 0x4000;
    const SOL_SOCKET: u32 = 1;
    const SCM_RIGHTS: u32 = 1;
    let words: [u64; REPLY_WORDS] = [kind, nonce, result as u64];
    let control = Control {
        len: (size_of::<Control>() - size_of::<u32>()) as u64,
        level: SOL_SOCKET,
        kind: SCM_RIGHTS,
        descriptor: descriptor.unwrap_or(-1),
        _padding: 0,
    };
    let vector = Vector { base: words.as_ptr() as u64, len: size_of_val(&words) as u64 };
    let message = Message {
        name: 0,
        name_len: 0,
        vectors: &raw const vector as u64,
        vector_count: 1,
        control: if descriptor.is_some() { &raw const control as u64 } else { 0 },
        control_len: if descriptor.is_some() { size_of_val(&control) as u64 } else { 0 },
        flags: 0,
    };
    // SAFETY: everything that the message points to lives until the call returns.
    let sent = unsafe { sys::sendmsg(SOCKET as u64, &raw const message as u64, MSG_NOSIGNAL) };
    sent == size_of_val(&words) as i64
}

/// Tells hv that this process is there, with a descriptor by which hv can see and signal it and no other. Returns
/// whether hv is there.
pub(crate) fn greet(kind: u64, nonce: u64) -> bool {
    // SAFETY: no memory is passed; the descriptor is nobody else's.
    unsafe {
        let own = sys::pidfd_open(sys::getpid() as u64, 0);
        if own < 0 {
            return reply(kind, nonce, own, None);
        }
        let told = reply(kind, nonce, 0, Some(own as i32));
        sys::close(own as u64);
        told
    }
}
