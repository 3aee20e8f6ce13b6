//! The process platform: guests without virtualization, each in a process that can do almost nothing.
//!
//! ```text
//! hv ── sockets ──► supervisor ──► zygote ── fork ──► guest's process
//!  │                                                   the guest's memory, at the guest's addresses
//!  └── the handoff page, a futex ──────────────────── the stub (`stub/`), and nothing of hv
//! ```
//!
//! The guest's code runs unchanged, as a ring-3 program. Its hypercall page calls into the stub. The stub writes down
//! what the guest wants, hands control to hv, and waits until it has control again. A system-call filter allows only
//! this: to wait and wake on that one word, and to signal the eventfds of its doorbells. Everything else is an exception,
//! as all system calls are on KVM.
//!
//! Compared with the KVM platform, the kernel's code for system-call entry, signals and page faults is the attack surface
//! instead of KVM (`docs/threat-model.md`).

mod error;
mod filter;
mod handle;
mod kick;
mod machine;
mod page;
#[cfg(test)]
mod tests;
mod vcpu;
mod zygote;

use super::{HypercallPage, Platform, PlatformError, Start, Started};
use crate::memory::GuestMemory;
pub use error::ProcessError;
pub use filter::ALLOWED;
use hv_abi::PAGE_SIZE;
use hv_abi::hypercall::{Hypercall, STUB_SIZE};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSymbol};
use std::io;
use std::sync::{Arc, OnceLock};
use zygote::Zygote;
#[cfg(feature = "fuzzing")]
pub use zygote::door;
pub use zygote::{Namespaces, Violation};

/// The stub, an ELF program that the build script makes.
static STUB: &[u8] = include_bytes!(env!("HV_STUB"));

/// Guests in processes of their own.
pub struct ProcessPlatform {
    zygote: Arc<Zygote>,
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> PlatformError {
    move |source| ProcessError::new(what, source).into()
}

impl ProcessPlatform {
    /// Starts the processes from which all guests' processes are made.
    ///
    /// # Errors
    ///
    /// When the host refuses what guests need, above all a system-call filter. Missing [namespaces](Self::namespaces) are no error.
    pub fn new() -> Result<Self, PlatformError> {
        // Values that a thread that makes guests may not determine any more once it is jailed.
        page::spin();
        Ok(ProcessPlatform { zygote: Arc::new(Zygote::start()?) })
    }

    /// Whether the processes have namespaces of their own, and why not.
    pub fn namespaces(&self) -> &Namespaces {
        self.zygote.namespaces()
    }
}

/// Whether this host allows system-call filters. No guest is started without one.
///
/// # Errors
///
/// The host's error, if it does not.
pub fn filters_are_possible() -> io::Result<()> {
    filter::is_possible()
}

/// The address that the hypercall page jumps to.
struct Entries {
    hypercall: u32,
    event_send: u32,
}

fn entries() -> &'static Entries {
    static ENTRIES: OnceLock<Entries> = OnceLock::new();
    ENTRIES.get_or_init(|| Entries { hypercall: symbol("hv_hypercall"), event_send: symbol("hv_event_send") })
}

/// The address of a symbol of the stub.
fn symbol(name: &str) -> u32 {
    let file = ElfFile64::<object::Endianness>::parse(STUB).expect("the linker made it");
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name)).expect("it is in the stub");
    u32::try_from(symbol.address()).expect("the stub is linked to the first 4 GiB")
}

/// The hypercall page.
///
/// ```text
/// every call but event_send         event_send
///  0  mov $number, %ecx              0  mov $entry, %eax
///  5  mov $entry, %eax               5  jmp *%rax
/// 10  jmp *%rax
/// ```
fn hypercall_page() -> [u8; PAGE_SIZE as usize] {
    let mut page = [0xcc; PAGE_SIZE as usize];
    for (number, stub) in page.chunks_exact_mut(STUB_SIZE as usize).enumerate() {
        let jump = |entry: u32| [&[0xb8], &entry.to_le_bytes()[..], &[0xff, 0xe0]].concat();
        let code = match number as u32 {
            n if n == Hypercall::EventSend as u32 => jump(entries().event_send),
            n => [&[0xb9], &n.to_le_bytes()[..], &jump(entries().hypercall)].concat(),
        };
        stub[..code.len()].copy_from_slice(&code);
    }
    page
}

impl Platform for ProcessPlatform {
    fn name(&self) -> &'static str {
        "process"
    }

    fn kind(&self) -> crate::platform::PlatformKind {
        crate::platform::PlatformKind::Process
    }

    fn shares_memory(&self) -> bool {
        true
    }

    /// Results are in the handoff page, so all hypercall pages have the same content.
    fn prepare(&self, memory: &GuestMemory, pages: &[HypercallPage]) -> Result<(), PlatformError> {
        for page in pages {
            memory.host_write(page.stubs, &hypercall_page());
        }
        Ok(())
    }

    fn start(&self, start: &Start<'_>) -> Result<Started, PlatformError> {
        if start.opening.is_some() {
            return Err(PlatformError::NoHardware);
        }
        machine::start(&self.zygote, start)
    }
}
