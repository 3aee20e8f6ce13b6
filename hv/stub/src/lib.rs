//! What hv and the process of a guest have in common: the page that both see,
//! and the message by which a process is asked for.
//!
//! The program itself is the binary of this package, which `hv-core` carries with it.
//!
//! The guest can write the page as it likes. It can fool the stub, which has no
//! more rights than itself, and nobody else: hv takes what it reads there
//! for what a guest says.
#![no_std]
#![forbid(unsafe_code)]

/// Where a process has the page.
pub const PAGE: u64 = 0x2000_0000;

/// Bytes of a virtual CPU's part of the memory's file: the page, and behind it all that the stub can write. So nothing that
/// the process of a guest can write is out of hv's reach.
pub const PART: u64 = 128 << 10;

/// Who has control: a futex. hv writes the `GUEST` values, the stub the `HOST` values.
pub mod owner {
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
    /// `u32`, see [`super::owner`].
    pub const OWNER: u64 = 0;
    /// `u32`, by the stub: why hv has control, see [`super::kind`].
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
    /// 18 words in the order of `CpuState` of hv's platforms; by hv before the first run, then by the stub.
    pub const REGISTERS: u64 = 64;
    /// 512 bytes, an FXSAVE area; likewise.
    pub const FPU: u64 = 256;
    /// By hv: bytes of the host's XSAVE area, or 0 if it has none.
    pub const XSAVE: u64 = 768;
    /// By hv: whether guests can change the bases of FS and GS (FSGSBASE), 0 or 1.
    pub const BASES: u64 = 776;
    /// 1024 bytes, by hv: for each event port the number of its doorbell, or 0.
    pub const DOORBELLS: u64 = 1024;
    /// By the stub, before the first run: `struct sock_fprog`, and the instructions of the filter. Nothing afterwards.
    pub const FILTER: u64 = 2048;
}

/// The registers of a page, by their place among its words: the order of `CpuState`, which hv asserts.
pub mod register {
    /// The stack pointer.
    pub const RSP: u64 = 7;
    /// The instruction pointer.
    pub const RIP: u64 = 16;
    /// The flags.
    pub const RFLAGS: u64 = 17;
    /// How many there are.
    pub const COUNT: usize = 18;
}

/// Why hv has control.
pub mod kind {
    /// A hypercall. Of the registers, only those are there that a call preserves.
    pub const HYPERCALL: u32 = 1;
    /// A doorbell that has no descriptor. Registers likewise.
    pub const DOORBELL: u32 = 2;
    /// hv asked for control. All registers are there.
    pub const INTERRUPTED: u32 = 3;
    /// An exception. All registers are there.
    pub const FAULT: u32 = 4;
    /// The process could not confine itself.
    pub const UNCONFINED: u32 = 5;
}

/// The signal by which hv asks for control: SIGUSR1.
pub const KICK: i32 = 10;

/// The signal by which hv starts another guest in the process of one that is done: SIGUSR2.
pub const RESET: i32 = 12;

/// The descriptor of the socket to hv, in the supervisor and in the processes that come from it.
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
/// 0  nonce
/// 1  offset of the virtual CPU's part in the memory's file
/// 2  number of mappings
/// 3  number of instructions of the system-call filter
/// 4  number that the descriptor of the template has in the process, or 0 if it needs none
/// 5  for each mapping: address, length, offset in the file, PROT_ flags with those of `mapping`
/// …  for each instruction: `struct sock_filter` as a word
/// ```
///
/// With it come the memory's descriptor, those of the doorbells, and that of the template. The message that asks the
/// supervisor for a zygote is a nonce, and nothing else.
pub const MESSAGE_WORDS: usize = 512;

/// Flags of a mapping beside those of its protection.
pub mod mapping {
    /// A private mapping of the template, which is never written to.
    pub const TEMPLATE: u64 = 1 << 32;
    /// Pages that the memory's file does not have yet raise SIGBUS. hv copies them into it then.
    pub const ON_DEMAND: u64 = 1 << 33;
}

/// What hv is told, always in [`REPLY_WORDS`] words.
///
/// ```text
/// 0  kind
/// 1  nonce: of the request that this answers; of a greeting, that by which the zygote was asked for
/// 2  0, or the negative number of an error: then no descriptor comes with it
/// ```
pub mod reply {
    /// By the supervisor: there is a zygote. With hv's end of the socket to it.
    pub const CHANNEL: u64 = 1;
    /// The greeting of a zygote, on its socket. With its own pidfd.
    pub const ZYGOTE: u64 = 2;
    /// The greeting of a process that waits for a guest. With its own pidfd. An error is the zygote's, which ends.
    pub const WAITING: u64 = 3;
    /// By the process that took a request: it has the guest's memory, and waits for its first run.
    pub const READY: u64 = 4;
}

/// Words of what hv is told.
pub const REPLY_WORDS: usize = 3;

/// Most bytes of an XSAVE area that a stub can restore.
pub const MAX_XSAVE: usize = 16 << 10;
