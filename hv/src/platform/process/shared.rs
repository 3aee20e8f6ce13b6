//! What hv and the process of a guest have in common: the page that both see,
//! and the message by which a process is asked for.
//!
//! This file is part of two programs, hv and the stub; it holds names of numbers only.
//!
//! The guest can write the page as it likes. It can fool the stub, which has no
//! more rights than itself, and nobody else: hv takes what it reads there
//! for what a guest says.

/// Where a process has the page.
pub const PAGE: u64 = 0x2000_0000;

/// Whose turn it is: a futex. hv writes the `GUEST` values, the stub the `HOST` values.
pub mod turn {
    /// hv's: the guest waits, spinning.
    pub const HOST: u32 = 0;
    /// The guest's: hv waits, spinning.
    pub const GUEST: u32 = 1;
    /// The guest's, and hv sleeps until that changes.
    pub const GUEST_HOST_SLEEPS: u32 = 2;
    /// hv's, and the guest sleeps until that changes.
    pub const HOST_GUEST_SLEEPS: u32 = 3;
}

/// Offsets of the page's fields, and the sizes of those that are no words of 64 bits.
pub mod field {
    /// `u32`, see [`super::turn`].
    pub const TURN: u64 = 0;
    /// `u32`, by the stub: why it is hv's turn, see [`super::kind`].
    pub const KIND: u64 = 4;
    /// `u32`, by the stub: the number of a hypercall, or the port of a doorbell.
    pub const NUMBER: u64 = 8;
    /// `u32`, by hv: not 0 if the guest is to go on with the RIP and RSP of the page; the stub takes it back.
    pub const REDIRECT: u64 = 12;
    /// Three words, by the stub: arguments of a hypercall; or vector, error code and address of a fault.
    pub const ARGUMENTS: u64 = 16;
    /// By hv: the result of a hypercall.
    pub const RESULT: u64 = 40;
    /// By hv: how long the stub spins before it sleeps, in ticks of the time-stamp counter.
    pub const SPIN: u64 = 48;
    /// By hv: 1, which is what is written to an eventfd.
    pub const ONE: u64 = 56;
    /// 18 words in the order of [`crate::platform::CpuState`]; by hv before the first turn, then by the stub.
    pub const REGISTERS: u64 = 64;
    /// 512 bytes, an FXSAVE area; likewise.
    pub const FPU: u64 = 256;
    /// 1024 bytes, by hv: for each event port the number of its doorbell, or 0.
    pub const DOORBELLS: u64 = 1024;
}

/// Why it is hv's turn.
pub mod kind {
    /// A hypercall. Of the registers, only those are there that a call preserves.
    pub const HYPERCALL: u32 = 1;
    /// A doorbell that has no descriptor. Registers likewise.
    pub const DOORBELL: u32 = 2;
    /// hv asked for its turn. All registers are there.
    pub const INTERRUPTED: u32 = 3;
    /// An exception. All registers are there.
    pub const FAULT: u32 = 4;
    /// The process could not confine itself.
    pub const UNCONFINED: u32 = 5;
}

/// The signal by which hv asks for its turn: SIGUSR1.
pub const KICK: i32 = 10;

/// The descriptor of the zygote's socket.
pub const SOCKET: i32 = 0;
/// In a guest: the descriptor of its memory, until it runs.
pub const MEMORY: i32 = 1;
/// In a guest: the descriptor of its first doorbell, which is number 1.
pub const FIRST_DOORBELL: i32 = 2;
/// Most doorbells of a guest.
pub const MAX_DOORBELLS: usize = 64;

/// Most words of the message that asks for a process.
///
/// ```text
/// 0  offset of the page in the memory's file
/// 1  bytes of the host's XSAVE area, or 0 if it has none
/// 2  number of mappings
/// 3  number of instructions of the system-call filter
/// 4  for each mapping: address, length, offset in the file, PROT_ flags
/// …  for each instruction: `struct sock_filter` as a word
/// ```
///
/// With it come the memory's descriptor and those of the doorbells.
/// The answer is a word: 0, or the negative number of the error.
pub const MESSAGE_WORDS: usize = 512;

/// Most bytes of an XSAVE area that a stub can restore.
pub const MAX_XSAVE: usize = 16 << 10;
